//! Tests that cannot run on some machines, with the reason, and a probe that detects when they can
//! (`e2e/unavailable.toml`).

use std::process::{Command, Stdio};

use serde::Deserialize;

/// The content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unavailable {
    /// The tests.
    pub row: Vec<Row>,
}

/// A test that cannot run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What is tested.
    pub what: String,
    /// Why it cannot run.
    pub why: String,
    /// A command that succeeds on machines on which it can run.
    pub probe: Vec<String>,
}

impl Unavailable {
    /// Parses the file.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Messages about the rows, and errors about rows that could run, or whose probe cannot be run.
    pub fn judge(&self) -> (Vec<String>, Vec<String>) {
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        for row in &self.row {
            match row.can_run() {
                Ok(false) => lines.push(format!("{}: {}", row.what, row.why)),
                Ok(true) => {
                    wrong.push(format!(
                        "{}: its probe succeeds, so it can run: {:?}",
                        row.what, row.probe
                    ));
                }
                Err(error) => wrong.push(format!("{}: {error}", row.what)),
            }
        }
        (lines, wrong)
    }
}

impl Row {
    fn can_run(&self) -> Result<bool, String> {
        let (program, args) = self.probe.split_first().ok_or("it has no probe")?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|error| format!("the probe {program:?}: {error}"))?;
        Ok(status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(probe: &[&str]) -> Unavailable {
        let probe = probe.iter().map(|&word| word.to_owned()).collect();
        Unavailable { row: vec![Row { what: "flying".into(), why: "no wings".into(), probe }] }
    }

    #[test]
    fn a_failing_probe_confirms_the_row() {
        assert_eq!(row(&["false"]).judge(), (vec!["flying: no wings".into()], Vec::new()));
    }

    #[test]
    fn a_successful_probe_is_an_error() {
        let (lines, wrong) = row(&["true"]).judge();
        assert!(lines.is_empty());
        assert!(wrong[0].contains("it can run"), "{wrong:?}");
    }

    #[test]
    fn a_probe_that_is_not_a_command_is_an_error() {
        for probe in [&[][..], &["no-such-command-anywhere"]] {
            let (lines, wrong) = row(probe).judge();
            assert!(lines.is_empty() && wrong.len() == 1, "{wrong:?}");
        }
    }

    #[test]
    fn every_row_has_all_its_fields() {
        assert!(Unavailable::parse("[[row]]\nwhat = 'x'\nwhy = 'y'").is_err());
        assert!(Unavailable::parse(include_str!("../unavailable.toml")).is_ok());
    }
}
