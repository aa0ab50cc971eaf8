//! The deltas, added up, are what the clusters report: against a model that only knows what each record contained last.

use std::collections::{HashMap, HashSet};

use mesh_model::{
    LocalService,
    lb::{Backend, Condition},
};
use proptest::prelude::*;

use super::{
    slices::{AWAY, LEAVING, READY, endpoint, local, reported, slice},
    *,
};

/// Last bytes of addresses, each with a number among [`CONDITIONS`].
type Endpoints = Vec<(u8, usize)>;

#[derive(Clone, Debug)]
enum Step {
    /// A service v1: whether it has a cluster IP, and its backends.
    Say(usize, usize, bool, Vec<u8>),
    Unsay(usize, usize),
    Relist(usize, Vec<(usize, Vec<u8>)>),
    /// A slice of a service.
    Slice(usize, usize, usize, Endpoints),
    Unslice(usize, usize),
    RelistSlices(usize, Vec<(usize, usize, Endpoints)>),
    /// A service of the local cluster: whether it has a cluster IP, and is global.
    Local(usize, bool, bool),
    Unlocal(usize),
    /// The cluster exports its services in one form only: slices, or not.
    Form(usize, bool),
    /// A cluster is gone, and back.
    Leave(usize),
    /// This agent's run ends, and the next begins with what it had kept.
    Restart,
}

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const SERVICES: [&str; 2] = ["web", "db"];
const SLICES: [&str; 4] = ["s0", "s1", "s2", "s3"];
const CONDITIONS: [(Condition, [Option<bool>; 3]); 3] =
    [(Condition::Ready, READY), (Condition::Terminating, LEAVING), (Condition::NotReady, AWAY)];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (c, s, of) = (0usize..3, 0usize..2, 0usize..4);
    let backends = || prop::collection::vec(0u8..5, 0..4);
    let endpoints = || prop::collection::vec((0u8..5, 0usize..3), 0..4);
    let slices = prop::collection::vec((of.clone(), s.clone(), endpoints()), 0..3);
    let step = prop_oneof![
        4 => (c.clone(), s.clone(), any::<bool>(), backends())
            .prop_map(|(c, s, vip, b)| Step::Say(c, s, vip, b)),
        2 => (c.clone(), s.clone()).prop_map(|(c, s)| Step::Unsay(c, s)),
        1 => (c.clone(), prop::collection::vec((s.clone(), backends()), 0..3))
            .prop_map(|(c, list)| Step::Relist(c, list)),
        8 => (c.clone(), of.clone(), s.clone(), endpoints())
            .prop_map(|(c, of, s, e)| Step::Slice(c, of, s, e)),
        3 => (c.clone(), of).prop_map(|(c, of)| Step::Unslice(c, of)),
        1 => (c.clone(), slices).prop_map(|(c, list)| Step::RelistSlices(c, list)),
        2 => (s.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(s, vip, global)| Step::Local(s, vip, global)),
        1 => s.prop_map(Step::Unlocal),
        1 => (c, any::<bool>()).prop_map(|(c, slices)| Step::Form(c, slices)),
        1 => (1usize..3).prop_map(Step::Leave),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

/// What each record contained last.
#[derive(Clone, Debug, Default)]
struct Model {
    /// By cluster and service: whether it has a cluster IP, and its backends.
    records: BTreeMap<(usize, usize), (bool, BTreeSet<u8>)>,
    /// By cluster and slice: its service, and its endpoints with their conditions.
    slices: BTreeMap<(usize, usize), (usize, Endpoints)>,
    /// By service: whether it has a cluster IP, and is global.
    locals: BTreeMap<usize, (bool, bool)>,
}

/// A cluster's ID and a backend's last byte, by service; and how it is.
type Backends = BTreeMap<(usize, usize, u8), Condition>;

impl Model {
    /// The present backends. Slices count more than a record, and the best of them.
    fn backends(&self) -> Backends {
        let mut all = Backends::new();
        for ((c, _), (s, endpoints)) in &self.slices {
            for (last, condition) in endpoints {
                let condition = CONDITIONS[*condition].0;
                let known = all.entry((*c, *s, *last)).or_insert(condition);
                *known = (*known).min(condition);
            }
        }
        for ((c, s), (_, backends)) in &self.records {
            for last in backends {
                all.entry((*c, *s, *last)).or_insert(Condition::Ready);
            }
        }
        all
    }

    /// Our services, each with whether it has a frontend and is global.
    fn services(&self) -> BTreeMap<usize, (bool, bool)> {
        let records = self
            .records
            .iter()
            .filter(|((c, _), (vip, backends))| *c == 0 && (*vip || !backends.is_empty()));
        let mut all: BTreeMap<_, _> =
            records.map(|((_, s), (vip, _))| (*s, (*vip, true))).collect();
        all.extend(self.locals.clone());
        all
    }

    fn forget(&mut self, c: usize) {
        self.records.retain(|(cluster, _), _| *cluster != c);
        self.slices.retain(|(cluster, _), _| *cluster != c);
    }
}

/// What the deltas add up to.
#[derive(Default)]
struct Sum {
    services: HashMap<Arc<ServiceName>, bool>,
    frontends: HashSet<(Arc<ServiceName>, Frontend)>,
    backends: HashMap<(Arc<ServiceName>, Backend), Condition>,
}

impl Sum {
    fn add(&mut self, delta: ServiceDelta) -> Result<(), TestCaseError> {
        match delta {
            ServiceDelta::ServiceSet { service, traffic } => {
                let before = self.services.insert(service, traffic.global);
                prop_assert!(before != Some(traffic.global), "nothing new");
            }
            ServiceDelta::ServiceRemoved { service } => {
                prop_assert!(self.services.remove(&service).is_some());
                prop_assert!(self.frontends.iter().all(|(of, _)| *of != service));
            }
            ServiceDelta::FrontendAdded { service, frontend, .. } => {
                prop_assert!(self.services.contains_key(&service));
                prop_assert!(self.frontends.insert((service, frontend)));
            }
            ServiceDelta::FrontendRemoved { service, frontend } => {
                prop_assert!(self.frontends.remove(&(service, frontend)));
            }
            ServiceDelta::BackendSet { service, backend, state, .. } => {
                let before = self.backends.insert((service, backend), state.condition);
                prop_assert!(before != Some(state.condition), "nothing new");
            }
            ServiceDelta::BackendRemoved { service, backend, .. } => {
                prop_assert!(self.backends.remove(&(service, backend)).is_some());
            }
        }
        Ok(())
    }

    fn by_id(&self) -> Backends {
        let of = |service: &ServiceName| {
            SERVICES.iter().position(|name| *name == service.name.as_ref()).unwrap()
        };
        let backends = self.backends.iter().map(|((service, backend), condition)| {
            let IpAddr::V4(address) = backend.address else { panic!("{backend}") };
            let [_, cluster, _, last] = address.octets();
            ((usize::from(cluster) - 1, of(service), last), *condition)
        });
        backends.collect()
    }
}

fn number(c: usize) -> u8 {
    u8::try_from(c).unwrap() + 1
}

fn say(c: usize, s: usize, vip: bool, backends: &[u8]) -> RecordEvent {
    let vip = vip.then_some(9 + number(s));
    service(CLUSTERS[c], SERVICES[s], vip, backends)
}

fn slice_of(c: usize, of: usize, s: usize, endpoints: &[(u8, usize)]) -> RecordEvent {
    let endpoints = endpoints.iter().map(|(last, condition)| {
        endpoint(&format!("10.{}.1.{last}", number(c)), CONDITIONS[*condition].1)
    });
    reported(slice(CLUSTERS[c], SERVICES[s], SLICES[of], endpoints.collect()))
}

fn slice_kind(c: usize) -> RecordKind {
    if c == 0 { RecordKind::LocalEndpointSlice } else { RecordKind::EndpointSlice }
}

fn slice_key(c: usize, of: usize) -> RecordKey {
    let name = ServiceName::new("shop", SLICES[of]);
    if c == 0 { RecordKey::LocalEndpointSlice(name) } else { RecordKey::EndpointSlice(name) }
}

/// A run that begins with what the one before had kept.
fn next_life(before: &Merge) -> Merge {
    let mut next = Merge::new(name("a"), before.ranges.clone());
    for cluster in CLUSTERS.map(name) {
        if let Some(claims) = before.grants.get(&cluster) {
            next.set_peer(&cluster, Some(claims.clone()));
        }
        let kept = before.records(&cluster);
        let (id, records) = kept.unwrap_or((before.clusters[&cluster].id, Vec::new()));
        assert_eq!(
            next.remember(&cluster, id, records, KnownIdentities::default()),
            Ok(Vec::new())
        );
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn deltas_add_up(steps in steps()) {
        let mut merge = merge();
        for cluster in CLUSTERS.map(name) {
            for kind in [RecordKind::Node, RecordKind::Service] {
                merge.apply(&cluster, RecordEvent::Confirmed(kind)).unwrap();
            }
        }
        let (mut model, mut sum) = (Model::default(), Sum::default());
        for step in steps {
            match step {
                Step::Say(c, s, vip, content) => {
                    merge.apply(&name(CLUSTERS[c]), say(c, s, vip, &content)).unwrap();
                    model.records.insert((c, s), (vip, content.into_iter().collect()));
                }
                Step::Unsay(c, s) => {
                    let key = RecordKey::Service(ServiceName::new("shop", SERVICES[s]));
                    merge.apply(&name(CLUSTERS[c]), RecordEvent::Remove(key)).unwrap();
                    model.records.remove(&(c, s));
                }
                Step::Relist(c, list) => {
                    let cluster = name(CLUSTERS[c]);
                    merge.apply(&cluster, RecordEvent::Begin(RecordKind::Service)).unwrap();
                    model.records.retain(|(cluster, _), _| *cluster != c);
                    for (s, content) in list {
                        merge.apply(&cluster, say(c, s, false, &content)).unwrap();
                        model.records.insert((c, s), (false, content.into_iter().collect()));
                    }
                    merge.apply(&cluster, RecordEvent::Confirmed(RecordKind::Service)).unwrap();
                }
                Step::Slice(c, of, s, content) => {
                    merge.apply(&name(CLUSTERS[c]), slice_of(c, of, s, &content)).unwrap();
                    model.slices.insert((c, of), (s, content));
                }
                Step::Unslice(c, of) => {
                    let key = slice_key(c, of);
                    merge.apply(&name(CLUSTERS[c]), RecordEvent::Remove(key)).unwrap();
                    model.slices.remove(&(c, of));
                }
                Step::RelistSlices(c, list) => {
                    let cluster = name(CLUSTERS[c]);
                    merge.apply(&cluster, RecordEvent::Begin(slice_kind(c))).unwrap();
                    model.slices.retain(|(cluster, _), _| *cluster != c);
                    for (of, s, content) in list {
                        merge.apply(&cluster, slice_of(c, of, s, &content)).unwrap();
                        model.slices.insert((c, of), (s, content));
                    }
                    merge.apply(&cluster, RecordEvent::Confirmed(slice_kind(c))).unwrap();
                }
                Step::Local(s, vip, global) => {
                    let service = ServiceName::new("shop", SERVICES[s]);
                    let vip_of = vip.then_some(9 + number(s));
                    let local = LocalService { name: service, ..local(vip_of, global) };
                    let record = Record::LocalService(Box::new(local));
                    merge.apply(&name("a"), RecordEvent::Upsert(record)).unwrap();
                    model.locals.insert(s, (vip, global));
                }
                Step::Unlocal(s) => {
                    let key = RecordKey::LocalService(ServiceName::new("shop", SERVICES[s]));
                    merge.apply(&name("a"), RecordEvent::Remove(key)).unwrap();
                    model.locals.remove(&s);
                }
                Step::Form(c, slices) => {
                    let (cluster, of) = (name(CLUSTERS[c]), slice_kind(c));
                    let (is, was) = match slices {
                        true => (of, RecordKind::Service),
                        false => (RecordKind::Service, of),
                    };
                    merge.apply(&cluster, RecordEvent::Confirmed(is)).unwrap();
                    merge.apply(&cluster, RecordEvent::Without(was)).unwrap();
                    match slices {
                        true => model.records.retain(|(cluster, _), _| *cluster != c),
                        false => model.slices.retain(|(cluster, _), _| *cluster != c),
                    }
                }
                Step::Leave(c) => {
                    let peer = name(CLUSTERS[c]);
                    let claims = merge.grants[&peer].clone();
                    merge.remove_peer(&peer);
                    merge.set_peer(&peer, Some(claims));
                    merge.set_id(&peer, id(number(c).into())).unwrap();
                    model.forget(c);
                }
                Step::Restart => {
                    for delta in merge.take_deltas() {
                        if let Delta::Service(delta) = delta { sum.add(delta)? }
                    }
                    for (c, cluster) in CLUSTERS.map(name).iter().enumerate() {
                        if merge.records(cluster).is_none() {
                            model.forget(c);
                            if c == 0 { model.locals.clear() }
                        }
                    }
                    // A slice without endpoints has no backends.
                    model.slices.retain(|_, (_, endpoints)| !endpoints.is_empty());
                    merge = next_life(&merge);
                    // Another run begins with nothing, and gets what this one got.
                    sum = Sum::default();
                    for cluster in CLUSTERS.map(name) {
                        for kind in [RecordKind::Node, RecordKind::Service] {
                            merge.apply(&cluster, RecordEvent::Confirmed(kind)).unwrap();
                        }
                    }
                }
            }
            for delta in merge.take_deltas() {
                if let Delta::Service(delta) = delta { sum.add(delta)? }
            }
            prop_assert_eq!(sum.by_id(), model.backends());
            let services: BTreeMap<usize, (bool, bool)> = sum.services.iter().map(|(service, global)| {
                let s = SERVICES.iter().position(|name| *name == service.name.as_ref()).unwrap();
                (s, (sum.frontends.iter().any(|(of, _)| of == service), *global))
            }).collect();
            prop_assert_eq!(services, model.services());
            // What may be asked is what was reported.
            for s in SERVICES.map(|s| ServiceName::new("shop", s)) {
                let asked: HashMap<Backend, Condition> =
                    merge.backends_of(&s).map(|(b, _, state)| (b, state.condition)).collect();
                let reported = sum.backends.iter().filter(|((of, _), _)| **of == s);
                let reported: HashMap<Backend, Condition> = reported.map(|((_, b), c)| (*b, *c)).collect();
                prop_assert_eq!(asked, reported);
                let reported = sum.frontends.iter().filter(|(of, _)| **of == s).count();
                prop_assert_eq!(merge.frontends_of(&s).count(), reported);
            }
            for (c, cluster) in CLUSTERS.map(name).iter().enumerate() {
                let mut parts = merge.clusters[cluster].services.values();
                prop_assert!(parts.all(|part| part.is_indexed() && !part.is_empty()));
                let records = model.records.iter().filter(|((of, _), (vip, backends))| {
                    *of == c && (*vip || !backends.is_empty())
                });
                let slices = model.slices.keys().filter(|(of, _)| *of == c);
                let locals = if c == 0 { model.locals.len() } else { 0 };
                let reported = merge.kept(cluster).keys;
                prop_assert_eq!(reported, u64::try_from(records.count() + slices.count() + locals).unwrap());
            }
        }
    }
}
