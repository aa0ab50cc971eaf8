//! The annotations for load balancing: weights and tiers of clusters, what weights apply to, and the minimum of healthy
//! backends.
//!
//! An invalid annotation is ignored completely: a part of a list of weights would send traffic to the wrong clusters.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Affinity, ClusterName, ServiceTraffic, WeightsOf, lb::Group};

use super::{Annotations, shown};

/// The weights of clusters: `a=90,b=10`.
const WEIGHTS: &str = "clustermesh.dev/weights";
/// What a weight applies to: the cluster as a whole, or each of its backends.
const WEIGHTS_OF: &str = "clustermesh.dev/weights-of";
/// Clusters in the order of preference: `a,b;c`.
const TIERS: &str = "clustermesh.dev/tiers";
/// The percentage of healthy backends with which a tier gets all connections: `30%`.
const MINIMUM_HEALTHY: &str = "clustermesh.dev/minimum-healthy";

/// Why an annotation is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Invalid {
    #[error("{:?} is not a cluster name", shown(.0))]
    Cluster(String),
    #[error("{:?} is not CLUSTER=WEIGHT, as in a=3,b=1", shown(.0))]
    Pair(String),
    #[error("{:?} is not a weight: it must be 0 to {max}", shown(.0), max = ServiceTraffic::MAX_WEIGHT)]
    Weight(String),
    #[error("cluster {0} occurs twice")]
    Twice(ClusterName),
    #[error("a tier without a cluster, as in a;b")]
    EmptyTier,
    #[error("{:?} is not a percentage: it must be 1% to 100%", shown(.0))]
    Share(String),
    #[error("{:?} is neither clusters nor backends", shown(.0))]
    WeightsOf(String),
    #[error("{found} different pairs of tier and weight, where no more than {max} are possible", max = Group::COUNT)]
    Pairs { found: usize },
    #[error("{found} groups, one for each cluster with a weight and one for the others of each tier, where no more than {max} are possible", max = Group::COUNT)]
    Groups { found: usize },
}

/// The weight of a cluster that is not listed.
const WEIGHT: u32 = 1;

/// Parses the four annotations into `traffic`. If weights and tiers together need too many groups, both are ignored.
pub(super) fn read(
    local: &ClusterName,
    annotations: &Annotations,
    traffic: &mut ServiceTraffic,
    problems: &mut Vec<String>,
) {
    let weights = annotation(annotations, WEIGHTS, weights, problems);
    let weights_of = annotation(annotations, WEIGHTS_OF, weights_of, problems);
    let tiers = annotation(annotations, TIERS, tiers, problems);
    traffic.minimum_healthy = annotation(annotations, MINIMUM_HEALTHY, share, problems);
    traffic.weights = weights.unwrap_or_default();
    traffic.weights_of = match traffic.weights.is_empty() {
        true => WeightsOf::default(),
        false => weights_of.unwrap_or(WeightsOf::Clusters),
    };
    traffic.tiers = tiers.unwrap_or_default();
    let found = groups(local, traffic);
    if found > Group::COUNT {
        let named = [(WEIGHTS, !traffic.weights.is_empty()), (TIERS, !traffic.tiers.is_empty())];
        let named: Vec<&str> =
            named.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        let invalid = match traffic.weights_of {
            WeightsOf::Backends => Invalid::Pairs { found },
            WeightsOf::Clusters => Invalid::Groups { found },
        };
        problems.push(format!("{}: {invalid}", named.join(" and ")));
        traffic.weights.clear();
        traffic.weights_of = WeightsOf::default();
        traffic.tiers.clear();
    }
}

fn annotation<T>(
    annotations: &Annotations,
    name: &str,
    read: impl Fn(&str) -> Result<T, Invalid>,
    problems: &mut Vec<String>,
) -> Option<T> {
    match read(annotations.get(name)?) {
        Ok(value) => Some(value),
        Err(invalid) => {
            problems.push(format!("{name}: {invalid}"));
            None
        }
    }
}

fn weights(text: &str) -> Result<BTreeMap<ClusterName, u32>, Invalid> {
    let mut weights = BTreeMap::new();
    for pair in text.split(',') {
        let (name, weight) =
            pair.split_once('=').ok_or_else(|| Invalid::Pair(pair.trim().into()))?;
        let cluster = cluster(name)?;
        let digits = weight.trim();
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok());
        let number = number.flatten().filter(|weight| *weight <= ServiceTraffic::MAX_WEIGHT);
        let number = number.ok_or_else(|| Invalid::Weight(digits.into()))?;
        if weights.insert(cluster.clone(), number).is_some() {
            return Err(Invalid::Twice(cluster));
        }
    }
    Ok(weights)
}

fn weights_of(text: &str) -> Result<WeightsOf, Invalid> {
    let known = [WeightsOf::Clusters, WeightsOf::Backends];
    let found = known.into_iter().find(|of| text.trim().eq_ignore_ascii_case(of.as_str()));
    found.ok_or_else(|| Invalid::WeightsOf(text.trim().into()))
}

fn tiers(text: &str) -> Result<Vec<BTreeSet<ClusterName>>, Invalid> {
    let mut seen = BTreeSet::new();
    let mut tiers = Vec::new();
    for part in text.split(';') {
        if part.trim().is_empty() {
            return Err(Invalid::EmptyTier);
        }
        let mut tier = BTreeSet::new();
        for name in part.split(',') {
            let cluster = cluster(name)?;
            if !seen.insert(cluster.clone()) {
                return Err(Invalid::Twice(cluster));
            }
            tier.insert(cluster);
        }
        tiers.push(tier);
    }
    Ok(tiers)
}

fn share(text: &str) -> Result<u8, Invalid> {
    let digits = text.trim().strip_suffix('%').unwrap_or_default();
    let percent = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok());
    let percent = percent.flatten().filter(|percent| (1..=100).contains(percent));
    percent.ok_or_else(|| Invalid::Share(text.trim().into()))
}

fn cluster(name: &str) -> Result<ClusterName, Invalid> {
    ClusterName::new(name.trim()).map_err(|_| Invalid::Cluster(name.trim().into()))
}

/// How many groups the clusters need: those that are listed, the local one, and one for all others. Clusters with the same
/// tier and weight share a group. A cluster that has a weight as a whole needs its own group.
fn groups(local: &ClusterName, traffic: &ServiceTraffic) -> usize {
    let ServiceTraffic { affinity, weights, weights_of, tiers, .. } = traffic;
    let tier_of = |cluster: Option<&ClusterName>| match affinity {
        _ if !tiers.is_empty() => {
            let named = |tier: &BTreeSet<ClusterName>| cluster.is_some_and(|c| tier.contains(c));
            tiers.iter().position(named).unwrap_or(tiers.len())
        }
        Affinity::None => 0,
        Affinity::Local => usize::from(cluster != Some(local)),
        Affinity::Remote => usize::from(cluster == Some(local)),
    };
    let weight_of = |cluster: Option<&ClusterName>| {
        cluster.and_then(|c| weights.get(c)).copied().unwrap_or(WEIGHT)
    };
    let named = weights.keys().chain(tiers.iter().flatten()).chain([local]).map(Some);
    let alone = |cluster: Option<&ClusterName>| {
        let is_alone =
            |name: &ClusterName| *weights_of == WeightsOf::Clusters && weights.contains_key(name);
        cluster.filter(|name| is_alone(name)).cloned()
    };
    let groups = named.chain([None]).map(|of| (tier_of(of), weight_of(of), alone(of)));
    groups.collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::asked_by, *};

    fn name(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    #[test]
    fn valid_annotations_are_parsed() {
        let asked = asked_by(&[
            (WEIGHTS, " a=3, b=0 ,c=65535"),
            (TIERS, "a, b ;c"),
            (MINIMUM_HEALTHY, " 30% "),
        ]);
        assert_eq!(asked.problems, Vec::<String>::new());
        let weights = [("a", 3), ("b", 0), ("c", 65_535)].map(|(c, weight)| (name(c), weight));
        assert_eq!(asked.traffic.weights, weights.into());
        assert_eq!(asked.traffic.tiers, [["a", "b"].map(name).into(), [name("c")].into()]);
        assert_eq!(asked.traffic.minimum_healthy, Some(30));
    }

    #[test]
    fn weights_are_of_clusters_unless_the_annotation_says_backends() {
        let weights = (WEIGHTS, "a=90,b=10");
        for (annotations, expected, problem) in [
            (&[weights][..], WeightsOf::Clusters, None),
            (&[weights, (WEIGHTS_OF, "clusters")], WeightsOf::Clusters, None),
            (&[weights, (WEIGHTS_OF, " Backends ")], WeightsOf::Backends, None),
            (
                &[weights, (WEIGHTS_OF, "pods")],
                WeightsOf::Clusters,
                Some(r#""pods" is neither clusters nor backends"#),
            ),
            // Without weights the field has its default, so the record is the same as that of an older writer.
            (&[], WeightsOf::Backends, None),
            (&[(WEIGHTS_OF, "clusters")], WeightsOf::Backends, None),
            (&[(WEIGHTS, "a=many")], WeightsOf::Backends, Some(r#""many" is not a weight"#)),
        ] {
            let asked = asked_by(annotations);
            assert_eq!(asked.traffic.weights_of, expected, "{annotations:?}");
            let problems: Vec<bool> =
                asked.problems.iter().map(|p| problem.is_some_and(|q| p.contains(q))).collect();
            assert_eq!(problems, vec![true; usize::from(problem.is_some())], "{annotations:?}");
        }
    }

    #[test]
    fn invalid_annotations_are_reported_and_ignored() {
        for (annotation, text, says) in [
            (WEIGHTS, "", r#""" is not CLUSTER=WEIGHT, as in a=3,b=1"#),
            (WEIGHTS, "a", r#""a" is not CLUSTER=WEIGHT"#),
            (WEIGHTS, "a=3,", r#""" is not CLUSTER=WEIGHT"#),
            (WEIGHTS, "A=3", r#""A" is not a cluster name"#),
            (WEIGHTS, "=3", r#""" is not a cluster name"#),
            (WEIGHTS, "a=", r#""" is not a weight: it must be 0 to 65535"#),
            (WEIGHTS, "a=65536", r#""65536" is not a weight"#),
            (WEIGHTS, "a=-1", r#""-1" is not a weight"#),
            (WEIGHTS, "a=+1", r#""+1" is not a weight"#),
            (WEIGHTS, "a=1.5", r#""1.5" is not a weight"#),
            (WEIGHTS, "a=3,b=1,a=2", "cluster a occurs twice"),
            (TIERS, "", "a tier without a cluster"),
            (TIERS, "a;;b", "a tier without a cluster"),
            (TIERS, "a,;b", r#""" is not a cluster name"#),
            (TIERS, "a;b,a", "cluster a occurs twice"),
            (TIERS, "a b", r#""a b" is not a cluster name"#),
            (MINIMUM_HEALTHY, "30", r#""30" is not a percentage: it must be 1% to 100%"#),
            (MINIMUM_HEALTHY, "0%", r#""0%" is not a percentage"#),
            (MINIMUM_HEALTHY, "101%", r#""101%" is not a percentage"#),
            (MINIMUM_HEALTHY, "%", r#""%" is not a percentage"#),
            (MINIMUM_HEALTHY, "30 %", r#""30 %" is not a percentage"#),
        ] {
            let asked = asked_by(&[("service.cilium.io/global", "true"), (annotation, text)]);
            assert_eq!(asked.problems.len(), 1, "{text}: {:?}", asked.problems);
            let problem = &asked.problems[0];
            let expected = format!("{annotation}: {says}");
            assert!(problem.starts_with(&expected), "{text}: {problem}");
            let nothing = ServiceTraffic { global: true, ..ServiceTraffic::default() };
            assert_eq!(asked.traffic, nothing, "{text}");
            assert!(asked.shared, "it is still exported");
        }
    }

    /// There are at most eight groups. The clusters of a tier that have no weight share a group.
    #[test]
    fn more_than_eight_groups_are_refused() {
        let seven = "a=2,b=3,c=4,d=5,e=6,f=7,g=8";
        let eight = format!("{seven},h=9");
        let local = ("service.cilium.io/affinity", "local");
        let backends = (WEIGHTS_OF, "backends");
        for (annotations, groups) in [
            (&[(WEIGHTS, seven)][..], 8),
            (&[(WEIGHTS, seven), backends], 8),
            (&[(WEIGHTS, eight.as_str())], 9),
            (&[(WEIGHTS, eight.as_str()), backends], 9),
            // With weights of backends, clusters of the same weight share a group; with weights of clusters, each has its
            // own.
            (&[(WEIGHTS, "a=2,b=2,c=2,d=2,e=2,f=2,g=2,h=1"), backends], 2),
            (&[(WEIGHTS, "a=2,b=2,c=2,d=2,e=2,f=2,g=2,h=1")], 9),
            (&[(TIERS, "a;b;c;d;e;f;g")], 8),
            (&[(TIERS, "a;b;c;d;e;f;g;h")], 9),
            (&[(TIERS, "a,b;c"), (WEIGHTS, "a=3,b=2,c=3"), backends], 4),
            // Groups: a; b; c; all others.
            (&[(TIERS, "a,b;c"), (WEIGHTS, "a=3,b=2,c=3")], 4),
            // Groups: a; b and c; d; all others.
            (&[(TIERS, "a,b,c;d"), (WEIGHTS, "a=3")], 4),
            // `a` is the local cluster.
            (&[(WEIGHTS, seven), local], 8),
            (&[(WEIGHTS, "b=2,c=3,d=4,e=5,f=6,g=7,h=8"), local], 9),
        ] {
            let asked = asked_by(annotations);
            if groups <= 8 {
                assert_eq!(asked.problems, Vec::<String>::new(), "{annotations:?}");
                continue;
            }
            let of = match annotations.contains(&backends) || annotations[0].0 == TIERS {
                true => "different pairs of tier and weight",
                false => {
                    "groups, one for each cluster with a weight and one for the others of each tier"
                }
            };
            let says = format!("{groups} {of}, where no more than 8 are possible");
            assert!(asked.problems[0].ends_with(&says), "{annotations:?}: {:?}", asked.problems);
            assert!(asked.traffic.weights.is_empty() && asked.traffic.tiers.is_empty());
            assert_eq!(asked.traffic.weights_of, WeightsOf::Backends);
        }
    }
}
