//! What can be wrong with a daemon, each with what to do. `docs/status.md` has all of it, held by a test.

use crate::{
    v1::{Problem, State},
    words::plain,
};

/// The codes with their remedies, in one place.
macro_rules! codes {
    ($($variant:ident $code:literal $remedy:literal,)*) => {
        /// The kind of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each is its code, and docs/status.md says what it means")]
        pub enum ProblemCode {
            $($variant,)*
        }

        impl ProblemCode {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The kind in a stable word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// What to do. `PEER` stands for the cluster that the problem is about.
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
        "see whether the local cluster's etcd and apiserver run: clustermesh status --verbose, and their logs",
    Programs "programs"
        "see the agent's log; mount cgroup2 and a BPF file system where they are missing, or name them with --cgroup-root and --pin-root",
    PeerFile "peer-file"
        "mend the file that is named, or write it anew: clustermesh connect",
    RecordsRefused "records-refused"
        "have PEER export only what its grant covers, or widen the grant in the peer file: clustermesh connect",
    MissingGrant "missing-grant"
        "write the peer file anew, which adds the grant: clustermesh connect",
    PeerStale "peer-stale"
        "bring PEER's etcd back, or leave it: clustermesh disconnect",
    LocalApiserver "local-apiserver"
        "start the local cluster's apiserver, or see its log",
    PodsWaiting "pods-waiting"
        "see whether the local cluster's manifests have these pods, and whether its apiserver runs",
    Snapshots "snapshots"
        "make room or give rights in the agent's --state-dir; until then a restart forgets unreachable peers",
    Attachments "attachments"
        "mend or remove the file that is named",
    Sockets "sockets"
        "see the agent's log; connections to backends that are gone end by their own timeouts until then",
    NodesUnverified "nodes-unverified"
        "have the Node report its InternalIP, and let the probe port through the firewall",
    Health "health"
        "see that the probe port is free and that probes get through the firewall",
    ProbeAnswer "probe-answer"
        "see the agent's log; the agent answers probes itself until then",
    Routes "routes"
        "see `ip route` and the names in the message: two nodes must not have one range, and next hops must be reachable",
    Repaired "repaired"
        "find the program that changes what is the agent's, and stop it; the agent has put it right",
    TableFilling "table-filling"
        "restart the agent with a larger table, by the flag that is named",
    TableFull "table-full"
        "restart the agent with a larger table, by the flag that is named; what is missing is added by itself",
    CertificateExpiring "certificate-expiring"
        "issue it anew before it ends: clustermesh certs rotate",
    ManifestsUnread "manifests-unread"
        "see that the folder of manifests is there and can be read",
    SourceAway "source-away"
        "see that the folder of manifests is there and can be read",
    Etcd "etcd"
        "see whether the etcd runs, and its log",
    EtcdCapacity "etcd-capacity"
        "start the etcd with the flags that are named, or compact and defragment it",
    Credentials "credentials"
        "put files in place that belong together: clustermesh certs rotate",
    Object "object"
        "mend the object that is named",
    ClusterConfig "cluster-config"
        "mend cluster.yaml and restart the daemons; what PEER has is in its peer file",
    UsersFile "users-file"
        "mend users.yaml, or write it anew: clustermesh connect",
    RefusedKey "refused-key"
        "make the object smaller, or give the etcd a larger --max-request-bytes",
    EtcdRepaired "etcd-repaired"
        "find who changes the etcd beside the apiserver; it has been put right",
    ForeignWriter "foreign-writer"
        "stop the other program that writes to this etcd",
    DrainFile "drain-file"
        "take the node out of drain.yaml: clustermesh undrain CLUSTER/NODE",
    FileWatch "file-watch"
        "raise the limit: sysctl fs.inotify.max_user_instances=1024",
}

impl ProblemCode {
    /// A problem of this kind, as a sentence that names what is wrong.
    pub fn problem(self, message: impl Into<String>) -> Problem {
        Problem {
            code: self.as_str().into(),
            message: plain(&message.into()).into_owned(),
            remedy: self.remedy().replace("PEER", "the cluster"),
            ..Problem::default()
        }
    }

    /// A problem of this kind with a cluster.
    pub fn of_peer(self, peer: &str, message: impl Into<String>) -> Problem {
        let remedy = self.remedy().replace("PEER", peer);
        Problem { remedy, peer: peer.into(), ..self.problem(message) }
    }
}

impl Problem {
    /// The object or file that it is about.
    #[must_use]
    pub fn about(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }
}

impl State {
    /// Of what is ready or not, and has problems or none.
    pub fn of(ready: bool, problems: bool) -> Self {
        match (ready, problems) {
            (false, _) => Self::NotReady,
            (true, true) => Self::Degraded,
            (true, false) => Self::Ready,
        }
    }

    /// The state in a stable word; of a daemon that does not report one, by whether it is ready.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady | Self::Unspecified => "notReady",
        }
    }
}

/// What to do where a connection stands at a phase; by its name, as in [`crate::v1::Step`].
pub fn phase_remedy(phase: &str) -> &'static str {
    match phase {
        "resolve" => "see the endpoint and the host aliases in the peer file, and the name server",
        "tcp" => "see whether the cluster's etcd runs, and whether a firewall is in the way",
        "tls" => "see docs/certificates.md; for an expired certificate: clustermesh certs rotate",
        "authenticated" => {
            "its apiserver makes the user within seconds of clustermesh connect: see that it runs, and that its users.yaml has this cluster"
        }
        "config" => {
            "see that the cluster's apiserver runs, and that name and ID are as in the peer file"
        }
        "synced" => "see whether the cluster's apiserver runs: it vouches for what its etcd holds",
        "data-path" => "see the nodes' uplinks, routes and firewalls",
        _ => "see the agent's log",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_is_one_and_says_what_to_do() {
        let codes: BTreeSet<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ProblemCode::ALL.len());
        for code in ProblemCode::ALL {
            let problem = code.of_peer("b", "it is broken");
            assert!(!problem.remedy.is_empty() && !problem.remedy.contains("PEER"), "{code:?}");
        }
    }

    #[test]
    fn the_document_has_each_code_and_phase() {
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
    fn a_problem_degrades_what_is_ready_and_nothing_else() {
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
