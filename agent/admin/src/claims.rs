//! Which cluster has an address, and which others claim it.

use std::net::IpAddr;

use mesh_admin::v1;
use mesh_model::Identity;
use mesh_node::Node;

/// How many contested addresses are looked at for those of one identity, and how many are shown.
const LOOKED_AT: usize = 10_000;
const SHOWN: usize = 100;

/// An address, with all claims.
pub(crate) fn of_address(node: &Node, address: IpAddr) -> v1::ClaimedAddress {
    let merge = node.core.merge();
    let claims = merge.claims(address);
    let (kind, because) = match (merge.identity_at(address), claims.as_slice()) {
        (None, _) => {
            ("outside", "no cluster claims it, and it is in no cluster's range of pods".into())
        }
        (Some((_, Identity::UNKNOWN)), []) => ("unknown", "no cluster claims it".into()),
        (Some((cluster, Identity::UNKNOWN)), [first, others @ ..]) => {
            let because = if first.cluster != cluster {
                format!("it is in a range of pods of {cluster}, which does not report it")
            } else if first.stale {
                format!("{cluster} was unreachable for too long")
            } else if first.held && !others.is_empty() {
                format!("what {cluster} reported may be out of date, and another cluster claims it")
            } else if first.identity == Identity::UNKNOWN {
                format!("{cluster} gives it no identity that counts here")
            } else {
                format!("the labels of identity {} are not known", first.identity)
            };
            ("unknown", because)
        }
        (Some((_, Identity::REMOTE_NODE)), _) => ("node", String::new()),
        (Some((_, identity)), _) if identity.is_reserved() => ("reserved", String::new()),
        (Some(_), _) => ("pod", String::new()),
    };
    let found = merge.identity_at(address);
    v1::ClaimedAddress {
        address: address.to_string(),
        cluster: found.map(|(cluster, _)| cluster.to_string()).unwrap_or_default(),
        identity: found.map_or(0, |(_, identity)| identity.get()),
        kind: kind.into(),
        because,
        claims: claims
            .iter()
            .map(|claim| v1::AddressClaim {
                cluster: claim.cluster.to_string(),
                identity: claim.identity.get(),
                held: claim.held,
                stale: claim.stale,
            })
            .collect(),
    }
}

/// The addresses that more than one cluster claims, of which one gives it this identity.
pub(crate) fn contested_of(node: &Node, identity: Identity) -> Vec<v1::ClaimedAddress> {
    let merge = node.core.merge();
    let has = |address: &IpAddr| merge.claims(*address).iter().any(|c| c.identity == identity);
    let contested = merge.contested_addresses().take(LOOKED_AT).filter(has);
    contested.take(SHOWN).map(|address| of_address(node, address)).collect()
}

/// The cluster that has an address, if one claims it, and the others that claim it.
pub(crate) fn names(node: &Node, address: IpAddr) -> (String, Vec<String>) {
    let claims = node.core.merge().claims(address);
    let mut names = claims.iter().map(|claim| claim.cluster.to_string());
    (names.next().unwrap_or_default(), names.collect())
}
