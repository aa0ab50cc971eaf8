//! What each cluster reported, and who has an address by the rules: written down anew for each question.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;

pub(crate) const CLUSTERS: [&str; 4] = ["a", "b", "c", "d"];
/// The local cluster's own, in its settings and outside; the peers' own; nobody's; and nodes'.
pub(crate) const ADDRESSES: [&str; 12] = [
    "10.1.0.1",
    "10.8.0.1",
    "10.8.0.2",
    "10.2.0.1",
    "10.2.5.1",
    "10.3.0.1",
    "10.9.0.1",
    "10.9.0.2",
    "fd00::1",
    "172.31.1.1",
    "172.31.2.1",
    "172.31.9.1",
];
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// Kinds of grants: all of a cluster's range, a part of it, and with what others are granted too.
pub(crate) const GRANTS: usize = 3;
pub(crate) const BUDGET: Duration = Duration::from_secs(900);
const LOCAL: usize = 0;
pub(crate) const NODE: u32 = 6;
pub(crate) const UNKNOWN: u32 = 0;

/// The identity in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    Pod(usize),
    Host,
    Unknown,
}

/// When a record was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// In the list that is under way or was the last one, or later.
    Now,
    /// Before the list that is under way.
    BeforeList,
    /// It was removed as an expired lease removes it.
    Doubted,
    /// In the run before.
    Restored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) ip: IpAddr,
    pub(crate) range: IpNet,
    pub(crate) seen: Seen,
}

/// A claim's place among others: the lower, the better.
type Place = (u8, u64);

#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) followed: bool,
    pub(crate) grant: Option<usize>,
    pub(crate) accepted: bool,
    pub(crate) connected: bool,
    pub(crate) synced: bool,
    pub(crate) quarantined: bool,
    pub(crate) away: Option<Duration>,
    pub(crate) stale: bool,
    /// There before all peer files were read, and not listed since, nor known from before.
    pub(crate) starting: bool,
    /// Its addresses were listed in full at least once.
    pub(crate) listed: bool,
    /// Something was listed in this run, if only in part.
    pub(crate) begun: bool,
    pub(crate) records: BTreeMap<usize, (Reported, Seen)>,
    pub(crate) nodes: BTreeMap<usize, NodeRecord>,
    pub(crate) identities: BTreeMap<usize, Seen>,
    /// Its claims, by address.
    pub(crate) claims: BTreeMap<usize, Place>,
}

/// What is on disk of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) records: BTreeMap<usize, Reported>,
    pub(crate) nodes: BTreeMap<usize, (IpAddr, IpNet)>,
    pub(crate) identities: BTreeSet<usize>,
    pub(crate) second: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) clusters: [Cluster; 4],
    pub(crate) now: Duration,
    pub(crate) began: Duration,
    /// The grants by which records were checked last.
    grants: Vec<usize>,
    pub(crate) started: bool,
    pub(crate) spent: bool,
    next: u64,
    /// Of the run before, of clusters that are not followed yet.
    pub(crate) waiting: BTreeMap<usize, Kept>,
    /// Clusters with something that is only known from before.
    in_use: BTreeSet<usize>,
    pub(crate) disk: BTreeMap<usize, Kept>,
}

// ------------------------------------------------------------------------------------------------ names

pub(crate) fn ip(address: usize) -> IpAddr {
    ADDRESSES[address].parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn node_ip(c: usize, which: usize) -> IpAddr {
    [format!("172.31.{}.1", c + 1), "172.31.9.1".into()][which].parse().unwrap()
}

pub(crate) fn node_range(c: usize, which: usize) -> IpNet {
    net(&[format!("10.{}.0.0/24", c + 1), "10.8.0.0/24".into()][which])
}

pub(crate) fn grant_pods(c: usize, grant: usize) -> Vec<IpNet> {
    let own = format!("10.{}.0.0/16", c + 1);
    match grant {
        0 => vec![net(&own)],
        1 => vec![net(&format!("10.{}.0.0/24", c + 1))],
        _ => vec![net(&own), net("10.9.0.0/16")],
    }
}

pub(crate) fn grant_nodes(c: usize) -> Vec<IpNet> {
    vec![net(&format!("172.31.{}.0/24", c + 1))]
}

pub(crate) fn settings() -> (IpNet, IpNet) {
    (net("10.1.0.0/16"), net("172.31.1.0/24"))
}

pub(crate) fn number(c: usize, reported: Reported) -> u32 {
    match reported {
        Reported::Pod(k) => {
            ((u32::try_from(c).unwrap() + 1) << 16) + 256 + u32::try_from(k).unwrap()
        }
        Reported::Host => 1,
        Reported::Unknown => 0,
    }
}

fn touch(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

// ------------------------------------------------------------------------------------------------ rules

impl Model {
    /// Whether records of a cluster are accepted.
    pub(crate) fn accepts(&self, c: usize) -> bool {
        let cluster = &self.clusters[c];
        cluster.followed && cluster.accepted && cluster.connected && !cluster.quarantined
    }

    /// Whether a cluster may claim a range: of pods, of nodes, or of either.
    fn may(&self, c: usize, range: &IpNet, pods: bool, nodes: bool) -> bool {
        let ours = settings();
        if c == LOCAL {
            return true;
        }
        if touch(&ours.0, range) || touch(&ours.1, range) {
            return false;
        }
        let granted = |c: usize, grant: usize, pods: bool, nodes: bool| {
            let mut all = if pods { grant_pods(c, grant) } else { Vec::new() };
            all.extend(if nodes { grant_nodes(c) } else { Vec::new() });
            all
        };
        match self.clusters[c].grant {
            Some(grant) => granted(c, grant, pods, nodes).iter().any(|all| all.contains(range)),
            None => {
                let others = self.grants.iter().enumerate();
                let mut taken = others
                    .filter(|(_, grant)| **grant > 0)
                    .flat_map(|(of, grant)| granted(of, grant - 1, true, true));
                !taken.any(|taken| touch(&taken, range))
            }
        }
    }

    pub(crate) fn may_have(&self, c: usize, address: usize) -> bool {
        self.may(c, &ip(address).into(), true, true)
    }

    pub(crate) fn may_have_node(&self, c: usize, node: IpAddr, range: &IpNet) -> bool {
        self.may(c, &node.into(), false, true) && self.may(c, range, true, false)
    }

    fn rank(&self, c: usize) -> u8 {
        match (c, self.clusters[c].grant) {
            (LOCAL, _) => 0,
            (_, Some(_)) => 1,
            (_, None) => 2,
        }
    }

    /// The identity that a cluster gives an address, and whether that may be out of date.
    fn given(&self, c: usize, address: usize) -> Option<(u32, bool)> {
        let cluster = &self.clusters[c];
        let silent = !cluster.connected || cluster.quarantined;
        let of_node = cluster.nodes.values().filter(|node| node.ip == ip(address));
        // Of several nodes the first by name counts.
        if let Some(node) = of_node.into_iter().next() {
            return Some((NODE, silent || node.seen != Seen::Now));
        }
        let (reported, seen) = cluster.records.get(&address)?;
        let in_node_range = match cluster.grant {
            _ if c == LOCAL => true,
            Some(_) => grant_nodes(c)[0].contains(&ip(address)),
            None => false,
        };
        let identity = match reported {
            Reported::Host if in_node_range => NODE,
            Reported::Host => UNKNOWN,
            other => number(c, *other),
        };
        Some((identity, silent || *seen != Seen::Now))
    }

    /// Who has an address, with which identity.
    pub(crate) fn holder(&self, address: usize) -> Option<(usize, u32)> {
        let claims = (0..4).filter(|c| self.clusters[*c].claims.contains_key(&address));
        let order = |c: &usize| {
            let cluster = &self.clusters[*c];
            (self.rank(*c), cluster.stale, cluster.claims[&address])
        };
        let mut claims: Vec<usize> = claims.collect();
        claims.sort_by_key(order);
        let first = *claims.first()?;
        let our_nodes = self.clusters[LOCAL].nodes.values();
        if first != LOCAL && our_nodes.into_iter().any(|node| node.range.contains(&ip(address))) {
            return Some((LOCAL, UNKNOWN));
        }
        let (identity, old) = self.given(first, address).unwrap();
        let rivals = claims.iter().filter(|c| {
            self.rank(**c) == self.rank(first)
                && self.clusters[**c].stale == self.clusters[first].stale
        });
        let contested = rivals.count() > 1;
        let unknown = self.clusters[first].stale || (old && contested);
        Some((first, if unknown { UNKNOWN } else { identity }))
    }

    /// The cluster in whose range of pods an address is.
    pub(crate) fn range_of(&self, address: usize) -> Option<usize> {
        let mut ranges = vec![(0, settings().0, LOCAL)];
        for (c, cluster) in self.clusters.iter().enumerate() {
            let granted = cluster.grant.filter(|_| cluster.followed);
            let granted = granted.map(|grant| grant_pods(c, grant)).unwrap_or_default();
            ranges.extend(granted.into_iter().map(|range| (1, range, c)));
            if self.rank(c) != 1 {
                ranges.extend(cluster.nodes.values().map(|node| (self.rank(c), node.range, c)));
            }
        }
        let around = ranges.into_iter().filter(|(_, range, _)| range.contains(&ip(address)));
        let best = around.min_by_key(|(rank, range, c)| (*rank, u8::MAX - range.prefix_len(), *c));
        best.map(|(.., c)| c)
    }

    /// What is known of an address, the identities' labels included.
    pub(crate) fn known(&self, address: usize) -> Option<(usize, u32)> {
        let Some((c, identity)) = self.holder(address) else {
            return self.range_of(address).map(|c| (c, UNKNOWN));
        };
        let has_labels = |k: &usize| number(c, Reported::Pod(*k)) == identity;
        let known = identity < 256 || self.clusters[c].identities.keys().any(has_labels);
        Some((c, if known { identity } else { UNKNOWN }))
    }

    // -------------------------------------------------------------------------------------------- changes

    /// What follows from a change of a cluster's records: claims that are new, and those that are none any more.
    pub(crate) fn settle_claims(&mut self, c: usize, restored: Option<&BTreeSet<usize>>) {
        for address in 0..ADDRESSES.len() {
            let has = self.given(c, address).is_some();
            let cluster = &self.clusters[c];
            if !has {
                self.clusters[c].claims.remove(&address);
            } else if !cluster.claims.contains_key(&address) {
                let id = u64::try_from(c).unwrap();
                let place = match restored {
                    Some(second) if second.contains(&address) => (2, id),
                    Some(_) => (0, id),
                    None if cluster.starting => (1, id),
                    None => {
                        self.next += 1;
                        (3, self.next)
                    }
                };
                self.clusters[c].claims.insert(address, place);
            }
        }
    }

    /// The grants are others than before: records that they do not cover are removed.
    pub(crate) fn settle_grants(&mut self) {
        let grant = |cluster: &Cluster| match (cluster.followed, cluster.grant) {
            (true, Some(grant)) => grant + 1,
            _ => 0,
        };
        self.grants = self.clusters.iter().map(grant).collect();
        for c in 1..4 {
            let keep: BTreeSet<usize> =
                (0..ADDRESSES.len()).filter(|address| self.may_have(c, *address)).collect();
            let nodes = self.clusters[c].nodes.clone();
            let nodes = nodes.into_iter().filter(|(_, n)| self.may_have_node(c, n.ip, &n.range));
            let nodes = nodes.collect();
            self.clusters[c].nodes = nodes;
            self.clusters[c].records.retain(|address, _| keep.contains(address));
            self.settle_claims(c, None);
        }
    }

    /// Staleness, and the end of what was restored, follow from connections and time.
    pub(crate) fn settle_time(&mut self) {
        let now = self.now;
        for cluster in self.clusters.iter_mut().skip(1).filter(|cluster| cluster.followed) {
            if !cluster.connected {
                let away = *cluster.away.get_or_insert(now);
                cluster.stale |= now - away >= BUDGET;
            } else if !cluster.stale || (cluster.synced && !cluster.quarantined) {
                (cluster.away, cluster.stale) = (None, false);
            }
        }
        if !self.spent && now - self.began >= BUDGET {
            (self.spent, self.started) = (true, true);
            for c in std::mem::take(&mut self.in_use) {
                if c == LOCAL {
                    self.in_use.insert(c);
                    continue;
                }
                let cluster = &mut self.clusters[c];
                cluster.records.retain(|_, (_, seen)| *seen != Seen::Restored);
                cluster.nodes.retain(|_, node| node.seen != Seen::Restored);
                cluster.identities.retain(|_, seen| *seen != Seen::Restored);
                self.settle_claims(c, None);
            }
            self.clusters.iter_mut().for_each(|cluster| cluster.starting = false);
        }
    }

    /// A cluster is followed: what was known of it counts until it is listed.
    pub(crate) fn restore(&mut self, c: usize) {
        let Some(kept) = self.waiting.remove(&c) else { return };
        if self.clusters[c].begun || self.clusters[c].accepted {
            return;
        }
        let records = kept.records.iter().filter(|(address, _)| self.may_have(c, **address));
        let records = records.map(|(address, reported)| (*address, (*reported, Seen::Restored)));
        let records = records.collect();
        let nodes = kept.nodes.iter().filter(|(_, (ip, range))| self.may_have_node(c, *ip, range));
        let nodes = nodes.map(|(node, (ip, range))| {
            (*node, NodeRecord { ip: *ip, range: *range, seen: Seen::Restored })
        });
        let nodes = nodes.collect();
        let cluster = &mut self.clusters[c];
        (cluster.records, cluster.nodes) = (records, nodes);
        cluster.identities = kept.identities.iter().map(|k| (*k, Seen::Restored)).collect();
        cluster.starting = false;
        self.in_use.insert(c);
        self.settle_claims(c, Some(&kept.second));
    }

    /// A list of a cluster begins: what it had before may be out of date.
    pub(crate) fn begin(&mut self, c: usize) {
        let cluster = &mut self.clusters[c];
        let seen = cluster.records.values_mut().map(|(_, seen)| seen);
        let seen = seen.chain(cluster.nodes.values_mut().map(|node| &mut node.seen));
        let seen = seen.chain(cluster.identities.values_mut());
        seen.filter(|seen| **seen == Seen::Now).for_each(|seen| *seen = Seen::BeforeList);
    }

    /// It is complete.
    pub(crate) fn end(&mut self, c: usize) {
        let cluster = &mut self.clusters[c];
        cluster.records.retain(|_, (_, seen)| *seen == Seen::Now);
        cluster.nodes.retain(|_, node| node.seen == Seen::Now);
        cluster.identities.retain(|_, seen| *seen == Seen::Now);
        (cluster.listed, cluster.synced) = (true, true);
        self.settle_claims(c, None);
        self.clusters[c].starting = false;
        self.in_use.remove(&c);
    }

    /// What would be found on disk now: all that is known of clusters that were listed in this run.
    pub(crate) fn write(&mut self) {
        for c in 0..4 {
            if !self.clusters[c].listed {
                continue;
            }
            let cluster = &self.clusters[c];
            let first = |address: &usize| {
                let claims = (0..4).filter(|of| self.clusters[*of].claims.contains_key(address));
                claims.min_by_key(|of| (self.rank(*of), self.clusters[*of].claims[address]))
            };
            let second = cluster.claims.keys().filter(|address| first(address) != Some(c));
            let kept = Kept {
                records: cluster.records.iter().map(|(a, (reported, _))| (*a, *reported)).collect(),
                nodes: cluster.nodes.iter().map(|(n, node)| (*n, (node.ip, node.range))).collect(),
                identities: cluster.identities.keys().copied().collect(),
                second: second.copied().collect(),
            };
            self.disk.insert(c, kept);
        }
    }

    /// Only these clusters exist.
    pub(crate) fn forget_strangers(&mut self) {
        let Self { clusters, waiting, disk, .. } = self;
        let exists = |c: &usize| *c == LOCAL || clusters[*c].followed;
        waiting.retain(|c, _| exists(c));
        disk.retain(|c, _| exists(c));
    }

    /// The agent starts again.
    pub(crate) fn restart(&mut self, bare: bool) {
        let Self { disk, now, .. } = std::mem::take(self);
        let mut waiting = disk.clone();
        if !bare {
            waiting.values_mut().for_each(|kept| kept.nodes.clear());
        }
        *self = Self { disk, now, began: now, waiting, ..Self::default() };
    }
}
