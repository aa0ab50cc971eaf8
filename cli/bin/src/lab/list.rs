//! `lab list`.

use mesh_lab::{Lab, LabState, Liveness, ProcessState};
use serde_json::{Value, json};

use crate::{
    outcome::{Outcome, warn},
    output::{self, Listed, Output},
};

/// A lab that is up.
struct UpLab {
    name: String,
    clusters: usize,
    nodes: usize,
    pods: usize,
    state: State,
}

/// The state of a lab's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// All of them run.
    Running,
    /// This many were stopped, and none died.
    Stopped(usize),
    /// This many ended without being stopped.
    Died(usize),
}

pub(super) fn run(output: Output) -> anyhow::Result<Outcome> {
    let mut labs = Vec::new();
    for name in Lab::all() {
        match Lab::peek(&name) {
            Ok(state) => labs.push(UpLab::new(&state)),
            // It may be being removed; the other labs are listed.
            Err(error) => warn(error.to_string()),
        }
    }
    output::list(output, "LabList", None, &labs, json!({}))?;
    Ok(Outcome::Done)
}

// === impl UpLab ===

impl UpLab {
    fn new(lab: &LabState) -> Self {
        Self {
            name: lab.name.clone(),
            clusters: lab.clusters.len(),
            nodes: lab.clusters.iter().map(|cluster| cluster.nodes.len()).sum(),
            pods: lab.clusters.iter().map(|cluster| cluster.pods.len()).sum(),
            state: State::of(lab.all_processes().map(ProcessState::liveness)),
        }
    }
}

impl Listed for UpLab {
    const HEADER: &'static [&'static str] = &["NAME", "STATE", "CLUSTERS", "NODES", "PODS"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let counts = [self.clusters, self.nodes, self.pods].map(|count| count.to_string());
        vec![[self.name.clone(), self.state.to_string()].into_iter().chain(counts).collect()]
    }

    fn json(&self) -> Value {
        let state = match self.state {
            State::Running => "running",
            State::Stopped(_) => "stopped",
            State::Died(_) => "died",
        };
        json!({
            "name": self.name, "state": state, "clusters": self.clusters, "nodes": self.nodes, "pods": self.pods,
        })
    }
}

// === impl State ===

impl State {
    fn of(processes: impl Iterator<Item = Liveness>) -> Self {
        let (mut stopped, mut died) = (0, 0);
        for liveness in processes {
            match liveness {
                Liveness::Running => {}
                Liveness::Stopped => stopped += 1,
                Liveness::Died => died += 1,
            }
        }
        match (died, stopped) {
            (0, 0) => Self::Running,
            (0, stopped) => Self::Stopped(stopped),
            (died, _) => Self::Died(died),
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running => write!(f, "running"),
            Self::Stopped(count) => write!(f, "{count} stopped"),
            Self::Died(count) => write!(f, "{count} DIED"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn labs_fit() {
        let lab =
            UpLab { name: "demo".into(), clusters: 2, nodes: 4, pods: 20, state: State::Died(2) };
        samples::list_fits(80, &[lab]);
    }

    #[test]
    fn one_dead_process_is_the_state() {
        use Liveness::{Died, Running, Stopped};
        let of = |all: &[Liveness]| State::of(all.iter().copied()).to_string();
        assert_eq!(of(&[Running, Running]), "running");
        assert_eq!(of(&[Running, Stopped]), "1 stopped");
        assert_eq!(of(&[Died, Stopped, Died]), "2 DIED");
    }
}
