//! The report of everything.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::ClusterName;

use super::{
    cluster::Cluster,
    intervals::Intervals,
    path::{AGENT, Path, REFUSED},
};
use crate::report::{ClusterHealth, Counts, Report};

/// How everything is.
pub(super) fn summary(
    clusters: &BTreeMap<ClusterName, Cluster>,
    intervals: &Intervals,
    counts: Counts,
) -> Report {
    let paths = || clusters.values().flat_map(|cluster| cluster.paths.values());
    let living = clusters.values().filter(|cluster| cluster.lives());
    let answers = |path: &Path| {
        let detector = &path.detector;
        detector.is_known() && !detector.is_dead() && detector.missing_since().is_none()
    };
    let of_use = paths().filter(|path| path.in_use && !path.detector.is_hopeless());
    let (refusing, listening): (Vec<&Path>, Vec<&Path>) =
        of_use.partition(|path| path.detector.refuses());
    let longest = |paths: Vec<&Path>| {
        paths.into_iter().map(|path| path.detection(intervals.settled(path))).max()
    };
    Report {
        clusters: clusters.iter().map(|(name, of)| (name.clone(), health(of))).collect(),
        counts,
        isolated: !paths().any(answers) && living.count() > 1,
        in_use: intervals.addresses,
        detection: longest(listening).unwrap_or(AGENT * 4),
        detection_without_agent: longest(refusing).unwrap_or(REFUSED * 3 + AGENT),
        ..Report::default()
    }
}

fn health(cluster: &Cluster) -> ClusterHealth {
    let unverified = cluster.reported_unverified.clone();
    let mut health = ClusterHealth { cut: cluster.cut, unverified, ..ClusterHealth::default() };
    let mut paths = cluster.paths.iter().peekable();
    while let Some(((node, _), _)) = paths.peek() {
        let node = Arc::clone(node);
        let mut of_node = Vec::new();
        while let Some((_, path)) = paths.next_if(|((of, _), _)| *of == node) {
            of_node.push(path);
        }
        let any = |is: fn(&Path) -> bool| of_node.iter().any(|path| is(path));
        health.damped +=
            usize::from(any(|path| path.detector.is_dead() && !path.detector.hold().is_zero()));
        if any(|path| path.detector.is_dead()) {
            health.dead.insert(node);
        } else if any(|path| path.detector.missing_since().is_some()) {
            health.missing += 1;
        } else if any(|path| path.detector.is_known()) {
            health.answering += 1;
            health.without_agent += usize::from(any(|path| path.detector.refuses()));
            health.by_kernel += usize::from(!any(|path| !path.is_answered_by_kernel()));
        } else if any(|path| path.detector.is_awaited()) {
            health.awaited += 1;
        } else {
            health.never_answered += 1;
        }
    }
    health
}
