use std::sync::LazyLock;

use super::*;
use crate::candidates;

mod model;

const WAIT: Duration = Duration::from_secs(15 * 60);
const DAY: u64 = 24 * 60 * 60;

static UUID: LazyLock<Uuid> = LazyLock::new(|| Uuid::from_u128(7));

fn limit() -> (ClusterId, ClusterLimit) {
    let limit = ClusterLimit::Max255;
    (ClusterId::new(7, limit).unwrap(), limit)
}

fn labels(app: &str) -> Labels {
    Labels::parse(&format!("k8s:app={app};"))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// An API server's objects of the kind.
#[derive(Default)]
struct Server {
    objects: std::collections::BTreeMap<Identity, MeshIdentity>,
    version: u64,
    /// What a watch from the beginning on reports: an object as it is, or which one is gone and at which version.
    log: Vec<Result<MeshIdentity, (Identity, u64)>>,
}

impl Server {
    fn put(&mut self, id: Identity, labels: &Labels, state: State, now: u64) -> MeshIdentity {
        self.version += 1;
        let (labels, version) = (labels.clone(), self.version);
        let object = MeshIdentity { id, labels, state, since: unix_nano(at(now)), version };
        self.objects.insert(id, object.clone());
        self.log.push(Ok(object.clone()));
        object
    }

    fn remove(&mut self, id: Identity) {
        self.version += 1;
        if self.objects.remove(&id).is_some() {
            self.log.push(Err((id, self.version)));
        }
    }

    fn execute(&mut self, request: &IdentityRequest, now: u64) -> IdentityAnswer {
        let known = self.objects.get(&request.id()).cloned();
        match (request, known) {
            (IdentityRequest::Create { id, labels, state }, None) => {
                IdentityAnswer::Object(self.put(*id, labels, *state, now))
            }
            (IdentityRequest::Update { id, labels, state, version }, Some(known))
                if known.version == *version =>
            {
                assert_eq!(known.labels, **labels, "labels never change");
                IdentityAnswer::Object(self.put(*id, labels, *state, now))
            }
            (IdentityRequest::Delete { id, version, .. }, Some(known))
                if known.version == *version =>
            {
                self.remove(*id);
                IdentityAnswer::Gone(*id)
            }
            (_, Some(known)) => IdentityAnswer::Object(known),
            (request, None) => IdentityAnswer::Gone(request.id()),
        }
    }

    fn list(&self, ids: &mut MeshIdentities) {
        ids.listing();
        for object in self.objects.values() {
            ids.applied(object.clone()).unwrap();
        }
        ids.listed(self.version);
    }

    /// A replica that has listed everything, and was compared with an etcd that has these identities.
    fn replica(&self, found: Vec<(Identity, Labels)>) -> MeshIdentities {
        let (cluster, limit) = limit();
        let mut ids = MeshIdentities::new(cluster, limit);
        ids.set_uuid(*UUID);
        self.list(&mut ids);
        let found = Found { uuid: Some(*UUID), identities: found, revision: 0 };
        ids.recognise(&found, false, at(0)).unwrap();
        ids
    }

    /// Executes all requests of a replica, and those that follow from their answers.
    fn run(&mut self, ids: &mut MeshIdentities, using: &[&str], now: u64) {
        loop {
            ids.settle(|_, used| using.iter().any(|app| labels(app) == *used));
            let requests = ids.take_requests();
            if requests.is_empty() {
                return;
            }
            for request in requests {
                let answer = self.execute(&request, now);
                ids.answered(answer).unwrap();
            }
        }
    }

    /// The ID of an app, asked for until there is one.
    fn id(&mut self, ids: &mut MeshIdentities, app: &str) -> Identity {
        for _ in 0..3 {
            if let Some(id) = ids.identity(&labels(app)).unwrap() {
                return id;
            }
            self.run(ids, &[app], 0);
        }
        panic!("{app} has no ID: {ids:?}");
    }
}

/// Label sets whose first candidate is among the same few IDs.
static APPS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let (cluster, limit) = limit();
    let first = |app: &String| candidates(&labels(app), cluster, limit).next().unwrap().get();
    let all = (0..).map(|n: u32| format!("app{n}"));
    all.filter(|app| (458_752..458_756).contains(&first(app))).take(6).collect()
});

#[test]
fn a_label_set_waits_for_its_object_and_keeps_its_id() {
    let mut server = Server::default();
    let mut ids = server.replica(Vec::new());
    assert_eq!(ids.identity(&labels("a")).unwrap(), None);
    assert_eq!(ids.identity(&labels("a")).unwrap(), None, "it is asked for once");
    assert_eq!((ids.take_requests().len(), ids.waiting()), (1, 1));
    let mut ids = server.replica(Vec::new());
    let a = server.id(&mut ids, "a");
    assert_eq!(ids.take_changes(), [(a, Some(labels("a")))]);
    assert_eq!((ids.len(), ids.waiting(), server.id(&mut ids, "a")), (1, 0, a));
    // Another replica, or the same after a restart.
    let mut other = server.replica(Vec::new());
    assert_eq!(other.identity(&labels("a")).unwrap(), Some(a));
}

#[test]
fn the_loser_of_a_race_adopts_the_id_and_a_loser_to_other_labels_tries_the_next() {
    let mut server = Server::default();
    let (mut one, mut other) = (server.replica(Vec::new()), server.replica(Vec::new()));
    assert_eq!(one.identity(&labels("a")).unwrap(), None);
    assert_eq!(other.identity(&labels("a")).unwrap(), None);
    let a = server.id(&mut one, "a");
    assert_eq!(server.id(&mut other, "a"), a);
    assert_eq!(server.objects.len(), 1);

    // Two label sets that try the same name first.
    let (cluster, limit) = limit();
    let first = |app: &String| candidates(&labels(app), cluster, limit).next().unwrap();
    let x = &APPS[0];
    let y = APPS.iter().skip(1).find(|y| first(y) == first(x)).expect("six apps want four IDs");
    let mut server = Server::default();
    let (mut one, mut other) = (server.replica(Vec::new()), server.replica(Vec::new()));
    assert_eq!(one.identity(&labels(x)).unwrap(), None);
    assert_eq!(other.identity(&labels(y)).unwrap(), None);
    assert_eq!(server.id(&mut one, x), first(x));
    assert_eq!(server.id(&mut other, y).get(), first(x).get() + 1);
}

#[test]
fn an_unused_id_is_marked_rests_for_a_day_and_is_deleted() {
    let mut server = Server::default();
    let mut ids = server.replica(Vec::new());
    let a = server.id(&mut ids, "a");
    let state = |server: &Server| server.objects.get(&a).map(|object| object.state);
    let unused = |_: Identity, _: &Labels| false;
    ids.collect(unused, WAIT, at(0));
    server.run(&mut ids, &[], 0);
    assert_eq!(state(&server), Some(State::Marked));
    ids.take_changes();
    ids.collect(unused, WAIT, at(WAIT.as_secs() - 1));
    server.run(&mut ids, &[], 0);
    assert_eq!((state(&server), ids.take_changes()), (Some(State::Marked), vec![]));
    // Use clears the mark at once, for readers as well as for the API server.
    assert_eq!(ids.identity(&labels("a")).unwrap(), Some(a));
    server.run(&mut ids, &[], 0);
    assert_eq!(state(&server), Some(State::Used));

    ids.collect(unused, WAIT, at(0));
    server.run(&mut ids, &[], 0);
    ids.collect(unused, WAIT, at(WAIT.as_secs()));
    server.run(&mut ids, &[], WAIT.as_secs());
    assert_eq!(state(&server), Some(State::Deleted));
    assert_eq!(ids.take_changes(), [(a, None)]);
    // The same label set gets it again while it rests, others do not.
    assert_eq!(server.id(&mut ids, "a"), a);
    ids.collect(unused, WAIT, at(0));
    server.run(&mut ids, &[], 0);
    ids.collect(unused, WAIT, at(WAIT.as_secs()));
    server.run(&mut ids, &[], WAIT.as_secs());
    ids.collect(unused, WAIT, at(WAIT.as_secs() + DAY));
    server.run(&mut ids, &[], 0);
    assert_eq!((state(&server), ids.len()), (None, 0));
}

#[test]
fn objects_that_are_deleted_in_use_come_back_with_the_same_ids() {
    let mut server = Server::default();
    let mut ids = server.replica(Vec::new());
    let (a, b) = (server.id(&mut ids, "a"), server.id(&mut ids, "b"));
    ids.take_changes();
    // As when the custom resource is deleted.
    for id in [a, b] {
        server.remove(id);
        ids.deleted(id, server.version);
    }
    assert_eq!(ids.identity(&labels("a")).unwrap(), Some(a), "it is published all the while");
    server.run(&mut ids, &["a"], 0);
    assert_eq!(server.objects.keys().collect::<Vec<_>>(), [&a]);
    assert_eq!((ids.len(), ids.take_changes().last()), (1, Some(&(b, None))));

    // The apiserver was away meanwhile: the etcd has what was published.
    server.remove(a);
    let mut ids = server.replica(vec![(a, labels("a"))]);
    server.run(&mut ids, &[], 0);
    assert_eq!(server.objects[&a].state, State::Marked, "no pod of it is known yet");
    assert_eq!(server.id(&mut ids, "a"), a);
}

#[test]
fn an_etcd_of_another_cluster_is_refused() {
    let server = Server::default();
    let mut ids = server.replica(Vec::new());
    let identities = vec![(Identity::new(458_800), labels("a"))];
    let found = |uuid| Found { uuid, identities: identities.clone(), revision: 0 };
    let refused = ids.recognise(&found(Some(Uuid::from_u128(8))), false, at(0)).unwrap_err();
    assert!(matches!(refused, Lost::OtherCluster { identities: 1, .. }), "{refused}");
    let refused = ids.recognise(&found(None), false, at(0)).unwrap_err();
    assert!(matches!(refused, Lost::Unnamed { identities: 1 }), "{refused}");
    ids.recognise(&found(Some(Uuid::from_u128(8))), true, at(0)).unwrap();
    assert_eq!(ids.identity(&labels("a")).unwrap(), Some(Identity::new(458_800)));
    let (cluster, limit) = limit();
    let early = MeshIdentities::new(cluster, limit).recognise(&found(None), false, at(0));
    assert!(matches!(early, Err(Lost::NotListed)));
}

#[test]
fn with_all_ids_taken_a_label_set_is_told_so() {
    let mut server = Server::default();
    let (cluster, limit) = limit();
    for id in limit.identities(cluster) {
        server.put(Identity::new(id), &labels(&id.to_string()), State::Used, 0);
    }
    let mut ids = server.replica(Vec::new());
    assert_eq!(ids.identity(&labels("458760")).unwrap(), Some(Identity::new(458_760)));
    let refused = ids.identity(&labels("a")).unwrap_err();
    assert!(matches!(refused, AllocationError::Exhausted { used: 65_536, resting: 0 }));
    assert!(ids.take_requests().is_empty());
}

#[test]
fn a_late_event_does_not_undo_what_an_answer_said() {
    let mut server = Server::default();
    let mut ids = server.replica(Vec::new());
    let a = server.id(&mut ids, "a");
    let created = server.objects[&a].clone();
    ids.collect(|_, _| false, WAIT, at(0));
    server.run(&mut ids, &[], 0);
    // The watch reports the creation only now; then that it was marked.
    ids.applied(created).unwrap();
    ids.collect(|_, _| false, WAIT, at(WAIT.as_secs()));
    server.run(&mut ids, &[], 0);
    assert_eq!(server.objects[&a].state, State::Deleted);
    // A list from before the creation of an object does not remove it.
    let b = server.id(&mut ids, "b");
    ids.listing();
    ids.listed(created_before(&server, b));
    ids.settle(|_, _| false);
    assert_eq!(ids.identity(&labels("b")).unwrap(), Some(b));
    // A restored etcd has older versions of everything.
    ids.restart();
    let mut restored = Server::default();
    restored.put(a, &labels("c"), State::Used, 0);
    restored.list(&mut ids);
    ids.settle(|_, _| false);
    assert_eq!(ids.identity(&labels("c")).unwrap(), Some(a));
    assert_eq!(ids.len(), 1);
}

fn created_before(server: &Server, id: Identity) -> u64 {
    server.objects[&id].version - 1
}
