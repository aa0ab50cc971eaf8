//! `clustermesh check`: whether this machine has what an agent or an apiserver needs (`docs/requirements.md`). What can be
//! tried is tried, and nothing of it is left behind.

mod certificates;
mod kernel;
mod machine;
mod ports;

use std::time::SystemTime;

use clap::ValueEnum;
use mesh_admin::plain;
use serde_json::{Value, json};

use crate::{
    args::CheckArgs,
    contexts,
    outcome::Outcome,
    output::{self, Listed, Output},
};

/// What is looked at. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Check {
    Capabilities,
    Kernel,
    SocketList,
    ProbeAnswer,
    Cgroup2,
    BpfFs,
    Inotify,
    Sysctls,
    Nftables,
    EtcdPort,
    ProbePort,
    AgentMetricsPort,
    ApiserverMetricsPort,
    Clock,
    Tools,
    Certificates,
}

/// How something is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    /// The daemons run, but not everything works.
    Warning,
    /// They do not run.
    Failed,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    check: Check,
    level: Level,
    found: String,
    /// What to do; empty if nothing.
    remedy: String,
}

pub(crate) fn run(args: &CheckArgs, output: Output) -> anyhow::Result<Outcome> {
    let context = args.context.as_deref().map(contexts::find).transpose()?;
    if let Some(context) = &context {
        contexts::need_directory(
            context,
            "run `clustermesh check` on a node; status shows the certificates of the daemons",
        )?;
    }
    let mut rows = kernel::rows();
    rows.extend(machine::rows()?);
    rows.extend(ports::rows());
    if let Some(context) = context {
        rows.extend(certificates::rows(&context, SystemTime::now()));
    }
    let worst = rows.iter().map(|row| row.level).max().unwrap_or(Level::Ok);
    output::list(output, "Check", None, &rows, json!({ "state": worst.word() }))?;
    Ok(if worst == Level::Ok { Outcome::Done } else { Outcome::NotReady })
}

// === impl Check ===

impl Check {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

// === impl Level ===

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

// === impl Row ===

impl Row {
    fn ok(check: Check, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), remedy: String::new() }
    }

    /// `found` may have an error in the system's words.
    fn warning(check: Check, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let found = plain(&found.into()).into_owned();
        Self { check, level: Level::Warning, found, remedy: remedy.into() }
    }

    fn failed(check: Check, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Failed, ..Self::warning(check, found, remedy) }
    }
}

impl Listed for Row {
    const HEADER: &'static [&'static str] = &["CHECK", "STATE", "DETAIL"];

    fn name(&self) -> String {
        self.check.name()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let state = match self.level {
            Level::Ok => self.level.word().to_owned(),
            Level::Warning | Level::Failed => self.level.word().to_uppercase(),
        };
        let detail = match self.remedy.is_empty() {
            true => self.found.clone(),
            false => format!("{} → {}", self.found, self.remedy),
        };
        vec![vec![self.name(), state, contexts::hint(&detail)]]
    }

    fn json(&self) -> Value {
        json!({
            "check": self.name(), "state": self.level.word(), "found": self.found,
            "remedy": (!self.remedy.is_empty()).then_some(&self.remedy),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::samples;

    #[test]
    fn checks_fit_and_say_what_to_do() {
        let rows = [
            Row::ok(
                Check::Kernel,
                "Linux 6.12.0: the socket programs load, and attach to a cgroup",
            ),
            Row::warning(
                Check::BpfFs,
                "none is mounted at /sys/fs/bpf",
                "mount -t bpf bpf /sys/fs/bpf",
            ),
            Row::failed(Check::EtcdPort, "TCP 2379 is used by nginx (process 7)", "stop it"),
        ];
        samples::list_fits(80, &rows);
        assert_eq!(
            rows[2].rows()[0][1..],
            ["FAILED", "TCP 2379 is used by nginx (process 7) → stop it"]
        );
        let wanted = json!({
            "check": "bpf-fs", "state": "warning", "found": "none is mounted at /sys/fs/bpf",
            "remedy": "mount -t bpf bpf /sys/fs/bpf",
        });
        assert_eq!(rows[1].json(), wanted);
        assert_eq!(rows[0].json()["remedy"], Value::Null);
        assert!(Level::Ok < Level::Warning && Level::Warning < Level::Failed);
        let error = std::io::Error::from_raw_os_error(2);
        let failed = Row::failed(Check::Certificates, format!("/c/pki: {error}"), "init");
        assert_eq!(failed.found, "/c/pki: No such file or directory");
    }

    #[test]
    fn the_document_has_each_check() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/requirements.md");
        let text = fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        // Another table is about folders.
        let named: Vec<&str> = rows.filter(|row| !row.starts_with('/')).collect();
        let all: Vec<String> = Check::value_variants().iter().map(|check| check.name()).collect();
        assert_eq!(named, all);
    }
}
