//! Programs of another release, whose tables cannot be read, stay in place until ours are filled.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::Mesh;

/// An program_upgrade of programs that waits.
#[derive(Debug)]
pub(crate) struct ProgramUpgrade {
    cgroup: PathBuf,
    /// Since when only other clusters are waited for.
    since: Option<Instant>,
    /// What it waits for, in words.
    waits_for: String,
}

/// How long other clusters are waited for that have not told what they have: what the former tables say of all others does
/// not become better meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

impl ProgramUpgrade {
    /// Of the programs at a cgroup.
    pub(crate) fn new(cgroup: PathBuf) -> Self {
        Self { cgroup, since: None, waits_for: "the own cluster".into() }
    }

    /// What an operator should know.
    pub(crate) fn problem(&self) -> String {
        format!(
            "the programs and tables of another release are still in place, as they were when this agent started: \
             waiting for {}",
            self.waits_for
        )
    }
}

impl Mesh {
    /// Exchanges the programs, if the tables have what clusters say. Without the own cluster's word there is nothing in
    /// them, and what the former ones have is better.
    pub(super) fn upgrade_programs(&mut self, now: Instant) {
        let Some(mut program_upgrade) = self.program_upgrade.take() else { return };
        match self.upgrade_waits_for(&mut program_upgrade, now) {
            Some(waits_for) => program_upgrade.waits_for = waits_for,
            None => match self.programs.attach(&program_upgrade.cgroup) {
                Ok(()) => {
                    tracing::info!(cgroup = %program_upgrade.cgroup.display(), "the programs are in place");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the programs cannot be exchanged; trying again");
                    program_upgrade.waits_for = error.to_string();
                }
            },
        }
        self.program_upgrade = Some(program_upgrade);
    }

    fn upgrade_waits_for(
        &self,
        program_upgrade: &mut ProgramUpgrade,
        now: Instant,
    ) -> Option<String> {
        let is_known = |name| self.merge.has_told_services(name) || self.restored.believes(name);
        if !is_known(&self.own) {
            return Some("the own cluster".into());
        }
        let since = *program_upgrade.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PATIENCE {
            return None;
        }
        if !self.peers_known {
            return Some("the peer files".into());
        }
        let unknown: Vec<&str> =
            self.peers.keys().filter(|name| !is_known(name)).map(|name| name.as_str()).collect();
        if !unknown.is_empty() {
            return Some(unknown.join(", "));
        }
        self.failed.reason().map(str::to_owned)
    }
}
