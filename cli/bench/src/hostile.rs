//! The cost of a hostile peer for an agent: the worst that it can send within its budget, and beyond.
//!
//! The administrator writes to the hostile cluster's etcd. A peer that exceeds its budget ends in quarantine: the most
//! resident memory until then is measured. A peer that just keeps within it goes on: CPU time is measured.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use mesh_files::{Access, write_atomic};
use mesh_lab::printed_json;
use mesh_model::{
    EndpointAddress, EndpointSlice, Identity, Labels, Port, Protocol, Record, endpoint::NamedPort,
    service::SlicePort,
};
use mesh_wire::{
    Layout, Prefix,
    peer_file::{Budget, Grant, PeerFile},
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::Serialize;
use serde_json::Value;

use crate::{
    bench_lab::BenchLab,
    error::{BenchError, file, io},
    records::{Entries, address, cluster, endpoint_address, endpoint_slice, entry},
    usage::{cpu_without_prober, peak_resident, reset_peak},
};

/// The cost of a hostile peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostileCost {
    /// What the peer sends, in words.
    pub sends: &'static str,
    /// The budget of its records, in bytes.
    pub budget: u64,
    /// The most resident bytes of the agent during the attack, less those before it.
    pub resident: u64,
    /// The limit of that (`docs/wire.md`, "Limits"): twice the budget, and 192 MiB for a connection.
    pub allowed: u64,
    /// CPU time of the agent, as a fraction of the elapsed time.
    pub core_share: f64,
    /// Whether the agent put the peer into quarantine.
    pub quarantined: bool,
}

/// An attack.
struct Attack {
    sends: &'static str,
    /// Creates the records. It is called when they are sent: those of all attacks would take too much memory.
    entries: Box<dyn Fn() -> Result<Entries, BenchError>>,
    /// Records in a transaction, since an etcd accepts 1.5 MB; with [`Pace::EachSecond`], records in a second.
    together: usize,
    pace: Pace,
}

/// How fast the records are sent.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as the etcd accepts them.
    Flood,
    /// For this many seconds, the next part of the records each second.
    EachSecond(u32),
}

const MIB: u64 = 1024 * 1024;
/// The limit of memory for a connection, whatever the budget.
const CONNECTION: u64 = 192 * MIB;
/// How long to wait for the agent to handle what was sent.
const SETTLE: Duration = Duration::from_secs(3);
/// The largest size of an unpacked slice, in bytes (`docs/wire.md`).
const UNPACKED: usize = 4 * 1024 * 1024;

/// Runs the benchmark. `budget` is the budget of the peer's records in MiB, `rounds` the seconds of an attack at a steady
/// rate. Needs root.
pub fn hostile(
    lab: &str,
    budget: u64,
    rounds: u32,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<HostileCost>, BenchError> {
    let attacks = attacks(budget * MIB, rounds);
    let total = attacks.len() as u64;
    let mut rows = Vec::new();
    for attack in attacks {
        progress(rows.len() as u64, total);
        rows.push(cost(lab, budget * MIB, &attack)?);
    }
    Ok(rows)
}

/// Each attack has a new lab, without the records of the previous one.
fn cost(lab: &str, budget: u64, attack: &Attack) -> Result<HostileCost, BenchError> {
    let mut lab = BenchLab::up(lab, 2, 1)?;
    lab.lab("stop", &["a/apiserver"])?;
    set_budget(&lab, budget)?;
    // The agent reads the peer file again, and reconnects.
    thread::sleep(SETTLE);
    lab.wait_ready("b")?;
    lab.refresh()?;
    let (source, pid) = (lab.cluster(0)?, lab.pid("b/n1/agent")?);
    let entries = (attack.entries)()?;
    let (before, begin, began) = (reset_peak(pid)?, cpu_without_prober(pid)?, Instant::now());
    match attack.pace {
        Pace::Flood => {
            for some in entries.chunks(attack.together) {
                lab.write(source, some, |_| {})?;
            }
            thread::sleep(SETTLE);
        }
        Pace::EachSecond(seconds) => {
            for (second, some) in (1..=seconds).zip(entries.chunks(attack.together).cycle()) {
                lab.write(source, some, |_| {})?;
                let due = Duration::from_secs(second.into());
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
    }
    let spent = cpu_without_prober(pid)?.saturating_sub(begin).as_secs_f64();
    let core_share = spent / began.elapsed().as_secs_f64();
    Ok(HostileCost {
        sends: attack.sends,
        budget,
        resident: peak_resident(pid)?.saturating_sub(before),
        allowed: 2 * budget + CONNECTION,
        core_share,
        quarantined: is_quarantined(&lab)?,
    })
}

/// Sets the budget that the reading cluster grants to the first.
fn set_budget(lab: &BenchLab, bytes: u64) -> Result<(), BenchError> {
    let path = lab.cluster(1)?.directory.join("peers/a");
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    let unexpected = |error: &dyn std::fmt::Display| BenchError::Unexpected(error.to_string());
    let mut peer = PeerFile::parse(&text).map_err(|error| unexpected(&error))?;
    let budget = Some(Budget { bytes: Some(bytes), ..Budget::default() });
    peer.clustermesh = peer.clustermesh.map(|grant| Grant { budget, ..grant });
    let text = peer.to_yaml().map_err(|error| unexpected(&error))?;
    write_atomic(&path, text.as_bytes(), Access::All).map_err(file(&path))
}

fn is_quarantined(lab: &BenchLab) -> Result<bool, BenchError> {
    // The exit code is not 0 if it is.
    let mut status = lab.clustermesh_command();
    let status = status.args(["status", "--context", "b", "--output", "json"]).output();
    let status = status.map_err(io("clustermesh status"))?;
    let status: Value = printed_json("status", &status.stdout).map_err(BenchError::Unexpected)?;
    Ok(status.to_string().contains("over its budget"))
}

/// The attacks. Floods send three times the budget, as measured in memory.
fn attacks(budget: u64, rounds: u32) -> Vec<Attack> {
    let number = |bytes: u64| u32::try_from(3 * budget / bytes).unwrap_or(u32::MAX).max(10);
    let (small, large) = (number(60_000), number(10_000_000));
    let pace = Pace::EachSecond(rounds);
    vec![
        attack("identities of 60 kB", 10, Pace::Flood, move || {
            (0..small).map(long_labels).collect()
        }),
        attack("addresses of 900 named ports", 10, Pace::Flood, move || {
            (0..small).map(named_ports).collect()
        }),
        attack("slices of 100,000 backends", 1, Pace::Flood, move || {
            (0..large).map(|n| slice(n, 0, 100)).collect()
        }),
        attack("small frames that unpack to 4 MiB", 100, Pace::Flood, || frames(500)),
        attack("2,000 changes a second", 2_000, pace, || {
            (0..2_000).map(|n| address(n, identity(0))).collect()
        }),
        attack("8 MiB a second, unpacked", 2, pace, || frames(2)),
        attack("50,000 backends a second, all of them others", 1, pace, || {
            [0, 1].map(|shift| slice(0, shift, 50)).into_iter().collect()
        }),
    ]
}

fn attack(
    sends: &'static str,
    together: usize,
    pace: Pace,
    entries: impl Fn() -> Result<Entries, BenchError> + 'static,
) -> Attack {
    Attack { sends, entries: Box::new(entries), together, pace }
}

fn identity(n: u32) -> u32 {
    65_536 + 2_000 + n
}

/// An identity of 60 kB, with a thousand labels.
fn long_labels(n: u32) -> Result<(String, Vec<u8>), BenchError> {
    let mut text = format!("k8s:io.cilium.k8s.policy.cluster=a;k8s:n={n};");
    (0..1_000).for_each(|label| text += &format!("k8s:{}-{label}={label};", "x".repeat(40)));
    entry(Record::Identity(Identity::new(identity(n)), Labels::parse(&text)))
}

fn named_ports(n: u32) -> Result<(String, Vec<u8>), BenchError> {
    let port = |number: u16| NamedPort {
        name: format!("{}-{number}", "p".repeat(20)),
        port: Port { protocol: Protocol::Tcp, number: number + 1 },
    };
    let named_ports = (0..900).map(port).collect();
    entry(Record::Address(Box::new(EndpointAddress {
        named_ports,
        ..endpoint_address(n, identity(0))
    })))
}

/// A slice with the most endpoints that it may have, and this many ports. Another `shift` results in other endpoints.
fn slice(n: u32, shift: u32, ports: u16) -> Result<(String, Vec<u8>), BenchError> {
    let first = (n + shift) * 1_000;
    let slice = endpoint_slice(n, 0, first..first + 1_000)?;
    let port = |number: u16| SlicePort {
        name: Some(format!("p{number}")),
        protocol: Some("TCP".into()),
        number: Some((number + 1).into()),
        app_protocol: None,
    };
    let ports = (0..ports).map(port).collect();
    entry(Record::EndpointSlice(Box::new(EndpointSlice { ports, ..slice })))
}

/// Frames of zeros under the keys of slices.
fn frames(count: u32) -> Result<Entries, BenchError> {
    let (cluster, _) = cluster()?;
    let prefix = Prefix::EndpointSlices.of_cluster(Layout::State, &cluster);
    let frame = compress_to_vec(vec![0_u8; UNPACKED].as_slice(), CompressionLevel::Fastest);
    Ok((0..count).map(|n| (format!("{prefix}default/frame-{n}"), frame.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results call these frames small.
    #[test]
    fn four_mebibytes_are_a_small_frame() {
        let frames = frames(2).unwrap();
        assert!(frames.iter().all(|(_, frame)| frame.len() < 200), "{frames:?}");
        assert_ne!(frames[0].0, frames[1].0);
    }
}
