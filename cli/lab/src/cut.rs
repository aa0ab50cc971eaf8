//! Cuts: places of a lab between which packets are lost, or only trickle.
//!
//! All nodes hang on one bridge, so what two of them say to each other passes there: nftables drops it on the way from
//! one port to the other. What an etcd's own node says to it never leaves that node, and is dropped there. The rules are
//! made anew, in one step, from the list of all cuts: what is healed leaves nothing behind.

use std::{collections::BTreeSet, fmt, process::Command};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::{Component, ETCD_PORT, replicas},
    command::{enter_netns, run},
    error::LabError,
    lab::Lab,
    state::{ClusterState, LabState, NodeState},
};

/// Two places that do not hear each other well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The places: a cluster (`a`), a node (`a/n1`), or a replica's etcd (`a/etcd`, `a/etcd2`). In order, so that a cut from b to a
    /// is the one from a to b.
    pub places: [String; 2],
    /// Only what goes to this port, and what comes back from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What still passes each way, as `tc` writes rates; nothing, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

/// A node, or a port of it.
#[derive(Clone, Copy, Debug)]
struct Spot<'a> {
    cluster: &'a str,
    node: &'a NodeState,
    port: Option<u16>,
}

/// What the kernel is told: one text for the bridge, one for each node that talks to itself, and one for `tc`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    bridge: Vec<String>,
    /// Network namespaces with their rules.
    nodes: Vec<(String, Vec<String>)>,
    /// Links with the rates of their classes, the first of which is 1.
    rates: Vec<(String, Vec<String>)>,
}

/// The tables' name, in the underlay and on nodes.
const TABLE: &str = "clustermesh-lab";

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.places;
        write!(f, "{one} – {other}")?;
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        match &self.rate {
            Some(rate) => write!(f, ", {rate}"),
            None => Ok(()),
        }
    }
}

impl Lab {
    /// Cuts two places off from each other, wholly or down to a rate. Done twice, it is done once; with another rate, that
    /// one is in force.
    pub fn cut(
        &mut self,
        places: [&str; 2],
        port: Option<u16>,
        rate: Option<&str>,
    ) -> Result<Cut, LabError> {
        let rate = rate.map(checked_rate).transpose()?;
        let cut = Cut { places: in_order(places), port, rate };
        // What cannot be cut is said before anything is changed.
        Rules::default().add(&self.state, |_, _| String::new(), &cut)?;
        let mut cuts = self.state.cuts.clone();
        cuts.retain(|other| (&other.places, other.port) != (&cut.places, cut.port));
        cuts.push(cut.clone());
        self.set_cuts(cuts)?;
        Ok(cut)
    }

    /// Heals what is cut between two places, or everything. Returns what was healed.
    pub fn heal(&mut self, places: Option<[&str; 2]>) -> Result<Vec<Cut>, LabError> {
        if let Some(places) = places {
            for place in places {
                spots(&self.state, place)?;
            }
        }
        let places = places.map(in_order);
        let is_healed = |cut: &Cut| places.as_ref().is_none_or(|places| *places == cut.places);
        let (healed, left) = self.state.cuts.iter().cloned().partition(is_healed);
        self.set_cuts(left)?;
        Ok(healed)
    }

    fn set_cuts(&mut self, cuts: Vec<Cut>) -> Result<(), LabError> {
        let before = self.rules(&self.state.cuts)?;
        let after = self.rules(&cuts)?;
        // What was made is known from now on, should a step of it fail.
        self.state.cuts = cuts;
        self.save()?;
        let underlay = self.name.underlay();
        nft(&underlay, &table("bridge", "forward", &after.bridge))?;
        let nodes = before.nodes.iter().chain(&after.nodes);
        let nodes: BTreeSet<&str> = nodes.map(|(netns, _)| netns.as_str()).collect();
        for netns in nodes {
            let rules = after.nodes.iter().find(|(other, _)| other == netns);
            let rules = rules.map(|(_, rules)| rules.as_slice()).unwrap_or_default();
            nft(netns, &table("inet", "input", rules))?;
        }
        for (link, _) in &before.rates {
            // It may not be there: whoever was to make it may have been killed before.
            let _ = tc(&underlay, &[format!("qdisc delete dev {link} root")]);
        }
        for (link, rates) in &after.rates {
            tc(&underlay, &classes(link, rates))?;
        }
        Ok(())
    }

    fn rules(&self, cuts: &[Cut]) -> Result<Rules, LabError> {
        let mut rules = Rules::default();
        for cut in cuts {
            rules.add(&self.state, |cluster, node| self.name.link(cluster, node), cut)?;
        }
        Ok(rules)
    }
}

impl Rules {
    /// Adds what a cut means; `link` is the bridge's end of a node's link.
    fn add(
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
            if a.node.netns != b.node.netns {
                pairs += 1;
                let name = |spot: &Spot<'_>| link(spot.cluster, &spot.node.name);
                self.one_way((&name(a), a.port), (&name(b), b.port), cut);
                self.one_way((&name(b), b.port), (&name(a), a.port), cut);
            } else if let Some(port) = a.port.or(b.port) {
                if cut.rate.is_some() {
                    // Only links have rates, and this goes over none.
                    continue;
                }
                pairs += 1;
                self.inside(&a.node.netns, port);
            }
        }
        match (pairs, &cut.rate) {
            (0, None) => Err(invalid("they are one place: name two nodes or clusters")),
            (0, Some(_)) => Err(invalid("there is no link between them that could have a rate")),
            _ => Ok(()),
        }
    }

    /// From one link to another. A port is that of the place on its link.
    fn one_way(&mut self, from: (&str, Option<u16>), to: (&str, Option<u16>), cut: &Cut) {
        let verdict = match &cut.rate {
            None => "drop".to_owned(),
            Some(rate) => format!("meta priority set 1:{:x}", self.class(to.0, rate)),
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

    /// What an etcd's own node says to it.
    fn inside(&mut self, netns: &str, port: u16) {
        let rules = ["sport", "dport"].map(|end| format!("iifname lo tcp {end} {port} drop"));
        match self.nodes.iter_mut().find(|(other, _)| other == netns) {
            Some((_, known)) => known.extend(rules),
            None => self.nodes.push((netns.into(), rules.into())),
        }
    }

    /// Another class of a link.
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

/// The spots that a place is made of.
fn spots<'a>(state: &'a LabState, place: &str) -> Result<Vec<Spot<'a>>, LabError> {
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
                    kind: "place",
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

/// The places in a cluster, by name: its nodes, and the port of each etcd.
fn places(cluster: &ClusterState) -> impl Iterator<Item = (String, &NodeState, Option<u16>)> {
    let nodes = cluster.nodes.iter().map(|node| (node.name.clone(), node, None));
    let etcd = |(replica, node)| (Component::Etcd(replica).to_string(), node, Some(ETCD_PORT));
    nodes.chain(replicas(cluster).map(etcd))
}

fn in_order(places: [&str; 2]) -> [String; 2] {
    let mut places = places.map(str::to_owned);
    places.sort();
    places
}

/// A rate that `tc` takes: a number and its unit.
fn checked_rate(rate: &str) -> Result<String, LabError> {
    let digits = rate.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = rate.split_at(digits);
    let positive = number.parse::<u32>().is_ok_and(|number| number > 0);
    if positive && ["bit", "kbit", "mbit", "gbit"].contains(&unit) {
        Ok(rate.into())
    } else {
        Err(LabError::Rate(rate.into()))
    }
}

/// A table with these rules instead of the one that may be there; none without rules.
fn table(family: &str, hook: &str, rules: &[String]) -> String {
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

/// Token buckets, one a cut. tbf has no classes; htb is made of the same buckets. What belongs to no class passes freely.
fn classes(link: &str, rates: &[String]) -> Vec<String> {
    let class = |(at, rate): (usize, &String)| {
        format!(
            "class add dev {link} parent 1: classid 1:{:x} htb rate {rate} quantum 1514",
            at + 1
        )
    };
    let root = format!("qdisc add dev {link} root handle 1: htb");
    [root].into_iter().chain(rates.iter().enumerate().map(class)).collect()
}

fn nft(netns: &str, rules: &str) -> Result<(), LabError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    enter_netns(&mut command, netns)?;
    run(command, rules).map(|_| ())
}

fn tc(netns: &str, lines: &[String]) -> Result<(), LabError> {
    let mut command = Command::new("tc");
    command.args(["-batch", "-"]);
    enter_netns(&mut command, netns)?;
    run(command, &(lines.join("\n") + "\n")).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn lab() -> LabState {
        let node = |cluster: &str, number: u8| NodeState {
            name: format!("n{number}"),
            number,
            netns: format!("{cluster}-n{number}"),
            ips: Vec::new(),
            cgroup: "/".into(),
            admin_socket: "/".into(),
        };
        let cluster = |(id, name): (u8, &str)| ClusterState {
            name: name.into(),
            id,
            directory: "/".into(),
            nodes: vec![node(name, 1), node(name, 2)],
            replicas: if name == "b" { 2 } else { 1 },
            pods: Vec::new(),
            last_service: 0,
            services: BTreeMap::new(),
        };
        let clusters = [(1, "a"), (2, "b")].map(cluster).into();
        LabState { clusters, ..LabState::default() }
    }

    fn rules(
        one: &str,
        other: &str,
        port: Option<u16>,
        rate: Option<&str>,
    ) -> Result<Rules, String> {
        let cut = Cut { places: in_order([one, other]), port, rate: rate.map(str::to_owned) };
        let mut rules = Rules::default();
        let link = |cluster: &str, node: &str| format!("{cluster}{node}");
        rules.add(&lab(), link, &cut).map_err(|error| error.to_string())?;
        Ok(rules)
    }

    #[test]
    fn whole_places_hear_nothing() {
        let found = rules("b/n1", "a", None, None).unwrap();
        assert_eq!(
            found.bridge,
            [
                "iifname an1 oifname bn1 drop",
                "iifname bn1 oifname an1 drop",
                "iifname an2 oifname bn1 drop",
                "iifname bn1 oifname an2 drop",
            ]
        );
        // Nodes of one cluster, but none from itself.
        assert_eq!(rules("a", "a/n2", None, None).unwrap().bridge.len(), 2);
    }

    #[test]
    fn an_etcd_is_a_port_of_its_node() {
        let found = rules("b/n2", "a/etcd", None, None).unwrap();
        assert_eq!(
            found.bridge,
            [
                "iifname an1 oifname bn2 tcp sport 2379 drop",
                "iifname bn2 oifname an1 tcp dport 2379 drop",
            ]
        );
        // So is that of another replica, on the next node.
        let found = rules("a/n1", "b/etcd2", None, None).unwrap();
        assert_eq!(found.bridge[0], "iifname an1 oifname bn2 tcp dport 2379 drop");
        // Its own node speaks to it too, over no link.
        let found = rules("a", "a/etcd", None, None).unwrap();
        assert_eq!((found.bridge.len(), found.nodes.len()), (2, 1));
        assert_eq!(found.nodes[0].1[1], "iifname lo tcp dport 2379 drop");
    }

    #[test]
    fn a_port_is_cut_both_ways_and_a_rate_is_a_class() {
        let found = rules("a/n1", "b/n1", Some(53), None).unwrap();
        assert_eq!(found.bridge.len(), 4);
        assert!(found.bridge[1].ends_with("th dport 53 drop"), "{:?}", found.bridge);
        let found = rules("a/n1", "b/n1", None, Some("1mbit")).unwrap();
        assert_eq!(found.bridge[0], "iifname an1 oifname bn1 meta priority set 1:1");
        assert_eq!(
            found.rates,
            [("bn1".into(), vec!["1mbit".into()]), ("an1".into(), vec!["1mbit".into()])]
        );
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_the_reason() {
        for (one, other, port, reason) in [
            ("a/n1", "a/n1", None, "one place"),
            ("a/etcd", "b/etcd", None, "etcds do not talk"),
            ("a/etcd", "b", Some(2379), "leave --port out"),
            ("a", "c", None, "there is: a, b"),
            ("a", "b/n3", None, "there is: b, b/n1, b/n2, b/etcd, b/etcd2"),
        ] {
            let error = rules(one, other, port, None).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for bad in ["", "mbit", "0mbit", "1", "1 mbit", "1mbit; reboot", "-1bit"] {
            assert!(checked_rate(bad).is_err(), "{bad}");
        }
        assert!(checked_rate("512kbit").is_ok());
    }
}
