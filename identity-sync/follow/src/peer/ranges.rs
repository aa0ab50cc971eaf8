//! Which keys of a cluster are followed, and how.

use mesh_model::{ClusterConfig, ClusterName, RecordKind};
use mesh_wire::{
    Key, Layout, Prefix,
    key::{CANARIES, HEARTBEAT, HISTORY, LOCAL_POSITION, NAMESPACES, PODS},
};

use super::{PeerConfig, Role};
use crate::{
    follower::{RangeConfig, RangeId},
    machine::Span,
};

pub(super) const CONFIG: RangeId = RangeId(0);
pub(super) const CANARY: RangeId = RangeId(1);
pub(super) const BEAT: RangeId = RangeId(2);
pub(super) const NAME: RangeId = RangeId(3);
/// What the own cluster's writer puts every second, of the own cluster only.
pub(super) const OWN_BEAT: RangeId = RangeId(u8::MAX);
/// The first of the ranges with records.
pub(super) const DATA: u8 = 4;

/// Keys a page: many small ones, or few that may be long.
pub(super) const SMALL_PAGE: i64 = 4_096;
pub(super) const LARGE_PAGE: i64 = 128;

/// What every connection begins with: it says which history there is, and whose.
pub(super) fn head_ranges(cluster: &ClusterName) -> Vec<RangeConfig> {
    vec![
        RangeConfig {
            id: CONFIG,
            span: Span::key(&Key::ClusterConfig(cluster.clone()).to_string()),
            page: SMALL_PAGE,
            names_history: false,
        },
        RangeConfig {
            id: CANARY,
            span: Span::prefix(&format!("{CANARIES}{cluster}/")),
            page: SMALL_PAGE,
            names_history: false,
        },
        // Two histories may have all else in common, if the same writer filled both.
        RangeConfig { id: NAME, span: Span::key(HISTORY), page: SMALL_PAGE, names_history: true },
    ]
}

/// The tree that a cluster's records are in.
pub(super) fn layout(config: &ClusterConfig) -> Layout {
    if config.cached { Layout::Cache } else { Layout::State }
}

/// What to follow of a cluster's records. Its own tree is one range from identities to nodes: one watch, so the order of
/// its writes is ours, identities before the addresses that have them. In a cache each prefix stands alone.
/// Of the own cluster's pods only those of the own node: what they cost follows the node and not the cluster.
pub(super) fn data_ranges(
    config: &PeerConfig,
    layout: Layout,
    local: bool,
) -> (Vec<RangeConfig>, Vec<(RecordKind, RangeId)>) {
    let PeerConfig { name: cluster, node, .. } = config;
    let of = |kind| Span::prefix(&Prefix::of(kind).of_cluster(layout, cluster));
    let small = [RecordKind::Identity, RecordKind::Address, RecordKind::Node];
    let services = (of(RecordKind::Service), LARGE_PAGE, vec![RecordKind::Service]);
    let mut spans: Vec<(Span, i64, Vec<RecordKind>)> = match layout {
        Layout::State => {
            let [first, _, last] = small.map(|kind| format!("{}/", Prefix::of(kind).path(layout)));
            vec![(Span::between(&first, &last), SMALL_PAGE, small.to_vec())]
        }
        Layout::Cache => small.into_iter().map(|kind| (of(kind), SMALL_PAGE, vec![kind])).collect(),
    };
    spans.push(services);
    if local {
        let pods = node.as_ref().map_or_else(|| PODS.into(), |node| format!("{PODS}{node}/"));
        let namespaces = (Span::prefix(NAMESPACES), SMALL_PAGE, vec![RecordKind::Namespace]);
        spans.extend([namespaces, (Span::prefix(&pods), SMALL_PAGE, vec![RecordKind::Pod])]);
    }
    let beat = RangeConfig {
        id: BEAT,
        span: Span::prefix(HEARTBEAT),
        page: SMALL_PAGE,
        names_history: false,
    };
    let mut ranges = vec![beat];
    if config.role == Role::Own {
        let span = Span::key(LOCAL_POSITION);
        ranges.push(RangeConfig { id: OWN_BEAT, span, page: SMALL_PAGE, names_history: false });
    }
    let mut kinds = Vec::new();
    for (id, (span, page, of)) in (DATA..).map(RangeId).zip(spans) {
        ranges.push(RangeConfig { id, span, page, names_history: false });
        kinds.extend(of.into_iter().map(|kind| (kind, id)));
    }
    (ranges, kinds)
}
