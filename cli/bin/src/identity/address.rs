//! Who has an address, as an agent knows it.

use mesh_admin::v1::{AddressClaim, ClaimedAddress};
use serde_json::{Value, json};

/// An address, and the cluster of the agent that reported it.
pub(super) struct SeenAddress {
    pub(super) from: String,
    pub(super) address: ClaimedAddress,
}

// === impl SeenAddress ===

impl SeenAddress {
    /// Who has it, and who else claims it.
    pub(super) fn sentence(&self) -> String {
        let ClaimedAddress { address, cluster, identity, kind, because, claims } = &self.address;
        let from = &self.from;
        let is = match kind.as_str() {
            "outside" => format!("{address} is outside the mesh: {because}"),
            "unknown" => format!("{address} is unknown of {cluster}: {because}"),
            "node" => format!("{address} is a node of {cluster}"),
            "pod" => format!("{address} is a pod of {cluster}, identity {identity}"),
            _ => format!("{address} is of {cluster}, identity {identity}"),
        };
        let others: Vec<String> =
            claims.iter().filter(|claim| claim.cluster != *cluster).map(claimed).collect();
        let also = match (others.is_empty(), claims.iter().any(|claim| claim.cluster == *cluster)) {
            (true, _) => String::new(),
            (false, true) => format!("; also claimed by {}", others.join(", ")),
            (false, false) => format!("; claimed by {}", others.join(", ")),
        };
        format!("in {from}: {is}{also}")
    }

    pub(super) fn json(&self) -> Value {
        let ClaimedAddress { address, cluster, identity, kind, because, claims } = &self.address;
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let claims: Vec<Value> = claims
            .iter()
            .map(|AddressClaim { cluster, identity, held, stale }| {
                json!({ "cluster": cluster, "identity": identity, "held": held, "stale": stale })
            })
            .collect();
        json!({
            "in": self.from, "address": address, "cluster": some(cluster), "identity": identity, "kind": kind,
            "because": some(because), "claims": claims,
        })
    }
}

fn claimed(claim: &AddressClaim) -> String {
    let AddressClaim { cluster, identity, held, stale } = claim;
    let identity = match identity {
        0 => "no identity".to_owned(),
        6 => "a node".to_owned(),
        identity => format!("identity {identity}"),
    };
    let state = match (stale, held) {
        (true, _) => ", unreachable for too long",
        (false, true) => ", possibly out of date",
        (false, false) => "",
    };
    format!("{cluster} ({identity}{state})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: &str, cluster: &str, identity: u32, claims: &[(&str, u32, bool)]) -> SeenAddress {
        let claims = claims.iter().map(|(cluster, identity, held)| AddressClaim {
            cluster: (*cluster).into(),
            identity: *identity,
            held: *held,
            stale: false,
        });
        let address = ClaimedAddress {
            address: "10.9.0.1".into(),
            cluster: cluster.into(),
            identity,
            kind: kind.into(),
            because: if matches!(kind, "unknown" | "outside") {
                "because".into()
            } else {
                String::new()
            },
            claims: claims.collect(),
        };
        SeenAddress { from: "a".into(), address }
    }

    #[test]
    fn who_has_an_address_and_who_else_claims_it() {
        for (seen, sentence) in [
            (
                seen("pod", "c", 196_700, &[("c", 196_700, false), ("b", 131_100, true)]),
                "in a: 10.9.0.1 is a pod of c, identity 196700; also claimed by b (identity 131100, possibly out of date)",
            ),
            (seen("node", "b", 6, &[("b", 6, false)]), "in a: 10.9.0.1 is a node of b"),
            (
                seen("unknown", "a", 0, &[("b", 6, false), ("c", 0, false)]),
                "in a: 10.9.0.1 is unknown of a: because; claimed by b (a node), c (no identity)",
            ),
            (seen("outside", "", 0, &[]), "in a: 10.9.0.1 is outside the mesh: because"),
        ] {
            assert_eq!(seen.sentence(), sentence);
        }
        let json = seen("pod", "c", 196_700, &[("c", 196_700, false)]).json();
        assert_eq!(json["claims"][0]["cluster"], "c");
        assert!(json["because"].is_null());
    }
}
