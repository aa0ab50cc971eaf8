//! The nftables and `tc` rules of cuts.

use super::{TABLE, latency_proxy::Late};
use crate::{
    cluster::{Component, ETCD_PORT, replicas},
    error::LabError,
    link_fault::{Cut, Impairment},
    state::{ClusterState, LabState, NodeState},
};

/// A node, or a port of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    cluster: &'a str,
    node: &'a NodeState,
    port: Option<u16>,
}

/// The rules: for the bridge, for nodes whose local traffic is dropped, for `tc`, and for etcds with a delay.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) bridge: Vec<String>,
    /// Network namespaces of nodes, with their rules.
    pub(super) nodes: Vec<(String, Vec<String>)>,
    /// Links with the rates of their classes. The first class of a link is 1.
    pub(super) rates: Vec<(String, Vec<String>)>,
    /// Etcds that some nodes reach with a delay.
    pub(super) late: Vec<Late>,
}

// === impl Rules ===

impl Rules {
    /// Adds the rules of a cut. `link` names the end of a node's link on the bridge.
    pub(super) fn add(
        &mut self,
        state: &LabState,
        link: impl Fn(&str, &str) -> String,
        cut: &Cut,
    ) -> Result<(), LabError> {
        let [one, other] = &cut.places;
        let (ones, others) = (spots(state, one)?, spots(state, other)?);
        let invalid = |reason: &str| LabError::Cut {
            one: one.clone(),
            other: other.clone(),
            reason: reason.into(),
        };
        if ones.iter().chain(&others).any(|spot| spot.port.is_some()) && cut.port.is_some() {
            return Err(invalid("an etcd has its port already: leave --port out"));
        }
        let mut pairs = 0;
        for (a, b) in ones.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
            if a.port.is_some() && b.port.is_some() {
                return Err(invalid("etcds do not talk to each other: name a cluster or a node"));
            }
            if let Some(Impairment::Delay(millis)) = cut.impairment {
                let (etcd, from) = match (a.port, b.port) {
                    (Some(_), _) => (a, b),
                    (_, Some(_)) => (b, a),
                    (None, None) => {
                        return Err(invalid("only traffic to an etcd can be delayed: name one"));
                    }
                };
                pairs += 1;
                self.hears_late(&cut.places, etcd.node, from.node, millis);
            } else if a.node.netns != b.node.netns {
                pairs += 1;
                let name = |spot: &Spot<'_>| link(spot.cluster, &spot.node.name);
                self.one_way((&name(a), a.port), (&name(b), b.port), cut);
                self.one_way((&name(b), b.port), (&name(a), a.port), cut);
            } else if let Some(port) = a.port.or(b.port) {
                if matches!(cut.impairment, Some(Impairment::Rate(_))) {
                    // Rates are for links, and local traffic passes none.
                    continue;
                }
                pairs += 1;
                self.inside(&a.node.netns, port, cut);
            }
        }
        match (pairs, &cut.impairment) {
            (0, Some(Impairment::Rate(_))) => {
                Err(invalid("there is no link between them that could have a rate"))
            }
            (0, _) => Err(invalid("they are the same location: name two nodes or clusters")),
            _ => Ok(()),
        }
    }

    /// Adds the rules for one direction, from one link to another. A port is that of the location at the link.
    fn one_way(&mut self, from: (&str, Option<u16>), to: (&str, Option<u16>), cut: &Cut) {
        let verdict = match &cut.impairment {
            Some(Impairment::Rate(rate)) => {
                format!("meta priority set 1:{:x}", self.class(to.0, rate))
            }
            passes => dropped(passes.as_ref()),
        };
        let ports = match (from.1, to.1, cut.port) {
            (Some(port), ..) => vec![format!("tcp sport {port} ")],
            (_, Some(port), _) => vec![format!("tcp dport {port} ")],
            (None, None, None) => vec![String::new()],
            (None, None, Some(port)) => ["sport", "dport"]
                .map(|end| format!("meta l4proto {{ tcp, udp }} th {end} {port} "))
                .into(),
        };
        let (from, to) = (from.0, to.0);
        for port in ports {
            self.bridge.push(format!("iifname {from} oifname {to} {port}{verdict}"));
        }
    }

    /// Adds the rules for local traffic of an etcd's node to the etcd.
    fn inside(&mut self, netns: &str, port: u16, cut: &Cut) {
        let verdict = dropped(cut.impairment.as_ref());
        let rules = ["sport", "dport"].map(|end| format!("iifname lo tcp {end} {port} {verdict}"));
        match self.nodes.iter_mut().find(|(other, _)| other == netns) {
            Some((_, known)) => known.extend(rules),
            None => self.nodes.push((netns.into(), rules.into())),
        }
    }

    /// Adds a node that reaches an etcd with a delay, through the relay of this cut.
    fn hears_late(
        &mut self,
        places: &[String; 2],
        etcd: &NodeState,
        from: &NodeState,
        millis: u32,
    ) {
        let known = self.late.iter_mut().find(|late| late.places == *places);
        let late = match known {
            Some(late) => late,
            None => {
                let port = Late::port(self.late.len());
                let netns = etcd.netns.clone();
                let (places, cgroup) = (places.clone(), etcd.cgroup.join("system"));
                let late =
                    Late { places, netns, cgroup, port, millis, from: Vec::new(), own: false };
                self.late.push(late);
                let Some(late) = self.late.last_mut() else { return };
                late
            }
        };
        if etcd.netns == from.netns {
            late.own = true;
        } else {
            late.from.extend(&from.ips);
        }
    }

    /// Adds a class to a link, and returns its number.
    fn class(&mut self, link: &str, rate: &str) -> usize {
        let at = self.rates.iter().position(|(other, _)| other == link).unwrap_or_else(|| {
            self.rates.push((link.into(), Vec::new()));
            self.rates.len() - 1
        });
        let Some((_, rates)) = self.rates.get_mut(at) else { return 0 };
        rates.push(rate.into());
        rates.len()
    }
}

/// The verdict for packets of a cut.
fn dropped(passes: Option<&Impairment>) -> String {
    match passes {
        Some(Impairment::Loss(percent)) => format!("numgen random mod 100 < {percent} drop"),
        _ => "drop".into(),
    }
}

/// The nodes, or the port, of a location.
pub(super) fn spots<'a>(state: &'a LabState, place: &str) -> Result<Vec<Spot<'a>>, LabError> {
    let (cluster, rest) = match place.split_once('/') {
        Some((cluster, rest)) => (cluster, Some(rest)),
        None => (place, None),
    };
    let cluster = state.cluster(cluster)?;
    let spot = |node, port| Spot { cluster: &cluster.name, node, port };
    match rest {
        None => Ok(cluster.nodes.iter().map(|node| spot(node, None)).collect()),
        Some(name) => match places(cluster).find(|(known, ..)| known == name) {
            Some((_, node, port)) => Ok(vec![spot(node, port)]),
            None => {
                let known = places(cluster).map(|(name, ..)| format!("{}/{name}", cluster.name));
                Err(LabError::Unknown {
                    kind: "location",
                    name: place.into(),
                    known: [cluster.name.clone()]
                        .into_iter()
                        .chain(known)
                        .collect::<Vec<_>>()
                        .join(", "),
                })
            }
        },
    }
}

/// A table with these rules, which replaces an existing one. Without rules, the table is removed.
pub(super) fn table(family: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n");
    if !rules.is_empty() {
        text.push_str(&format!(
            "table {family} {TABLE} {{\n  chain cuts {{\n    type filter hook {hook} priority filter;\n"
        ));
        rules.iter().for_each(|rule| text.push_str(&format!("    {rule}\n")));
        text.push_str("  }\n}\n");
    }
    text
}

/// A token bucket for each cut. tbf has no classes, so htb is used. Traffic without a class is not limited.
pub(super) fn classes(link: &str, rates: &[String]) -> Vec<String> {
    let class = |(at, rate): (usize, &String)| {
        format!(
            "class add dev {link} parent 1: classid 1:{:x} htb rate {rate} quantum 1514",
            at + 1
        )
    };
    let root = format!("qdisc add dev {link} root handle 1: htb");
    [root].into_iter().chain(rates.iter().enumerate().map(class)).collect()
}

/// The names of the locations in a cluster: its nodes, and its etcds, each with its port.
fn places(cluster: &ClusterState) -> impl Iterator<Item = (String, &NodeState, Option<u16>)> {
    let nodes = cluster.nodes.iter().map(|node| (node.name.clone(), node, None));
    let etcd = |(replica, node)| (Component::Etcd(replica).to_string(), node, Some(ETCD_PORT));
    nodes.chain(replicas(cluster).map(etcd))
}
