//! Health's thread, in network namespaces of its own. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use mesh_health::{
    EndingPolicy, EtcdLink, EtcdState, Health, HealthOptions, Order, PeerStates, Report, Target,
    Verdict, Verdicts,
};
use mesh_layout::probe::{Datagram, LENGTH, parse, question};
use mesh_model::{ClusterId, ClusterName};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Builder;

/// After so long what is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 9984;

/// Does something in a network namespace that has loopback and nothing else.
fn in_namespace(act: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        act();
    });
    thread.join().unwrap();
}

fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

fn start() -> (Health, Verdicts) {
    let options = HealthOptions { local: name("a"), port: PORT, endings: EndingPolicy::default() };
    Health::start(options).unwrap()
}

fn target(address: impl Into<IpAddr>) -> Target {
    Target { node: "n1".into(), addresses: vec![address.into()], in_use: true }
}

/// Waits for a report for which this is true, in a thread that has nothing else to do.
fn wait_for(health: &Health, what: impl Fn(&Report) -> bool) {
    let mut reports = health.reports();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, reports.wait_for(|report| what(report))).await.is_ok()
    });
    assert!(found, "{:#?}", health.report());
}

/// Where `net.ipv6.bindv6only` makes a socket for IPv6 serve nothing else, both are probed and answered all the same.
#[test]
fn ipv4_is_asked_and_answered_whatever_bindv6only_says() {
    in_namespace(|| {
        fs::write("/proc/sys/net/ipv6/bindv6only", "1").unwrap();
        let (health, _verdicts) = start();
        for (cluster, address) in
            [("b", IpAddr::from(Ipv4Addr::LOCALHOST)), ("c", "::1".parse().unwrap())]
        {
            health.order(Order::Probe(name(cluster), vec![target(address)]));
        }
        wait_for(&health, |report| {
            let clusters = ["b", "c"].map(|cluster| report.clusters.get(&name(cluster)));
            clusters
                .iter()
                .all(|of| of.is_some_and(|of| of.answering == 1 && of.without_agent == 0))
        });
    });
}

#[derive(Debug)]
struct Away;

impl EtcdLink for Away {
    fn state(&self) -> EtcdState {
        EtcdState::default()
    }

    fn ask(&self) -> bool {
        false
    }
}

struct Words(mpsc::Sender<(ClusterId, bool)>);

impl PeerStates for Words {
    fn cut(&self) -> Vec<ClusterId> {
        Vec::new()
    }

    fn set_cut(&mut self, cluster: ClusterId, cut: bool) {
        self.0.send((cluster, cut)).unwrap();
    }
}

/// The runtime from which it was started has one thread, which does not come back before others' questions are answered and a
/// cut is written.
#[test]
fn a_busy_agent_keeps_neither_answers_nor_a_cut_waiting() {
    in_namespace(|| {
        ip("address add 10.0.0.1/32 dev lo");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (health, mut verdicts) = start();
            let (sender, words) = mpsc::channel();
            let b = ClusterId::from_wire(2).unwrap();
            health.order(Order::States(Box::new(Words(sender))));
            let ids = [(name("b"), b)].into();
            health.order(Order::Clusters { ids, all: true });
            health.order(Order::Follow(name("b"), Box::new(Away)));
            health.order(Order::Probe(name("b"), vec![target([10, 0, 0, 1])]));
            health.order(Order::Probe(name("c"), vec![target(Ipv4Addr::LOCALHOST)]));
            let mut reports = health.reports();
            let answering = |report: &Arc<Report>| {
                let of = |cluster| report.clusters.get(&name(cluster)).map(|of| of.answering);
                (of("b"), of("c")) == (Some(1), Some(1))
            };
            tokio::time::timeout(PATIENCE, reports.wait_for(answering)).await.unwrap().unwrap();

            // From here on nothing else runs in this runtime.
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            for nonce in 0..100 {
                let question = question(nonce);
                client.send_to(&question, (Ipv4Addr::LOCALHOST, PORT)).unwrap();
                let mut answer = [0; LENGTH];
                client.recv(&mut answer).unwrap();
                match parse(&answer) {
                    Some(Datagram::Answer { nonce: found, .. }) => assert_eq!(found, nonce),
                    other => panic!("{other:?}"),
                }
            }
            ip("address delete 10.0.0.1/32 dev lo");
            assert_eq!(words.recv_timeout(PATIENCE), Ok((b, true)));
            ip("address add 10.0.0.1/32 dev lo");
            assert_eq!(words.recv_timeout(PATIENCE), Ok((b, false)));
            let mut found = Vec::new();
            while let Some(verdict) = verdicts.try_next() {
                found.push(verdict);
            }
            let cut = |verdict: &Verdict| match verdict {
                Verdict::Cluster { cut, last_answer, .. } => Some((*cut, last_answer.is_some())),
                _ => None,
            };
            let found: Vec<(bool, bool)> = found.iter().filter_map(cut).collect();
            // The last one may be on its way.
            assert_eq!(found.first(), Some(&(true, true)));
            drop(health);
            assert!(words.try_recv().is_err(), "nothing is written when it is gone");
        });
    });
}

/// A port that is taken is named, and bound when it is free.
#[test]
fn a_port_that_is_taken_is_named_and_bound_later() {
    in_namespace(|| {
        let taken = UdpSocket::bind(("::", PORT)).unwrap();
        let (health, _verdicts) = start();
        wait_for(&health, |report| report.problems.iter().any(|p| p.contains("--probe-port 9984")));
        drop(taken);
        health.order(Order::Probe(name("b"), vec![target(Ipv4Addr::LOCALHOST)]));
        wait_for(&health, |report| {
            let b = report.clusters.get(&name("b"));
            report.problems.is_empty()
                && b.is_some_and(|b| b.answering == 1 && b.without_agent == 0)
        });
    });
}
