//! The journal against what must be true of it, whatever two replicas do to it in whatever order.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::LazyLock,
};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A replica has a pod of that app.
    Use(usize, usize),
    /// It has none any more.
    Unuse(usize, usize),
    /// It collects.
    Pass(usize),
    /// It makes the file short.
    Rewrite(usize),
    /// It dies while it writes a line, of which so much is on the disk, and starts again.
    Crash(usize, usize),
    /// So many minutes go by.
    Wait(u64),
}

struct Replica {
    journal: Journal,
    using: BTreeMap<usize, Identity>,
    published: BTreeMap<Identity, Labels>,
}

/// The state of an ID, as seen from outside.
#[derive(Default)]
struct World {
    now: u64,
    /// When an app was last reported to be in use.
    touched: BTreeMap<Labels, u64>,
    /// Who had each ID last, and when it ended, if it did.
    owners: BTreeMap<Identity, (Labels, Option<u64>)>,
}

/// Label sets that want the same few IDs.
static APPS: LazyLock<Vec<Labels>> = LazyLock::new(|| {
    let (cluster, limit) = limit();
    let first = |labels: &Labels| candidates(labels, cluster, limit).next().unwrap().get();
    let all = (0..).map(|n: u32| labels(&format!("app{n}")));
    all.filter(|labels| (458_752..458_756).contains(&first(labels))).take(6).collect()
});

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (replica, app) = (|| 0..2_usize, || 0..6_usize);
    let step = prop_oneof![
        4 => (replica(), app()).prop_map(|(r, a)| Step::Use(r, a)),
        3 => (replica(), app()).prop_map(|(r, a)| Step::Unuse(r, a)),
        5 => replica().prop_map(Step::Pass),
        1 => replica().prop_map(Step::Rewrite),
        1 => (replica(), 0..60_usize).prop_map(|(r, cut)| Step::Crash(r, cut)),
        3 => prop_oneof![1..20_u64, Just(24 * 60), 600..3_000_u64].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

impl World {
    /// A label set was given an ID: no other has had it for a day.
    fn gave(&mut self, labels: &Labels, id: Identity) {
        if let Some((owner, ended)) = self.owners.get(&id)
            && owner != labels
        {
            let ended = ended.expect("an ID of two label sets");
            assert!(ended + DAY <= self.now, "{id} rests until {}", ended + DAY);
        }
        self.owners.insert(id, (labels.clone(), None));
        self.touched.insert(labels.clone(), self.now);
    }

    /// A replica sees what is published by now.
    fn look(&mut self, replica: &mut Replica) {
        replica.journal.refresh().unwrap();
        for (id, labels) in replica.journal.take_changes() {
            match labels {
                Some(labels) => replica.published.insert(id, labels),
                None => replica.published.remove(&id),
            };
        }
        let distinct: BTreeSet<&Labels> = replica.published.values().collect();
        assert_eq!(distinct.len(), replica.published.len(), "two IDs for one label set");
        for (id, (labels, ended)) in &mut self.owners {
            match replica.published.get(id) {
                Some(published) => {
                    assert_eq!(published, labels, "{id}");
                    *ended = None;
                }
                None if ended.is_none() => {
                    let touched = self.touched[labels];
                    let since = self.now - touched;
                    assert!(since >= WAIT.as_secs(), "{id} was used {since} s ago");
                    *ended = Some(self.now);
                }
                None => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_two_replicas_do_ids_stay_their_label_sets(steps in steps()) {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("journal");
        let mut replicas = [(), ()].map(|()| Replica {
            journal: open(&path).unwrap(),
            using: BTreeMap::new(),
            published: BTreeMap::new(),
        });
        let mut world = World::default();
        for step in steps {
            let now = at(world.now);
            match step {
                Step::Use(replica, app) => {
                    let replica = &mut replicas[replica];
                    let id = replica.journal.identity(&APPS[app], now).unwrap();
                    world.gave(&APPS[app], id);
                    replica.using.insert(app, id);
                }
                Step::Unuse(replica, app) => {
                    replicas[replica].using.remove(&app);
                }
                Step::Pass(replica) => {
                    let replica = &mut replicas[replica];
                    let using = replica.using.clone();
                    let uses = |id: Identity, labels: &Labels| {
                        using.iter().any(|(app, used)| *used == id && APPS[*app] == *labels)
                    };
                    replica.journal.collect(uses, WAIT, now).unwrap();
                    for (app, used) in using {
                        let id = replica.journal.identity(&APPS[app], now).unwrap();
                        let (owner, ended) = &world.owners[&used];
                        let rested = *owner != APPS[app]
                            || ended.is_some_and(|ended| ended + DAY <= world.now);
                        // A replica that slept for longer than an ID rests asks for another.
                        prop_assert!(id == used || rested, "{used} became {id}");
                        world.gave(&APPS[app], id);
                        replica.using.insert(app, id);
                    }
                }
                Step::Rewrite(replica) => replicas[replica].journal.rewrite(now).unwrap(),
                Step::Crash(replica, cut) => {
                    let line = identity(Identity::new(458_999), &APPS[0], State::Used, 0).line();
                    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(&line.unwrap()[..cut]).unwrap();
                    let replica = &mut replicas[replica];
                    replica.journal = open(&path).unwrap();
                    replica.published.clear();
                }
                Step::Wait(minutes) => world.now += minutes * 60,
            }
            for replica in &mut replicas {
                world.look(replica);
            }
        }
        let [one, other] = &replicas;
        prop_assert_eq!(&one.published, &other.published);
        let mut again = open(&path).unwrap();
        let again: BTreeMap<Identity, Labels> =
            again.take_changes().into_iter().filter_map(|(id, l)| Some((id, l?))).collect();
        prop_assert_eq!(&one.published, &again);
    }
}
