//! `lab logs`.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use mesh_lab::Lab;
use serde_json::{Value, json};

use crate::{
    args::refuse,
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

/// The interval in which a log is read again.
const LOOK: Duration = Duration::from_millis(100);

/// The part of a log to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Also what is written later.
    pub(super) follow: bool,
    /// Only this many of the last lines.
    pub(super) tail: Option<usize>,
}

/// A log, and the number of bytes that were shown.
struct Shown {
    name: String,
    path: PathBuf,
    bytes: u64,
}

pub(super) fn run(process: &str, part: Part, output: Output) -> anyhow::Result<Outcome> {
    let Part { follow, tail } = part;
    if follow && output == Output::Json {
        refuse("--follow writes lines as they come, and no object: leave out -o json");
    }
    let lab = Lab::open(&contexts::lab()?)?;
    let names = lab.matching(&[process.to_owned()])?;
    let found = lab.processes().filter(|process| names.contains(&process.name));
    let found: Vec<(String, PathBuf)> =
        found.map(|process| (process.name.clone(), process.log.clone())).collect();
    // Other commands may use the lab meanwhile.
    drop(lab);
    let mut logs = Vec::new();
    let mut all = Vec::new();
    for (name, path) in found {
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let bytes = u64::try_from(text.len()).unwrap_or_default();
        logs.push((name.clone(), last_lines(String::from_utf8_lossy(&text).trim_end(), tail)));
        all.push(Shown { name, path, bytes });
    }
    match output {
        Output::Text => logs
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .try_for_each(|(_, text)| output::line(text))?,
        Output::Json => {
            let logs: Vec<Value> =
                logs.iter().map(|(name, text)| json!({ "process": name, "text": text })).collect();
            output::json("LabLogs", json!({ "logs": logs, "items": logs }))?;
        }
    }
    if !follow {
        return Ok(Outcome::Done);
    }
    loop {
        thread::sleep(LOOK);
        let several = all.len() > 1;
        for shown in &mut all {
            let grown = shown.grown()?;
            for text in grown.lines() {
                let name = if several { format!("{}: ", shown.name) } else { String::new() };
                output::line(format!("{name}{text}"))?;
            }
        }
    }
}

fn last_lines(text: &str, count: Option<usize>) -> String {
    let Some(count) = count else { return text.to_owned() };
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

// === impl Shown ===

impl Shown {
    /// The lines written since the last call. The last line is returned once it is complete.
    fn grown(&mut self) -> anyhow::Result<String> {
        let place = || self.path.display().to_string();
        let mut file = File::open(&self.path).with_context(place)?;
        let length = file.metadata().with_context(place)?.len();
        if length < self.bytes {
            // The file was truncated.
            self.bytes = 0;
        }
        file.seek(SeekFrom::Start(self.bytes)).with_context(place)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(place)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        text.truncate(whole);
        self.bytes += u64::try_from(whole).unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        assert_eq!(last_lines("a\nb\nc", Some(2)), "b\nc");
        assert_eq!(last_lines("a\nb", Some(9)), "a\nb");
        assert_eq!(last_lines("a\nb", Some(0)), "");
        assert_eq!(last_lines("a\nb", None), "a\nb");
    }

    #[test]
    fn a_log_is_followed_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Shown { name: "a/etcd".into(), path: path.clone(), bytes: 0 };
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(log.grown().unwrap(), "one\n");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(log.grown().unwrap(), "two\n");
        assert_eq!(log.grown().unwrap(), "");
        fs::write(&path, "new\n").unwrap();
        assert_eq!(log.grown().unwrap(), "new\n");
    }
}
