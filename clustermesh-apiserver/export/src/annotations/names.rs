//! Annotations that no code reads: a misspelt name would do nothing, without a word.

use mesh_model::object::Kind;

use super::Annotations;

/// What is ours.
const LOCAL: &str = "clustermesh.dev/";
/// What is Cilium's, and read.
const CILIUM: [&str; 2] = ["service.cilium.io/", "clustermesh.cilium.io/"];

/// Each annotation under those names, and the kind that it belongs to.
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
];

/// Says of each annotation of an object that no kind, or not its kind, has.
pub(super) fn unknown(kind: Kind, annotations: &Annotations, problems: &mut Vec<String>) {
    let prefixes = || CILIUM.into_iter().chain([LOCAL]);
    let names = annotations.keys().filter(|name| prefixes().any(|prefix| name.starts_with(prefix)));
    for name in names {
        let belongs = KNOWN.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
        match belongs {
            Some(belongs) if belongs == kind => {}
            Some(belongs) => problems.push(format!("{name} is an annotation of a {belongs}")),
            None => {
                let known: Vec<&str> =
                    KNOWN.iter().filter(|(_, of)| *of == kind).map(|(known, _)| *known).collect();
                let meant = mesh_source::meant(name, &known);
                let meant = meant.map(|meant| format!(": did you mean {meant}?"));
                problems.push(format!("{name} is no annotation{}", meant.unwrap_or_default()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_reads_are_named() {
        for (kind, name, says) in [
            (
                Kind::Service,
                "clustermesh.dev/weight",
                Some(
                    "clustermesh.dev/weight is no annotation: did you mean clustermesh.dev/weights?",
                ),
            ),
            (
                Kind::Service,
                "clustermesh.dev/other",
                Some("clustermesh.dev/other is no annotation"),
            ),
            (
                Kind::Service,
                "service.cilium.io/globl",
                Some(
                    "service.cilium.io/globl is no annotation: did you mean service.cilium.io/global?",
                ),
            ),
            (
                Kind::Namespace,
                "clustermesh.cilium.io/gloabl",
                Some(
                    "clustermesh.cilium.io/gloabl is no annotation: did you mean clustermesh.cilium.io/global?",
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
            (Kind::Service, "clustermesh.dev/weights", None),
            (Kind::Service, "service.cilium.io/lb-algorithm", None),
            (Kind::Service, "example.org/global", None),
            (Kind::Node, "clustermesh.dev/drain", None),
        ] {
            let mut problems = Vec::new();
            unknown(kind, &[(name.to_owned(), String::new())].into(), &mut problems);
            assert_eq!(problems.first().map(String::as_str), says, "{kind} {name}");
        }
    }
}
