//! The clusters' state words in the kernel (`cm_peer_state`), which take backends out of use.
//!
//! A word is at a cluster's ID, and an ID may become another cluster's. This computes which words have to be written,
//! and knows neither the kernel nor the time.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{ClusterId, ClusterName};

/// The kernel's state words. The owner of this is their only writer, except for the local cluster's.
pub trait PeerStates: Send {
    /// The clusters whose word in the kernel marks them as cut.
    fn cut(&self) -> Vec<ClusterId>;
    /// Writes a cluster's word: one store.
    fn set_cut(&mut self, cluster: ClusterId, cut: bool);
}

/// Which clusters are cut, and which words mark them.
#[derive(Clone, Debug)]
pub struct ClusterWords {
    local: ClusterName,
    ids: BTreeMap<ClusterName, ClusterId>,
    cut: BTreeSet<ClusterName>,
    /// Cut by a previous run; which cluster has the ID is not known yet.
    inherited: BTreeSet<ClusterId>,
    /// The clusters whose word was written as cut; `None` before the kernel's words were read.
    written: Option<BTreeSet<ClusterId>>,
    /// All clusters are known: there are no others than those in `ids`.
    all: bool,
}

/// A word to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whose.
    pub cluster: ClusterId,
    /// Whether the cluster is cut.
    pub cut: bool,
}

// === impl ClusterWords ===

impl ClusterWords {
    /// Nothing is cut, and no ID is known.
    pub fn new(local: ClusterName) -> Self {
        Self {
            local,
            ids: BTreeMap::new(),
            cut: BTreeSet::new(),
            inherited: BTreeSet::new(),
            written: None,
            all: false,
        }
    }

    /// Takes the kernel's words. The first ones are what a previous run left; returns the clusters that it cut, as far
    /// as their IDs are known. Later ones belong to the tables of another layout, and are ignored.
    pub fn take_over(&mut self, found: impl IntoIterator<Item = ClusterId>) -> Vec<ClusterName> {
        let found: BTreeSet<ClusterId> =
            found.into_iter().filter(|id| *id != ClusterId::NONE).collect();
        if self.written.is_none() {
            self.inherited.clone_from(&found);
        }
        self.written = Some(found);
        self.adopt()
    }

    /// The clusters have these IDs now. If these are `all` that there are, an ID that none of them has is of no cluster.
    /// Returns the clusters that a previous run cut.
    pub fn set_ids(
        &mut self,
        ids: BTreeMap<ClusterName, ClusterId>,
        all: bool,
    ) -> Vec<ClusterName> {
        self.ids = ids;
        self.ids.retain(|_, id| *id != ClusterId::NONE);
        self.all = all;
        self.adopt()
    }

    fn adopt(&mut self) -> Vec<ClusterName> {
        let mut adopted = Vec::new();
        for (name, id) in &self.ids {
            if self.inherited.remove(id) && *name != self.local {
                self.cut.insert(name.clone());
                adopted.push(name.clone());
            }
        }
        if self.all {
            self.inherited.clear();
        }
        adopted
    }

    /// A cluster is cut, or no longer.
    pub fn set_cut(&mut self, name: &ClusterName, cut: bool) {
        if !cut {
            self.cut.remove(name);
        } else if *name != self.local {
            self.cut.insert(name.clone());
        }
    }

    /// The words to write, which count as written from now on: first those that take a cluster out of use. None before
    /// the kernel's words were read.
    pub fn take_writes(&mut self) -> Vec<Write> {
        let wanted = self.wanted();
        let Some(written) = &mut self.written else { return Vec::new() };
        let set = wanted.difference(written).map(|id| Write { cluster: *id, cut: true });
        let clear = written.difference(&wanted).map(|id| Write { cluster: *id, cut: false });
        let writes = set.chain(clear).collect();
        *written = wanted;
        writes
    }

    /// Compares the kernel's words with what they should be. Returns those to write.
    pub fn audit(&mut self, found: impl IntoIterator<Item = ClusterId>) -> Vec<Write> {
        self.written = Some(found.into_iter().filter(|id| *id != ClusterId::NONE).collect());
        self.take_writes()
    }

    fn wanted(&self) -> BTreeSet<ClusterId> {
        let cut = self.cut.iter().filter_map(|name| self.ids.get(name));
        cut.chain(&self.inherited).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> ClusterName {
        ClusterName::new(["a", "b", "c", "d"][n]).unwrap()
    }

    fn id(n: usize) -> ClusterId {
        ClusterId::from_wire(u32::try_from(n).unwrap()).unwrap()
    }

    fn ids(of: &[(usize, usize)]) -> BTreeMap<ClusterName, ClusterId> {
        of.iter().map(|(cluster, number)| (name(*cluster), id(*number))).collect()
    }

    fn words(writes: &[Write]) -> Vec<(u16, bool)> {
        writes.iter().map(|write| (write.cluster.get(), write.cut)).collect()
    }

    #[test]
    fn a_word_follows_its_cluster_to_another_id() {
        let mut all = ClusterWords::new(name(0));
        all.take_over([]);
        all.set_ids(ids(&[(0, 1), (1, 2), (2, 3)]), true);
        all.set_cut(&name(1), true);
        assert_eq!(words(&all.take_writes()), [(2, true)]);
        all.set_ids(ids(&[(0, 1), (1, 3), (2, 2)]), true);
        assert_eq!(words(&all.take_writes()), [(3, true), (2, false)], "never none of both");
        // An ID that is not known has no word, and gets it with its cluster.
        all.set_ids(ids(&[(0, 1)]), false);
        assert_eq!(words(&all.take_writes()), [(3, false)]);
        all.set_ids(ids(&[(0, 1), (1, 4)]), false);
        assert_eq!(words(&all.take_writes()), [(4, true)]);
        all.set_cut(&name(0), true);
        assert_eq!(words(&all.take_writes()), [], "the local one is never cut");
    }

    #[test]
    fn what_a_previous_run_cut_stays_until_its_cluster_is_known() {
        let mut all = ClusterWords::new(name(0));
        all.take_over([id(1), id(2), id(3), id(7)]);
        assert_eq!(all.take_writes(), []);
        assert_eq!(all.set_ids(ids(&[(0, 1)]), false), []);
        assert_eq!(words(&all.take_writes()), [(1, false)], "it is the local one's");
        assert_eq!(all.set_ids(ids(&[(0, 1), (1, 2)]), false), [name(1)]);
        assert_eq!(all.take_writes(), []);
        all.set_cut(&name(1), false);
        assert_eq!(words(&all.take_writes()), [(2, false)]);
        assert_eq!(all.set_ids(ids(&[(0, 1), (1, 2), (2, 3)]), true), [name(2)]);
        assert_eq!(words(&all.take_writes()), [(7, false)], "no cluster has it");
        // The tables of another layout are not a previous run's.
        all.take_over([id(2)]);
        assert_eq!(words(&all.take_writes()), [(3, true), (2, false)]);
        // Nor does it matter what is known first.
        let mut all = ClusterWords::new(name(0));
        assert_eq!(all.set_ids(ids(&[(0, 1), (1, 2)]), true), []);
        assert_eq!(all.take_writes(), []);
        assert_eq!(all.take_over([id(2), id(3)]), [name(1)]);
        assert_eq!(words(&all.take_writes()), [(3, false)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Cut(usize, bool),
        Ids(Vec<usize>, bool),
        Exchange(bool),
        Foreign(usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let ids = Just(vec![1_usize, 2, 3, 4, 0, 0]).prop_shuffle();
        prop_oneof![
            (0..4_usize, any::<bool>()).prop_map(|(cluster, cut)| Step::Cut(cluster, cut)),
            (ids, any::<bool>()).prop_map(|(ids, all)| Step::Ids(ids, all)),
            any::<bool>().prop_map(Step::Exchange),
            (1..5_usize, any::<bool>()).prop_map(|(id, cut)| Step::Foreign(id, cut)),
        ]
    }

    proptest! {
        /// After each step the word of each known cluster has the cluster's state, that of no cluster only what a
        /// previous run left there; and a cluster that is cut before and after under one ID is cut all the time.
        #[test]
        fn words_say_what_clusters_are(
            left in prop::collection::btree_set(1..5_usize, 0..4),
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let mut kernel = [false; 6];
            left.iter().for_each(|id| kernel[*id] = true);
            let mut words = ClusterWords::new(name(0));
            words.take_over(left.iter().map(|n| id(*n)));
            let mut cut = [false; 4];
            let mut of = [0_usize; 4];
            let mut inherited = left;
            for step in steps {
                let before = (cut, of);
                match &step {
                    Step::Cut(cluster, is_cut) => {
                        cut[*cluster] = *is_cut && *cluster != 0;
                        words.set_cut(&name(*cluster), *is_cut);
                    }
                    Step::Ids(new, all) => {
                        of.copy_from_slice(&new[..4]);
                        let known: Vec<(usize, usize)> =
                            (0..4).map(|cluster| (cluster, of[cluster])).collect();
                        words.set_ids(ids(&known), *all);
                        for cluster in 0..4 {
                            if inherited.remove(&of[cluster]) && cluster != 0 {
                                cut[cluster] = true;
                            }
                        }
                        if *all {
                            inherited.clear();
                        }
                    }
                    Step::Exchange(copies) => {
                        if !copies {
                            kernel = [false; 6];
                        }
                        words.take_over((1..6).filter(|n| kernel[*n]).map(id));
                    }
                    Step::Foreign(at, is_cut) => kernel[*at] = *is_cut,
                }
                let writes = match &step {
                    Step::Foreign(..) => words.audit((1..6).filter(|n| kernel[*n]).map(id)),
                    _ => words.take_writes(),
                };
                for write in writes {
                    let at = usize::from(write.cluster.get());
                    prop_assert_ne!(kernel[at], write.cut, "only what differs is written");
                    kernel[at] = write.cut;
                    for cluster in 0..4 {
                        let stays = (before.0[cluster], before.1[cluster]) == (cut[cluster], of[cluster]);
                        if stays && cut[cluster] && of[cluster] == at {
                            let put_right = matches!(step, Step::Foreign(..) | Step::Exchange(_));
                            prop_assert!(write.cut && put_right);
                        }
                    }
                }
                for (at, found) in kernel.iter().enumerate().skip(1) {
                    let owner = (0..4).find(|cluster| of[*cluster] == at);
                    let wanted = owner.map_or(inherited.contains(&at), |cluster| cut[cluster]);
                    prop_assert_eq!(*found, wanted, "{} after {:?}", at, step);
                }
            }
        }
    }
}
