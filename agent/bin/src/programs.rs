//! The programs of this node, and the exchange of those that another release left in place.

use std::path::PathBuf;

use mesh_dataplane::{Bypass, Programs};

/// The programs, and what the agent's own sockets get of them.
pub(crate) struct NodePrograms {
    programs: Programs,
    /// The agent's own sockets, which the programs leave alone.
    bypass: Bypass,
    /// Programs of another release are still in place.
    upgrade: Option<Upgrade>,
}

/// An exchange that waits.
#[derive(Debug)]
struct Upgrade {
    cgroup: PathBuf,
    waits_for: String,
}

impl NodePrograms {
    /// Programs that are in place, or are to be once the tables are filled.
    pub(crate) fn new(programs: Programs, bypass: Bypass, upgrade: Option<PathBuf>) -> Self {
        let upgrade =
            upgrade.map(|cgroup| Upgrade { cgroup, waits_for: "the local cluster".into() });
        Self { programs, bypass, upgrade }
    }

    /// Whether programs of another release are still in place.
    pub(crate) fn are_former(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Puts ours in their place, unless something is waited for.
    pub(crate) fn exchange(&mut self, waits_for: Option<String>) {
        let Some(upgrade) = &mut self.upgrade else { return };
        if let Some(waits_for) = waits_for {
            upgrade.waits_for = waits_for;
            return;
        }
        match self.programs.attach(&upgrade.cgroup) {
            Ok(()) => {
                tracing::info!(cgroup = %upgrade.cgroup.display(), "the programs are in place");
                self.upgrade = None;
            }
            Err(error) => {
                tracing::error!(%error, "the programs cannot be exchanged; trying again");
                upgrade.waits_for = error.to_string();
            }
        }
    }

    /// The agent's own cgroup is another than before: a process that has joined it since is balanced again.
    pub(crate) fn set_bypass(&mut self, bypass: Bypass) {
        if bypass == self.bypass {
            return;
        }
        tracing::warn!(before = ?self.bypass, now = ?bypass, "the agent's own sockets");
        match self.programs.set_bypass(bypass.cgroup.as_slice()) {
            Ok(()) => self.bypass = bypass,
            Err(error) => tracing::warn!(%error, "the agent's own sockets"),
        }
    }

    /// What the programs counted, by `mesh_layout::Counter`.
    pub(crate) fn counters(&self) -> Vec<u64> {
        self.programs.counters().map(Vec::from).unwrap_or_default()
    }

    /// Why ours are not in place yet.
    pub(crate) fn unready(&self) -> Option<String> {
        let upgrade = self.upgrade.as_ref()?;
        Some(format!(
            "the programs and tables of another release are still in place, as they were when this agent started: \
             waiting for {}",
            upgrade.waits_for
        ))
    }

    /// What an operator should look at.
    pub(crate) fn problem(&self) -> Option<String> {
        self.bypass.problem.clone()
    }
}
