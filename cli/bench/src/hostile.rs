//! The worst that a peer can send within its budget or beyond it, and what it costs an agent.
//!
//! The hostile cluster's etcd is written by its administrator. What comes faster than the budget allows ends in quarantine:
//! measured is the most that was resident until then. What comes just as fast as it allows goes on: measured is its CPU time.

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

/// What a hostile peer costs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostileCost {
    /// What it sends.
    pub sends: &'static str,
    /// Bytes that its records may take.
    pub budget: u64,
    /// The most that was resident in the agent meanwhile, beyond what was before.
    pub resident: u64,
    /// What it may be (`docs/wire.md`, "Limits"): twice the budget, and 192 MiB for a connection.
    pub allowed: u64,
    /// CPU time of the agent, in relation to the time that passed.
    pub core_share: f64,
    /// The agent takes nothing more of it, and says so.
    pub quarantined: bool,
}

/// What is sent, and how.
struct Attack {
    sends: &'static str,
    /// Made when it is sent: all of them together are more than a machine need have.
    entries: Box<dyn Fn() -> Result<Entries, BenchError>>,
    /// So many in a transaction, as an etcd takes 1.5 MB; or in a second.
    together: usize,
    pace: Pace,
}

#[derive(Clone, Copy)]
enum Pace {
    /// As fast as the etcd takes it.
    Flood,
    /// A part of it each second, in turn, for so many seconds.
    EachSecond(u32),
}

const MIB: u64 = 1024 * 1024;
/// A connection's part, whatever the budget.
const CONNECTION: u64 = 192 * MIB;
/// How long what was sent is waited for.
const SETTLE: Duration = Duration::from_secs(3);
/// The most that a slice may unpack to (`docs/wire.md`).
const UNPACKED: usize = 4 * 1024 * 1024;

/// Measures. `budget` is what the records of the peer may take, in MiB; `rounds` is how often what a second allows is sent.
/// Needs root.
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

/// Each in a lab of its own: what one leaves in the etcd is no part of the next.
fn cost(lab: &str, budget: u64, attack: &Attack) -> Result<HostileCost, BenchError> {
    let mut lab = BenchLab::up(lab, 2, 1)?;
    lab.lab("stop", &["a/apiserver"])?;
    set_budget(&lab, budget)?;
    // It follows the peer anew.
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

/// Limits what the reader takes of the first cluster.
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
    // It says so by its exit code, too.
    let mut status = lab.clustermesh_command();
    let status = status.args(["status", "--context", "b", "--output", "json"]).output();
    let status = status.map_err(io("clustermesh status"))?;
    let status: Value = printed_json("status", &status.stdout).map_err(BenchError::Unexpected)?;
    Ok(status.to_string().contains("over its budget"))
}

/// What is sent. Floods are three times the budget, as memory has it.
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

/// 60 kB in a thousand labels.
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

/// As many endpoints as a slice may have, with so many ports. `shift` makes them others.
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

/// Zeros under the keys of slices.
fn frames(count: u32) -> Result<Entries, BenchError> {
    let (cluster, _) = cluster()?;
    let prefix = Prefix::EndpointSlices.of_cluster(Layout::State, &cluster);
    let frame = compress_to_vec(vec![0_u8; UNPACKED].as_slice(), CompressionLevel::Fastest);
    Ok((0..count).map(|n| (format!("{prefix}default/frame-{n}"), frame.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are what the table calls small.
    #[test]
    fn four_mebibytes_are_a_small_frame() {
        let frames = frames(2).unwrap();
        assert!(frames.iter().all(|(_, frame)| frame.len() < 200), "{frames:?}");
        assert_ne!(frames[0].0, frames[1].0);
    }
}
