//! Whatever happens in whatever order, a frontend leads where the rules require it in the present state; here the rules
//! are implemented once more, from `docs/load-balancing.md`, over plain lists and with fractions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_balance::{ClusterState, KnownBackend, Usage};
use mesh_model::{
    Affinity, ClusterId, Protocol, ServiceName, ServiceTraffic, WeightsOf,
    lb::{Backend, BackendState, Condition, Frontend, Hints, NodeHealth, ServiceDelta, Settings},
};
use proptest::prelude::*;
use stage::{CLUSTERS, Stage, id, name, shares, view};

const SERVICES: [(&str, &str); 3] = [("shop", "web"), ("bank", "web"), ("default", "kubernetes")];
const PORTS: [&str; 3] = ["http", "", "admin"];

#[derive(Clone, Debug)]
enum Step {
    Service(usize, Option<ServiceTraffic>),
    /// Of a service, with a port name; or gone.
    Frontend {
        service: usize,
        port: usize,
        v6: bool,
        second: bool,
        there: bool,
    },
    Backend {
        service: usize,
        port: usize,
        spot: Spot,
        state: Option<(Condition, Option<u8>, Meant)>,
    },
    Node(usize, u8, NodeHealth),
    Cluster(usize, Option<(ClusterState, bool)>),
    /// The location of backends whose cluster does not report it.
    Placement(u8),
    /// The zone of the node that clients are on, which is n1 of the first cluster.
    Zone(Option<u8>),
}

/// For whose clients a backend is: numbers of nodes and of zones.
type Meant = (BTreeSet<u8>, BTreeSet<u8>);

/// What is reported of a backend: how it is, its node and whether that was looked up, and for whom it is.
type Reported = (Condition, (Option<String>, bool), Meant);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    cluster: usize,
    number: u8,
    v6: bool,
    udp: bool,
}

/// The present state, as it was reported last.
#[derive(Default)]
struct World {
    services: BTreeMap<usize, ServiceTraffic>,
    frontends: BTreeMap<Frontend, (usize, usize)>,
    backends: BTreeMap<(usize, usize, Backend), Reported>,
    /// Nodes that are not simply alive.
    unwell: BTreeMap<(ClusterId, String), NodeHealth>,
    clusters: BTreeMap<usize, (ClusterState, bool)>,
    zone: Option<u8>,
}

fn traffic() -> impl Strategy<Value = ServiceTraffic> {
    let affinity = prop_oneof![Just(Affinity::None), Just(Affinity::Local), Just(Affinity::Remote)];
    let weights_of = prop_oneof![Just(WeightsOf::Backends), Just(WeightsOf::Clusters)];
    let weights = (prop::collection::btree_map(0_usize..4, 0_u32..4, 0..4), weights_of);
    let tiers = prop_oneof![
        2 => Just(Vec::new()),
        1 => Just((0..4).collect::<Vec<usize>>()).prop_shuffle().prop_flat_map(|order| {
            (Just(order), 1_usize..4, 1_usize..4)
        }).prop_map(|(order, first, second)| {
            let (one, rest) = order.split_at(first);
            let two = &rest[..second.min(rest.len())];
            let set = |of: &[usize]| of.iter().map(|at| name(CLUSTERS[*at])).collect::<BTreeSet<_>>();
            [set(one), set(two)].into_iter().filter(|tier| !tier.is_empty()).collect()
        }),
    ];
    let minimum = prop::option::of(1_u8..=100);
    let affine = prop::option::of(1_u32..100);
    let local = prop_oneof![
        3 => Just((false, false)), 1 => Just((true, false)), 2 => Just((false, true)), 1 => Just((true, true))
    ];
    let of = (any::<bool>(), local);
    (of, affinity, affine, weights, tiers, minimum).prop_map(
        |(of, affinity, session_affinity, (weights, weights_of), tiers, minimum_healthy)| {
            let (global, (internal_traffic_local, topology_hints)) = of;
            ServiceTraffic {
                global,
                affinity,
                session_affinity,
                weights: weights.into_iter().map(|(at, w)| (name(CLUSTERS[at]), w)).collect(),
                weights_of,
                tiers,
                minimum_healthy,
                internal_traffic_local,
                topology_hints,
            }
        },
    )
}

/// Mostly of zones; some are for nodes too, and some for all.
fn meant() -> impl Strategy<Value = Meant> {
    let zones = prop_oneof![
        1 => Just(BTreeSet::new()),
        5 => prop::collection::btree_set(0_u8..2, 1..3)
    ];
    let nodes = prop_oneof![
        2 => Just(BTreeSet::new()),
        1 => prop::collection::btree_set(0_u8..3, 1..3)
    ];
    (nodes, zones)
}

fn hints((nodes, zones): &Meant) -> Hints {
    let names = |numbers: &BTreeSet<u8>, letter: &str| {
        numbers.iter().map(|number| format!("{letter}{number}").into()).collect()
    };
    Hints { nodes: names(nodes, "n"), zones: names(zones, "z") }
}

fn step() -> impl Strategy<Value = Step> {
    let service = prop_oneof![4 => Just(0), 1 => 1..SERVICES.len()];
    let port = prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(2)];
    let condition = prop_oneof![
        4 => Just(Condition::Ready),
        1 => Just(Condition::Terminating),
        1 => Just(Condition::NotReady),
    ];
    let state = prop_oneof![
        3 => (condition, prop::option::of(0_u8..3), meant()).prop_map(Some),
        1 => Just(None),
    ];
    let health = prop_oneof![
        2 => Just(NodeHealth::Alive),
        1 => Just(NodeHealth::Unverified),
        1 => Just(NodeHealth::Dead),
    ];
    let rarely = || prop_oneof![4 => Just(false), 1 => Just(true)];
    let spot = (0_usize..4, 0_u8..6, rarely(), rarely())
        .prop_map(|(cluster, number, v6, udp)| Spot { cluster, number, v6, udp });
    let cluster_state = prop_oneof![
        2 => Just(ClusterState::InUse),
        1 => Just(ClusterState::Cut),
        1 => Just(ClusterState::Stale)
    ];
    let cluster = prop_oneof![6 => (cluster_state, any::<bool>()).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        2 => (service.clone(), prop_oneof![5 => traffic().prop_map(Some), 1 => Just(None)])
            .prop_map(|(service, traffic)| Step::Service(service, traffic)),
        3 => (service.clone(), port.clone(), rarely(), rarely(), prop_oneof![3 => Just(true), 1 => Just(false)])
            .prop_map(|(service, port, v6, second, there)| Step::Frontend { service, port, v6, second, there }),
        12 => (service, port, spot, state)
            .prop_map(|(service, port, spot, state)| Step::Backend { service, port, spot, state }),
        3 => (0_usize..4, 0_u8..3, health).prop_map(|(c, n, health)| Step::Node(c, n, health)),
        2 => (0_usize..4, cluster).prop_map(|(cluster, state)| Step::Cluster(cluster, state)),
        1 => (0_u8..3).prop_map(Step::Placement),
        1 => prop::option::of(0_u8..2).prop_map(Step::Zone),
    ]
}

fn service(at: usize) -> Arc<ServiceName> {
    Arc::new(ServiceName::new(SERVICES[at].0, SERVICES[at].1))
}

fn frontend(service: usize, v6: bool, second: bool) -> Frontend {
    let last = service * 2 + usize::from(second) + 1;
    let address = if v6 { format!("fd00:101::{last}") } else { format!("10.101.0.{last}") };
    Frontend { address: address.parse().unwrap(), port: 80, protocol: Protocol::Tcp }
}

fn backend(spot: Spot) -> Backend {
    let Spot { cluster, number, v6, udp } = spot;
    let cluster = id(CLUSTERS[cluster]);
    let address = match v6 {
        true => format!("fd00:10:{cluster}::{}", number + 1),
        false => format!("10.{cluster}.1.{}", number + 1),
    };
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    Backend { address: address.parse().unwrap(), port: 8080, protocol, cluster }
}

/// Takes a step in the world and on the stage.
fn take(world: &mut World, stage: &mut Stage, step: &Step, looked_up: &mut Option<u8>) {
    match step.clone() {
        Step::Service(at, traffic) => match traffic {
            Some(traffic) => {
                world.services.insert(at, traffic.clone());
                let traffic = Arc::new(traffic);
                stage.report(&ServiceDelta::ServiceSet { service: service(at), traffic });
            }
            None => {
                let gone: Vec<Frontend> = world
                    .frontends
                    .iter()
                    .filter(|(_, (of, _))| *of == at)
                    .map(|(frontend, _)| *frontend)
                    .collect();
                for frontend in gone {
                    world.frontends.remove(&frontend);
                    stage.report(&ServiceDelta::FrontendRemoved { service: service(at), frontend });
                }
                world.services.remove(&at);
                stage.report(&ServiceDelta::ServiceRemoved { service: service(at) });
            }
        },
        Step::Frontend { service: at, port, v6, second, there } => {
            let frontend = frontend(at, v6, second);
            let service = service(at);
            if there && world.services.contains_key(&at) {
                world.frontends.insert(frontend, (at, port));
                let port_name = PORTS[port].into();
                stage.report(&ServiceDelta::FrontendAdded { service, port_name, frontend });
            } else if !there {
                world.frontends.remove(&frontend);
                stage.report(&ServiceDelta::FrontendRemoved { service, frontend });
            }
        }
        Step::Backend { service: at, port, spot, state } => {
            let (backend, port_name) = (backend(spot), PORTS[port].into());
            let (service, key) = (service(at), (at, port, backend));
            match state {
                Some((condition, node, meant)) => {
                    let reported = node.map(|node| format!("n{node}"));
                    let node = reported.clone().or(looked_up.map(|node| format!("n{node}")));
                    let hints = Some(Arc::new(hints(&meant)));
                    world.backends.insert(key, (condition, (node, reported.is_none()), meant));
                    let node = reported.map(|node| node.as_str().into());
                    let state = BackendState { condition, node, hints, ..BackendState::default() };
                    let delta = ServiceDelta::BackendSet { service, port_name, backend, state };
                    let looked_up = *looked_up;
                    let changes = stage
                        .balancer
                        .apply(&delta, |_, _| looked_up.map(|node| format!("n{node}")));
                    stage.take(changes);
                }
                None => {
                    world.backends.remove(&key);
                    stage.report(&ServiceDelta::BackendRemoved { service, port_name, backend });
                }
            }
        }
        Step::Node(cluster, node, health) => {
            let cluster = id(CLUSTERS[cluster]);
            world.unwell.insert((cluster, format!("n{node}")), health);
            let changes = stage.balancer.set_node(cluster, &format!("n{node}"), health);
            stage.take(changes);
        }
        Step::Cluster(at, state) => {
            let cluster = CLUSTERS[at];
            match state {
                Some(state) => world.clusters.insert(at, state),
                // The local cluster is always there.
                None if at == 0 => None,
                None => {
                    world.unwell.retain(|(of, _), _| *of != id(cluster));
                    world.clusters.remove(&at)
                }
            };
            let view = state.map(|(state, synced)| view(cluster, state, synced));
            let changes = stage.balancer.set_cluster(id(cluster), view);
            stage.take(changes);
        }
        Step::Zone(zone) => {
            world.zone = zone;
            let changes = stage.balancer.set_zone(zone.map(|zone| format!("z{zone}")).as_deref());
            stage.take(changes);
        }
        Step::Placement(node) => {
            // The next lookups fail again every other time.
            *looked_up = if looked_up.is_some() { None } else { Some(node) };
            for (_, (place, _), _) in world.backends.values_mut() {
                place.get_or_insert_with(|| format!("n{node}"));
            }
            for cluster in CLUSTERS.map(id) {
                let changes = stage.balancer.place(cluster, |_| Some(format!("n{node}")));
                stage.take(changes);
            }
        }
    }
}

/// One backend, as the rules see it.
struct Seen {
    backend: Backend,
    condition: Condition,
    dead: bool,
    /// Its cluster may be well or not.
    node_dead: bool,
    unverified: bool,
    tier: usize,
    weight: f64,
    /// Its cluster is named in the weights.
    named: bool,
    meant: Meant,
}

/// Leaves out backends for clients elsewhere, if all that could be used now have hints.
fn follow_hints(seen: &mut Vec<Seen>, zone: Option<u8>) {
    let is_local = |b: &Seen| b.backend.cluster == id("a");
    let local =
        |b: &&Seen| is_local(b) && b.condition == Condition::Ready && !b.node_dead && !b.unverified;
    let ready: Vec<Meant> = seen.iter().filter(local).map(|b| b.meant.clone()).collect();
    for is_for_nodes in [true, false] {
        let here = if is_for_nodes { Some(1) } else { zone };
        let of = |(nodes, zones): &Meant| if is_for_nodes { nodes.clone() } else { zones.clone() };
        let is_here = |meant: &Meant| here.is_some_and(|here| of(meant).contains(&here));
        if ready.iter().all(|meant| !of(meant).is_empty()) && ready.iter().any(is_here) {
            seen.retain(|b| !is_local(b) || is_here(&b.meant));
            return;
        }
    }
}

/// What counts of what is reported of a port of a service's backend, by name; `None` where a frontend of that name does
/// not lead there. Names that are equal match, and a name and none; of several other names the best report counts.
fn report_for<'a>(port: usize, reports: &BTreeMap<usize, &'a Reported>) -> Option<&'a Reported> {
    let is_unnamed = |port: usize| PORTS[port].is_empty();
    if let Some(own) = reports.get(&port) {
        return Some(*own);
    }
    let all_unnamed = reports.keys().all(|port| is_unnamed(*port));
    let all = reports.iter().filter(|_| is_unnamed(port) || all_unnamed);
    all.min_by_key(|(port, (condition, ..))| (*condition, PORTS[**port])).map(|(_, report)| *report)
}

/// What each backend of a frontend gets; `None` where the frontend is left alone.
fn expected(
    world: &World,
    frontend: &Frontend,
    replace: bool,
) -> Option<(Settings, BTreeMap<Backend, f64>)> {
    let (at, port) = world.frontends[frontend];
    let traffic = &world.services[&at];
    if !traffic.global && !replace {
        return None;
    }
    let mut reports: BTreeMap<&Backend, BTreeMap<usize, &Reported>> = BTreeMap::new();
    for ((of, name_of_port, backend), reported) in &world.backends {
        let same_family = backend.address.is_ipv4() == frontend.address.is_ipv4();
        if *of == at && same_family && backend.protocol == Protocol::Tcp {
            reports.entry(backend).or_default().insert(*name_of_port, reported);
        }
    }
    let mut seen = Vec::new();
    for (backend, reports) in reports {
        let Some(reported) = report_for(port, &reports) else { continue };
        let (condition, (node, is_looked_up), meant) = reported;
        let cluster = usize::from(backend.cluster.get()) - 1;
        let (is_local, known) = (cluster == 0, world.clusters.get(&cluster));
        let state = known.map_or(ClusterState::InUse, |(state, _)| *state);
        if (!is_local && !traffic.global) || state == ClusterState::Stale {
            continue;
        }
        let is_here = if is_local { node.as_deref() == Some("n1") } else { *is_looked_up };
        if traffic.internal_traffic_local && !is_here {
            continue;
        }
        let health = node.as_ref().and_then(|n| world.unwell.get(&(backend.cluster, n.clone())));
        let cluster_name = known.map(|_| name(CLUSTERS[cluster]));
        let named = cluster_name.as_ref().and_then(|name| traffic.weights.get(name)).copied();
        let tier = if !traffic.global {
            0
        } else if traffic.tiers.is_empty() {
            match (traffic.affinity, is_local) {
                (Affinity::None, _) | (Affinity::Local, true) | (Affinity::Remote, false) => 0,
                _ => 1,
            }
        } else {
            let mut tiers = traffic.tiers.iter();
            let at = tiers.position(|tier| cluster_name.as_ref().is_some_and(|n| tier.contains(n)));
            at.unwrap_or(99)
        };
        seen.push(Seen {
            backend: *backend,
            condition: *condition,
            node_dead: health == Some(&NodeHealth::Dead),
            dead: health == Some(&NodeHealth::Dead) || state == ClusterState::Cut,
            unverified: health == Some(&NodeHealth::Unverified),
            tier,
            weight: if traffic.global { f64::from(named.unwrap_or(1)) } else { 1.0 },
            named: named.is_some(),
            meant: meant.clone(),
        });
    }
    if traffic.topology_hints && !traffic.internal_traffic_local {
        follow_hints(&mut seen, world.zone);
    }
    // The first kind that there is any of.
    let kinds: [fn(&Seen) -> bool; 12] = [
        |b| !b.dead && !b.unverified && b.condition == Condition::Ready && b.weight > 0.0,
        |b| !b.dead && !b.unverified && b.condition == Condition::Ready && b.weight == 0.0,
        |b| !b.dead && !b.unverified && b.condition == Condition::Terminating && b.weight > 0.0,
        |b| !b.dead && !b.unverified && b.condition == Condition::Terminating && b.weight == 0.0,
        |b| !b.dead && b.condition == Condition::Ready && b.weight > 0.0,
        |b| !b.dead && b.condition == Condition::Ready && b.weight == 0.0,
        |b| !b.dead && b.condition == Condition::Terminating && b.weight > 0.0,
        |b| !b.dead && b.condition == Condition::Terminating && b.weight == 0.0,
        |b| b.condition == Condition::Ready && b.weight > 0.0,
        |b| b.condition == Condition::Ready && b.weight == 0.0,
        |b| b.condition == Condition::Terminating && b.weight > 0.0,
        |b| b.condition == Condition::Terminating && b.weight == 0.0,
    ];
    let mut result = BTreeMap::new();
    if let Some(kind) = kinds.iter().position(|kind| seen.iter().any(kind)) {
        let usable: Vec<&Seen> = seen.iter().filter(|b| kinds[kind](b)).collect();
        let mut left = 1.0_f64;
        let mut loads = BTreeMap::new();
        let tiers: BTreeSet<usize> = usable.iter().map(|b| b.tier).collect();
        for tier in tiers {
            let can = usable.iter().filter(|b| b.tier == tier).count() as f64;
            let meant = seen.iter().filter(|b| {
                b.tier == tier && b.weight > 0.0 && b.condition != Condition::Terminating
            });
            let capacity = match traffic.minimum_healthy.filter(|_| traffic.global) {
                Some(minimum) if kind % 4 == 0 => {
                    (can / meant.count() as f64 / (f64::from(minimum) / 100.0)).min(1.0)
                }
                _ => 1.0,
            };
            let load = capacity.min(left);
            left -= load;
            loads.insert(tier, load);
        }
        let carried: f64 = loads.values().sum();
        for (tier, load) in loads {
            let mine = || usable.iter().filter(|b| b.tier == tier);
            let weight = |b: &Seen| if b.weight == 0.0 { 1.0 } else { b.weight };
            let of_clusters = traffic.global
                && !traffic.weights.is_empty()
                && traffic.weights_of == WeightsOf::Clusters;
            let enough = traffic.minimum_healthy.filter(|_| traffic.global && kind % 4 == 0);
            // What a cluster claims of its tier as a whole.
            let claim = |cluster: ClusterId| {
                let one = mine().find(|b| b.backend.cluster == cluster).unwrap();
                let can = mine().filter(|b| b.backend.cluster == cluster).count() as f64;
                let meant = seen.iter().filter(|b| {
                    b.backend.cluster == cluster && b.condition != Condition::Terminating
                });
                let able = enough.map_or(1.0, |minimum| {
                    (can / meant.count() as f64 / (f64::from(minimum) / 100.0)).min(1.0)
                });
                weight(one) * able
            };
            let clusters: BTreeSet<ClusterId> = mine().map(|b| b.backend.cluster).collect();
            let of_backends: f64 = mine().map(|b| weight(b)).sum();
            let of_all: f64 = clusters.iter().map(|cluster| claim(*cluster)).sum();
            for b in mine() {
                // Those of one name, or all that have none.
                let together = |other: &Seen| match b.named {
                    true => other.backend.cluster == b.backend.cluster,
                    false => !other.named,
                };
                let share = if of_clusters {
                    let group: Vec<&&Seen> = mine().filter(|other| together(other)).collect();
                    let of_group: BTreeSet<ClusterId> =
                        group.iter().map(|other| other.backend.cluster).collect();
                    let claimed: f64 = of_group.iter().map(|cluster| claim(*cluster)).sum();
                    claimed / of_all / group.len() as f64
                } else {
                    weight(b) / of_backends
                };
                // What is left of 1 by rounding is nothing.
                if load > 1e-12 {
                    result.insert(b.backend, load / carried * share);
                }
            }
        }
    }
    let local_unsynced = !world.clusters.get(&0).is_some_and(|(_, synced)| *synced);
    let others = world.clusters.values();
    let unsynced = local_unsynced
        || (traffic.global
            && others.clone().any(|(state, synced)| !synced || *state == ClusterState::Stale));
    let settings = Settings {
        session_affinity: traffic.session_affinity.unwrap_or(0),
        plain: !traffic.global,
        pass_if_empty: at == 2 || (result.is_empty() && unsynced),
    };
    Some((settings, result))
}

fn agree(world: &World, stage: &Stage, replace: bool) -> Result<(), TestCaseError> {
    let mut taken = 0;
    for (frontend, (at, port)) in &world.frontends {
        let expected = expected(world, frontend, replace);
        let found = stage.tables.get(frontend);
        prop_assert_eq!(found.is_some(), expected.is_some(), "{}", frontend);
        let reported = stage.balancer.content(frontend);
        prop_assert_eq!(found, reported.as_ref());
        // The audit's way.
        let known = world.backends.iter().filter(|((of, _, _), _)| of == at);
        let known: Vec<_> = known.map(|(key, state)| (key, state, hints(&state.2))).collect();
        let known =
            known.iter().map(|((_, port, backend), (condition, (node, derived), _), hints)| {
                let (backend, condition, port_name) = (*backend, *condition, PORTS[*port]);
                let node_is_derived = *derived;
                KnownBackend {
                    backend,
                    port_name,
                    condition,
                    node: node.as_deref(),
                    node_is_derived,
                    hints: Some(hints),
                }
            });
        let traffic = Arc::new(world.services[at].clone());
        let anew =
            stage.balancer.content_from(&service(*at), &traffic, (frontend, PORTS[*port]), known);
        prop_assert_eq!(found, anew.as_ref());
        let Some(((settings, expected), found)) = expected.zip(found) else { continue };
        taken += 1;
        prop_assert_eq!(found.settings, settings);
        let shares = shares(found);
        prop_assert_eq!(
            shares.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{}",
            frontend
        );
        // The explanation has the same, with a reason for each.
        let explained = stage.balancer.explain(frontend).unwrap();
        for (backend, share) in &expected {
            let found = shares[backend];
            prop_assert!((found - share).abs() < 1e-6, "{backend}: {found} and not {share}");
            let shown = explained.backends.iter().find(|c| c.backend == *backend).unwrap();
            let Usage::InUse(shown) = shown.usage else { panic!("{shown:?}") };
            prop_assert!((shown.0 as f64 / 1e9 - share).abs() < 1e-6, "{backend}: {shown}");
        }
        let used = |c: &&mesh_balance::Candidate| matches!(c.usage, Usage::InUse(_));
        prop_assert_eq!(explained.backends.iter().filter(used).count(), expected.len());
    }
    prop_assert_eq!(stage.tables.len(), taken);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(
        first in traffic(),
        steps in prop::collection::vec(step(), 1..80),
        replace in any::<bool>(),
    ) {
        let there = Step::Frontend { service: 0, port: 0, v6: false, second: false, there: true };
        let first = [Step::Service(0, Some(ServiceTraffic { global: true, ..first })), there];
        let mut world = World::default();
        let mut stage = Stage::new(replace);
        for at in 0..CLUSTERS.len() {
            world.clusters.insert(at, (ClusterState::InUse, true));
        }
        let mut looked_up = None;
        for step in first.iter().chain(&steps) {
            take(&mut world, &mut stage, step, &mut looked_up);
            agree(&world, &stage, replace)?;
        }
    }
}
