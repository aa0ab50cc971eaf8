//! Checks that are skipped: a drained cluster, or one without addresses of that family, would have to answer them.

use std::collections::{BTreeMap, BTreeSet};

use mesh_lab::contexts::Context;

use super::{
    check::{Check, Family, Goal},
    site::Site,
};
use crate::ask::{self, Answer, Which};

/// The settings of a mesh on which the skipped checks depend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Clusters that are drained for all clients.
    pub(super) drained: BTreeSet<String>,
    /// For each cluster, the clusters that are drained for its clients.
    pub(super) drained_of: BTreeMap<String, BTreeSet<String>>,
    /// For each cluster, the address families of its pods.
    pub(super) families: BTreeMap<String, Vec<Family>>,
}

impl Layout {
    /// Asks the daemons what is drained, and the site for the addresses of the test's clients.
    pub(super) fn find(site: &dyn Site, contexts: &[Context]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut layout = Self::default();
        for context in contexts {
            let name = &context.name;
            let client = site.client(name)?;
            let has = |v4| client.iter().any(|ip| ip.is_ipv4() == v4);
            let families = [(Family::V4, has(true)), (Family::V6, has(false))];
            let families = families.into_iter().filter(|(_, has)| *has).map(|(family, _)| family);
            layout.families.insert(name.clone(), families.collect());
            // A daemon that does not answer skips no check: the checks show whether its cluster works.
            let status = runtime.block_on(ask::status(&context.apiserver)).ok();
            if status.and_then(|status| status.drained).is_some_and(|drained| drained.cluster) {
                layout.drained.insert(name.clone());
            }
        }
        let answers = ask::ask(contexts, Which::Every(None), ask::peers)?.answers;
        for Answer { context, answer: peers, .. } in answers {
            let drained = peers.into_iter().filter(|peer| peer.drained_here);
            layout.drained_of.entry(context).or_default().extend(drained.map(|peer| peer.name));
        }
        Ok(layout)
    }

    /// The reason to skip a check, if there is one.
    pub(super) fn skip(&self, check: &Check) -> Option<String> {
        let Check { cluster, goal, to, family, .. } = check;
        let has = |cluster: &str| self.families.get(cluster).is_some_and(|f| f.contains(family));
        if !has(cluster) {
            return Some(format!("pods of {cluster} have no {} addresses", family.as_str()));
        }
        let others = || self.families.keys().filter(|other| *other != cluster);
        if *goal == Goal::Local {
            let drained = self.drained.contains(cluster) && others().count() > 0;
            return drained.then(|| format!("{cluster} is drained"));
        }
        let left = self.drained_of.get(cluster);
        let takes = |other: &String| {
            !self.drained.contains(other) && left.is_none_or(|left| !left.contains(other))
        };
        if let Some(to) = to {
            if !has(to) {
                return Some(format!("pods of {to} have no {} addresses", family.as_str()));
            }
            return (!takes(to)).then(|| format!("{to} is drained"));
        }
        if !others().any(|other| has(other)) {
            return Some(format!("pods of other clusters have no {} addresses", family.as_str()));
        }
        let answers = others().filter(|other| has(other)).any(takes);
        (!answers).then(|| "all other clusters are drained".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use mesh_lab::workload::call::Transport;

    use super::*;

    fn layout(families: &[(&str, &[Family])], drained: &[&str]) -> Layout {
        let families = families.iter().map(|(name, of)| ((*name).to_owned(), of.to_vec()));
        Layout {
            families: families.collect(),
            drained: drained.iter().map(ToString::to_string).collect(),
            drained_of: BTreeMap::new(),
        }
    }

    fn skipped(layout: &Layout, cluster: &str, goal: Goal, family: Family) -> Option<String> {
        let others = || layout.families.keys().filter(|other| *other != cluster);
        let to = (goal == Goal::Remote).then(|| others().next().expect("another").clone());
        let cluster = cluster.to_owned();
        layout.skip(&Check { cluster, goal, to, family, transport: Transport::Tcp })
    }

    const BOTH: &[Family] = &[Family::V4, Family::V6];

    #[test]
    fn a_drained_cluster_is_not_expected_to_answer() {
        let layout = layout(&[("a", BOTH), ("b", BOTH)], &["b"]);
        let of = |cluster, goal| skipped(&layout, cluster, goal, Family::V4);
        assert_eq!(of("a", Goal::Local), None);
        assert_eq!(of("b", Goal::Local).unwrap(), "b is drained");
        assert_eq!(of("a", Goal::Remote).unwrap(), "b is drained");
        assert_eq!(of("a", Goal::Failover).unwrap(), "all other clusters are drained");
        assert_eq!([of("b", Goal::Remote), of("b", Goal::Failover)], [None, None]);
        let mut left = tests::layout(&[("a", BOTH), ("b", BOTH), ("c", BOTH)], &["b"]);
        assert_eq!(skipped(&left, "a", Goal::Failover, Family::V4), None, "c answers");
        left.drained_of.insert("a".into(), ["c".to_owned()].into());
        let why = skipped(&left, "a", Goal::Failover, Family::V4).unwrap();
        assert_eq!(why, "all other clusters are drained");
        assert_eq!(skipped(&left, "b", Goal::Failover, Family::V4), None);
    }

    #[test]
    fn a_family_that_pods_do_not_have_is_left_out() {
        for (only, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
            let layout = layout(&[("a", &[only]), ("b", &[only])], &[]);
            for goal in [Goal::Local, Goal::Remote, Goal::Failover] {
                assert_eq!(skipped(&layout, "a", goal, only), None);
                let why = skipped(&layout, "a", goal, other).unwrap();
                assert!(why.starts_with("pods of a have no IPv"), "{why}");
            }
        }
        let mixed = layout(&[("a", BOTH), ("b", &[Family::V4])], &[]);
        assert_eq!(skipped(&mixed, "a", Goal::Local, Family::V6), None);
        let why = skipped(&mixed, "a", Goal::Failover, Family::V6).unwrap();
        assert_eq!(why, "pods of other clusters have no IPv6 addresses");
        let why = skipped(&mixed, "a", Goal::Remote, Family::V6).unwrap();
        assert_eq!(why, "pods of b have no IPv6 addresses");
    }
}
