//! A cluster's part of a service: its record of it, its slices, and for the local cluster the settings of the Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use mesh_model::{
    ClusterId, ClusterName, GlobalService, LocalService, Record, RecordKey, ServiceName,
    ServiceTraffic, lb::BackendState,
};

use crate::{
    accounting::{leaf, list, slot, small_tree, text},
    backend_set::{BackendId, BackendSet, by_address, rank},
    interner::StringInterner,
};

/// A cluster's part of a service. Its backends are the union of its records; a change of one record costs the size of
/// that record.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServicePart {
    /// Its service v1. The backends are among `sources`.
    pub(crate) record: Option<RecordEntry>,
    /// The part for the local cluster's nodes.
    pub(crate) local: Option<Box<LocalEntry>>,
    /// The backends of each record.
    sources: BTreeMap<SourceId, BackendSet>,
    /// Which sources have a place, where there are several of them.
    index: BTreeSet<(BackendId, SourceId)>,
    /// What each record says of backends that no frontend can lead to: without a port, or with SCTP alone.
    unusable: BTreeMap<SourceId, BackendSet>,
}

/// A record with backends, unique in its cluster: a slice, or a service v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(pub(crate) u64);

/// A service v1.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordEntry {
    pub(crate) frontends: BTreeSet<BackendId>,
    pub(crate) round: u32,
}

/// A service that the local cluster's nodes get.
#[derive(Clone, Debug)]
pub(crate) struct LocalEntry {
    pub(crate) service: LocalService,
    pub(crate) frontends: BTreeSet<BackendId>,
    pub(crate) traffic: Arc<ServiceTraffic>,
    pub(crate) round: u32,
}

/// Where a slice's endpoints are kept.
#[derive(Clone, Debug)]
pub(crate) struct SliceEntry {
    /// The service, if it has one and endpoints.
    pub(crate) service: Option<Arc<ServiceName>>,
    pub(crate) source: SourceId,
    pub(crate) bytes: u64,
    pub(crate) round: u32,
}

/// The effects of a change to one source.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Backends that are new or changed.
    pub(crate) set: Vec<(BackendId, BackendState)>,
    /// Backends that no source has any more.
    pub(crate) removed: Vec<BackendId>,
}

/// The settings of a service v1 of the local cluster: it exists because it is global.
static GLOBAL: LazyLock<Arc<ServiceTraffic>> =
    LazyLock::new(|| Arc::new(ServiceTraffic { global: true, ..ServiceTraffic::default() }));

// === impl SourceId ===

impl SourceId {
    /// The service v1. It comes last: slices contain more about a backend.
    pub(crate) const RECORD: Self = Self(u64::MAX);
    const FIRST: Self = Self(0);
}

// === impl LocalEntry ===

impl LocalEntry {
    pub(crate) fn new(service: LocalService, round: u32, interner: &mut StringInterner) -> Self {
        let served = service.cluster_ips.iter().filter(|_| !service.foreign_proxy);
        let frontends =
            served.flat_map(|ip| BackendId::all(*ip, &service.ports, interner).collect::<Vec<_>>());
        let frontends = frontends.collect();
        let traffic = Arc::new(service.traffic.clone());
        Self { service, frontends, traffic, round }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let ports = self.service.ports.keys().map(|name| text(name) + leaf::<BackendId>());
        part_bytes(&self.service.name)
            + list::<Self>(1)
            + ports.sum::<u64>()
            + frontends_bytes(&self.frontends)
    }
}

// === impl ServicePart ===

impl ServicePart {
    /// Whether there is nothing of the service.
    pub(crate) fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.local.is_none()
            && self.sources.is_empty()
            && self.unusable.is_empty()
    }

    /// The service's addresses and ports in this cluster.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = &BackendId> {
        let local = self.local.as_ref().map(|local| &local.frontends);
        local.or(self.record.as_ref().map(|record| &record.frontends)).into_iter().flatten()
    }

    /// The service's settings, if the service itself exists and not only its slices.
    pub(crate) fn traffic(&self) -> Option<&Arc<ServiceTraffic>> {
        let local = self.local.as_ref().map(|local| &local.traffic);
        local.or_else(|| self.record.as_ref().map(|_| &*GLOBAL))
    }

    /// A source's backends.
    pub(crate) fn backend_set(&self, source: SourceId) -> Option<&BackendSet> {
        self.sources.get(&source)
    }

    /// The addresses that a source names.
    pub(crate) fn addresses(&self, source: SourceId) -> impl Iterator<Item = IpAddr> {
        let sets = [self.sources.get(&source), self.unusable.get(&source)];
        sets.into_iter().flatten().flat_map(BackendSet::addresses)
    }

    /// Backends that no frontend can lead to. One may be named by several records.
    pub(crate) fn unusable(&self) -> impl Iterator<Item = (&BackendId, &BackendState)> {
        self.unusable.values().flat_map(BackendSet::iter).map(|(place, state)| (place, state))
    }

    /// Replaces what a source reports of backends that no frontend can lead to.
    pub(crate) fn set_unusable(&mut self, source: SourceId, now: BackendSet) {
        match now.is_empty() {
            true => drop(self.unusable.remove(&source)),
            false => drop(self.unusable.insert(source, now)),
        }
    }

    /// All backends, each once.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (&BackendId, &BackendState)> {
        let single = self.sources.values().filter(|_| self.sources.len() == 1);
        let single = single.flat_map(BackendSet::iter).map(|(place, state)| (place, state));
        let mut last = None;
        let several = self.index.iter().filter_map(move |(place, _)| {
            let first = last != Some(place);
            last = Some(place);
            first.then(|| self.best(place)).flatten().map(|state| (place, state))
        });
        single.chain(several)
    }

    /// Replaces what a source reports.
    pub(crate) fn set_backends(&mut self, source: SourceId, now: BackendSet) -> Changes {
        let nothing = BackendSet::default();
        let before = self.sources.get(&source).unwrap_or(&nothing);
        let differs =
            |(place, state): &&(BackendId, BackendState)| before.get(place) != Some(state);
        let come = now.iter().filter(differs).map(|(place, _)| place);
        let gone = before.iter().map(|(place, _)| place);
        let gone: Vec<BackendId> = gone.filter(|place| now.get(place).is_none()).cloned().collect();
        let touched: Vec<BackendId> = come.chain(&gone).cloned().collect();
        let was: Vec<Option<BackendState>> =
            touched.iter().map(|place| self.best(place).cloned()).collect();
        self.replace(source, now, &touched, &gone);
        let mut changes = Changes::default();
        for (place, was) in touched.into_iter().zip(was) {
            match self.best(&place) {
                Some(state) if was.as_ref() != Some(state) => {
                    let state = state.clone();
                    changes.set.push((place, state));
                }
                None if was.is_some() => changes.removed.push(place),
                Some(_) | None => {}
            }
        }
        changes
    }

    /// Puts what a source reports in place, and keeps the index.
    fn replace(
        &mut self,
        source: SourceId,
        now: BackendSet,
        touched: &[BackendId],
        gone: &[BackendId],
    ) {
        let were = self.sources.len();
        match now.is_empty() {
            true => drop(self.sources.remove(&source)),
            false => drop(self.sources.insert(source, now)),
        }
        if self.sources.len() < 2 {
            self.index.clear();
        } else if were < 2 {
            for (source, backends) in &self.sources {
                self.index.extend(backends.iter().map(|(place, _)| (place.clone(), *source)));
            }
        } else {
            self.index.extend(touched.iter().map(|place| (place.clone(), source)));
            for place in gone {
                self.index.remove(&(place.clone(), source));
            }
        }
    }

    /// The state of a backend: the best in the slices, else that in the service v1.
    fn best(&self, place: &BackendId) -> Option<&BackendState> {
        if self.sources.len() < 2 {
            return self.sources.values().find_map(|backends| backends.get(place));
        }
        let from = (place.clone(), SourceId::FIRST)..(place.clone(), SourceId::RECORD);
        let slices = self.index.range(from).map(|(_, source)| *source);
        let slices = slices.filter_map(|source| self.sources.get(&source)?.get(place));
        let best = slices.min_by(|one, other| rank(one).cmp(&rank(other)));
        best.or_else(|| self.sources.get(&SourceId::RECORD)?.get(place))
    }

    /// Whether the index has what the sources report and nothing else.
    #[cfg(test)]
    pub(crate) fn is_indexed(&self) -> bool {
        let backends = self.sources.iter().filter(|_| self.sources.len() > 1);
        let backends = backends
            .flat_map(|(source, backends)| backends.iter().map(|(place, _)| (place, *source)));
        let indexed = self.index.iter().map(|(place, source)| (place, *source));
        backends.collect::<BTreeSet<_>>() == indexed.collect()
    }

    /// The bytes of its service v1, by the service's name.
    pub(crate) fn record_bytes(&self, name: &ServiceName) -> u64 {
        let backends = self.backend_set(SourceId::RECORD).map_or(0, BackendSet::len);
        let unusable = self.unusable.get(&SourceId::RECORD).map_or(0, BackendSet::len);
        let frontends = self.record.as_ref().map(|record| frontends_bytes(&record.frontends));
        part_bytes(name)
            + frontends.unwrap_or_default()
            + backends_bytes(backends)
            + unusable_bytes(unusable)
    }

    /// The service v1, as a record. A withdrawn one is a service without backends.
    pub(crate) fn record(
        &self,
        name: &ServiceName,
        cluster: &ClusterName,
        id: ClusterId,
    ) -> Option<Record> {
        let record = self.record.as_ref()?;
        let backends = self.backend_set(SourceId::RECORD);
        let (backends, zones) = backends.map(BackendSet::to_service).unwrap_or_default();
        Some(Record::Service(Box::new(GlobalService {
            cluster: cluster.clone(),
            cluster_id: id,
            name: name.clone(),
            frontends: by_address(record.frontends.iter()),
            backends,
            hostnames: BTreeMap::new(),
            zones,
            labels: BTreeMap::new(),
            selector: BTreeMap::new(),
            include_external: true,
            shared: true,
        })))
    }
}

/// The bytes of a slice, by its name, if in the worst case it is the only one of its service.
pub(crate) fn slice_bytes(
    name: &ServiceName,
    service: Option<&ServiceName>,
    (backends, unusable): (&BackendSet, &BackendSet),
) -> u64 {
    let entry = slot::<RecordKey, SliceEntry>() + text(&name.namespace) + text(&name.name);
    let sets = backends_bytes(backends.len()) + unusable_bytes(unusable.len());
    entry + service.map_or(0, part_bytes) + sets
}

/// A part of a service without anything in it.
fn part_bytes(name: &ServiceName) -> u64 {
    let name = list::<ServiceName>(1) + text(&name.namespace) + text(&name.name);
    slot::<Arc<ServiceName>, ServicePart>() + name + small_tree::<(SourceId, BackendSet)>()
}

/// Backends of one source, and in the index.
fn backends_bytes(count: usize) -> u64 {
    let index = leaf::<(BackendId, SourceId)>() * u64::try_from(count).unwrap_or(u64::MAX);
    list::<(BackendId, BackendState)>(count) + index
}

/// Backends of one source that no frontend can lead to.
fn unusable_bytes(count: usize) -> u64 {
    let set = small_tree::<(SourceId, BackendSet)>() + list::<(BackendId, BackendState)>(count);
    if count == 0 { 0 } else { set }
}

fn frontends_bytes(frontends: &BTreeSet<BackendId>) -> u64 {
    let each = leaf::<BackendId>() * u64::try_from(frontends.len()).unwrap_or(u64::MAX);
    if frontends.is_empty() { 0 } else { small_tree::<BackendId>() + each }
}
