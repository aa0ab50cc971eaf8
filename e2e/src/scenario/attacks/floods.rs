//! Floods of records and changes: ten times the budgets of the peer.

use mesh_model::{Record, SliceEndpoint, service::SlicePort};
use mesh_wire::{encode, peer_file::Budget};
use serde_json::Value;

use super::{
    Victims, followed,
    row::Form,
    rows::config_of,
    values::{STATE, slice, zstd_frame},
};
use crate::{
    etcdctl, json,
    mesh::{Mesh, eventually, output},
    scenario::quarantine::{lift, set_budget, set_grant, wait_for_quarantine},
};

/// The number of records in a flood, each with one key and one change. The budgets are a tenth of it.
const FLOOD: u64 = 400;
/// The first identity of the flood. The hostile cluster may allocate all of them.
const FIRST: u64 = 200_000;
/// More canaries than agents accept.
const CANARIES: u32 = 1_100;

/// A flood, and what stops it.
struct Flood {
    name: &'static str,
    budget: Budget,
    /// A part of the quarantine's reason.
    word: &'static str,
    writes: Vec<(String, Vec<u8>)>,
    /// The records are services in another format, without its canary.
    unconfirmed: bool,
}

/// Each flood ends in quarantine, which the status shows, and which is then lifted.
pub(super) fn are_stopped(mesh: &impl Mesh, victims: &Victims, unharmed: &dyn Fn(&str)) {
    for flood in floods(&victims.hostile) {
        is_stopped(mesh, victims, &flood, unharmed);
    }
}

/// Records of a format without a canary count too, because agents keep them until the canary comes.
pub(super) fn unconfirmed_records_count(
    mesh: &impl Mesh,
    victims: &Victims,
    unharmed: &dyn Fn(&str),
) {
    let hostile = &victims.hostile;
    let flood = Flood {
        unconfirmed: true,
        ..flood(
            "ten times its budget of records that no canary confirms",
            keys(),
            "records",
            (0..FLOOD).map(|n| (slice_key(hostile, n), slice_value(hostile, n, 1, 1))).collect(),
        )
    };
    is_stopped(mesh, victims, &flood, unharmed);
}

fn floods(hostile: &str) -> Vec<Flood> {
    let labels = format!("k8s:io.cilium.k8s.policy.cluster={hostile};");
    let identity = |n: u64| format!("{STATE}/identities/v1/id/{}", FIRST + n);
    let identities: Vec<(String, Vec<u8>)> =
        (0..FLOOD).map(|n| (identity(n), labels.clone().into_bytes())).collect();
    vec![
        flood("ten times its budget of records", keys(), "records", identities.clone()),
        flood(
            "ten times its budget of changes",
            // Changes are counted over ten seconds.
            Budget { changes_per_second: Some(FLOOD / 100), ..Budget::default() },
            "changes in",
            identities,
        ),
        flood(
            // 130 bytes each, which decompress to 4 MB.
            "small frames that unpack to ten times its budget of bytes",
            Budget { bytes: Some(40_000_000), ..Budget::default() },
            "bytes a second",
            (0..100).map(|n| (slice_key(hostile, n), zstd_frame(31))).collect(),
        ),
        flood(
            "half a million backends in five slices",
            keys(),
            "backends a second",
            (0..5).map(|n| (slice_key(hostile, n), slice_value(hostile, n, 1_000, 100))).collect(),
        ),
    ]
}

fn flood(
    name: &'static str,
    budget: Budget,
    word: &'static str,
    writes: Vec<(String, Vec<u8>)>,
) -> Flood {
    Flood { name, budget, word, writes, unconfirmed: false }
}

/// A budget for a tenth of a flood's records.
fn keys() -> Budget {
    Budget { keys: Some(FLOOD / 10), ..Budget::default() }
}

fn slice_key(hostile: &str, n: u64) -> String {
    format!("{STATE}/endpointslices/v1/{hostile}/default/flood-{n}")
}

fn slice_value(hostile: &str, n: u64, endpoints: u32, ports: u16) -> Vec<u8> {
    let mut value = slice(hostile, 3, &[]);
    value.name = format!("flood-{n}");
    value.labels.values_mut().for_each(|service| *service = "flood".into());
    let endpoint = |n: u32| SliceEndpoint {
        addresses: vec![format!("10.3.{}.{}", n / 250, n % 250 + 1)],
        ..SliceEndpoint::default()
    };
    value.endpoints = (0..endpoints).map(endpoint).collect();
    let port = |n: u16| SlicePort {
        name: Some(format!("p{n}")),
        protocol: Some("TCP".into()),
        number: Some((n + 1).into()),
        app_protocol: None,
    };
    value.ports = (0..ports).map(port).collect();
    encode(&Record::EndpointSlice(Box::new(value)))
}

fn is_stopped(mesh: &impl Mesh, victims: &Victims, flood: &Flood, unharmed: &dyn Fn(&str)) {
    println!("{}", flood.name);
    let hostile = &victims.hostile;
    let canary = format!("cilium/synced/{hostile}/{STATE}/endpointslices/v1");
    let set_form = |form| {
        let (key, value) = config_of(victims, form);
        etcdctl::put(mesh, hostile, &key, value.as_bytes());
    };
    if flood.unconfirmed {
        set_form(Form::Services);
    }
    followed(mesh, victims);
    for cluster in &victims.honest {
        set_budget(mesh, cluster, hostile, flood.budget.clone());
    }
    if flood.unconfirmed {
        etcdctl::run(mesh, hostile, &["del", &canary]);
        set_form(Form::Slices);
    }
    etcdctl::put_many(mesh, hostile, &flood.writes);
    for cluster in &victims.honest {
        wait_for_quarantine(mesh, cluster, hostile, flood.word);
    }
    unharmed(flood.name);
    etcdctl::delete_many(mesh, hostile, flood.writes.iter().map(|(key, _)| key.as_str()));
    if flood.unconfirmed {
        etcdctl::put(mesh, hostile, &canary, b"2026-01-01T00:00:00Z");
    }
    lift_until_followed(mesh, victims);
    for cluster in &victims.honest {
        set_budget(mesh, cluster, hostile, Budget::default());
    }
    let (_, status, _) = json::run(mesh.clustermesh(&["status"]));
    assert!(!status.to_string().contains("over its budget"), "{status:#}");
}

/// Records that were still on their way also count after a lift, so an operator may need to lift the quarantine again.
fn lift_until_followed(mesh: &impl Mesh, victims: &Victims) {
    eventually("the hostile cluster is lifted and followed", || {
        let seen = super::hostile_status(mesh, victims);
        if seen.iter().all(|(_, peer)| peer["ready"] == true) {
            return Ok(());
        }
        for cluster in &victims.honest {
            let held = |(agent, peer): &(String, Value)| {
                agent.starts_with(&format!("{cluster}/")) && !peer["quarantined"].is_null()
            };
            if seen.iter().any(held) {
                lift(mesh, cluster, &victims.hostile);
            }
        }
        Err(format!("{seen:#?}"))
    });
}

/// With too many canaries the connection is refused, and the cluster's records stay.
pub(super) fn canaries_are_refused(mesh: &impl Mesh, victims: &Victims, unharmed: &dyn Fn(&str)) {
    println!("too many canaries");
    let hostile = &victims.hostile;
    let tree = format!("cilium/synced/{hostile}/flood/");
    let writes: Vec<(String, &str)> = (0..CANARIES).map(|n| (format!("{tree}{n}"), "x")).collect();
    etcdctl::put_many(mesh, hostile, &writes);
    eventually("the canaries are refused", || {
        let refused = super::hostile_status(mesh, victims)
            .into_iter()
            .find(|(_, peer)| !peer["ladder"].to_string().contains("more than 1024 canaries"));
        refused.map_or(Ok(()), |(agent, peer)| Err(format!("{agent}: {}", peer["ladder"])))
    });
    unharmed("too many canaries");
    etcdctl::run(mesh, hostile, &["del", "--prefix", &tree]);
    followed(mesh, victims);
}

/// Without a grant there are no routes to a peer's pods, and the status names the missing line.
pub(super) fn no_grant_means_no_routes(
    mesh: &impl Mesh,
    victims: &Victims,
    unharmed: &dyn Fn(&str),
) {
    println!("routes without a grant");
    let hostile = &victims.hostile;
    let honest = &victims.honest[0];
    let routes = |expected: bool| {
        eventually("routes to the hostile cluster's pods follow its grant", || {
            for node in mesh.nodes(honest) {
                let shown = mesh.on_node(honest, &node, &["ip", "-4", "route", "show"]);
                let shown = output(shown).expect("routes");
                if shown.lines().any(|route| route.starts_with("10.3.")) != expected {
                    return Err(shown);
                }
            }
            Ok(())
        });
    };
    routes(true);
    let grant = set_grant(mesh, honest, hostile, |_| None);
    routes(false);
    eventually("status says what is missing", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", honest]));
        let missing = format!("{hostile}: no routes to its pods: its peer file lacks `podCIDRs`");
        if status.to_string().contains(&missing) { Ok(()) } else { Err(status.to_string()) }
    });
    set_grant(mesh, honest, hostile, |_| grant);
    routes(true);
    followed(mesh, victims);
    unharmed("no grant");
}
