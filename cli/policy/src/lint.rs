//! What policies would change, and what about them may not be meant.

mod findings;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use mesh_model::{Labels, Protocol};
use mesh_policy_rules::{DirectionRules, Peer, Peers, Policy, PortMatch, Ports};
use serde::Serialize;

pub use findings::Finding;
use findings::findings;

use crate::{
    entry::{Entry, EntryKind},
    flow::{Asked, IcmpType},
    problem::Problem,
    verdict::{Reason, Side, Verdict, between},
    world::{Endpoint, Place, World},
};

/// What policies change against others, and what is odd about them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// What is newly allowed or denied.
    pub changes: Vec<Change>,
    /// What may not be meant.
    pub findings: Vec<Finding>,
}

/// Flows whose verdict changes, all in one way and by one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// From now on `allowed` or `denied`.
    pub now: &'static str,
    /// Ends that send, by what they have in common: `cluster/namespace/pod`, a node, an address or range.
    pub from: Vec<String>,
    /// Ends that receive.
    pub to: Vec<String>,
    /// The ports: of those that the policies name, and `other` for all others.
    pub ports: Vec<String>,
    /// The clusters of the ends, where they are two.
    pub across: Option<String>,
    /// The cluster that decides, and by what.
    pub decided_by: String,
}

/// A port that no policy names, if it can be helped.
const OTHER: u16 = 64_999;
const ECHO: u8 = 8;

/// Compares policies with others in worlds that have the same endpoints. `world` and `before` have no policies yet.
///
/// # Errors
/// Ends that cannot be judged.
pub fn lint(
    mut world: World,
    mut before: World,
    policies: &[(String, Policy)],
    against: &[(String, Policy)],
) -> Result<Lint, Problem> {
    let all = || policies.iter().chain(against).map(|(_, policy)| policy);
    let ports = ports(&world, all());
    let ranges: BTreeSet<IpNet> = all().flat_map(ranges).collect();
    for range in &ranges {
        let entry = Entry {
            ips: vec![range.network()],
            ..Entry::new(EntryKind::External, &range.to_string(), "")
        };
        if world.at(range.network()).is_none() {
            world.add_endpoint(&entry, "ranges")?;
            before.add_endpoint(&entry, "ranges")?;
        }
    }
    for (cluster, policy) in policies {
        world.put_policy(cluster, policy.clone());
    }
    for (cluster, policy) in against {
        before.put_policy(cluster, policy.clone());
    }
    let groups = representatives(&world, &ranges);
    Ok(Lint {
        findings: findings(&world, policies),
        changes: changes(&world, &before, &groups, &ports)?,
    })
}

/// The ends that differ for policies: of pods that are alike two, of which the second is for flows among them.
fn representatives(world: &World, ranges: &BTreeSet<IpNet>) -> Vec<(Vec<usize>, String)> {
    let mut alike: BTreeMap<(Option<String>, Labels, String), Vec<usize>> = BTreeMap::new();
    for (at, endpoint) in world.endpoints.iter().enumerate() {
        let cluster = endpoint.cluster().map(ToOwned::to_owned);
        let place = match endpoint.place {
            Place::Pod(_) => {
                // An `ipBlock` tells pods apart by their addresses.
                let within = |range: &&IpNet| {
                    endpoint.addresses.iter().any(|address| range.contains(address))
                };
                let within: Vec<&IpNet> = ranges.iter().filter(within).collect();
                format!("{:?} {within:?}", endpoint.entry.ports)
            }
            Place::Node(..) | Place::Address => endpoint.location(),
        };
        alike.entry((cluster, endpoint.identity.clone(), place)).or_default().push(at);
    }
    let name = |members: &[usize]| {
        let first = members.first().and_then(|at| world.endpoints.get(*at));
        let first = first.map(Endpoint::location).unwrap_or_default();
        match members.len() {
            1 => first,
            count => format!("{first} and {} alike", count - 1),
        }
    };
    alike.into_values().map(|members| (members.clone(), name(&members))).collect()
}

fn changes(
    world: &World,
    before: &World,
    groups: &[(Vec<usize>, String)],
    ports: &[(String, Asked)],
) -> Result<Vec<Change>, Problem> {
    type Key = (&'static str, String, Option<String>);
    // By what decides and by destination: the ports by source; then those that are equal are one.
    let mut found: HashMap<(Key, String), BTreeMap<String, Vec<String>>> = HashMap::new();
    for (senders, from_name) in groups {
        for (receivers, to_name) in groups {
            let second = usize::from(senders == receivers);
            let pair = senders.first().zip(receivers.get(second));
            let ends = |world: &World| {
                let (from, to) = pair?;
                Some((world.endpoints.get(*from)?.clone(), world.endpoints.get(*to)?.clone()))
            };
            let (Some((from, to)), Some((old_from, old_to))) = (ends(world), ends(before)) else {
                continue;
            };
            for (port, asked) in ports {
                let now = between(world, &from, &to, asked, to_name)?;
                let was = between(before, &old_from, &old_to, asked, to_name)?;
                if now.verdict == was.verdict {
                    continue;
                }
                let side = if now.verdict == Side::Denied { "denied" } else { "allowed" };
                let across = match (from.cluster(), to.cluster()) {
                    (Some(one), Some(other)) if one != other => Some(format!("{one} → {other}")),
                    _ => None,
                };
                let key = (side, decided(&now, &was, &from, &to), across);
                let by_source = found.entry((key, to_name.clone())).or_default();
                by_source.entry(from_name.clone()).or_default().push(port.clone());
            }
        }
    }
    let mut merged: BTreeMap<(Key, Vec<String>, Vec<String>), BTreeSet<String>> = BTreeMap::new();
    for ((key, to), by_source) in found {
        let mut by_ports: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for (from, ports) in by_source {
            by_ports.entry(ports).or_default().push(from);
        }
        for (ports, from) in by_ports {
            merged.entry((key.clone(), from, ports)).or_default().insert(to.clone());
        }
    }
    let change = |((key, from, ports), to): (_, BTreeSet<String>)| {
        let (now, decided_by, across): Key = key;
        Change { now, from, to: to.into_iter().collect(), ports, across, decided_by }
    };
    Ok(merged.into_iter().map(change).collect())
}

/// What decides a change: what denies now, or what denied before.
fn decided(now: &Verdict, was: &Verdict, from: &Endpoint, to: &Endpoint) -> String {
    let of = |verdict: &Verdict, side: Side| {
        let sides = [
            (verdict.egress, &verdict.decided_by.egress, from, "egress"),
            (verdict.ingress, &verdict.decided_by.ingress, to, "ingress"),
        ];
        let decisive = sides.into_iter().find(|(one, ..)| *one == side);
        decisive.and_then(|(_, reason, end, direction)| {
            let Reason { kind, policies, rule } = reason.as_ref()?;
            let policies = policies.join(", ");
            let rule = rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
            let cluster = end.cluster().unwrap_or_default();
            Some(format!("{cluster}: {direction} {kind} {policies}{rule}"))
        })
    };
    let words = match now.verdict {
        Side::Denied => of(now, Side::Denied),
        // The side that denied before is the one that allows now.
        _ if was.egress == Side::Denied => of(&only(now, true), Side::Allowed),
        _ => of(&only(now, false), Side::Allowed),
    };
    words.map(|words| words.trim_end().to_owned()).unwrap_or_default()
}

fn only(verdict: &Verdict, egress: bool) -> Verdict {
    let mut verdict = verdict.clone();
    match egress {
        true => verdict.ingress = Side::NotEnforced,
        false => verdict.egress = Side::NotEnforced,
    }
    verdict
}

fn directions(policy: &Policy) -> impl Iterator<Item = &DirectionRules> {
    policy.rules.iter().flat_map(|rule| [&rule.ingress, &rule.egress])
}

fn ranges(policy: &Policy) -> Vec<IpNet> {
    let rules = directions(policy).flat_map(|direction| &direction.rules);
    let peers = rules.flat_map(|rule| match &rule.peers {
        Peers::Any => [].iter(),
        Peers::Of(peers) => peers.iter(),
    });
    let of = |peer: &Peer| match peer {
        Peer::Cidr(rule) => rule.except.iter().copied().chain([rule.cidr]).collect(),
        Peer::Pods(_) | Peer::Entity(_) | Peer::Service(_) => Vec::new(),
    };
    peers.flat_map(of).collect()
}

/// The ports that policies name, each end of a range, the numbers that pods give to names, and one that nobody names.
fn ports<'a>(world: &World, policies: impl Iterator<Item = &'a Policy>) -> Vec<(String, Asked)> {
    let mut all: BTreeSet<(Protocol, u16)> = BTreeSet::new();
    let mut icmp = BTreeSet::new();
    for policy in policies {
        for rule in directions(policy).flat_map(|direction| &direction.rules) {
            let Ports::Of(matches) = &rule.ports else { continue };
            for one in matches {
                match one {
                    PortMatch::Range { protocol, first, last } => {
                        let ends = [*first, *last]
                            .into_iter()
                            .filter(|port| ![0, u16::MAX].contains(port));
                        all.extend(ends.map(|port| (*protocol, port)));
                    }
                    PortMatch::Named { name, .. } => {
                        let ports = world.endpoints.iter().flat_map(|one| one.entry.named_ports());
                        let named = ports.filter(|port| port.name == *name);
                        all.extend(named.map(|port| (port.port.protocol, port.port.number)));
                    }
                    PortMatch::Icmp { family, kind } => {
                        icmp.insert((*family, *kind));
                    }
                    PortMatch::Protocol(_) => {}
                }
            }
        }
    }
    let port = |(protocol, port): (Protocol, u16)| {
        (format!("{port}/{protocol}"), Asked::Port(protocol, port))
    };
    let others = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| (format!("other/{protocol}"), Asked::Port(protocol, OTHER)));
    let echo = ("icmp".to_owned(), Asked::Icmp(None, IcmpType::Number(ECHO)));
    let types = icmp.into_iter().filter(|(_, kind)| *kind != ECHO).map(|(family, kind)| {
        (format!("icmp:{kind}"), Asked::Icmp(Some(family), IcmpType::Number(kind)))
    });
    all.into_iter().map(port).chain(others).chain([echo]).chain(types).collect()
}
