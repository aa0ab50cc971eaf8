//! Whom to probe.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::ClusterName;

/// A node to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub node: Arc<str>,
    /// Its addresses, one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// Clients here may be led to pods of it.
    pub in_use: bool,
}

/// How many nodes of a cluster are probed that has no backends in use.
const STRANGERS: usize = 3;

/// The nodes of a cluster that a node (`me`) probes: all those that are in use; of a cluster that has none of these, three
/// by rendezvous hash, so that not everybody asks the same ones, and by one address.
pub fn targets<'a>(
    me: &str,
    cluster: &ClusterName,
    nodes: impl Iterator<Item = (&'a str, &'a [IpAddr])>,
    in_use: &BTreeSet<Arc<str>>,
) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut strangers: Vec<(Reverse<u64>, &str, &[IpAddr])> = Vec::new();
    for (node, ips) in nodes {
        if let Some(node) = in_use.get(node) {
            let addresses = one_of_each_family(ips).collect();
            targets.push(Target { node: Arc::clone(node), addresses, in_use: true });
        } else if targets.is_empty() {
            strangers.push((Reverse(weight(me, cluster, node)), node, ips));
            if strangers.len() > STRANGERS {
                strangers.sort_unstable();
                strangers.truncate(STRANGERS);
            }
        }
    }
    if targets.is_empty() {
        targets.extend(strangers.into_iter().map(|(_, node, ips)| Target {
            node: node.into(),
            addresses: one_of_each_family(ips).take(1).collect(),
            in_use: false,
        }));
        targets.sort_unstable_by(|one, other| one.node.cmp(&other.node));
    }
    targets.retain(|target| !target.addresses.is_empty());
    targets
}

/// IPv4 first.
fn one_of_each_family(ips: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let first = |v4: bool| ips.iter().copied().find(move |ip| ip.is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten()
}

fn weight(me: &str, cluster: &ClusterName, node: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (me, cluster, node).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(me: &str, nodes: &[(String, Vec<IpAddr>)], in_use: &[&str]) -> Vec<Target> {
        let cluster = ClusterName::new("b").unwrap();
        let in_use = in_use.iter().map(|node| Arc::from(*node)).collect();
        let nodes = nodes.iter().map(|(node, ips)| (node.as_str(), ips.as_slice()));
        targets(me, &cluster, nodes, &in_use)
    }

    fn names(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| target.node.to_string()).collect()
    }

    #[test]
    fn all_in_use_else_three_and_not_the_same_for_everybody() {
        let node = |n: u8| {
            let ips = vec!["fd00::1".parse().unwrap(), [10, 0, 0, n].into(), [10, 0, 1, n].into()];
            (format!("n{n:02}"), ips)
        };
        let nodes: Vec<(String, Vec<IpAddr>)> = (1..=20).map(node).collect();
        let in_use = chosen("a/n1", &nodes, &["n03", "n07", "n09", "n11", "gone"]);
        assert_eq!(names(&in_use), ["n03", "n07", "n09", "n11"]);
        let both: Vec<IpAddr> = vec![[10, 0, 0, 3].into(), "fd00::1".parse().unwrap()];
        assert_eq!((&in_use[0].addresses, in_use[0].in_use), (&both, true));

        let three = chosen("a/n1", &nodes, &[]);
        assert_eq!(three.len(), 3);
        assert!(three.iter().all(|target| target.addresses.len() == 1 && !target.in_use));
        assert_eq!(three, chosen("a/n1", &nodes, &["gone"]), "as before");
        let by_all: BTreeSet<String> =
            (1..=20).flat_map(|me| names(&chosen(&format!("a/n{me}"), &nodes, &[]))).collect();
        assert!(by_all.len() > 12, "60 choices of 20 nodes are nearly all of them: {by_all:?}");
        // One that goes changes nobody else's place.
        let others: Vec<_> =
            nodes.into_iter().filter(|(node, _)| *node != *three[0].node).collect();
        let now = names(&chosen("a/n1", &others, &[]));
        assert!(three[1..].iter().all(|target| now.contains(&target.node.to_string())));
    }
}
