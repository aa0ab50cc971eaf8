//! The policies that an apiserver exports, for status.

use mesh_admin::v1::{Policies, PolicyKind};
use serde_json::{Value, json};

/// As JSON.
pub(super) fn json(policies: &Policies) -> Value {
    let kinds = policies.kinds.iter().map(|kind| {
        json!({
            "kind": kind.kind, "policies": kind.policies, "refused": kind.refused, "absent": kind.absent,
        })
    });
    let refused = policies.refused.iter().map(|policy| {
        let refusals = policy.refusals.iter().map(|refusal| {
            json!({ "class": refusal.class, "field": refusal.field, "reason": refusal.reason })
        });
        json!({
            "object": policy.object, "refusals": refusals.collect::<Vec<_>>(), "more": policy.more,
            "previousStays": policy.previous_stays,
        })
    });
    json!({ "kinds": kinds.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>() })
}

/// In words, if some are refused; with `verbose` in any case.
pub(super) fn text(policies: &Policies, verbose: bool) -> Option<String> {
    let refused: u64 = policies.kinds.iter().map(|kind| kind.refused).sum();
    if refused == 0 && !verbose || policies.kinds.is_empty() {
        return None;
    }
    let of_kind = |PolicyKind { kind, policies, absent, .. }: &PolicyKind| match absent {
        true => format!("no kind {kind}"),
        false => format!("{policies} {kind}"),
    };
    // Of what is not there only a close look says so.
    let shown = policies.kinds.iter().filter(|kind| verbose || kind.policies > 0);
    let shown: Vec<String> = shown.map(of_kind).collect();
    let shown = shown.join(", ");
    Some(match refused {
        0 => shown,
        refused => format!("{shown}; {refused} refused"),
    })
}

#[cfg(test)]
mod tests {
    use mesh_admin::v1::{PolicyRefusal, RefusedPolicy};

    use super::*;

    fn kind(kind: &str, policies: u64, refused: u64) -> PolicyKind {
        PolicyKind { kind: kind.into(), policies, refused, absent: policies == 0 }
    }

    #[test]
    fn what_is_refused_is_shown() {
        let kinds = [("NetworkPolicy", 12), ("CiliumNetworkPolicy", 0)];
        for (refused, verbose, wanted) in [
            (0, false, None),
            (0, true, Some("12 NetworkPolicy, no kind CiliumNetworkPolicy")),
            (2, false, Some("12 NetworkPolicy; 2 refused")),
            (2, true, Some("12 NetworkPolicy, no kind CiliumNetworkPolicy; 2 refused")),
        ] {
            let kinds = kinds.map(|(name, count)| kind(name, count, refused.min(count)));
            let policies = Policies { kinds: kinds.into(), ..Policies::default() };
            assert_eq!(text(&policies, verbose).as_deref(), wanted);
        }
        // An apiserver of an earlier release.
        assert_eq!(text(&Policies::default(), true), None);
    }

    #[test]
    fn json_has_the_reasons() {
        let refusal = PolicyRefusal {
            class: "malformed".into(),
            field: "spec.ingress".into(),
            reason: "it is a number, but must be a list".into(),
        };
        let refused = RefusedPolicy {
            object: "NetworkPolicy shop/deny".into(),
            refusals: vec![refusal],
            more: 0,
            previous_stays: true,
        };
        let policies =
            Policies { kinds: vec![kind("NetworkPolicy", 1, 1)], refused: vec![refused] };
        let wanted = json!({
            "kinds": [{ "kind": "NetworkPolicy", "policies": 1, "refused": 1, "absent": false }],
            "refused": [{
                "object": "NetworkPolicy shop/deny",
                "refusals": [{
                    "class": "malformed", "field": "spec.ingress",
                    "reason": "it is a number, but must be a list",
                }],
                "more": 0, "previousStays": true,
            }],
        });
        assert_eq!(json(&policies), wanted);
    }
}
