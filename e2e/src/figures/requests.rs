//! Requests to an API server, as it counts them itself, and connections of agents to it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    FROM, STARTING,
    objects::{AGENT, ANONYMOUS, APISERVER},
};
use crate::{
    Kind,
    mesh::{Daemon, output, within},
};

/// A phase of the measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// What happened.
    pub phase: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// Changes of pods that the API server has answered.
    pub pod_changes: u64,
    /// The same a second.
    pub pod_changes_a_second: f64,
    /// Changes of the service's slice that the controller made of them.
    pub slice_changes: u64,
    /// Responses of the etcd to a watch of its key.
    pub key_changes: u64,
    /// Requests of the apiserver.
    pub apiserver_requests: u64,
    /// The same a second.
    pub apiserver_requests_a_second: f64,
    /// Requests by the agents' ServiceAccount.
    pub agent_requests: u64,
    /// Requests by clients without credentials, other than probes.
    pub anonymous_requests: u64,
    /// The most connections of any agent to an API server.
    pub agent_connections: usize,
    /// The most connections of the apiserver to its API server: this shows that connections are found.
    pub apiserver_connections: usize,
}

/// Counts requests to the API server.
pub(super) struct Requests<'a> {
    mesh: &'a Kind,
    apiserver: i32,
    agents: Vec<i32>,
}

/// The counters at the start of a phase.
#[derive(Clone, Debug)]
pub(super) struct Count {
    began: Instant,
    apiserver: u64,
    agents: u64,
    anonymous: u64,
    agent_connections: usize,
    apiserver_connections: usize,
}

/// What an API server counts for each schema.
const METRIC: &str = "apiserver_flowcontrol_dispatched_requests_total";
/// The ports of an API server: that on nodes, and that of the service `kubernetes`.
const PORTS: [&str; 2] = [":6443", ":443"];

// === impl Requests ===

impl<'a> Requests<'a> {
    /// Waits until the API server counts the requests of the apiserver, which asks every few seconds whether it is alive.
    pub(super) fn start(mesh: &'a Kind, daemons: &[(Daemon, i32)]) -> Self {
        let apiserver =
            daemons.iter().find(|(daemon, _)| *daemon == Daemon::Apiserver(FROM.into()));
        let (_, apiserver) = apiserver.expect("an apiserver");
        let agents = daemons.iter().filter(|(daemon, _)| matches!(daemon, Daemon::Agent(..)));
        let agents = agents.map(|(_, pid)| *pid).collect();
        let requests = Self { mesh, apiserver: *apiserver, agents };
        within(STARTING, "the API server counts requests", || {
            if requests.count().apiserver > 0 { Ok(()) } else { Err("none".into()) }
        });
        requests
    }

    /// The counters now.
    pub(super) fn count(&self) -> Count {
        let metrics = self.mesh.kubectl_done(FROM, &["get", "--raw", "/metrics"]);
        let mut count = Count {
            began: Instant::now(),
            apiserver: dispatched(&metrics, APISERVER),
            agents: dispatched(&metrics, AGENT),
            anonymous: dispatched(&metrics, ANONYMOUS),
            agent_connections: 0,
            apiserver_connections: 0,
        };
        count.look_at_connections(self);
        count
    }

    /// The phase that has begun with these counters. `seen`: how many changes were seen in the API server and in the etcd.
    pub(super) fn since(
        &self,
        before: &Count,
        phase: &'static str,
        pod_changes: u64,
        (slice_changes, key_changes): (u64, u64),
    ) -> Phase {
        let seconds = before.began.elapsed().as_secs_f64();
        let now = self.count();
        let apiserver_requests = now.apiserver - before.apiserver;
        Phase {
            phase,
            seconds,
            pod_changes,
            pod_changes_a_second: pod_changes as f64 / seconds,
            slice_changes,
            key_changes,
            apiserver_requests,
            apiserver_requests_a_second: apiserver_requests as f64 / seconds,
            agent_requests: now.agents - before.agents,
            anonymous_requests: now.anonymous - before.anonymous,
            agent_connections: now.agent_connections.max(before.agent_connections),
            apiserver_connections: now.apiserver_connections.max(before.apiserver_connections),
        }
    }
}

// === impl Count ===

impl Count {
    /// The start of the phase.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Keeps the largest numbers of connections.
    pub(super) fn look_at_connections(&mut self, requests: &Requests<'_>) {
        let agents = requests.agents.iter().map(|pid| connections(*pid)).max().unwrap_or_default();
        self.agent_connections = self.agent_connections.max(agents);
        let apiserver = connections(requests.apiserver);
        self.apiserver_connections = self.apiserver_connections.max(apiserver);
    }
}

/// The connections of a process to the ports of an API server.
fn connections(pid: i32) -> usize {
    let mut ss = Command::new("nsenter");
    ss.args(["--target", &pid.to_string(), "--net", "--", "ss", "-Htnp"]);
    let found = output(ss).unwrap_or_else(|error| panic!("ss: {error}"));
    of_process(&found, pid)
}

/// Those in the output of `ss -Htnp`: the peer is the fifth column.
fn of_process(sockets: &str, pid: i32) -> usize {
    let owner = format!("pid={pid},");
    let is_one = |line: &&str| {
        let peer = line.split_whitespace().nth(4).unwrap_or_default();
        line.contains(&owner) && PORTS.iter().any(|port| peer.ends_with(port))
    };
    sockets.lines().filter(is_one).count()
}

/// The requests that an API server has dispatched by a schema, of all priority levels.
fn dispatched(metrics: &str, schema: &str) -> u64 {
    let label = format!("flow_schema=\"{schema}\"");
    let lines = metrics.lines().filter(|line| line.starts_with(METRIC) && line.contains(&label));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    // A counter is a whole number.
    Duration::from_secs_f64(numbers.sum()).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_schema_are_added() {
        let metrics = "# TYPE apiserver_flowcontrol_dispatched_requests_total counter\n\
            apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"figures-agent\",priority_level=\"x\"} 3\n\
            apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"figures-agent\",priority_level=\"y\"} 1.2e+01\n\
            apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"x\"} 7\n";
        assert_eq!(dispatched(metrics, AGENT), 15);
        assert_eq!(dispatched(metrics, APISERVER), 0);
    }

    #[test]
    fn only_connections_to_an_api_server_count() {
        let sockets = "ESTAB 0 0 172.30.1.1:41000 10.101.0.1:443 users:((\"a\",pid=12,fd=9))\n\
            ESTAB 0 0 [::ffff:172.30.1.1]:41001 [::ffff:172.30.1.1]:6443 users:((\"a\",pid=12,fd=10))\n\
            ESTAB 0 0 172.30.1.1:6443 172.30.1.1:41001 users:((\"a\",pid=12,fd=11))\n\
            ESTAB 0 0 172.30.1.1:41002 172.30.1.1:12379 users:((\"a\",pid=12,fd=12))\n\
            ESTAB 0 0 172.30.1.1:41003 172.30.1.1:6443 users:((\"b\",pid=112,fd=9))\n";
        assert_eq!(of_process(sockets, 12), 2);
        assert_eq!(of_process(sockets, 2), 0);
    }
}
