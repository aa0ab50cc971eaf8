//! The server in the lab's pods. By HTTP and UDP, it answers with its identity and the client's address.

use std::{
    env, io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::workload::Answer;

/// How long open connections are kept after the signal to end, for one more request each.
const DRAIN: Duration = Duration::from_secs(2);
/// How long connections are accepted after the signal: a client may have connected just before.
const ACCEPTED: Duration = Duration::from_millis(100);
/// The longest line of a request, in bytes.
const MAX_LINE: usize = 8 * 1024;

/// The identity of the server.
struct Identity {
    pod: String,
    node: String,
    cluster: String,
}

/// Names the port of an error.
fn at(port: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("port {port} cannot be listened on: {error}"))
}

/// Serves until asked to end: then each open connection gets one more answer, which says that it is the last.
///
/// # Errors
/// A port cannot be listened on.
pub async fn serve(tcp: &[u16], udp: &[u16]) -> io::Result<()> {
    let variable = |name| env::var(name).unwrap_or_default();
    let identity = Arc::new(Identity {
        pod: variable("POD_NAME"),
        node: variable("NODE_NAME"),
        cluster: variable("CLUSTER_NAME"),
    });
    let ending = Arc::new(watch::Sender::new(false));
    let mut listeners = JoinSet::new();
    for port in tcp {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await;
        let listener = listener.map_err(|error| at(&format!("{port}/TCP"), &error))?;
        listeners.spawn(accept(listener, Arc::clone(&identity), Arc::clone(&ending)));
    }
    for port in udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port)).await;
        let socket = socket.map_err(|error| at(&format!("{port}/UDP"), &error))?;
        listeners.spawn(datagrams(socket, Arc::clone(&identity)));
    }
    signal(SignalKind::terminate())?.recv().await;
    ending.send_replace(true);
    sleep(ACCEPTED).await;
    // Each connection holds a receiver until it ends, and nothing else does.
    let _ = timeout(DRAIN, ending.closed()).await;
    listeners.abort_all();
    Ok(())
}

async fn accept(listener: TcpListener, identity: Arc<Identity>, ending: Arc<watch::Sender<bool>>) {
    while let Ok((stream, client)) = listener.accept().await {
        tokio::spawn(http(stream, client, Arc::clone(&identity), ending.subscribe()));
    }
}

/// Serves one connection: requests one after another.
async fn http(
    stream: TcpStream,
    client: SocketAddr,
    identity: Arc<Identity>,
    ended: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        // The head of a request ends with an empty line. Clients send no body.
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line).await?;
            if read == 0 || line.len() > MAX_LINE {
                return Ok(());
            }
            if line == "\r\n" || line == "\n" {
                break;
            }
        }
        let last = *ended.borrow();
        let body = identity.answer(client)?;
        let connection = if last { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        writer.write_all(&[head.as_bytes(), &body].concat()).await?;
        if last {
            return writer.shutdown().await;
        }
    }
}

async fn datagrams(socket: UdpSocket, identity: Arc<Identity>) {
    let mut buffer = [0; 2048];
    while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
        if let Ok(body) = identity.answer(client) {
            let _ = socket.send_to(&body, client).await;
        }
    }
}

impl Identity {
    fn answer(&self, client: SocketAddr) -> io::Result<Vec<u8>> {
        let answer = Answer {
            pod: self.pod.clone(),
            node: self.node.clone(),
            cluster: self.cluster.clone(),
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
        };
        Ok(serde_json::to_vec(&answer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::call::Flow;

    /// A server without connections ends at once: its listeners do not count.
    #[tokio::test]
    async fn a_server_without_connections_has_nothing_to_wait_for() {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let ending = Arc::new(watch::Sender::new(false));
        let [pod, node, cluster] = ["p", "n", "a"].map(str::to_owned);
        let identity = Arc::new(Identity { pod, node, cluster });
        let listening = tokio::spawn(accept(listener, identity, Arc::clone(&ending)));
        let mut flow = Flow::open(address).await.unwrap();
        assert_eq!(flow.ask().await.unwrap().0.answer.pod, "p");
        assert_eq!(ending.receiver_count(), 1);
        drop(flow);
        ending.closed().await;
        assert!(!listening.is_finished());
        listening.abort();
    }
}
