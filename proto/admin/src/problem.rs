//! The problems that a daemon reports, each with a remedy. A test compares them with `docs/status.md`.

use crate::{
    v1::{Problem, State},
    words::plain,
};

/// Defines the codes and their remedies.
macro_rules! codes {
    ($($variant:ident $code:literal $remedy:literal,)*) => {
        /// The kind of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the code names the problem, and docs/status.md describes it")]
        pub enum ProblemCode {
            $($variant,)*
        }

        impl ProblemCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code, a stable word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// What to do. `PEER` is a placeholder for the cluster that the problem concerns.
            pub fn remedy(self) -> &'static str {
                match self {
                    $(Self::$variant => $remedy,)*
                }
            }
        }
    };
}

codes! {
    LocalEtcd "local-etcd"
        "check that the local cluster's etcd and apiserver run: clustermesh status --verbose, and their logs",
    Programs "programs"
        "see the agent's log; mount cgroup2 and a BPF file system where they are missing, or name them with --cgroup-root and --pin-root",
    PeerFile "peer-file"
        "correct the file that the message names, or write it again: clustermesh connect",
    RecordsRefused "records-refused"
        "correct what PEER exports outside its grant, or widen the grant in the peer file: clustermesh connect",
    MissingGrant "missing-grant"
        "write the peer file again, which adds the grant: clustermesh connect",
    AddressesContested "addresses-contested"
        "see which cluster it is: clustermesh identity show ADDRESS; give the peers grants that do not overlap: clustermesh connect",
    AddressesOutside "addresses-outside-ranges"
        "announce the ranges of all pods of PEER: podCIDRs in cluster.yaml, or of its nodes",
    PeerStale "peer-stale"
        "bring PEER's etcd back, or disconnect: clustermesh disconnect",
    LocalApiserver "local-apiserver"
        "start the local cluster's apiserver, or see its log",
    PodsWaiting "pods-waiting"
        "check that the local cluster's manifests have these pods, and that its apiserver runs",
    PolicyNotEnforced "policy-not-enforced"
        "correct a policy that is refused: clustermesh policy validate; for the rest, see the agent's log",
    KubeProxy "kube-proxy"
        "start a kube-proxy on the node, or name the one that is not found: --kube-proxy present; where none is to run, --replace-kube-proxy=force",
    Snapshots "snapshots"
        "check free space and permissions of the agent's --state-dir; until then an agent that restarts forgets unreachable peers",
    Attachments "attachments"
        "correct or remove the file that the message names",
    Sockets "sockets"
        "see the agent's log; until then, connections to removed backends end by their own timeouts",
    NodesUnverified "nodes-unverified"
        "check that the Node object has an InternalIP, and that the firewall passes the probe port",
    Health "health"
        "check that the probe port is free, and that the firewall passes probes",
    ProbeAnswer "probe-answer"
        "see the agent's log; until then, the agent answers probes itself",
    Routes "routes"
        "check `ip route` and the nodes that the message names: two nodes must not have the same range, and next hops must be reachable",
    Installation "installation"
        "apply deploy/manifests again, and restore the Secret or the right that the message names",
    Repaired "repaired"
        "find the program that changes the agent's tables, hooks, routes or rules, and stop it; the agent has repaired them",
    TableFilling "table-filling"
        "restart the agent with a larger table: the message names the flag",
    TableFull "table-full"
        "restart the agent with a larger table: the message names the flag; the agent then adds what is missing",
    CertificateExpiring "certificate-expiring"
        "renew it before it expires: clustermesh certs rotate",
    ManifestsUnread "manifests-unread"
        "check that the folder of manifests exists and can be read",
    SourceAway "source-away"
        "check that the folder of manifests exists and can be read",
    Etcd "etcd"
        "check that the etcd runs; see its log",
    EtcdCapacity "etcd-capacity"
        "start the etcd with the version or flags that the message names, or compact and defragment it",
    Credentials "credentials"
        "install files that belong together: clustermesh certs rotate",
    Object "object"
        "correct the object that the message names",
    PolicyRefused "policy-refused"
        "write the policy without what the message names: clustermesh policy validate shows all of it",
    ClusterConfig "cluster-config"
        "correct cluster.yaml and restart the daemons; the peer file of PEER has its ID and ranges",
    UsersFile "users-file"
        "correct users.yaml, or write it again: clustermesh connect",
    RefusedKey "refused-key"
        "make the object smaller, or give the etcd a larger --max-request-bytes",
    EtcdRepaired "etcd-repaired"
        "find what else changes the etcd; the apiserver has repaired it",
    ForeignWriter "foreign-writer"
        "stop the other program that writes to this etcd",
    DrainFile "drain-file"
        "remove the node from drain.yaml: clustermesh undrain CLUSTER/NODE",
    FileWatch "file-watch"
        "raise the limit: sysctl fs.inotify.max_user_instances=1024",
}

impl ProblemCode {
    /// A problem of this kind. `message` is a sentence that names what is wrong, and where.
    pub fn problem(self, message: impl Into<String>) -> Problem {
        Problem {
            code: self.as_str().into(),
            message: plain(&message.into()).into_owned(),
            remedy: self.remedy().replace("PEER", "the cluster"),
            ..Problem::default()
        }
    }

    /// A problem of this kind that concerns a cluster.
    pub fn of_peer(self, peer: &str, message: impl Into<String>) -> Problem {
        let remedy = self.remedy().replace("PEER", peer);
        Problem { remedy, peer: peer.into(), ..self.problem(message) }
    }
}

impl Problem {
    /// Sets the object or file that the problem concerns.
    #[must_use]
    pub fn about(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }
}

impl State {
    /// The state of something that is ready or not, and has problems or none.
    pub fn of(ready: bool, problems: bool) -> Self {
        match (ready, problems) {
            (false, _) => Self::NotReady,
            (true, true) => Self::Degraded,
            (true, false) => Self::Ready,
        }
    }

    /// The state as a stable word. Older daemons report no state; that counts as not ready.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady | Self::Unspecified => "notReady",
        }
    }
}

/// What to do if a connection fails at a phase. `phase` is a name as in [`crate::v1::Step`].
pub fn phase_remedy(phase: &str) -> &'static str {
    match phase {
        "resolve" => {
            "check the endpoint and the host aliases in the peer file, and the name server"
        }
        "tcp" => "check that the cluster's etcd runs, and that no firewall is in the way",
        "tls" => "see docs/certificates.md; for an expired certificate: clustermesh certs rotate",
        "authenticated" => {
            "check that the cluster's apiserver runs, and that its users.yaml has this cluster: the apiserver creates the user within seconds of clustermesh connect"
        }
        "config" => {
            "check that the cluster's apiserver runs, and that name and ID are as in the peer file"
        }
        "synced" => {
            "check that the cluster's apiserver runs: it marks the list in its etcd as complete"
        }
        "data-path" => "check the nodes' uplinks, routes and firewalls",
        _ => "see the agent's log",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_is_unique_and_has_a_remedy() {
        let codes: BTreeSet<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ProblemCode::ALL.len());
        for code in ProblemCode::ALL {
            let problem = code.of_peer("b", "it is broken");
            assert!(!problem.remedy.is_empty() && !problem.remedy.contains("PEER"), "{code:?}");
        }
    }

    #[test]
    fn the_document_lists_each_code_and_phase() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/status.md");
        let document = std::fs::read_to_string(path).unwrap();
        let rows = |start: &str| -> BTreeSet<String> {
            let (_, section) = document.split_once(start).unwrap();
            let section = section.split("\n## ").next().unwrap();
            let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
            rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
        };
        let codes = ProblemCode::ALL.iter().map(|code| code.as_str().to_owned());
        assert_eq!(rows("## Problems"), codes.collect());
        for phase in rows("## Connection phases") {
            assert_ne!(phase_remedy(&phase), phase_remedy("none"), "{phase}");
        }
        assert_eq!(rows("## Connection phases").len(), 7);
    }

    #[test]
    fn a_problem_degrades_only_what_is_ready() {
        for (ready, problems, word) in [
            (true, false, "ready"),
            (true, true, "degraded"),
            (false, true, "notReady"),
            (false, false, "notReady"),
        ] {
            assert_eq!(State::of(ready, problems).word(), word);
        }
    }
}
