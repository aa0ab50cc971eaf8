//! Traffic during a scenario.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mesh_lab::workload::load::Report;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::mesh::{Mesh, frontends};

/// A load that runs in a pod until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    child: Option<Child>,
}

/// The minimum number of answered requests in a second. With fewer there was no load.
const FEWEST_A_SECOND: u64 = 50;

impl Traffic {
    /// A load on all addresses of a service: 600 new connections a second in turn, and 50 long flows.
    pub fn start(mesh: &impl Mesh, cluster: &str, pod: &str, service: &str) -> Self {
        Self::start_with(mesh, cluster, pod, service, &[])
    }

    /// The same, with more flags of `lab-pod load`.
    pub fn start_with(
        mesh: &impl Mesh,
        cluster: &str,
        pod: &str,
        service: &str,
        more: &[&str],
    ) -> Self {
        let flags = [&["--rate", "600", "--flows", "50"], more].concat();
        let command = load(mesh, cluster, pod, service, &flags);
        let mut traffic = Self { child: None };
        traffic.child = Some(spawn(command));
        // Wait, so that the next step happens under load.
        thread::sleep(Duration::from_millis(500));
        traffic
    }

    /// The same to one address, by TCP.
    pub fn to(mesh: &impl Mesh, cluster: &str, pod: &str, address: SocketAddr) -> Self {
        let address = address.to_string();
        let load =
            ["clustermesh", "lab-pod", "load", "--tcp", &address, "--rate", "600", "--flows", "50"];
        let mut command = mesh.in_pod(cluster, pod, &load);
        command.args(["--output", "json"]);
        let traffic = Self { child: Some(spawn(command)) };
        thread::sleep(Duration::from_millis(500));
        traffic
    }

    /// Stops the load, and returns its report.
    pub fn stop(mut self) -> Report {
        let child = self.child.take().expect("it runs until it is stopped");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("it still runs");
        report(child)
    }

    /// Stops the load. All requests must have been answered.
    pub fn stop_unharmed(self) -> Report {
        let report = self.stop();
        report.assert_unharmed();
        report
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes `count` new connections, `rate` a second, to `targets`, which are flags of `lab-pod load`.
pub fn fresh(
    mesh: &impl Mesh,
    cluster: &str,
    pod: &str,
    (flag, target): (&str, SocketAddr),
    count: u32,
    rate: u32,
) -> Report {
    let (target, rate, count) = (target.to_string(), rate.to_string(), count.to_string());
    let args = ["clustermesh", "lab-pod", "load", flag, &target, "--rate", &rate, "--flows", "0"];
    let mut command = mesh.in_pod(cluster, pod, &[&args[..], &["--requests", &count]].concat());
    command.args(["--output", "json"]);
    report(spawn(command))
}

fn load(mesh: &impl Mesh, cluster: &str, pod: &str, service: &str, more: &[&str]) -> Command {
    let mut args = vec!["clustermesh".to_owned(), "lab-pod".into(), "load".into()];
    for (flag, protocol) in [("--tcp", "TCP"), ("--udp", "UDP")] {
        for address in frontends(mesh, cluster, service, protocol) {
            args.extend([flag.to_owned(), address.to_string()]);
        }
    }
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args.extend(["--output".into(), "json".into()]);
    mesh.in_pod(cluster, pod, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the load starts")
}

fn report(child: Child) -> Report {
    let output = child.wait_with_output().expect("the load ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    print(&report);
    report
}

/// Prints a summary of the report.
fn print(report: &Report) {
    println!(
        "offered {}, answered {} (over long flows {}, over kept UDP sockets {}), failed {:?}, ended {}, in {} ms; by cluster {:?}",
        report.offered,
        report.answered,
        report.over_flows,
        report.over_datagram_flows,
        report.failed,
        report.ended,
        report.milliseconds,
        report.clusters
    );
}

/// Assertions about a load.
pub trait Assert {
    /// There were enough requests, and none failed.
    fn assert_unharmed(&self);
    /// Enough requests were answered.
    fn assert_enough(&self);
    /// The servers saw no other client addresses than these.
    fn assert_clients(&self, clients: &[std::net::IpAddr]);
    /// Requests were distributed evenly over `pods` (the number of pods by cluster): the share of each cluster is within
    /// five standard errors.
    fn assert_spread(&self, pods: &[(&str, usize)]);
    /// Exactly these pods answered, each within five standard errors of its share in percent.
    fn assert_shares(&self, shares: &std::collections::BTreeMap<String, f64>);
}

impl Assert for Report {
    fn assert_unharmed(&self) {
        self.assert_enough();
        assert!(self.failed.is_empty(), "{self:#?}");
        assert_eq!(self.offered, self.answered);
    }

    fn assert_enough(&self) {
        let a_second = self.answered * 1_000 / self.milliseconds.max(1);
        assert!(a_second >= FEWEST_A_SECOND, "{a_second} answered a second: {self:#?}");
    }

    fn assert_clients(&self, clients: &[std::net::IpAddr]) {
        let seen: Vec<std::net::IpAddr> =
            self.clients.keys().map(|ip| ip.parse().expect("an address")).collect();
        let strangers: Vec<_> = seen.iter().filter(|ip| !clients.contains(ip)).collect();
        assert!(strangers.is_empty(), "servers saw {strangers:?}, not {clients:?}");
    }

    fn assert_spread(&self, pods: &[(&str, usize)]) {
        let all: usize = pods.iter().map(|(_, count)| count).sum();
        let n = self.answered as f64;
        assert!(n >= 5_000.0, "{n} requests are too few");
        for (cluster, count) in pods {
            let share = *count as f64 / all as f64;
            let error = (n * share * (1.0 - share)).sqrt();
            let got = self.clusters.get(*cluster).copied().unwrap_or_default() as f64;
            let off = (got - n * share).abs() / error;
            assert!(off <= 5.0, "{cluster} got {got} of {n}, {off:.1} standard errors off");
        }
        assert_eq!(self.pods.len(), all, "every backend answered: {:?}", self.pods);
    }

    fn assert_shares(&self, shares: &std::collections::BTreeMap<String, f64>) {
        let n = self.answered as f64;
        assert!(n >= 5_000.0, "{n} requests are too few");
        for (pod, share) in shares {
            let share = share / 100.0;
            let error = (n * share * (1.0 - share)).sqrt();
            let got = self.pods.get(pod).copied().unwrap_or_default() as f64;
            let off = (got - n * share).abs() / error;
            assert!(off <= 5.0, "{pod} got {got} of {n}, {off:.1} standard errors off");
        }
        let (found, wanted): (Vec<_>, Vec<_>) =
            (self.pods.keys().collect(), shares.keys().collect());
        assert_eq!(found, wanted);
    }
}
