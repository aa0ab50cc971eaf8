//! The state of a lab's process: whether it runs, and how it ended.

use mesh_lab::{Ending, Liveness, ProcessState};
use serde_json::{Map, Value, json};

/// In words: `running`, `stopped`, `DIED: exited(7)`.
pub(crate) fn state(process: &ProcessState) -> String {
    in_words(process.liveness(), process.ending())
}

fn in_words(liveness: Liveness, ending: Option<Ending>) -> String {
    match (liveness, ending) {
        (Liveness::Running, _) => "running".into(),
        (Liveness::Stopped, _) => "stopped".into(),
        (Liveness::Died, Some(ending)) => format!("DIED: {ending}"),
        (Liveness::Died, None) => "DIED".into(),
    }
}

/// As fields: `state`, and `exitCode` or `signal` of a process that died.
pub(crate) fn json(process: &ProcessState) -> Map<String, Value> {
    fields(process.liveness(), process.ending())
}

fn fields(liveness: Liveness, ending: Option<Ending>) -> Map<String, Value> {
    let state = match liveness {
        Liveness::Running => "running",
        Liveness::Stopped => "stopped",
        Liveness::Died => "died",
    };
    let (code, signal) = match ending {
        Some(Ending::Exited(code)) => (Some(code), None),
        Some(Ending::Killed(signal)) => (None, Some(signal.as_str())),
        None => (None, None),
    };
    let fields = [("state", json!(state)), ("exitCode", json!(code)), ("signal", json!(signal))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A pod's process for tests; with ID 1 it has died, since the process 1 did not start then, and with 0 it was stopped.
#[cfg(test)]
pub(crate) fn sample(pid: i32) -> ProcessState {
    ProcessState {
        name: "a/shop/web-0".into(),
        command: Vec::new(),
        netns: String::new(),
        cgroup: "/".into(),
        environment: Vec::new(),
        log: "/nonexistent/web-0.log".into(),
        pid,
        start_time: 1,
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_process_that_died_says_how() {
        let exited = Some(Ending::Exited(7));
        let killed = Some(Ending::Killed(Signal::SIGKILL));
        for (liveness, ending, text, json) in [
            (Liveness::Running, None, "running", json!(["running", null, null])),
            (Liveness::Stopped, None, "stopped", json!(["stopped", null, null])),
            (Liveness::Died, exited, "DIED: exited(7)", json!(["died", 7, null])),
            (Liveness::Died, killed, "DIED: killed(SIGKILL)", json!(["died", null, "SIGKILL"])),
            (Liveness::Died, None, "DIED", json!(["died", null, null])),
        ] {
            assert_eq!(in_words(liveness, ending), text);
            let fields = fields(liveness, ending);
            assert_eq!(json!([fields["state"], fields["exitCode"], fields["signal"]]), json);
        }
    }
}
