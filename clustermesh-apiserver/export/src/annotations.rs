//! Annotations that decide what a cluster shares, and how its own services are balanced (`docs/wire.md`, "Annotations").
//!
//! What is wrong is named, and shares nothing by mistake: a word that is neither true nor false counts as false. Anything else
//! that is wrong counts as if it was not there.

use std::{borrow::Cow, collections::BTreeMap};

use mesh_model::{
    Affinity, ClusterName, ServiceTraffic, excerpt,
    object::{Kind, Namespace, Service},
};
use mesh_source::unknown_annotations;

mod balance;

/// The annotations of an object.
pub(crate) type Annotations = BTreeMap<String, String>;

/// What a service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LbAnnotations {
    /// How its connections are spread.
    pub(crate) traffic: ServiceTraffic,
    /// Its backends are for all clusters.
    pub(crate) shared: bool,
    /// Another proxy serves it.
    pub(crate) foreign_proxy: bool,
    /// What is wrong with its annotations, each a sentence.
    pub(crate) problems: Vec<String>,
}

const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
const GLOBAL_NAMESPACE: [&str; 1] = ["clustermesh.cilium.io/global"];
/// On a node.
const DRAIN: [&str; 1] = ["clustermesh.dev/drain"];
/// Kubernetes takes the older name first.
const TOPOLOGY_MODE: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Another proxy serves a service with this label: it is no service of the mesh.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// What a service of `local` asks for, in a namespace that takes part in the mesh or does not: there it is a service of
/// its cluster alone, whatever its annotations say.
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
    let shared = truth(annotations, SHARED, &mut problems).unwrap_or(true);
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

/// Whether a node's clients are to leave it, and what is wrong with its saying so.
pub(crate) fn is_drained(annotations: &Annotations) -> (bool, Vec<String>) {
    let mut problems = Vec::new();
    let drained = truth(annotations, DRAIN, &mut problems) == Some(true);
    problems.extend(unknown_annotations(Kind::Node, annotations));
    (drained, problems)
}

/// Whether a namespace takes part in the mesh, and what is wrong with its saying so. `None`: it does not say.
pub(crate) fn is_global(namespace: &Namespace) -> (Option<bool>, Vec<String>) {
    let mut problems = Vec::new();
    let global = truth(&namespace.annotations, GLOBAL_NAMESPACE, &mut problems);
    problems.extend(unknown_annotations(Kind::Namespace, &namespace.annotations));
    (global, problems)
}

/// The first annotation that is there: the new name wins over the old one.
fn word<'a, const N: usize>(
    annotations: &'a Annotations,
    names: [&'static str; N],
) -> Option<(&'static str, &'a str)> {
    names.iter().find_map(|name| Some((*name, annotations.get(*name)?.as_str())))
}

/// Its truth. A word that is neither true nor false counts as false: a misspelt attempt to withhold something does not offer it.
fn truth<const N: usize>(
    annotations: &Annotations,
    names: [&'static str; N],
    problems: &mut Vec<String>,
) -> Option<bool> {
    let (name, word) = word(annotations, names)?;
    let is_true = word.eq_ignore_ascii_case("true");
    if !is_true && !word.eq_ignore_ascii_case("false") {
        let word = shown(word);
        problems.push(format!("{name}: {word:?} is neither true nor false, and counts as false"));
    }
    Some(is_true)
}

/// Whether hints are followed. Kubernetes knows `Auto` and `auto`, and takes anything else as no; so do we, and name what is
/// neither that nor `Disabled`.
fn topology_mode(annotations: &Annotations, problems: &mut Vec<String>) -> bool {
    let Some((name, word)) = word(annotations, TOPOLOGY_MODE) else { return false };
    let auto = matches!(word, "Auto" | "auto");
    if !auto && !word.is_empty() && !word.eq_ignore_ascii_case("disabled") {
        problems.push(format!("{name}: {:?} is neither Auto nor Disabled", shown(word)));
    }
    auto
}

/// Anything but the known words is no affinity.
fn affinity(annotations: &Annotations, problems: &mut Vec<String>) -> Affinity {
    let Some((name, word)) = word(annotations, AFFINITY) else { return Affinity::None };
    let known = [Affinity::None, Affinity::Local, Affinity::Remote];
    let found = known.into_iter().find(|affinity| word.eq_ignore_ascii_case(affinity.as_str()));
    if found.is_none() && !word.is_empty() {
        problems.push(format!("{name}: {:?} is none of local, remote and none", shown(word)));
    }
    found.unwrap_or_default()
}

/// As much of a user's text as a problem repeats.
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
    fn what_is_shared() {
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
        assert!(!alone.traffic.global && !alone.shared, "its namespace takes no part");
        service.labels.insert(PROXY_NAME_LABEL.into(), "other".into());
        let elsewhere = asked(&local, &service, true);
        assert!(elsewhere.foreign_proxy && !elsewhere.shared);
    }

    #[test]
    fn a_misspelt_opt_out_keeps_a_namespace_out() {
        for (word, global, problems) in [
            (None, None, 0),
            (Some("true"), Some(true), 0),
            (Some("True"), Some(true), 0),
            (Some("false"), Some(false), 0),
            (Some("flase"), Some(false), 1),
            (Some("no"), Some(false), 1),
            (Some(""), Some(false), 1),
        ] {
            let annotations = word.map(|word| (GLOBAL_NAMESPACE[0].to_owned(), word.to_owned()));
            let annotations = annotations.into_iter().collect();
            let (found, named) = is_global(&Namespace { annotations, ..Namespace::default() });
            assert_eq!((found, named.len()), (global, problems), "{word:?}: {named:?}");
        }
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
    fn hints_are_followed_where_one_asks_for_it() {
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
    fn typos_are_named() {
        let asked = asked_by(&[
            ("service.cilium.io/global", "yes"),
            ("service.cilium.io/shared", "no"),
            ("service.cilium.io/affinity", "here"),
        ]);
        assert_eq!(
            asked.problems,
            [
                r#"service.cilium.io/global: "yes" is neither true nor false, and counts as false"#,
                r#"service.cilium.io/shared: "no" is neither true nor false, and counts as false"#,
                r#"service.cilium.io/affinity: "here" is none of local, remote and none"#,
            ]
        );
        let long = asked_by(&[("service.cilium.io/global", &"x".repeat(10_000))]);
        assert!(long.problems[0].len() < 200);
    }
}
