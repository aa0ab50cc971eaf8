//! Exempts the mesh's packets from other programs' masquerading, as a target of a writer.
//!
//! Most network plugins rewrite the source of packets that leave the cluster to the node's address. Between clusters of
//! a mesh that would hide the client's address. A table of ours, before theirs, claims packets from our pods to other
//! clusters' with a rewrite that changes nothing: the first chain that decides about a connection's source is the one
//! that counts.
//!
//! A set of nftables accepts no range inside another, and clusters may claim such. So elements are the outermost of the
//! claimed ranges. What an earlier run left counts as claimed until it may be pruned.

use std::{fmt, io, time::Duration};

use ipnet::IpNet;
use mesh_reconcile::{Arrival, Blocking, CallError, Failure, Job, Listed, Report, Target, Verb};
use tokio::time::{Instant, sleep_until};

use crate::nftables::{ExemptSet, Family, Nftables, Transaction};

mod family;

use family::{Claim, FamilyState, Plan};

/// The table of one network namespace.
#[derive(Debug)]
pub struct MasqueradeTarget {
    requests: Blocking<Nftables>,
    /// Asks for the generation, which waits for no transaction.
    watch: Nftables,
    state: [FamilyState; 2],
    /// The generation that `state` is of.
    generation: Option<u32>,
    next_look: Instant,
}

/// A range that is exempt from masquerading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exempt {
    /// Where packets come from, or where they go.
    pub set: ExemptSet,
    /// The pods' range.
    pub range: IpNet,
}

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// No netlink, or no nftables in the kernel.
    #[error("nftables: {0}")]
    Netlink(#[from] io::Error),
    /// A call hangs: another program holds the rule set.
    #[error("nftables: {0}")]
    Call(#[from] CallError),
}

/// How often the generation is read.
const LOOK: Duration = Duration::from_secs(1);

// === impl Exempt ===

impl fmt::Display for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in the set {}", self.range, self.set)
    }
}

// === impl MasqueradeTarget ===

impl MasqueradeTarget {
    /// Opens the table of the current thread's network namespace.
    ///
    /// # Errors
    /// Where there is no nftables.
    pub fn open() -> Result<Self, MasqueradeError> {
        Ok(Self {
            requests: Blocking::new(Nftables::open()?),
            watch: Nftables::open()?,
            state: Family::ALL.map(FamilyState::new),
            generation: None,
            next_look: Instant::now() + LOOK,
        })
    }

    fn state(&mut self, range: &IpNet) -> &mut FamilyState {
        let [v4, v6] = &mut self.state;
        if Family::of(range) == Family::V4 { v4 } else { v6 }
    }

    /// Reads the table, and counts its elements as claimed if no caller claims them.
    async fn read(&mut self) -> Result<(), MasqueradeError> {
        let read = |nftables: &mut Nftables| {
            let generation = nftables.generation()?;
            let installed = (nftables.read(Family::V4)?, nftables.read(Family::V6)?);
            Ok::<_, io::Error>((generation, installed))
        };
        let (generation, (v4, v6)) = self.requests.run(read).await??;
        // Changes while it was read belong to a later generation.
        self.generation = Some(generation);
        for (state, installed) in self.state.iter_mut().zip([v4, v6]) {
            state.inherit(installed);
        }
        Ok(())
    }

    /// Brings the kernel to what is claimed, as far as these keys go.
    async fn commit(&mut self, keys: &[Exempt]) -> Result<(), Failure> {
        let mut transaction = Transaction::new();
        let plans = self.state.each_ref().map(|state| state.plan(keys));
        plans.iter().for_each(|plan| plan.write(&mut transaction));
        if !transaction.is_empty() {
            let call = move |nftables: &mut Nftables| {
                let before = nftables.generation();
                let committed = nftables.commit(transaction);
                (before, committed, nftables.generation())
            };
            let (before, committed, after) =
                self.requests.run(call).await.map_err(Failure::failed)?;
            let known = before.ok().filter(|before| Some(*before) == self.generation);
            committed?;
            // One step, and that is ours: no other program changed anything.
            let step = known.map(|before| before.wrapping_add(1));
            self.generation = after.ok().filter(|after| Some(*after) == step);
        }
        for (state, plan) in self.state.iter_mut().zip::<[Plan; 2]>(plans) {
            state.carried_out(plan);
        }
        Ok(())
    }
}

impl Target for MasqueradeTarget {
    type Key = Exempt;
    type Value = ();
    type Order = Arrival;
    type Error = MasqueradeError;

    async fn apply(&mut self, jobs: &[Job<Exempt, ()>]) -> Vec<Result<(), Failure>> {
        let keys: Vec<Exempt> = jobs.iter().map(|job| job.key).collect();
        for job in jobs {
            let Exempt { set, range } = job.key;
            let claims = self.state(&range).claims_mut(set);
            match job.action.verb() {
                Verb::Set => claims.insert(range, Claim::Wanted),
                Verb::Remove => claims.remove(&range),
            }
        }
        let mut result = self.commit(&keys).await;
        // Perhaps the table was changed: once more from its present content.
        if result.is_err() && self.read().await.is_ok() {
            // An existing element of a range that is to be removed does not claim it.
            for job in jobs.iter().filter(|job| job.action.verb() == Verb::Remove) {
                self.state(&job.key.range).claims_mut(job.key.set).remove(&job.key.range);
            }
            result = self.commit(&keys).await;
        }
        jobs.iter().map(|_| result.clone()).collect()
    }

    async fn list(&mut self) -> Result<Listed<Self>, MasqueradeError> {
        self.read().await?;
        let present = self.state.iter().flat_map(FamilyState::present);
        Ok(present.map(|exempt| (exempt, ())).collect())
    }

    async fn changed(&mut self) -> Vec<Report<Exempt>> {
        loop {
            sleep_until(self.next_look).await;
            self.next_look = Instant::now() + LOOK;
            // If the generation cannot be read, a list shows why.
            if self.watch.generation().ok() != self.generation || self.generation.is_none() {
                return vec![Report::Look];
            }
        }
    }

    fn describe(&self, key: &Exempt) -> String {
        key.to_string()
    }
}
