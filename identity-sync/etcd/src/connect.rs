//! Making a connection, step by step, so that the step that fails can be named.

use std::{
    io::{self, Cursor},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use mesh_certs::{Clock, Credentials, Receiver};
use mesh_follow::{ConnectionPhase, Failure};
use mesh_wire::peer_file::HostAlias;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{addresses::LastAddresses, error::transport, store::Connection, validity::usable};

/// An etcd to reach.
#[derive(Clone)]
pub struct Target {
    /// `https://host:port`; one is used at a time.
    pub endpoints: Vec<String>,
    /// Host names in place of addresses.
    pub host_aliases: Vec<HostAlias>,
    /// Our certificate, and the CA that we trust.
    pub credentials: Receiver,
    /// The clock: no connection outlives the certificate that it was made with.
    pub clock: Clock,
    /// Where hosts were when they were last reached.
    pub last_addresses: LastAddresses,
}

/// How long a name's look-up, a TCP handshake or a TLS handshake may take.
const STEP: Duration = Duration::from_secs(5);
/// How long a server's first bytes may take after the handshake; etcd's HTTP/2 sends first.
const VERDICT: Duration = Duration::from_secs(1);
/// How often an idle connection is tried, and how long it may take to answer. etcd refuses more than one in five seconds.
const PING: Duration = Duration::from_secs(10);

impl Target {
    /// The `attempt`th endpoint, counted round.
    pub(crate) fn endpoint(&self, attempt: usize) -> Option<&str> {
        let count = self.endpoints.len().max(1);
        self.endpoints.get(attempt % count).map(String::as_str)
    }
}

/// Connects to the `attempt`th endpoint, counted round.
pub async fn connect(target: &Target, attempt: usize) -> Result<Connection, Failure> {
    let resolve = |reason: String| Failure::new(ConnectionPhase::Resolve, reason);
    let endpoint =
        target.endpoint(attempt).ok_or_else(|| resolve("no endpoint is configured".into()))?;
    connect_to(target, endpoint, target.credentials.current()).await
}

/// Connects to one of the endpoints.
pub(crate) async fn connect_to(
    target: &Target,
    endpoint: &str,
    credentials: Arc<Credentials>,
) -> Result<Connection, Failure> {
    let resolve = |reason: String| Failure::new(ConnectionPhase::Resolve, reason);
    let (host, port) = host_and_port(endpoint).map_err(resolve)?;
    let addresses = resolve_host(target, host, port).await.map_err(resolve)?;
    let (tcp, address) = connect_tcp(&addresses, port)
        .await
        .map_err(|reason| Failure::new(ConnectionPhase::Tcp, reason))?;
    usable(&credentials, target.clock.now())?;
    let tls = TlsConnector::from(credentials.tls());
    let connection = connect_stream(credentials, tls, host, endpoint, tcp).await?;
    target.last_addresses.reached(host, &[address]);
    Ok(connection)
}

/// Connects to an etcd that the caller started, with TLS at a Unix socket in a folder that no other user may enter.
pub async fn connect_privately(
    socket: &Path,
    credentials: Arc<Credentials>,
) -> Result<Connection, Failure> {
    let tcp = |error: io::Error| {
        let reason = format!("{}: {}", socket.display(), network(&error));
        Failure::new(ConnectionPhase::Tcp, reason)
    };
    let stream = UnixStream::connect(socket).await.map_err(tcp)?;
    let tls = TlsConnector::from(credentials.tls_to_private_server());
    connect_stream(credentials, tls, "localhost", &socket.display().to_string(), stream).await
}

/// The steps after a stream is open: TLS, and HTTP/2 over it.
async fn connect_stream<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    credentials: Arc<Credentials>,
    tls: TlsConnector,
    host: &str,
    endpoint: &str,
    stream: S,
) -> Result<Connection, Failure> {
    let tls = connect_tls(&credentials, tls, host, stream).await?;
    let tls = wait_for_verdict(tls).await.map_err(|error| {
        let reason = format!("{host}, as {}: {}", credentials.subject(), transport(&error));
        Failure::new(ConnectionPhase::Authenticated, reason)
    })?;
    let channel =
        over(tls).await.map_err(|e| Failure::new(ConnectionPhase::Authenticated, transport(&e)))?;
    let connection = Connection::new(channel, endpoint.to_owned(), credentials).await;
    connection.map_err(|error| error.failure())
}

fn host_and_port(endpoint: &str) -> Result<(&str, u16), String> {
    let invalid = || format!("{endpoint:?} is no endpoint: it is https://host:port");
    let rest = endpoint.strip_prefix("https://").ok_or_else(invalid)?.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| invalid())?;
    if host.is_empty() || host.contains('/') { Err(invalid()) } else { Ok((host, port)) }
}

async fn resolve_host(target: &Target, host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    if let Some(alias) = target.host_aliases.iter().find(|alias| alias.hostname == host) {
        return Ok(alias.ips.clone());
    }
    // A server that answers at an old address has to show its certificate, like any other.
    let known = target.last_addresses.of(host);
    match look_up(host, port).await {
        Ok(mut addresses) => {
            let old = known.into_iter().filter(|ip| !addresses.contains(ip)).collect::<Vec<_>>();
            addresses.extend(old);
            Ok(addresses)
        }
        Err(_) if !known.is_empty() => Ok(known),
        Err(reason) => Err(reason),
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    let looked_up = timeout(STEP, lookup_host((host, port))).await;
    let looked_up = looked_up.map_err(|_| format!("{host}: no answer within {STEP:?}"))?;
    let addresses: Vec<IpAddr> =
        looked_up.map_err(|e| format!("{host}: {}", name_lookup(&e)))?.map(|a| a.ip()).collect();
    if addresses.is_empty() { Err(format!("{host}: no address")) } else { Ok(addresses) }
}

async fn connect_tcp(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, IpAddr), String> {
    let mut failures = Vec::new();
    for address in addresses {
        match timeout(STEP, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => {
                // Requests are small and answers are waited for.
                let _ = stream.set_nodelay(true);
                return Ok((stream, *address));
            }
            Ok(Err(error)) => failures.push(format!("{address} port {port}: {}", network(&error))),
            Err(_) => failures.push(format!("{address} port {port}: no answer within {STEP:?}")),
        }
    }
    Err(failures.join("; "))
}

/// Why a connection was not made, in words about the network.
fn network(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: no etcd listens there: it does not run, or elsewhere".into()
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no route leads there".into()
        }
        io::ErrorKind::TimedOut => "no answer: it is down, or a firewall is in the way".into(),
        io::ErrorKind::PermissionDenied => "a firewall of this node is in the way".into(),
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            "what listens there closed the connection".into()
        }
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

/// Why a name leads to no address, as the resolver says it.
fn name_lookup(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

async fn connect_tls<S: AsyncRead + AsyncWrite + Unpin>(
    credentials: &Credentials,
    tls: TlsConnector,
    host: &str,
    stream: S,
) -> Result<TlsStream<S>, Failure> {
    let wrong = |reason| Failure::new(ConnectionPhase::Tls, reason);
    let subject = credentials.subject();
    let name = ServerName::try_from(host.to_owned()).map_err(|e| wrong(format!("{host}: {e}")))?;
    match timeout(STEP, tls.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(wrong(format!("{host}, as {subject}: {}", transport(&error)))),
        // No certificate was shown, so none is to blame: the kernel takes connections for a process that hangs.
        Err(_) => Err(Failure::new(
            ConnectionPhase::Tcp,
            format!(
                "{host}: takes the connection and sends nothing for {STEP:?}: the etcd hangs, or another program listens there"
            ),
        )),
    }
}

/// Waits for the server's first bytes. In TLS 1.3 it checks our certificate after our side of the handshake is over; if
/// we wrote meanwhile to a server that refuses, the connection would be reset, and its reason lost.
async fn wait_for_verdict<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut tls: TlsStream<S>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    // HTTP/2's first frame is far smaller; the rest stays where it is.
    let mut first = vec![0; 256];
    let length = match timeout(VERDICT, tls.read(&mut first)).await {
        Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => length?,
        // It waits for us, so it has nothing against us.
        Err(_) => 0,
    };
    first.truncate(length);
    let (reader, writer) = tokio::io::split(tls);
    Ok(tokio::io::join(Cursor::new(first).chain(reader), writer))
}

/// HTTP/2 over a connection. When it breaks it is gone: the state machine must notice that, and decides again.
async fn over(
    tls: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Channel, tonic::transport::Error> {
    let once = Mutex::new(Some(TokioIo::new(tls)));
    let connector = tower::service_fn(move |_: Uri| {
        let tls = once.lock().ok().and_then(|mut once| once.take());
        std::future::ready(tls.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    Endpoint::from_static("http://etcd")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .connect_with_connector(connector)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_fails_is_said_without_the_kernels_numbers() {
        for (number, says) in [
            (111, "connection refused: no etcd listens there: it does not run, or elsewhere"),
            (113, "no route leads there"),
            (110, "no answer: it is down, or a firewall is in the way"),
            (1, "a firewall of this node is in the way"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert!(error.to_string().contains("os error"), "{error}");
            assert_eq!(network(&error), says);
        }
        let unknown =
            io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(name_lookup(&unknown), "Name or service not known");
    }

    #[test]
    fn endpoints() {
        assert_eq!(
            host_and_port("https://beta.mesh.cilium.io:32379"),
            Ok(("beta.mesh.cilium.io", 32379))
        );
        assert_eq!(host_and_port("https://[fd00::1]:2379/"), Ok(("fd00::1", 2379)));
        for bad in [
            "",
            "beta:2379",
            "http://beta:2379",
            "https://beta",
            "https://:1",
            "https://a/b:1",
            "https://a:99999",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
