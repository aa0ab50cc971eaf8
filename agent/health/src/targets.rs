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
    /// Its addresses, one of each family at most; none where it cannot be asked.
    pub addresses: Vec<IpAddr>,
    /// Clients here may be led to pods of it.
    pub in_use: bool,
}

/// How many nodes of a cluster are probed that has no backends in use.
const OTHERS: usize = 3;

/// The nodes of a cluster that a node (`me`) probes: all those in use; of a cluster that has none of these with an
/// address, three more by rendezvous hash, so that not all agents probe the same ones, and at one address. A node in
/// use without an address is a target that cannot be probed, and so is one without a record, if `nodes` are all that
/// the cluster has.
pub(crate) fn targets<'a>(
    me: &str,
    cluster: &ClusterName,
    nodes: impl Iterator<Item = (&'a str, &'a [IpAddr])>,
    all: bool,
    in_use: &BTreeSet<Arc<str>>,
) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut unseen: BTreeSet<&Arc<str>> =
        if all { in_use.iter().collect() } else { BTreeSet::new() };
    let mut others: Vec<(Reverse<u64>, &str, IpAddr)> = Vec::new();
    let mut can_be_asked = false;
    for (node, ips) in nodes {
        if let Some(node) = in_use.get(node) {
            unseen.remove(node);
            let addresses: Vec<IpAddr> = one_of_each_family(ips).collect();
            can_be_asked |= !addresses.is_empty();
            targets.push(Target { node: Arc::clone(node), addresses, in_use: true });
        } else if let Some(ip) = one_of_each_family(ips).next().filter(|_| !can_be_asked) {
            others.push((Reverse(weight(me, cluster, node)), node, ip));
            if others.len() > OTHERS {
                others.sort_unstable();
                others.truncate(OTHERS);
            }
        }
    }
    let nowhere =
        |node: &Arc<str>| Target { node: Arc::clone(node), addresses: Vec::new(), in_use: true };
    targets.extend(unseen.into_iter().map(nowhere));
    if !can_be_asked {
        targets.extend(others.into_iter().map(|(_, node, ip)| Target {
            node: node.into(),
            addresses: vec![ip],
            in_use: false,
        }));
    }
    targets.sort_unstable_by(|one, other| one.node.cmp(&other.node));
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

    fn chosen(
        me: &str,
        nodes: &[(String, Vec<IpAddr>)],
        in_use: &[&str],
        all: bool,
    ) -> Vec<Target> {
        let cluster = ClusterName::new("b").unwrap();
        let in_use = in_use.iter().map(|node| Arc::from(*node)).collect();
        let nodes = nodes.iter().map(|(node, ips)| (node.as_str(), ips.as_slice()));
        targets(me, &cluster, nodes, all, &in_use)
    }

    fn names(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| target.node.to_string()).collect()
    }

    #[test]
    fn all_in_use_else_three_and_not_the_same_for_all_agents() {
        let node = |n: u8| {
            let ips = vec!["fd00::1".parse().unwrap(), [10, 0, 0, n].into(), [10, 0, 1, n].into()];
            (format!("n{n:02}"), ips)
        };
        let nodes: Vec<(String, Vec<IpAddr>)> = (1..=20).map(node).collect();
        let in_use = chosen("a/n1", &nodes, &["n03", "n07", "n09", "n11", "gone"], false);
        assert_eq!(names(&in_use), ["n03", "n07", "n09", "n11"]);
        let both: Vec<IpAddr> = vec![[10, 0, 0, 3].into(), "fd00::1".parse().unwrap()];
        assert_eq!((&in_use[0].addresses, in_use[0].in_use), (&both, true));

        let three = chosen("a/n1", &nodes, &[], false);
        assert_eq!(three.len(), 3);
        assert!(three.iter().all(|target| target.addresses.len() == 1 && !target.in_use));
        assert_eq!(three, chosen("a/n1", &nodes, &["gone"], false), "as before");
        let by_all: BTreeSet<String> = (1..=20)
            .flat_map(|me| names(&chosen(&format!("a/n{me}"), &nodes, &[], false)))
            .collect();
        assert!(by_all.len() > 12, "60 choices of 20 nodes are nearly all of them: {by_all:?}");
        // One that goes changes no other's place.
        let others: Vec<_> =
            nodes.into_iter().filter(|(node, _)| *node != *three[0].node).collect();
        let now = names(&chosen("a/n1", &others, &[], false));
        assert!(three[1..].iter().all(|target| now.contains(&target.node.to_string())));
    }
    /// Clients may be led to their pods, and no probe can show whether they arrive.
    #[test]
    fn nodes_in_use_without_an_address_are_targets() {
        let nodes = [("n1", vec![]), ("n2", vec![[10, 0, 0, 2].into()]), ("n3", vec![])];
        let nodes = nodes.map(|(node, ips)| (node.to_owned(), ips));
        let chosen = |in_use: &[&str], all| {
            let targets = chosen("a/n1", &nodes, in_use, all).into_iter();
            let words =
                targets.map(|t| format!("{}{}{}", t.node, t.addresses.len(), u8::from(t.in_use)));
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen(&["n1", "n2", "gone"], false), "n101 n211");
        assert_eq!(chosen(&["n1", "n2", "gone"], true), "gone01 n101 n211");
        // The others are asked, so that it is known whether the cluster answers at all.
        assert_eq!(chosen(&["n1"], true), "n101 n210");
        assert_eq!(chosen(&[], true), "n210");
    }
}
