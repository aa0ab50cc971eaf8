//! A load whose every request must succeed: new connections at a rate, and long connections beside them. Nothing is retried.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use crate::workload::call::{Called, DatagramFlow, Flow, Next, Transport, call, failure};

/// The parameters of a load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The servers, which are used in turn.
    pub targets: Vec<(Transport, SocketAddr)>,
    /// New connections a second.
    pub rate: u32,
    /// The number of new connections, after which the load ends; `None` for no end.
    pub requests: Option<u64>,
    /// Connections that are kept, each with one request after another (TCP targets only).
    pub flows: u32,
    /// Connected UDP sockets that are kept, each with one request after another (UDP targets only).
    pub datagram_flows: u32,
    /// The pause between two requests of a kept connection or socket.
    pub flow_pause: Duration,
    /// The longest time of a request.
    pub deadline: Duration,
}

/// The result of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Requests that were made.
    pub offered: u64,
    /// Requests that were answered in time, with the service as the peer address.
    pub answered: u64,
    /// All other requests, by the reason of their failure.
    pub failed: BTreeMap<String, u64>,
    /// Answered requests over kept connections.
    pub over_flows: u64,
    /// Answered requests over kept UDP sockets.
    #[serde(default)]
    pub over_datagram_flows: u64,
    /// Kept connections and sockets that failed, and were opened again.
    #[serde(default)]
    pub ended: u64,
    /// Kept connections that the server closed after an announcement, and that were opened again.
    pub reopened: u64,
    /// Answers by cluster.
    pub clusters: BTreeMap<String, u64>,
    /// Answers by `cluster/pod`.
    pub pods: BTreeMap<String, u64>,
    /// Answers by the client's IP address that the server saw.
    pub clients: BTreeMap<String, u64>,
    /// The duration of the load, in milliseconds.
    pub milliseconds: u64,
}

/// The result of one request.
struct Outcome {
    result: Result<Called, String>,
    over: Over,
}

/// The connection or socket of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// A new one.
    Fresh,
    Flow,
    DatagramFlow,
}

/// The most requests in flight. More of them means that servers do not answer.
const UNDER_WAY: usize = 4_096;

/// Runs a load until `stop`, or until all requests are made.
pub async fn run(load: Load, stop: watch::Receiver<bool>) -> Report {
    let started = Instant::now();
    let (outcomes, mut received) = mpsc::channel(UNDER_WAY);
    let load = Arc::new(load);
    let (reopened, mut reopenings) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let (ended, end) = watch::channel(false);
    tasks.spawn({
        let (load, outcomes) = (Arc::clone(&load), outcomes.clone());
        async move {
            fresh(load, outcomes, stop).await;
            let _ = ended.send(true);
        }
    });
    let tcp: Vec<SocketAddr> = load
        .targets
        .iter()
        .filter(|(transport, _)| *transport == Transport::Tcp)
        .map(|(_, to)| *to)
        .collect();
    if !tcp.is_empty() {
        for (to, _) in tcp.iter().cycle().zip(0..load.flows) {
            tasks.spawn(flow(
                Arc::clone(&load),
                *to,
                outcomes.clone(),
                reopened.clone(),
                end.clone(),
            ));
        }
    }
    let udp = |(transport, _): &&(Transport, SocketAddr)| *transport == Transport::Udp;
    let udp: Vec<SocketAddr> = load.targets.iter().filter(udp).map(|(_, to)| *to).collect();
    for (to, _) in udp.iter().cycle().zip(0..load.datagram_flows) {
        tasks.spawn(datagram_flow(Arc::clone(&load), *to, outcomes.clone(), end.clone()));
    }
    drop((outcomes, reopened));
    let mut report = Report::default();
    while let Some(outcome) = received.recv().await {
        report.count(outcome);
    }
    while tasks.join_next().await.is_some() {}
    while reopenings.try_recv().is_ok() {
        report.reopened += 1;
    }
    report.milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report
}

/// Makes new connections, at a rate that does not depend on the answers.
async fn fresh(load: Arc<Load>, outcomes: mpsc::Sender<Outcome>, mut stop: watch::Receiver<bool>) {
    if load.rate == 0 {
        let _ = stop.wait_for(|stop| *stop).await;
        return;
    }
    let period = Duration::from_secs(1) / load.rate;
    let mut tick = interval_at(Instant::now() + period, period);
    // Late requests are made at once, so that the rate is right on average.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    let requests_left = 0..load.requests.unwrap_or(u64::MAX);
    for ((transport, to), _) in load.targets.iter().copied().cycle().zip(requests_left) {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        while requests.try_join_next().is_some() {}
        if requests.len() >= UNDER_WAY {
            let _ =
                outcomes.send(Outcome::failed("too many requests under way", Over::Fresh)).await;
            continue;
        }
        let (outcomes, deadline) = (outcomes.clone(), load.deadline);
        requests.spawn(async move {
            let result = call(transport, to, deadline).await;
            let _ = outcomes.send(Outcome::judge(result, to, Over::Fresh)).await;
        });
    }
    while requests.join_next().await.is_some() {}
}

/// A connection that is kept until the server announces its end.
async fn flow(
    load: Arc<Load>,
    to: SocketAddr,
    outcomes: mpsc::Sender<Outcome>,
    reopened: mpsc::UnboundedSender<()>,
    end: watch::Receiver<bool>,
) {
    let mut open: Option<Flow> = None;
    while !*end.borrow() {
        let asked = timeout(load.deadline, async {
            let mut flow = match open.take() {
                Some(flow) => flow,
                None => Flow::open(to).await?,
            };
            let (called, next) = flow.ask().await?;
            Ok::<_, io::Error>((called, next, flow))
        });
        let result = asked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let result = result.map(|(called, next, flow)| {
            match next {
                Next::Open => open = Some(flow),
                Next::Closed => {
                    let _ = reopened.send(());
                }
            }
            called
        });
        if outcomes.send(Outcome::judge(result, to, Over::Flow)).await.is_err() {
            return;
        }
        sleep(load.flow_pause).await;
    }
}

/// A connected UDP socket that is kept until it fails.
async fn datagram_flow(
    load: Arc<Load>,
    to: SocketAddr,
    outcomes: mpsc::Sender<Outcome>,
    end: watch::Receiver<bool>,
) {
    let mut open: Option<DatagramFlow> = None;
    while !*end.borrow() {
        let asked = timeout(load.deadline, async {
            let flow = match open.take() {
                Some(flow) => flow,
                None => DatagramFlow::open(to).await?,
            };
            Ok::<_, io::Error>((flow.ask().await?, flow))
        });
        let result = asked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let result = result.map(|(called, flow)| {
            open = Some(flow);
            called
        });
        if outcomes.send(Outcome::judge(result, to, Over::DatagramFlow)).await.is_err() {
            return;
        }
        sleep(load.flow_pause).await;
    }
}

impl Outcome {
    /// A request succeeds only if the client's peer address is that of the service, not of the backend.
    fn judge(result: io::Result<Called>, to: SocketAddr, over: Over) -> Self {
        match result {
            Ok(called) if called.peer == to => Self { result: Ok(called), over },
            Ok(called) => {
                Self::failed(&format!("getpeername is {}, not the service", called.peer.ip()), over)
            }
            Err(error) => Self::failed(&failure(&error), over),
        }
    }

    fn failed(reason: &str, over: Over) -> Self {
        Self { result: Err(reason.into()), over }
    }
}

impl Report {
    fn count(&mut self, Outcome { result, over }: Outcome) {
        self.offered += 1;
        match result {
            Ok(Called { answer, .. }) => {
                self.answered += 1;
                self.over_flows += u64::from(over == Over::Flow);
                self.over_datagram_flows += u64::from(over == Over::DatagramFlow);
                *self.clusters.entry(answer.cluster.clone()).or_default() += 1;
                *self.pods.entry(format!("{}/{}", answer.cluster, answer.pod)).or_default() += 1;
                *self.clients.entry(answer.client.ip().to_string()).or_default() += 1;
            }
            Err(reason) => {
                self.ended += u64::from(over != Over::Fresh);
                *self.failed.entry(reason).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers two requests of each connection, and a service that does not exist.
    #[tokio::test]
    async fn counts_what_is_answered_and_what_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, client) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                    for connection in ["keep-alive", "close"] {
                        if stream.read(&mut [0; 512]).await.unwrap() == 0 {
                            return;
                        }
                        let body = format!(
                            r#"{{"pod":"p","node":"n","cluster":"a","client":"{client}"}}"#
                        );
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
                            body.len()
                        );
                        stream.write_all((head + &body).as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, 1).into();
        let (stop, stopped) = watch::channel(false);
        let load = Load {
            targets: vec![(Transport::Tcp, here), (Transport::Tcp, nobody)],
            rate: 200,
            requests: None,
            flows: 1,
            datagram_flows: 0,
            flow_pause: Duration::from_millis(1),
            deadline: Duration::from_secs(2),
        };
        let running = tokio::spawn(run(load, stopped));
        sleep(Duration::from_millis(300)).await;
        stop.send(true).unwrap();
        let report = running.await.unwrap();
        let failed: u64 = report.failed.values().sum();
        assert_eq!(report.answered + failed, report.offered);
        assert!(report.failed.keys().all(|reason| reason.contains("refused")), "{report:?}");
        assert!(failed >= 10 && report.over_flows >= 2 && report.reopened >= 1, "{report:?}");
        assert_eq!(report.clusters.keys().collect::<Vec<_>>(), ["a"]);
    }

    /// A UDP server that answers for a while and then ends.
    #[tokio::test]
    async fn a_kept_socket_that_is_refused_has_ended() {
        let server = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let here = server.local_addr().unwrap();
        let load = Load {
            targets: vec![(Transport::Udp, here)],
            rate: 1,
            requests: None,
            flows: 3,
            datagram_flows: 2,
            flow_pause: Duration::from_millis(1),
            deadline: Duration::from_secs(2),
        };
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(run(load, stopped));
        for _ in 0..20 {
            let (_, client) = server.recv_from(&mut [0; 8]).await.unwrap();
            let answer = format!(r#"{{"pod":"p","node":"n","cluster":"a","client":"{client}"}}"#);
            server.send_to(answer.as_bytes(), client).await.unwrap();
        }
        drop(server);
        sleep(Duration::from_millis(300)).await;
        stop.send(true).unwrap();
        let report = running.await.unwrap();
        assert!(report.over_datagram_flows >= 18 && report.ended >= 1, "{report:?}");
        assert_eq!((report.over_flows, report.reopened), (0, 0), "no flow to a UDP target");
    }

    #[tokio::test]
    async fn ends_when_all_was_asked() {
        let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, 1).into();
        let (_stop, stopped) = watch::channel(false);
        let load = Load {
            targets: vec![(Transport::Tcp, nobody)],
            rate: 1_000,
            requests: Some(20),
            flows: 0,
            datagram_flows: 0,
            flow_pause: Duration::ZERO,
            deadline: Duration::from_secs(2),
        };
        assert_eq!(run(load, stopped).await.offered, 20);
    }
}
