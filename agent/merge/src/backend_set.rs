//! A record's backends of a service, in a comparable form, and the state of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    ClusterId, ClusterName, EndpointSlice, GlobalService, Port, PortMap, Protocol, ServiceName,
    SliceEndpoint,
    lb::{BackendState, Condition, Hints},
    service::{SERVICE_NAME_LABEL, SlicePort, Zone},
};

use crate::interner::StringInterner;

/// One port of one address, under one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackendId {
    pub(crate) port_name: Arc<str>,
    pub(crate) port: Port,
    pub(crate) address: IpAddr,
}

/// The backends of one record: in order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendSet(Vec<(BackendId, BackendState)>);

// === impl BackendId ===

impl BackendId {
    /// The ports of an address. SCTP is carried between clusters and not balanced.
    pub(crate) fn all(
        address: IpAddr,
        ports: &PortMap,
        interner: &mut StringInterner,
    ) -> impl Iterator<Item = Self> {
        let balanced = ports.iter().filter(|(_, port)| port.protocol != Protocol::Sctp);
        balanced.map(move |(name, port)| Self {
            port_name: interner.get(name),
            port: *port,
            address,
        })
    }
}

// === impl BackendSet ===

impl BackendSet {
    fn new(mut all: Vec<(BackendId, BackendState)>) -> Self {
        all.sort_by(|(one, first), (other, second)| {
            one.cmp(other).then_with(|| rank(first).cmp(&rank(second)))
        });
        all.dedup_by(|(next, _), (before, _)| next == before);
        all.shrink_to_fit();
        Self(all)
    }

    /// Backends of a service v1. It has no conditions: all its backends are ready. Returns those that frontends may lead to,
    /// and those that they cannot.
    pub(crate) fn of_service(
        service: &GlobalService,
        interner: &mut StringInterner,
        node_of: impl Fn(IpAddr) -> Option<Arc<str>>,
    ) -> (Self, Self) {
        let (mut all, mut unusable) = (Vec::new(), Vec::new());
        for (address, ports) in service.backends.iter().filter(|_| service.shared) {
            let zone = service.zones.get(address).map(|zone| zone.zone.as_str());
            let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| interner.get(zone));
            let node = node_of(*address);
            let state = BackendState {
                condition: Condition::Ready,
                node_is_derived: node.is_some(),
                node,
                zone,
                hints: None,
            };
            let before = all.len();
            all.extend(
                BackendId::all(*address, ports, interner).map(|place| (place, state.clone())),
            );
            if all.len() == before {
                let first = ports.iter().next().map(|(name, port)| (interner.get(name), *port));
                let (port_name, port) = first.unwrap_or_else(|| no_port(interner));
                unusable.push((BackendId { port_name, port, address: *address }, state));
            }
        }
        (Self::new(all), Self::new(unusable))
    }

    /// Backends of an endpoint slice. All its endpoints have all its ports. Hints are for clients of the cluster itself, and
    /// kept where these are on its nodes: `is_local`. Returns those that frontends may lead to, and those that they cannot.
    pub(crate) fn of_slice(
        slice: &EndpointSlice,
        is_local: bool,
        interner: &mut StringInterner,
    ) -> (Self, Self) {
        let ports = slice.ports.iter().filter_map(|port| {
            Some((interner.get(port.name.as_deref().unwrap_or("")), port.port()?))
        });
        let (mut ports, others): (Vec<(Arc<str>, Port)>, Vec<_>) =
            ports.partition(|(_, port)| port.protocol != Protocol::Sctp);
        let is_usable = !ports.is_empty();
        if !is_usable {
            ports.push(others.into_iter().next().unwrap_or_else(|| no_port(interner)));
        }
        let mut all = Vec::new();
        let mut hints = None;
        for endpoint in &slice.endpoints {
            let mut word = |text: &Option<String>| {
                text.as_deref().filter(|text| !text.is_empty()).map(|text| interner.get(text))
            };
            let (node, zone) = (word(&endpoint.node), word(&endpoint.zone));
            if is_local {
                hints = shared_hints(endpoint, hints.take(), interner);
            }
            let hints = hints.clone();
            let condition = endpoint.condition();
            let state = BackendState { condition, node, node_is_derived: false, zone, hints };
            for address in endpoint.ips() {
                all.extend(ports.iter().map(|(port_name, port)| {
                    let port_name = Arc::clone(port_name);
                    (BackendId { port_name, port: *port, address }, state.clone())
                }));
            }
        }
        match is_usable {
            true => (Self::new(all), Self::default()),
            false => (Self::default(), Self::new(all)),
        }
    }

    /// How a place is.
    pub(crate) fn get(&self, place: &BackendId) -> Option<&BackendState> {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        let at = self.0.binary_search_by(|(known, _)| known.cmp(place)).ok()?;
        self.0.get(at).map(|(_, state)| state)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(BackendId, BackendState)> {
        self.0.iter()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(place, _)| place.address)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same backends, each on the node that is its now; `None` if all were on them.
    pub(crate) fn placed_anew(&self, node_of: impl Fn(IpAddr) -> Option<Arc<str>>) -> Option<Self> {
        if self.0.iter().all(|(place, state)| state.node == node_of(place.address)) {
            return None;
        }
        let anew = self.0.iter().map(|(place, state)| {
            let node = node_of(place.address);
            let node_is_derived = node.is_some();
            (place.clone(), BackendState { node, node_is_derived, ..state.clone() })
        });
        Some(Self(anew.collect()))
    }

    /// The backends and zones of a service v1.
    pub(crate) fn to_service(&self) -> (BTreeMap<IpAddr, PortMap>, BTreeMap<IpAddr, Zone>) {
        let zones = self.0.iter().filter_map(|(place, state)| {
            let zone = Zone { zone: state.zone.as_deref()?.into(), for_zones: Vec::new() };
            Some((place.address, zone))
        });
        (by_address(self.0.iter().map(|(place, _)| place)), zones.collect())
    }

    /// The slice, as far as it was kept.
    pub(crate) fn to_slice(
        &self,
        name: &ServiceName,
        service: &ServiceName,
        cluster: &ClusterName,
        id: ClusterId,
    ) -> EndpointSlice {
        let ports: BTreeSet<SlicePort> = self
            .0
            .iter()
            .map(|(place, _)| SlicePort {
                name: Some(place.port_name.to_string()),
                protocol: Some(place.port.protocol.to_string()),
                number: Some(place.port.number.into()),
                app_protocol: None,
            })
            .collect();
        // All ports of an address have the same state: they were reported for one endpoint, or for the best of several.
        let endpoints: BTreeMap<IpAddr, &BackendState> =
            self.0.iter().map(|(place, state)| (place.address, state)).collect();
        let v6 = endpoints.keys().any(IpAddr::is_ipv6);
        EndpointSlice {
            cluster: cluster.to_string(),
            cluster_id: id,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), service.name.to_string())]),
            annotations: BTreeMap::new(),
            address_type: if v6 { "IPv6".into() } else { "IPv4".into() },
            endpoints: endpoints.into_iter().map(|(ip, state)| endpoint(ip, state, v6)).collect(),
            ports: ports.into_iter().collect(),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many backends were looked up: the cost of a change.
    pub(crate) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The port of what has none.
fn no_port(interner: &mut StringInterner) -> (Arc<str>, Port) {
    (interner.get(""), Port { protocol: Protocol::Tcp, number: 0 })
}

/// In what two records may differ about a backend.
type Rank<'a> = (Condition, &'a Option<Arc<str>>, &'a Option<Arc<str>>, &'a Option<Arc<Hints>>);

/// Which of two reports about a backend counts: the lower one. All parts are compared, so that the order of arrival
/// makes no difference.
pub(crate) fn rank(state: &BackendState) -> Rank<'_> {
    (state.condition, &state.node, &state.zone, &state.hints)
}

/// The hints of an endpoint. Many endpoints of a slice have those of the one before, and share them.
fn shared_hints(
    endpoint: &SliceEndpoint,
    before: Option<Arc<Hints>>,
    interner: &mut StringInterner,
) -> Option<Arc<Hints>> {
    let SliceEndpoint { for_nodes, for_zones, .. } = endpoint;
    if for_nodes.is_empty() && for_zones.is_empty() {
        return None;
    }
    let mut names = |all: &[String]| all.iter().map(|name| interner.get(name)).collect();
    let hints = Hints { nodes: names(for_nodes), zones: names(for_zones) };
    before.filter(|before| **before == hints).or_else(|| Some(Arc::new(hints)))
}

/// Ports by address.
pub(crate) fn by_address<'a>(
    places: impl Iterator<Item = &'a BackendId>,
) -> BTreeMap<IpAddr, PortMap> {
    let mut all = BTreeMap::<IpAddr, PortMap>::new();
    for BackendId { port_name, port, address } in places {
        all.entry(*address).or_default().insert(port_name.to_string(), *port);
    }
    all
}

/// The endpoint that was reported of an address.
fn endpoint(address: IpAddr, state: &BackendState, v6: bool) -> SliceEndpoint {
    let address = match address {
        IpAddr::V4(mapped) if v6 => mapped.to_ipv6_mapped().into(),
        address => address,
    };
    let (ready, serving) = match state.condition {
        Condition::Ready => (true, true),
        Condition::Terminating => (false, true),
        Condition::NotReady => (false, false),
    };
    let text = |word: &Option<Arc<str>>| word.as_deref().map(str::to_owned);
    let names = |of: fn(&Hints) -> &Vec<Arc<str>>| {
        state.hints.iter().flat_map(|hints| of(hints)).map(ToString::to_string).collect()
    };
    SliceEndpoint {
        addresses: vec![address.to_string()],
        ready: Some(ready),
        serving: Some(serving),
        terminating: Some(state.condition == Condition::Terminating),
        hostname: None,
        node: text(&state.node),
        zone: text(&state.zone),
        for_zones: names(|hints| &hints.zones),
        for_nodes: names(|hints| &hints.nodes),
    }
}
