//! Finds unknown annotations, because a misspelt annotation would have no effect without any message.

use std::collections::BTreeMap;

use mesh_model::object::Kind;

use crate::decode::meant;

/// The domain of our annotations.
const LOCAL: &str = "clustermesh.dev/";
/// Domains of Cilium's annotations that we support.
const CILIUM: [&str; 2] = ["service.cilium.io/", "clustermesh.cilium.io/"];

/// The known annotations of these domains, with their kinds.
const KNOWN: &[(&str, Kind)] = &[
    ("clustermesh.cilium.io/global", Kind::Namespace),
    ("clustermesh.cilium.io/supported-ip-families", Kind::Service),
    ("clustermesh.dev/drain", Kind::Node),
    ("clustermesh.dev/minimum-healthy", Kind::Service),
    ("clustermesh.dev/socket-lb", Kind::Pod),
    ("clustermesh.dev/tiers", Kind::Service),
    ("clustermesh.dev/weights", Kind::Service),
    ("clustermesh.dev/weights-of", Kind::Service),
    ("service.cilium.io/affinity", Kind::Service),
    ("service.cilium.io/forwarding-mode", Kind::Service),
    ("service.cilium.io/global", Kind::Service),
    ("service.cilium.io/global-sync-endpoint-slices", Kind::Service),
    ("service.cilium.io/lb-algorithm", Kind::Service),
    ("service.cilium.io/lb-l7", Kind::Service),
    ("service.cilium.io/lb-l7-algorithm", Kind::Service),
    ("service.cilium.io/node", Kind::Service),
    ("service.cilium.io/node-selector", Kind::Service),
    ("service.cilium.io/proxy-delegation", Kind::Service),
    ("service.cilium.io/shared", Kind::Service),
    ("service.cilium.io/src-ranges-policy", Kind::Service),
    ("service.cilium.io/type", Kind::Service),
    ("service.cilium.io/weight", Kind::EndpointSlice),
];

/// Cilium's former names. Their domain has many other annotations.
const FORMER: [&str; 3] =
    ["io.cilium/global-service", "io.cilium/service-affinity", "io.cilium/shared-service"];

/// Messages about annotations of an object that are unknown, or belong to another kind.
pub fn unknown_annotations(kind: Kind, annotations: &BTreeMap<String, String>) -> Vec<String> {
    annotations.keys().filter_map(|name| unknown(kind, name)).collect()
}

/// A message if an annotation is unknown, or belongs to another kind.
pub(crate) fn unknown(kind: Kind, name: &str) -> Option<String> {
    if FORMER.contains(&name) {
        return (kind != Kind::Service).then(|| belongs(name, Kind::Service));
    }
    if name.starts_with("io.cilium/") {
        let meant = meant(name, &FORMER)?;
        return Some(format!("{name} is not a known annotation: did you mean {meant}?"));
    }
    if !CILIUM.into_iter().chain([LOCAL]).any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, of)) if *of == kind => None,
        Some((_, of)) => Some(belongs(name, *of)),
        None => {
            let known: Vec<&str> =
                KNOWN.iter().filter(|(_, of)| *of == kind).map(|(known, _)| *known).collect();
            let meant = meant(name, &known).map(|meant| format!(": did you mean {meant}?"));
            Some(format!("{name} is not a known annotation{}", meant.unwrap_or_default()))
        }
    }
}

fn belongs(name: &str, of: Kind) -> String {
    let article = if of == Kind::EndpointSlice { "an" } else { "a" };
    format!("{name} is an annotation of {article} {of}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_annotations_are_reported() {
        for (kind, name, says) in [
            (
                Kind::Service,
                "clustermesh.dev/weight",
                Some(
                    "clustermesh.dev/weight is not a known annotation: did you mean clustermesh.dev/weights?",
                ),
            ),
            (
                Kind::Service,
                "clustermesh.dev/other",
                Some("clustermesh.dev/other is not a known annotation"),
            ),
            (
                Kind::Service,
                "service.cilium.io/globl",
                Some(
                    "service.cilium.io/globl is not a known annotation: did you mean service.cilium.io/global?",
                ),
            ),
            (
                Kind::Namespace,
                "clustermesh.cilium.io/gloabl",
                Some(
                    "clustermesh.cilium.io/gloabl is not a known annotation: did you mean clustermesh.cilium.io/global?",
                ),
            ),
            (
                Kind::Service,
                "clustermesh.dev/drain",
                Some("clustermesh.dev/drain is an annotation of a Node"),
            ),
            (
                Kind::Namespace,
                "service.cilium.io/global",
                Some("service.cilium.io/global is an annotation of a Service"),
            ),
            (
                Kind::Pod,
                "clustermesh.dev/sockt-lb",
                Some(
                    "clustermesh.dev/sockt-lb is not a known annotation: did you mean clustermesh.dev/socket-lb?",
                ),
            ),
            (
                Kind::EndpointSlice,
                "clustermesh.dev/weights",
                Some("clustermesh.dev/weights is an annotation of a Service"),
            ),
            (
                Kind::Service,
                "io.cilium/global-servce",
                Some(
                    "io.cilium/global-servce is not a known annotation: did you mean io.cilium/global-service?",
                ),
            ),
            (
                Kind::Pod,
                "io.cilium/shared-service",
                Some("io.cilium/shared-service is an annotation of a Service"),
            ),
            (Kind::Service, "io.cilium/shared-service", None),
            (Kind::Node, "io.cilium/some-other-thing", None),
            (Kind::Service, "clustermesh.dev/weights", None),
            (Kind::Service, "service.cilium.io/lb-algorithm", None),
            (Kind::EndpointSlice, "service.cilium.io/weight", None),
            (
                Kind::Service,
                "service.cilium.io/weight",
                Some("service.cilium.io/weight is an annotation of an EndpointSlice"),
            ),
            (Kind::Service, "example.org/global", None),
            (Kind::Node, "clustermesh.dev/drain", None),
        ] {
            assert_eq!(unknown(kind, name).as_deref(), says, "{kind} {name}");
        }
    }
}
