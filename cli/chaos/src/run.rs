//! A campaign: random faults, one after another, none of which may make a difference.

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

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the lab that is made for it.
    pub lab: String,
    /// What the faults follow from.
    pub seed: u64,
    /// How many faults.
    pub faults: usize,
    /// How many replicas the control plane of each cluster has.
    pub replicas: u8,
    /// Leave the lab up.
    pub keep: bool,
}

/// A fault that made no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SurvivedFault {
    /// The fault.
    pub fault: Fault,
    /// Requests that were made meanwhile, all of which were answered.
    pub answered: u64,
    /// Milliseconds until all was as it should be.
    pub milliseconds: u64,
}

/// A fault that made one.
#[derive(Debug, thiserror::Error)]
#[error("fault {number}, {fault}: {reason}")]
pub struct FailedFault {
    /// Which one, counted from 1.
    pub number: usize,
    /// The fault.
    pub fault: String,
    /// What was not as it should be.
    #[source]
    pub reason: ChaosError,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was survived, in order.
    pub survived: Vec<SurvivedFault>,
    /// What was not: the last fault.
    pub failed: Option<FailedFault>,
}

/// Fresh connections a second, and long flows, while a fault is there; and those flows that are there all the time.
const LOAD: (u32, u32) = (600, 50);
const STEADY: (u32, u32) = (1, 20);
/// Fewer answers a second are no load.
const FEWEST_A_SECOND: u64 = 500;
/// As in the manifest.
const REPLICAS: u32 = 2;

/// Runs a campaign with the `clustermesh` at hand. `begins` gets the number of each fault, and the fault.
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
    // The flows of all this time: those that were lost would have failed a request.
    if let Err(reason) = steady.stop().and_then(|report| unharmed(&report)) {
        let fault = "all of them, for the flows that were there from the beginning".into();
        outcome.failed = Some(FailedFault { number: outcome.survived.len(), fault, reason });
    }
    let a_second = answered * 1_000 / under_load.max(1);
    if outcome.failed.is_none() && a_second < FEWEST_A_SECOND {
        return Err(ChaosError::TooFew(a_second));
    }
    Ok(outcome)
}

impl Mesh {
    /// Has a fault happen under load, repairs it, and waits until all is as it should be. Every request was answered.
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
                    // Nothing was written since the last time.
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
                // Without one it was revoked before, and its writer has not beaten since.
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

    /// What the manifests say has not changed, so neither may the kernels, however long a daemon is away.
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
