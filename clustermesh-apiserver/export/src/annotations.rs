//! Parses annotations: what a cluster shares, and how its services are balanced (`docs/wire.md`, "Annotations").
//!
//! A typo does not stop an export: an invalid annotation is reported as a problem, and is ignored.

use std::{borrow::Cow, collections::BTreeMap};

use mesh_model::{
    Affinity, ClusterName, ServiceTraffic, excerpt,
    object::{Kind, Namespace, Service},
};
use mesh_source::unknown_annotations;

mod balance;

/// The annotations of an object.
pub(crate) type Annotations = BTreeMap<String, String>;

/// A service's settings from its annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LbAnnotations {
    /// Its load-balancing settings.
    pub(crate) traffic: ServiceTraffic,
    /// Whether other clusters may use its backends.
    pub(crate) shared: bool,
    /// Whether another proxy serves it.
    pub(crate) foreign_proxy: bool,
    /// What is wrong with its annotations, one sentence each.
    pub(crate) problems: Vec<String>,
}

const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
const GLOBAL_NAMESPACE: [&str; 1] = ["clustermesh.cilium.io/global"];
/// The annotation of a node.
const DRAIN: [&str; 1] = ["clustermesh.dev/drain"];
/// The older name has precedence in Kubernetes.
const TOPOLOGY_MODE: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// The label of a service that another proxy serves. It is not part of the mesh.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// The settings of a service of the cluster `local`. `takes_part`: whether its namespace is part of the mesh. If not, the
/// service is never global.
pub(crate) fn asked(local: &ClusterName, service: &Service, takes_part: bool) -> LbAnnotations {
    let Service {
        annotations,
        labels,
        session_affinity,
        internal_traffic_local,
        traffic_distribution,
        ..
    } = service;
    let mut problems = Vec::new();
    let global = truth(annotations, GLOBAL, &mut problems) == Some(true) && takes_part;
    let foreign_proxy = labels.contains_key(PROXY_NAME_LABEL);
    // A misspelt attempt to withhold it does not offer it by mistake.
    let shared = match truth(annotations, SHARED, &mut problems) {
        Some(shared) => shared,
        None => word(annotations, SHARED).is_none(),
    };
    let affinity = affinity(annotations, &mut problems);
    let mut traffic = ServiceTraffic {
        global,
        affinity,
        session_affinity: *session_affinity,
        internal_traffic_local: *internal_traffic_local,
        topology_hints: traffic_distribution.is_some() | topology_mode(annotations, &mut problems),
        ..ServiceTraffic::default()
    };
    balance::read(local, annotations, &mut traffic, &mut problems);
    problems.extend(unknown_annotations(Kind::Service, annotations));
    LbAnnotations { traffic, shared: global && shared && !foreign_proxy, foreign_proxy, problems }
}

/// Whether a node's annotation drains it, and what is wrong with its annotations.
pub(crate) fn is_drained(annotations: &Annotations) -> (bool, Vec<String>) {
    let mut problems = Vec::new();
    let drained = truth(annotations, DRAIN, &mut problems) == Some(true);
    problems.extend(unknown_annotations(Kind::Node, annotations));
    (drained, problems)
}

/// Whether a namespace's annotation includes it in the mesh, and what is wrong with its annotations. `None`: there is no
/// valid annotation.
pub(crate) fn is_global(namespace: &Namespace) -> (Option<bool>, Vec<String>) {
    let mut problems = Vec::new();
    let global = truth(&namespace.annotations, GLOBAL_NAMESPACE, &mut problems);
    problems.extend(unknown_annotations(Kind::Namespace, &namespace.annotations));
    (global, problems)
}

/// The first of these annotations that exists, with its name. The new name precedes the old one.
fn word<'a, const N: usize>(
    annotations: &'a Annotations,
    names: [&'static str; N],
) -> Option<(&'static str, &'a str)> {
    names.iter().find_map(|name| Some((*name, annotations.get(*name)?.as_str())))
}

/// The boolean value of the first of these annotations that exists; `None` if it is invalid.
fn truth<const N: usize>(
    annotations: &Annotations,
    names: [&'static str; N],
    problems: &mut Vec<String>,
) -> Option<bool> {
    let (name, word) = word(annotations, names)?;
    let known = ["true", "false"].iter().position(|known| word.eq_ignore_ascii_case(known));
    if known.is_none() {
        problems.push(format!("{name}: {:?} is neither true nor false", shown(word)));
    }
    known.map(|at| at == 0)
}

/// Whether topology hints are used. As in Kubernetes, only `Auto` and `auto` turn them on. Values other than these and
/// `Disabled` are reported as a problem.
fn topology_mode(annotations: &Annotations, problems: &mut Vec<String>) -> bool {
    let Some((name, word)) = word(annotations, TOPOLOGY_MODE) else { return false };
    let auto = matches!(word, "Auto" | "auto");
    if !auto && !word.is_empty() && !word.eq_ignore_ascii_case("disabled") {
        problems.push(format!("{name}: {:?} is neither Auto nor Disabled", shown(word)));
    }
    auto
}

/// The affinity. Unknown values mean none, and are reported as a problem.
fn affinity(annotations: &Annotations, problems: &mut Vec<String>) -> Affinity {
    let Some((name, word)) = word(annotations, AFFINITY) else { return Affinity::None };
    let known = [Affinity::None, Affinity::Local, Affinity::Remote];
    let found = known.into_iter().find(|affinity| word.eq_ignore_ascii_case(affinity.as_str()));
    if found.is_none() && !word.is_empty() {
        problems.push(format!("{name}: {:?} is none of local, remote and none", shown(word)));
    }
    found.unwrap_or_default()
}

/// An excerpt of a user's text for a problem.
fn shown(text: &str) -> Cow<'_, str> {
    excerpt(text, 60)
}

#[cfg(test)]
mod tests {
    use mesh_model::object::TrafficDistribution;

    use super::*;

    pub(super) fn asked_by(annotations: &[(&str, &str)]) -> LbAnnotations {
        let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let service = Service { annotations, ..Service::default() };
        asked(&ClusterName::new("a").unwrap(), &service, true)
    }

    #[test]
    fn services_are_global_and_shared_by_annotations() {
        for (annotations, global, shared) in [
            (&[][..], false, false),
            (&[("service.cilium.io/global", "true")], true, true),
            (&[("service.cilium.io/global", "TRUE")], true, true),
            (&[("service.cilium.io/global", "yes")], false, false),
            (&[("io.cilium/global-service", "true")], true, true),
            (
                &[("service.cilium.io/global", "false"), ("io.cilium/global-service", "true")],
                false,
                false,
            ),
            (
                &[("service.cilium.io/global", "true"), ("service.cilium.io/shared", "false")],
                true,
                false,
            ),
            (
                &[("service.cilium.io/global", "true"), ("io.cilium/shared-service", "false")],
                true,
                false,
            ),
            (
                &[("service.cilium.io/global", "true"), ("service.cilium.io/shared", "x")],
                true,
                false,
            ),
            (&[("service.cilium.io/shared", "true")], false, false),
        ] {
            let asked = asked_by(annotations);
            assert_eq!((asked.traffic.global, asked.shared), (global, shared), "{annotations:?}");
        }
        let annotations = [("service.cilium.io/global".to_owned(), "true".to_owned())].into();
        let mut service = Service { annotations, ..Service::default() };
        let local = ClusterName::new("a").unwrap();
        let alone = asked(&local, &service, false);
        assert!(!alone.traffic.global && !alone.shared, "its namespace is not part of the mesh");
        service.labels.insert(PROXY_NAME_LABEL.into(), "other".into());
        let elsewhere = asked(&local, &service, true);
        assert!(elsewhere.foreign_proxy && !elsewhere.shared);
    }

    #[test]
    fn affinities() {
        const OLD: &str = "io.cilium/service-affinity";
        const NEW: &str = "service.cilium.io/affinity";
        for (annotations, affinity, problems) in [
            (&[][..], Affinity::None, 0),
            (&[(NEW, "local")], Affinity::Local, 0),
            (&[(NEW, "Remote")], Affinity::Remote, 0),
            (&[(NEW, "none")], Affinity::None, 0),
            (&[(NEW, "")], Affinity::None, 0),
            (&[(NEW, "nearest")], Affinity::None, 1),
            (&[(OLD, "remote")], Affinity::Remote, 0),
            (&[(NEW, "local"), (OLD, "remote")], Affinity::Local, 0),
            (&[(NEW, ""), (OLD, "remote")], Affinity::None, 0),
            (&[(NEW, "nearest"), (OLD, "remote")], Affinity::None, 1),
        ] {
            let asked = asked_by(annotations);
            assert_eq!(asked.traffic.affinity, affinity, "{annotations:?}");
            assert_eq!(asked.problems.len(), problems, "{:?}", asked.problems);
        }
    }

    #[test]
    fn hints_are_used_if_they_are_turned_on() {
        let [old, new] = TOPOLOGY_MODE;
        for (annotations, followed, problems) in [
            (&[][..], false, 0),
            (&[(new, "Auto")], true, 0),
            (&[(new, "auto")], true, 0),
            (&[(new, "AUTO")], false, 1),
            (&[(new, "Disabled")], false, 0),
            (&[(new, "PreferZone")], false, 1),
            (&[(old, "auto")], true, 0),
            (&[(old, "disabled"), (new, "Auto")], false, 0),
        ] {
            let asked = asked_by(annotations);
            assert_eq!(asked.traffic.topology_hints, followed, "{annotations:?}");
            assert_eq!(asked.problems.len(), problems, "{:?}", asked.problems);
        }
        let distributed = |traffic_distribution| {
            let service = Service { traffic_distribution, ..Service::default() };
            asked(&ClusterName::new("a").unwrap(), &service, true).traffic
        };
        assert!(!distributed(None).topology_hints);
        assert!(distributed(Some(TrafficDistribution::SameZone)).topology_hints);
        assert!(distributed(Some(TrafficDistribution::SameNode)).topology_hints);
        let service = Service { internal_traffic_local: true, ..Service::default() };
        let stays = asked(&ClusterName::new("a").unwrap(), &service, true).traffic;
        assert!(stays.internal_traffic_local && !stays.global);
    }

    #[test]
    fn typos_are_reported() {
        let asked = asked_by(&[
            ("service.cilium.io/global", "yes"),
            ("service.cilium.io/shared", "no"),
            ("service.cilium.io/affinity", "here"),
        ]);
        assert_eq!(
            asked.problems,
            [
                r#"service.cilium.io/global: "yes" is neither true nor false"#,
                r#"service.cilium.io/shared: "no" is neither true nor false"#,
                r#"service.cilium.io/affinity: "here" is none of local, remote and none"#,
            ]
        );
        let long = asked_by(&[("service.cilium.io/global", &"x".repeat(10_000))]);
        assert!(long.problems[0].len() < 200);
    }
}
