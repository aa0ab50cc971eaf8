//! Annotations that decide what a cluster shares (`docs/wire.md`, "Annotations").

use std::collections::BTreeMap;

use mesh_model::object::{Namespace, Service};

/// The annotations of an object.
type Annotations = BTreeMap<String, String>;

const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const GLOBAL_NAMESPACE: &str = "clustermesh.cilium.io/global";
/// A service that somebody else's proxy serves is nobody's in the mesh.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Whether a service offers its backends to other clusters: it is global, and not withheld. Whoever tries to withhold it
/// and misspells that does not offer it by mistake.
pub(crate) fn is_shared(service: &Service) -> bool {
    !service.labels.contains_key(PROXY_NAME_LABEL)
        && annotated(&service.annotations, GLOBAL) == Some(true)
        && word(&service.annotations, SHARED).is_none_or(|word| word.eq_ignore_ascii_case("true"))
}

/// Whether a namespace takes part in the mesh. `None`: it does not say.
pub(crate) fn is_global(namespace: &Namespace) -> Option<bool> {
    annotated(&namespace.annotations, [GLOBAL_NAMESPACE])
}

/// The first annotation that is there: the new name wins over the old one.
fn word<'a, const N: usize>(annotations: &'a Annotations, names: [&str; N]) -> Option<&'a str> {
    names.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

/// Its truth. A word that is neither true nor false says nothing.
fn annotated<const N: usize>(annotations: &Annotations, names: [&str; N]) -> Option<bool> {
    let word = word(annotations, names)?;
    ["true", "false"].iter().position(|known| word.eq_ignore_ascii_case(known)).map(|at| at == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(annotations: &[(&str, &str)]) -> Service {
        let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Service { annotations, ..Service::default() }
    }

    #[test]
    fn what_is_shared() {
        for (annotations, shared) in [
            (&[][..], false),
            (&[("service.cilium.io/global", "true")], true),
            (&[("service.cilium.io/global", "TRUE")], true),
            (&[("service.cilium.io/global", "yes")], false),
            (&[("io.cilium/global-service", "true")], true),
            (&[("service.cilium.io/global", "false"), ("io.cilium/global-service", "true")], false),
            (&[("service.cilium.io/global", "true"), ("service.cilium.io/shared", "false")], false),
            (&[("service.cilium.io/global", "true"), ("io.cilium/shared-service", "false")], false),
            (&[("service.cilium.io/global", "true"), ("service.cilium.io/shared", "x")], false),
            (&[("service.cilium.io/shared", "true")], false),
        ] {
            assert_eq!(is_shared(&service(annotations)), shared, "{annotations:?}");
        }
        let mut elsewhere = service(&[("service.cilium.io/global", "true")]);
        elsewhere.labels.insert(PROXY_NAME_LABEL.into(), "other".into());
        assert!(!is_shared(&elsewhere));
    }
}
