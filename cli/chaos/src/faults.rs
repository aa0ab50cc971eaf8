//! Faults outside the data path, and the sequence of faults that follows from a seed.

use std::fmt;

use mesh_lab::{Component, Impairment};
use serde::{Serialize, Serializer};

/// Something that fails, or a change that an operator makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Daemons are killed, all at once, and started again in this order.
    Kill {
        /// The lab's names of the processes: `a/etcd`, `a/apiserver`, `a/etcd2` for a second replica, `a/n1/agent`.
        processes: Vec<String>,
        /// Milliseconds until the first of them is started again.
        away: u64,
    },
    /// Packets between two locations are dropped, all or some of them, or delayed.
    Cut {
        /// The locations: a cluster and an etcd.
        places: [String; 2],
        /// How the packets are impaired; `None` drops all of them.
        impairment: Option<Impairment>,
        /// An agent that is restarted meanwhile, by the lab's name.
        restarted: Option<String>,
        /// Milliseconds until the fault ends.
        away: u64,
    },
    /// An etcd's history is compacted up to its current revision.
    Compact(Etcd),
    /// An etcd loses its disk, and starts again with an empty one.
    Lose {
        /// The etcd.
        etcd: Etcd,
        /// Milliseconds until it starts again.
        away: u64,
    },
    /// The lease of the heartbeat in an etcd is revoked.
    Revoke(Etcd),
    /// The number of a cluster's pods changes.
    Scale(String, u32),
    /// Two clusters are connected again: users, certificates and peer files are checked and repaired.
    Reconnect(String, String),
    /// A cluster's certificates are rotated while they are in use.
    Rotate(String, Certificates),
    /// A node is in another zone, or in none.
    Move {
        /// Its cluster.
        cluster: String,
        /// The node.
        node: String,
        /// Its zone from now on.
        zone: Option<&'static str>,
    },
}

/// The etcd of one replica of a cluster's control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The cluster's name.
    pub cluster: String,
    /// The replica, counted from 1.
    pub replica: u8,
}

/// Which of a cluster's certificates are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Those of its etcd's server.
    Server,
    /// Those of the etcd's clients.
    Clients,
}

/// The parts of a mesh that faults can affect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshShape {
    /// The names of the clusters, each with the names of its nodes.
    pub clusters: Vec<(String, Vec<String>)>,
    /// Replicas of each cluster's control plane.
    pub control_planes: u8,
    /// Pods of each cluster at first.
    pub replicas: u32,
}

/// Pseudo-random numbers from a seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Random(u64);

/// The most pods that a cluster is scaled to.
const MOST_REPLICAS: u32 = 3;
/// Percent of packets lost and milliseconds of delay: far more than on any link that connects real clusters.
const LOSS: Option<Impairment> = Some(Impairment::Loss(30));
const DELAY: Option<Impairment> = Some(Impairment::Delay(200));
/// The zones that nodes are in, or none.
const ZONES: [Option<&str>; 3] = [Some("east"), Some("west"), None];
/// The longest that something is away, in milliseconds: longer than a reader's first tries to come back.
const LONGEST: usize = 2_000;

/// The sequence of `count` faults that follows from `seed`, for a mesh of this shape.
pub fn plan(seed: u64, count: usize, shape: &MeshShape) -> Vec<Fault> {
    let mut random = Random(seed);
    let mut replicas = vec![shape.replicas; shape.clusters.len()];
    let control_planes = shape.control_planes;
    let processes: Vec<String> =
        shape.clusters.iter().flat_map(|cluster| daemons(cluster, control_planes)).collect();
    let mut faults = Vec::new();
    while faults.len() < count && !shape.clusters.is_empty() {
        let at = random.below(shape.clusters.len());
        let Some((cluster, nodes)) = shape.clusters.get(at) else { break };
        let away = u64::try_from(random.below(LONGEST)).unwrap_or_default();
        faults.push(match random.below(13) {
            0 | 1 => Fault::Kill { processes: random.some(&processes, 1), away },
            2 | 3 => Fault::Kill { processes: random.some(&processes, 2), away },
            4 | 5 => {
                // The nodes of any cluster, the etcd's cluster included.
                let from = random.some(&shape.clusters, 1);
                let from = from.first().map_or(cluster.clone(), |(name, _)| name.clone());
                let agents: Vec<String> = of(&shape.clusters, &from).map(agent(&from)).collect();
                let restarted = random.some(&agents, 1).pop().filter(|_| random.below(2) == 0);
                let impairment = random.some(&[None, LOSS, DELAY], 1).pop().flatten();
                let etcd = random.etcd(cluster, control_planes);
                Fault::Cut { places: [from, etcd.to_string()], impairment, restarted, away }
            }
            6 => Fault::Compact(random.etcd(cluster, control_planes)),
            7 => Fault::Revoke(random.etcd(cluster, control_planes)),
            8 => {
                let others = shape.clusters.iter().filter(|(name, _)| name != cluster);
                let others: Vec<String> = others.map(|(name, _)| name.clone()).collect();
                match random.some(&others, 1).pop() {
                    Some(other) => Fault::Reconnect(cluster.clone(), other),
                    None => continue,
                }
            }
            9 => {
                let which = [Certificates::Server, Certificates::Clients];
                let which = random.some(&which, 1).pop().unwrap_or(Certificates::Server);
                Fault::Rotate(cluster.clone(), which)
            }
            10 => Fault::Lose { etcd: random.etcd(cluster, control_planes), away },
            11 => {
                let zone = random.some(&ZONES, 1).pop().flatten();
                let Some(node) = random.some(nodes, 1).pop() else { continue };
                Fault::Move { cluster: cluster.clone(), node, zone }
            }
            _ => {
                let Some(replicas) = replicas.get_mut(at) else { continue };
                let more = u32::try_from(1 + random.below(2)).unwrap_or(1);
                *replicas = (*replicas - 1 + more) % MOST_REPLICAS + 1;
                debug_assert!((1..=MOST_REPLICAS).contains(replicas), "never none");
                // A node has no limit of pods.
                debug_assert!(!nodes.is_empty(), "a cluster has nodes");
                Fault::Scale(cluster.clone(), *replicas)
            }
        });
    }
    faults
}

fn daemons((cluster, nodes): &(String, Vec<String>), control_planes: u8) -> Vec<String> {
    let replica = |number| [Component::Etcd(number), Component::Apiserver(number)];
    let own = (1..=control_planes).flat_map(replica).map(|component| component.process(cluster));
    own.chain(nodes.iter().map(agent(cluster))).collect()
}

fn agent(cluster: &str) -> impl Fn(&String) -> String {
    let cluster = cluster.to_owned();
    move |node| format!("{cluster}/{node}/agent")
}

fn of<'a>(clusters: &'a [(String, Vec<String>)], name: &str) -> impl Iterator<Item = &'a String> {
    let found = clusters.iter().find(|(other, _)| other == name);
    found.into_iter().flat_map(|(_, nodes)| nodes)
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to `limit`, `limit` excluded. The modulo bias does not matter here.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }

    /// The etcd of a random replica. With one replica no random number is used.
    fn etcd(&mut self, cluster: &str, replicas: u8) -> Etcd {
        let others = usize::from(replicas.max(1));
        let chosen = if others == 1 { 0 } else { self.below(others) };
        Etcd { cluster: cluster.into(), replica: u8::try_from(chosen).unwrap_or_default() + 1 }
    }

    /// `count` different elements, or all of them if there are fewer.
    fn some<T: Clone>(&mut self, all: &[T], count: usize) -> Vec<T> {
        let mut left = all.to_vec();
        let mut chosen = Vec::new();
        while chosen.len() < count && !left.is_empty() {
            chosen.push(left.swap_remove(self.below(left.len())));
        }
        chosen
    }
}

// === impl Etcd ===

impl fmt::Display for Etcd {
    /// The lab's name of the process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Component::Etcd(self.replica).process(&self.cluster))
    }
}

// === impl Fault ===

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { processes, away } => {
                write!(f, "kill {} for {away} ms", processes.join(" and "))
            }
            Self::Cut { places: [one, other], impairment, restarted, away } => {
                match impairment {
                    None => write!(f, "cut {one} from {other}")?,
                    Some(impairment) => write!(f, "impair {one} and {other}: {impairment}")?,
                }
                write!(f, " for {away} ms")?;
                let Some(restarted) = restarted else { return Ok(()) };
                write!(f, ", and restart {restarted} meanwhile")
            }
            Self::Compact(etcd) => write!(f, "compact {etcd}"),
            Self::Lose { etcd, away } => {
                write!(
                    f,
                    "lose the disk of {etcd}, which is back with an empty one after {away} ms"
                )
            }
            Self::Revoke(etcd) => write!(f, "revoke the lease of the heartbeat in {etcd}"),
            Self::Scale(cluster, replicas) => write!(f, "give {cluster} {replicas} pods"),
            Self::Reconnect(one, other) => write!(f, "connect {one} and {other} again"),
            Self::Rotate(cluster, which) => {
                write!(f, "rotate the certificates of {cluster}'s {}", which.as_str())
            }
            Self::Move { cluster, node, zone: Some(zone) } => {
                write!(f, "move {cluster}/{node} to zone {zone}")
            }
            Self::Move { cluster, node, zone: None } => {
                write!(f, "move {cluster}/{node} out of its zone")
            }
        }
    }
}

impl Certificates {
    /// The flag of `certs rotate`, without the dashes.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Clients => "clients",
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape() -> MeshShape {
        let nodes = || vec!["n1".to_owned(), "n2".to_owned()];
        let clusters = vec![("a".to_owned(), nodes()), ("b".to_owned(), nodes())];
        MeshShape { clusters, control_planes: 1, replicas: 2 }
    }

    #[test]
    fn every_replica_comes_up() {
        let faults = plan(1, 200, &MeshShape { control_planes: 2, ..shape() });
        let words: BTreeSet<String> = faults
            .iter()
            .flat_map(|f| f.to_string().split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for process in ["a/etcd", "a/etcd2", "a/apiserver2", "b/etcd2"] {
            assert!(words.contains(process), "{process}");
        }
        for etcd in ["a/etcd2", "b/etcd2"] {
            for kind in ["compact", "revoke"] {
                let is = |fault: &Fault| {
                    let text = fault.to_string();
                    text.starts_with(kind) && text.ends_with(etcd)
                };
                assert!(faults.iter().any(is), "{kind} {etcd}");
            }
        }
    }

    #[test]
    fn a_seed_stands_for_the_same_faults_and_for_the_first_of_more() {
        let faults = plan(7, 200, &shape());
        assert_eq!(faults.len(), 200);
        assert_eq!(plan(7, 8, &shape()), faults[..8]);
        assert_ne!(plan(8, 8, &shape()), faults[..8]);
    }

    #[test]
    fn every_kind_comes_up_and_none_that_would_hurt() {
        let faults = plan(1, 500, &shape());
        let kinds: BTreeSet<String> = faults
            .iter()
            .map(|fault| fault.to_string().split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(
            kinds.iter().map(String::as_str).collect::<Vec<_>>(),
            [
                "compact", "connect", "cut", "give", "impair", "kill", "lose", "move", "revoke",
                "rotate"
            ]
        );
        let mut before = [2, 2];
        let (mut moved, mut zones) = (BTreeSet::new(), BTreeSet::new());
        for fault in faults {
            match fault {
                Fault::Kill { processes, .. } => {
                    let different: BTreeSet<_> = processes.iter().collect();
                    assert!(!different.is_empty() && different.len() == processes.len());
                }
                Fault::Scale(cluster, replicas) => {
                    let before = &mut before[usize::from(cluster == "b")];
                    assert!((1..=3).contains(&replicas) && replicas != *before);
                    *before = replicas;
                }
                Fault::Reconnect(one, other) => assert_ne!(one, other),
                Fault::Cut { places, .. } => assert!(places[1].ends_with("/etcd")),
                Fault::Move { cluster, node, zone } => {
                    moved.insert(format!("{cluster}/{node}"));
                    zones.insert(zone);
                }
                Fault::Compact(_) | Fault::Lose { .. } | Fault::Revoke(_) | Fault::Rotate(..) => {}
            }
        }
        assert_eq!(Vec::from_iter(moved), ["a/n1", "a/n2", "b/n1", "b/n2"]);
        assert_eq!(zones, BTreeSet::from(ZONES));
    }
}
