//! Which keys of a cluster are followed, and how.

use mesh_model::{ClusterName, RecordKind};
use mesh_wire::{
    Key, Layout, Prefix,
    key::{
        CANARIES, HEARTBEAT, HISTORY, LOCAL_DRAIN, LOCAL_ENDPOINT_SLICES, LOCAL_POSITION,
        LOCAL_SERVICES, NAMESPACES, PODS, POLICIES,
    },
};

use super::{PeerConfig, Role, service_format::ServiceFormat};
use crate::{
    follower::{RangeConfig, RangeId},
    machine::KeyRange,
};

pub(super) const CONFIG: RangeId = RangeId(0);
pub(super) const CANARY: RangeId = RangeId(1);
pub(super) const BEAT: RangeId = RangeId(2);
pub(super) const NAME: RangeId = RangeId(3);
/// The key that the local cluster's writer puts every second; only for the local cluster.
pub(super) const LOCAL_BEAT: RangeId = RangeId(u8::MAX);
/// The key with what is drained in the local cluster.
pub(super) const LOCAL_DRAINED: RangeId = RangeId(u8::MAX - 1);
/// The first of the ranges with records, in each layout: adding or removing a range keeps the others' names.
const STATE: u8 = 4;
const CACHE: u8 = 64;

/// Keys a page: many small ones, or few that may be long.
pub(super) const SMALL_PAGE: i64 = 4_096;
pub(super) const LARGE_PAGE: i64 = 128;

/// The ranges that every connection begins with: they show the history, and its cluster.
pub(super) fn head_ranges(cluster: &ClusterName) -> Vec<RangeConfig> {
    vec![
        RangeConfig {
            id: CONFIG,
            span: KeyRange::key(&Key::ClusterConfig(cluster.clone()).to_string()),
            page: SMALL_PAGE,
            names_history: false,
        },
        RangeConfig {
            id: CANARY,
            span: KeyRange::prefix(&format!("{CANARIES}{cluster}/")),
            page: SMALL_PAGE,
            names_history: false,
        },
        // Two histories may have all else in common, if the same writer filled both.
        RangeConfig {
            id: NAME,
            span: KeyRange::key(HISTORY),
            page: SMALL_PAGE,
            names_history: true,
        },
    ]
}

/// The ranges to follow of a cluster's records. Its own tree is one range from identities to nodes: one watch, so we
/// see its writes in their order, identities before the addresses that have them. In a cache each prefix is a range. Of
/// the local cluster's pods only those of this node: their cost follows the node and not the cluster.
pub(super) fn data_ranges(
    config: &PeerConfig,
    layout: Layout,
    local: bool,
    forms: &[ServiceFormat],
) -> (Vec<RangeConfig>, Vec<(RecordKind, RangeId)>) {
    let small = [RecordKind::Identity, RecordKind::Address, RecordKind::Node];
    let services = forms.iter().copied().flat_map(ServiceFormat::kinds).copied();
    let for_local = [RecordKind::Namespace, RecordKind::Pod, RecordKind::Policy];
    let for_local = for_local.into_iter().filter(|_| local);
    let kinds = small.into_iter().chain(services).chain(for_local);
    let kinds: Vec<(RecordKind, RangeId)> = kinds.map(|kind| (kind, range(layout, kind))).collect();
    let mut ranges = vec![RangeConfig {
        id: BEAT,
        span: KeyRange::prefix(HEARTBEAT),
        page: SMALL_PAGE,
        names_history: false,
    }];
    if config.role == Role::Local {
        for (id, key) in [(LOCAL_BEAT, LOCAL_POSITION), (LOCAL_DRAINED, LOCAL_DRAIN)] {
            let span = KeyRange::key(key);
            ranges.push(RangeConfig { id, span, page: SMALL_PAGE, names_history: false });
        }
    }
    for (kind, id) in &kinds {
        if ranges.iter().all(|range| range.id != *id) {
            let (span, page) = span(config, layout, *kind);
            ranges.push(RangeConfig { id: *id, span, page, names_history: false });
        }
    }
    (ranges, kinds)
}

/// The range that a kind is in.
fn range(layout: Layout, kind: RecordKind) -> RangeId {
    let id = match (layout, kind) {
        (Layout::State, RecordKind::Identity | RecordKind::Address | RecordKind::Node) => 0,
        (Layout::Cache, RecordKind::Identity) => 0,
        (Layout::Cache, RecordKind::Address) => 1,
        (Layout::Cache, RecordKind::Node) => 2,
        (_, RecordKind::Service) => 3,
        (_, RecordKind::EndpointSlice) => 4,
        (_, RecordKind::Namespace) => 5,
        (_, RecordKind::Pod) => 6,
        (_, RecordKind::LocalService) => 7,
        (_, RecordKind::LocalEndpointSlice) => 8,
        (_, RecordKind::Policy) => 9,
    };
    RangeId(id + if layout == Layout::State { STATE } else { CACHE })
}

/// The keys of a kind's range, and how many of them come in a page.
fn span(config: &PeerConfig, layout: Layout, kind: RecordKind) -> (KeyRange, i64) {
    let PeerConfig { name: cluster, node, .. } = config;
    let tree = |kind| format!("{}/", Prefix::of(kind).path(layout));
    let own = |kind| KeyRange::prefix(&Prefix::of(kind).of_cluster(layout, cluster));
    match kind {
        RecordKind::Identity | RecordKind::Address | RecordKind::Node => match layout {
            Layout::State => {
                let all = KeyRange::between(&tree(RecordKind::Identity), &tree(RecordKind::Node));
                (all, SMALL_PAGE)
            }
            Layout::Cache => (own(kind), SMALL_PAGE),
        },
        RecordKind::Service | RecordKind::EndpointSlice => (own(kind), LARGE_PAGE),
        RecordKind::LocalEndpointSlice => (KeyRange::prefix(LOCAL_ENDPOINT_SLICES), LARGE_PAGE),
        RecordKind::LocalService => (KeyRange::prefix(LOCAL_SERVICES), SMALL_PAGE),
        RecordKind::Policy => (KeyRange::prefix(POLICIES), LARGE_PAGE),
        RecordKind::Namespace => (KeyRange::prefix(NAMESPACES), SMALL_PAGE),
        RecordKind::Pod => {
            let pods = node.as_ref().map_or_else(|| PODS.into(), |node| format!("{PODS}{node}/"));
            (KeyRange::prefix(&pods), SMALL_PAGE)
        }
    }
}
