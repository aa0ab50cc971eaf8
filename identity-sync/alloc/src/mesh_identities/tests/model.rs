//! Replicas against what must be true of them, whatever order their requests, answers and events come in.

use std::collections::BTreeMap;

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
    /// The API server executes its next request.
    Execute(usize),
    /// It gets the next answer.
    Answer(usize),
    /// It gets the next event of its watch.
    Event(usize),
    /// It starts again. Requests that were not executed are lost.
    Restart(usize),
    /// All requests, answers and events arrive; then so many minutes go by.
    Wait(u64),
}

struct Replica {
    ids: MeshIdentities,
    requests: VecDeque<IdentityRequest>,
    answers: VecDeque<IdentityAnswer>,
    /// How much of the log it has seen.
    seen: usize,
    /// The apps of its pods, with the IDs they have.
    using: BTreeMap<usize, Option<Identity>>,
}

/// What was seen from outside.
#[derive(Default)]
struct World {
    server: Server,
    now: u64,
    /// Who was given each ID last, and when a pod was last known to have it.
    owners: BTreeMap<Identity, (Labels, u64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (replica, app) = (|| 0..2_usize, || 0..6_usize);
    let step = prop_oneof![
        4 => (replica(), app()).prop_map(|(r, a)| Step::Use(r, a)),
        3 => (replica(), app()).prop_map(|(r, a)| Step::Unuse(r, a)),
        3 => replica().prop_map(Step::Pass),
        5 => replica().prop_map(Step::Execute),
        5 => replica().prop_map(Step::Answer),
        5 => replica().prop_map(Step::Event),
        1 => replica().prop_map(Step::Restart),
        3 => prop_oneof![1..20_u64, Just(24 * 60), 600..3_000_u64].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

impl Replica {
    fn new(server: &Server, using: BTreeMap<usize, Option<Identity>>) -> Self {
        let using = using.into_keys().map(|app| (app, None)).collect();
        let (requests, answers) = (VecDeque::new(), VecDeque::new());
        Self { ids: server.replica(Vec::new()), requests, answers, seen: server.log.len(), using }
    }

    fn execute(&mut self, world: &mut World) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        self.answers.push_back(world.server.execute(&request, world.now));
        true
    }

    fn answer(&mut self) -> bool {
        let Some(answer) = self.answers.pop_front() else { return false };
        self.ids.answered(answer).unwrap();
        true
    }

    fn event(&mut self, world: &World) -> bool {
        let Some(event) = world.server.log.get(self.seen) else { return false };
        self.seen += 1;
        match event {
            Ok(object) => self.ids.applied(object.clone()).unwrap(),
            Err((id, version)) => self.ids.deleted(*id, *version),
        }
        true
    }

    fn collect(&mut self, now: u64) {
        let using = &self.using;
        self.ids.collect(|id, _| using.values().any(|used| *used == Some(id)), WAIT, at(now));
    }

    /// What its thread does after each of these.
    fn work(&mut self, world: &mut World) {
        let using = &self.using;
        self.ids.settle(|id, _| using.values().any(|used| *used == Some(id)));
        self.ids.take_changes();
        for (app, id) in &mut self.using {
            let wanted = labels(&APPS[*app]);
            let given = self.ids.identity(&wanted).unwrap();
            if let (Some(given), true) = (given, given != *id) {
                world.gave(&wanted, given);
            }
            *id = given.or(*id);
        }
        self.requests.extend(self.ids.take_requests());
    }
}

impl World {
    /// A label set was given an ID: no other has used it for a day.
    fn gave(&mut self, labels: &Labels, id: Identity) {
        if let Some((owner, used)) = self.owners.get(&id)
            && owner != labels
        {
            assert!(used + DAY <= self.now, "{id} of {owner} rests until {}", used + DAY);
        }
        self.owners.insert(id, (labels.clone(), self.now));
    }

    fn settle(&mut self, replicas: &mut [Replica; 2]) {
        for round in 0.. {
            assert!(round < 1_000, "there is always something to do");
            let mut busy = false;
            for replica in &mut *replicas {
                replica.work(self);
                busy |= replica.execute(self) | replica.answer() | replica.event(self);
            }
            if !busy {
                break;
            }
        }
        for replica in &*replicas {
            for (app, id) in &replica.using {
                let id = id.unwrap_or_else(|| panic!("app {app} has no ID"));
                self.owners.insert(id, (labels(&APPS[*app]), self.now));
                let object = &self.server.objects[&id];
                assert_eq!(object.labels, labels(&APPS[*app]), "{id}");
                assert_ne!(object.state, State::Deleted, "{id} is in use");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_two_replicas_do_ids_stay_their_label_sets(steps in steps()) {
        let mut world = World::default();
        let mut replicas = [(), ()].map(|()| Replica::new(&world.server, BTreeMap::new()));
        for step in steps {
            match step {
                Step::Use(r, app) => {
                    replicas[r].using.entry(app).or_insert(None);
                }
                Step::Unuse(r, app) => {
                    replicas[r].using.remove(&app);
                }
                Step::Pass(r) => {
                    replicas[r].collect(world.now);
                }
                Step::Execute(r) => {
                    replicas[r].execute(&mut world);
                }
                Step::Answer(r) => {
                    replicas[r].answer();
                }
                Step::Event(r) => {
                    replicas[r].event(&world);
                }
                Step::Restart(r) => {
                    let using = std::mem::take(&mut replicas[r].using);
                    replicas[r] = Replica::new(&world.server, using);
                }
                Step::Wait(minutes) => {
                    world.settle(&mut replicas);
                    world.now += minutes * 60;
                }
            }
            for replica in &mut replicas {
                replica.work(&mut world);
            }
        }
        world.settle(&mut replicas);
        let [one, other] = &replicas;
        for (app, id) in &one.using {
            prop_assert!(other.using.get(app).is_none_or(|theirs| theirs == id), "app {}", app);
        }
        // Where replicas knew different objects, a label set may have got two IDs: the higher one ends.
        for _ in 0..2 {
            replicas.iter_mut().for_each(|replica| replica.collect(world.now));
            world.settle(&mut replicas);
            world.now += WAIT.as_secs();
        }
        let allocated = world.server.objects.values().filter(|n| n.state != State::Deleted);
        let allocated: Vec<&Labels> = allocated.map(|object| &object.labels).collect();
        let distinct: BTreeSet<&Labels> = allocated.iter().copied().collect();
        prop_assert_eq!(distinct.len(), allocated.len(), "two IDs for one label set");
    }
}
