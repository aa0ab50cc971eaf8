//! All pairs of ends, at some ports.

use std::{collections::BTreeMap, str::FromStr};

use mesh_model::Protocol;
use mesh_policy_rules::IcmpFamily;

use crate::{
    flow::{Asked, IcmpType},
    problem::Problem,
    verdict::{Verdict, between},
    world::{Endpoint, World},
};

/// By source and destination: for each port two letters, egress and ingress (`A` allowed, `D` denied, `-` not enforced).
pub type Matrix = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// A port of the matrix: `80/TCP`, `53/UDP`, `icmp:8`, `icmpv6:128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortQuery(pub(crate) Asked);

/// Asks for all pairs of pods, nodes and addresses.
pub fn matrix(world: &World, ports: &[PortQuery]) -> Result<Matrix, Problem> {
    let names = names(world);
    let mut matrix = Matrix::new();
    for (from, source) in world.endpoints.iter().zip(&names) {
        let row = matrix.entry(source.clone()).or_default();
        for (to, destination) in world.endpoints.iter().zip(&names) {
            let part = || format!("{source} → {destination}");
            let letters = ports.iter().map(|PortQuery(asked)| {
                let Verdict { egress, ingress, .. } = between(world, from, to, asked, &part())?;
                Ok(String::from_iter([egress.letter(), ingress.letter()]))
            });
            row.insert(destination.clone(), letters.collect::<Result<_, Problem>>()?);
        }
    }
    Ok(matrix)
}

/// Names as short as they can be: an end's own where no other has it, else with its namespace, else with its cluster.
fn names(world: &World) -> Vec<String> {
    let count = |form: fn(&Endpoint) -> String| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        world.endpoints.iter().for_each(|one| *counts.entry(form(one)).or_default() += 1);
        counts
    };
    let forms: [fn(&Endpoint) -> String; 2] = [|one| one.name.clone(), Endpoint::short_path];
    let counts = forms.map(|form| (form, count(form)));
    let short = |one: &Endpoint| {
        let unique = counts.iter().find(|(form, counts)| counts.get(&form(one)) == Some(&1));
        unique.map_or_else(|| one.path(), |(form, _)| form(one))
    };
    world.endpoints.iter().map(short).collect()
}

// === impl PortQuery ===

impl FromStr for PortQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: write 80/TCP, 53/UDP, icmp:8 or icmpv6:128");
        let icmp = |family, kind: &str| {
            let kind = match kind.parse() {
                Ok(number) => IcmpType::Number(number),
                Err(_) if kind.is_empty() || kind.bytes().all(|b| b.is_ascii_digit()) => {
                    return Err(wrong());
                }
                Err(_) => IcmpType::Name(kind.into()),
            };
            Ok(Self(Asked::Icmp(family, kind)))
        };
        let lower = text.to_ascii_lowercase();
        for (prefix, family) in [("icmpv6:", Some(IcmpFamily::V6)), ("icmp:", None)] {
            if lower.starts_with(prefix) {
                return icmp(family, text.get(prefix.len()..).unwrap_or_default());
            }
        }
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(wrong()),
        };
        Ok(Self(Asked::Port(protocol, port.parse().map_err(|_| wrong())?)))
    }
}
