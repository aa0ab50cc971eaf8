//! A chaos run: random faults, one after another. None may fail a request or change a kernel's tables.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use mesh_lab::{Impairment, workload::load::Report};
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::ChaosError,
    faults::{Fault, MeshShape, plan},
    mesh::Mesh,
};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the lab that the run starts.
    pub lab: String,
    /// The seed from which the faults follow.
    pub seed: u64,
    /// The number of faults.
    pub faults: usize,
    /// Replicas of each cluster's control plane.
    pub replicas: u8,
    /// Whether to leave the lab running.
    pub keep: bool,
}

/// A fault that failed no request and changed no table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SurvivedFault {
    /// The fault.
    pub fault: Fault,
    /// Requests answered meanwhile.
    pub answered: u64,
    /// Milliseconds until the mesh was as it should be.
    pub milliseconds: u64,
}

/// The fault that ended a run.
#[derive(Debug, thiserror::Error)]
#[error("fault {number}, {fault}: {reason}")]
pub struct FailedFault {
    /// Its position in the run, counted from 1.
    pub number: usize,
    /// The fault, in words.
    pub fault: String,
    /// What went wrong.
    #[source]
    pub reason: ChaosError,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The faults that did no harm, in order.
    pub survived: Vec<SurvivedFault>,
    /// The fault that ended the run.
    pub failed: Option<FailedFault>,
}

/// New connections a second and long connections: during each fault, and during the whole run.
const LOAD: (u32, u32) = (600, 50);
const STEADY: (u32, u32) = (1, 20);
/// With fewer answers a second, the run is too light a load to prove anything.
const FEWEST_A_SECOND: u64 = 500;
/// Replicas of the echo service in its manifest.
const REPLICAS: u32 = 2;

/// Runs faults against a new lab. `binary` is the `clustermesh` to use. `begins` is called before each fault, with its
/// position, counted from 1.
pub fn run(
    options: &Options,
    binary: &Path,
    mut begins: impl FnMut(usize, &Fault),
) -> Result<Outcome, ChaosError> {
    let mesh = Mesh::up(&options.lab, binary, options.replicas, options.keep)?;
    let clusters = mesh.state.clusters.iter().map(|cluster| {
        let nodes = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        (cluster.name.clone(), nodes)
    });
    let control_planes = options.replicas;
    let shape = MeshShape { clusters: clusters.collect(), control_planes, replicas: REPLICAS };
    let steady = mesh.load(STEADY.0, STEADY.1)?;
    let mut outcome = Outcome::default();
    let (mut answered, mut under_load) = (0, 0);
    for (fault, number) in plan(options.seed, options.faults, &shape).into_iter().zip(1..) {
        begins(number, &fault);
        let started = Instant::now();
        match mesh.survive(&fault) {
            Ok(report) => {
                let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
                answered += report.answered;
                under_load += report.milliseconds;
                let answered = report.answered;
                outcome.survived.push(SurvivedFault { fault, answered, milliseconds });
            }
            Err(reason) => {
                outcome.failed = Some(FailedFault { number, fault: fault.to_string(), reason });
                return Ok(outcome);
            }
        }
    }
    // A lost connection of the steady load would have failed a request.
    if let Err(reason) = steady.stop().and_then(|report| unharmed(&report)) {
        let fault = "all faults, for the connections that lasted the whole run".into();
        outcome.failed = Some(FailedFault { number: outcome.survived.len(), fault, reason });
    }
    let a_second = answered * 1_000 / under_load.max(1);
    if outcome.failed.is_none() && a_second < FEWEST_A_SECOND {
        return Err(ChaosError::TooFew(a_second));
    }
    Ok(outcome)
}

impl Mesh {
    /// Injects a fault under load, repairs it, and waits until the mesh is as it should be. Fails if a request failed.
    fn survive(&self, fault: &Fault) -> Result<Report, ChaosError> {
        let load = self.load(LOAD.0, LOAD.1)?;
        self.happen(fault)?;
        self.settle()?;
        let report = load.stop()?;
        unharmed(&report)?;
        Ok(report)
    }

    fn happen(&self, fault: &Fault) -> Result<(), ChaosError> {
        match fault {
            Fault::Kill { processes, away } => {
                let names: Vec<&str> = processes.iter().map(String::as_str).collect();
                self.lab("stop", &[&["--kill"], names.as_slice()].concat())?;
                self.unchanged(*away)?;
                names.iter().try_for_each(|name| self.lab("start", &[name]).map(drop))
            }
            Fault::Cut { places: [one, other], impairment, restarted, away } => {
                let impairment = impairment.as_ref().map(Impairment::to_flag).unwrap_or_default();
                let flags = impairment.iter().map(String::as_str);
                let args: Vec<&str> = [one.as_str(), other].into_iter().chain(flags).collect();
                self.lab("cut", &args)?;
                if let Some(process) = restarted {
                    self.lab("stop", &["--kill", process])?;
                    self.lab("start", &[process])?;
                }
                self.unchanged(*away)?;
                self.lab("heal", &[one, other]).map(drop)
            }
            Fault::Compact(etcd) => {
                let status = self.etcdctl(etcd, &["endpoint", "status"])?;
                let revision = status.pointer("/0/Status/header/revision").and_then(Value::as_i64);
                let revision = revision.ok_or_else(|| {
                    ChaosError::Unexpected(format!("{etcd} has no revision: {status}"))
                })?;
                match self.etcdctl(etcd, &["compact", "--physical", &revision.to_string()]) {
                    // Nothing was written since the last compaction.
                    Err(ChaosError::Command { printed, .. })
                        if printed.contains("been compacted") =>
                    {
                        Ok(())
                    }
                    compacted => compacted.map(drop),
                }
            }
            Fault::Lose { etcd, away } => {
                let name = etcd.to_string();
                self.lab("stop", &["--kill", &name])?;
                let data = self.data_folder(&name)?;
                let io = |source| ChaosError::Io { what: "an etcd's data", source };
                fs::remove_dir_all(data).map_err(io)?;
                self.unchanged(*away)?;
                self.lab("start", &[&name]).map(drop)
            }
            Fault::Revoke(etcd) => {
                let found = self.etcdctl(etcd, &["get", "cilium/.heartbeat"])?;
                // Without a lease it was revoked before, and the apiserver has not written it again.
                let Some(lease) = found.pointer("/kvs/0/lease").and_then(Value::as_i64) else {
                    return Ok(());
                };
                self.etcdctl(etcd, &["lease", "revoke", &format!("{lease:x}")]).map(drop)
            }
            Fault::Scale(cluster, replicas) => self.scale(cluster, *replicas),
            Fault::Reconnect(one, other) => self.connect(one, other),
            Fault::Rotate(cluster, which) => self.rotate(cluster, which.as_str()),
            Fault::Move { cluster, node, zone } => self.set_zone(cluster, node, *zone),
        }
    }

    /// The manifests have not changed, so the kernels may not change either, however long a daemon is stopped.
    fn unchanged(&self, away: u64) -> Result<(), ChaosError> {
        let until = Instant::now() + Duration::from_millis(away);
        self.lab("check-history", &[])?;
        thread::sleep(until.saturating_duration_since(Instant::now()));
        self.lab("check-history", &[]).map(drop)
    }
}

fn unharmed(report: &Report) -> Result<(), ChaosError> {
    let failed: u64 = report.failed.values().sum();
    if failed == 0 && report.answered > 0 {
        return Ok(());
    }
    let reasons = report.failed.iter().map(|(reason, count)| format!("{count} × {reason}"));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    Err(ChaosError::Harmed { failed, offered: report.offered, reasons })
}
