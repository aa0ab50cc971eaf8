//! Problems with addresses: who has them, and where they are.

use std::net::IpAddr;

use mesh_merge::{AddressClaim, Merge};
use mesh_model::RecordKind;

use crate::problem::{Problem, ProblemKind};

/// How many addresses a sentence names.
const NAMED: usize = 3;

/// Addresses that more than one cluster claims.
pub(crate) fn contested(merge: &Merge) -> Option<Problem> {
    let named = merge.contested_addresses().take(NAMED);
    let named: Vec<String> =
        named.map(|address| claimed(address, &merge.claims(address))).collect();
    let message = match merge.contested() {
        0 => return None,
        1 => format!("more than one cluster claims an address: {}", named.join("; ")),
        count if count <= NAMED => {
            format!("more than one cluster claims {count} addresses: {}", named.join("; "))
        }
        count => {
            format!(
                "more than one cluster claims {count} addresses, among them: {}",
                named.join("; ")
            )
        }
    };
    Some(Problem::new(ProblemKind::AddressesContested, message))
}

/// Addresses of pods that are in none of their cluster's ranges: as long as their records are not known, they seem to be
/// outside the mesh.
pub(crate) fn outside(merge: &Merge) -> impl Iterator<Item = Problem> {
    // Nodes, whose ranges count, come after addresses.
    let needed = [RecordKind::Node, RecordKind::Address];
    let strays = merge
        .strays()
        .filter(move |(name, ..)| needed.into_iter().all(|kind| merge.is_confirmed(name, kind)));
    strays.map(|(name, count, some)| {
        let some: Vec<String> = some.iter().map(ToString::to_string).collect();
        let some = match some.is_empty() {
            true => String::new(),
            false => format!(", for example {}", some.join(", ")),
        };
        let pods = if count == 1 { "address of a pod is" } else { "addresses of pods are" };
        let message = format!("{name}: {count} {pods} outside the ranges that it announces{some}");
        Problem::of(ProblemKind::AddressesOutside, name, message)
    })
}

fn claimed(address: IpAddr, claims: &[AddressClaim<'_>]) -> String {
    let mut claims = claims.iter().map(|claim| claim.cluster.as_str());
    let first = claims.next().unwrap_or_default();
    format!("{address} is of {first}, and {} claims it too", claims.collect::<Vec<_>>().join(", "))
}
