//! The checks: which service the client of a cluster calls, and which cluster must answer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use mesh_lab::{
    printed_json,
    workload::call::{Called, Transport},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::site::Site;
use crate::output::Listed;

/// The cluster that must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The local cluster, which the service prefers.
    Local,
    /// One other cluster, the only one with pods.
    Remote,
    /// Any other cluster: the service prefers the local one, which has no pods.
    Failover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A connection to test.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) cluster: String,
    pub(super) goal: Goal,
    /// The cluster that must answer, for [`Goal::Remote`].
    pub(super) to: Option<String>,
    pub(super) family: Family,
    pub(super) transport: Transport,
}

/// A check and its outcome.
#[derive(Debug)]
pub(super) struct CheckResult {
    pub(super) check: Check,
    pub(super) outcome: CheckOutcome,
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckOutcome {
    Passed,
    /// With the reason.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

/// The output of `lab-pod call`.
#[derive(Debug, Deserialize)]
struct Calls {
    calls: Vec<Called>,
}

/// The service that has pods in all clusters, and prefers the local ones.
const LOCAL: &str = "echo-local";
/// The ports of the service and of its pods.
const PORT: u16 = 80;
const TARGET: u16 = 8080;

/// All checks, grouped by cluster. With a single cluster there are only local checks.
pub(super) fn checks(clusters: &[String]) -> Vec<Check> {
    let goals = match clusters.len() {
        0 | 1 => &[Goal::Local][..],
        _ => &[Goal::Local, Goal::Remote, Goal::Failover],
    };
    let mut all = Vec::new();
    for (cluster, goal) in clusters.iter().flat_map(|c| goals.iter().map(move |goal| (c, *goal))) {
        // Each other cluster is checked with a service of its own, or a third cluster could answer in its place.
        let others = || clusters.iter().filter(|other| *other != cluster).cloned().map(Some);
        let answering: Vec<_> = if goal == Goal::Remote { others().collect() } else { vec![None] };
        for to in answering {
            for family in [Family::V4, Family::V6] {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let (cluster, to) = (cluster.clone(), to.clone());
                    all.push(Check { cluster, goal, to, family, transport });
                }
            }
        }
    }
    all
}

/// The service that has pods in one cluster only.
fn service_in(cluster: &str) -> String {
    format!("echo-in-{cluster}")
}

/// The manifest of a cluster: a client, an echo server, and its services: one that prefers the local cluster, and one for
/// each cluster with pods in that cluster only.
pub(super) fn manifest(
    namespace: &str,
    cluster: &str,
    clusters: &[String],
    replicas: u32,
) -> String {
    let labels = json!({ "app": "echo" });
    let service = |name: &str, selector: &Value| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace,
                "annotations": {
                    "service.cilium.io/global": "true", "service.cilium.io/affinity": "local",
                },
            },
            "spec": {
                "ipFamilyPolicy": "PreferDualStack", "selector": selector,
                "ports": [
                    { "name": "tcp", "port": PORT, "targetPort": TARGET },
                    { "name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP" },
                ],
            },
        })
    };
    let target = TARGET.to_string();
    let container = json!({
        "name": "echo",
        "command": ["clustermesh", "lab-pod", "serve", "--tcp", target, "--udp", target],
        "ports": [
            { "name": "tcp", "containerPort": TARGET },
            { "name": "udp", "containerPort": TARGET, "protocol": "UDP" },
        ],
    });
    let none = json!({ "app": "none" });
    let services = clusters.iter().map(|of| {
        let selector = if of == cluster { &labels } else { &none };
        service(&service_in(of), selector)
    });
    let mut items = vec![
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "client", "namespace": namespace },
            "spec": { "containers": [{ "name": "client" }] },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "echo", "namespace": namespace },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels }, "spec": { "containers": [container] },
                },
            },
        }),
        service(LOCAL, &labels),
    ];
    items.extend(services);
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

// === impl Check ===

impl Check {
    /// Makes one request, and checks the answer.
    pub(super) fn run(&self, site: &dyn Site, limit: Duration) -> anyhow::Result<()> {
        let address = self.service_address(site)?;
        let client = site.client(&self.cluster)?;
        let to = SocketAddr::from((address, PORT)).to_string();
        let limit = format!("{}ms", limit.as_millis());
        let mut words = vec!["clustermesh", "lab-pod", "call", &to, "-o", "json"];
        words.extend(["--timeout", &limit]);
        if self.transport == Transport::Udp {
            words.push("--udp");
        }
        let printed = site.run(&self.cluster, &words)?;
        let calls: Calls = printed_json("lab-pod call", &printed).map_err(anyhow::Error::msg)?;
        let called = calls.calls.first().context("the client did not call")?;
        self.judge(called, &client)
    }

    fn service_address(&self, site: &dyn Site) -> anyhow::Result<IpAddr> {
        let name = self.to.as_deref().map_or_else(|| LOCAL.to_owned(), service_in);
        let all = site.service(&self.cluster, &name)?;
        let wanted = |ip: &IpAddr| ip.is_ipv4() == (self.family == Family::V4);
        all.into_iter().find(wanted).with_context(|| format!("{name} has no such address"))
    }

    /// Checks which cluster answered, and which client address the server saw.
    fn judge(&self, called: &Called, client: &[IpAddr]) -> anyhow::Result<()> {
        let answer = &called.answer;
        let is_local = answer.cluster == self.cluster;
        let unwanted = match &self.to {
            Some(to) => (answer.cluster != *to).then(|| format!("cluster {to}")),
            None if is_local == (self.goal == Goal::Local) => None,
            None if is_local => Some("another cluster".to_owned()),
            None => Some("the local cluster".to_owned()),
        };
        if let Some(wanted) = unwanted {
            bail!("cluster {} answered (pod {}), not {wanted}", answer.cluster, answer.pod);
        }
        let seen = answer.client.ip().to_canonical();
        if !client.contains(&seen) {
            let own: Vec<String> = client.iter().map(ToString::to_string).collect();
            bail!("the server sees the client as {seen}, not as {}", own.join(" or "));
        }
        Ok(())
    }

    fn goal(&self) -> &'static str {
        match self.goal {
            Goal::Local => "local",
            Goal::Remote => "remote",
            Goal::Failover => "failover",
        }
    }

    fn family(&self) -> &'static str {
        self.family.as_str()
    }

    fn transport(&self) -> &'static str {
        match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }
}

impl Family {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl CheckOutcome {
    /// The word for JSON, which does not change.
    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed(reason) | Self::Skipped(reason) => Some(reason),
        }
    }

    /// `None` if the check was skipped.
    fn passed(&self) -> Option<bool> {
        match self {
            Self::Passed => Some(true),
            Self::Failed(_) => Some(false),
            Self::Skipped(_) => None,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (goal, family, transport) = (self.goal(), self.family(), self.transport());
        let to = self.to.as_ref().map(|to| format!(" {to}")).unwrap_or_default();
        write!(f, "{}: {goal}{to}, {family}, {transport}", self.cluster)
    }
}

impl Listed for CheckResult {
    const HEADER: &'static [&'static str] =
        &["CLUSTER", "CHECK", "TO", "FAMILY", "PROTOCOL", "RESULT", "REASON"];

    fn name(&self) -> String {
        self.check.to_string()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let Self { check, outcome } = self;
        let result = if outcome.passed() == Some(false) { "FAILED" } else { outcome.word() };
        let reason = outcome.reason().unwrap_or_default();
        let to = check.to.as_deref().unwrap_or_default();
        let (goal, family) = (check.goal(), check.family());
        let cells = [&check.cluster, goal, to, family, check.transport(), result, reason];
        vec![cells.map(str::to_owned).into()]
    }

    fn json(&self) -> Value {
        let Self { check, outcome } = self;
        json!({
            "cluster": check.cluster, "check": check.goal(), "to": check.to, "family": check.family(),
            "protocol": check.transport(), "passed": outcome.passed(), "result": outcome.word(),
            "reason": outcome.reason(),
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_lab::workload::Answer;

    use super::*;
    use crate::output::samples;

    #[test]
    fn results_fit() {
        let check = Check {
            cluster: "a".into(),
            goal: Goal::Remote,
            to: Some("b".into()),
            family: Family::V6,
            transport: Transport::Tcp,
        };
        let failed = "[fd00:10:101::1]:80: no answer within 2 s: the connection was not accepted";
        let outcome = CheckOutcome::Failed(failed.into());
        samples::list_fits(80, &[CheckResult { check, outcome }]);
    }

    #[test]
    fn the_wrong_cluster_and_a_masked_client_fail() {
        let client: IpAddr = "10.1.1.2".parse().unwrap();
        let judged = |goal: Goal, cluster: &str, seen: &str| {
            let check = Check {
                cluster: "a".into(),
                goal,
                to: (goal == Goal::Remote).then(|| "b".into()),
                family: Family::V4,
                transport: Transport::Tcp,
            };
            let answer = Answer {
                pod: "echo-0".into(),
                node: "n1".into(),
                cluster: cluster.into(),
                client: seen.parse().unwrap(),
            };
            let called = Called { answer, peer: "10.101.0.1:80".parse().unwrap() };
            check.judge(&called, &[client]).map_err(|error| error.to_string())
        };
        let own = "10.1.1.2:4000";
        assert_eq!(judged(Goal::Local, "a", own), Ok(()));
        assert_eq!(judged(Goal::Local, "a", "[::ffff:10.1.1.2]:4000"), Ok(()));
        assert_eq!(judged(Goal::Remote, "b", own), Ok(()));
        assert_eq!(judged(Goal::Failover, "b", own), Ok(()));
        for (goal, cluster, seen, reason) in [
            (Goal::Local, "b", own, "cluster b answered (pod echo-0), not the local cluster"),
            (Goal::Remote, "a", own, "cluster a answered (pod echo-0), not cluster b"),
            (Goal::Remote, "c", own, "cluster c answered (pod echo-0), not cluster b"),
            (Goal::Failover, "a", own, "not another cluster"),
            (
                Goal::Remote,
                "b",
                "172.31.1.1:4000",
                "sees the client as 172.31.1.1, not as 10.1.1.2",
            ),
        ] {
            assert!(judged(goal, cluster, seen).unwrap_err().contains(reason), "{reason}");
        }
    }

    #[test]
    fn what_needs_another_cluster_is_left_out_without_one() {
        let of = |clusters: &[&str]| {
            checks(&clusters.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a"]).len(), 4);
        assert_eq!(of(&["a", "b"]).len(), 2 * 3 * 4);
        let pairs: Vec<_> =
            of(&["a", "b", "c"]).into_iter().filter_map(|c| Some((c.cluster, c.to?))).collect();
        assert_eq!(pairs.len(), 3 * 2 * 4);
        assert!(pairs.iter().all(|(from, to)| from != to), "{pairs:?}");
    }

    #[test]
    fn a_clusters_own_service_has_pods_there_alone() {
        let clusters = ["a".to_owned(), "b".to_owned()];
        let list: Value = serde_json::from_str(&manifest("test", "b", &clusters, 1)).unwrap();
        let selector = |name: &str| {
            let items = list["items"].as_array().unwrap();
            let service = items.iter().find(|item| item["metadata"]["name"] == name).unwrap();
            service["spec"]["selector"]["app"].clone()
        };
        assert_eq!(selector("echo-in-b"), "echo");
        assert_eq!(selector("echo-in-a"), "none");
        assert_eq!(selector("echo-local"), "echo");
    }
}
