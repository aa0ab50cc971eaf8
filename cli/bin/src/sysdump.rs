//! One archive for a bug report: what the daemons answer, what etcds and kernels hold, logs. No key and no password is in it.

mod redact;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use indicatif::ProgressBar;
use jiff::Timestamp;
use mesh_admin::v1::{StatusRequest, StatusResponse};
use mesh_lab::{Lab, LabState, contexts::Context};
use mesh_wire::peer_file::PeerFile;
use serde_json::json;

use crate::{
    args::SysdumpArgs,
    ask::{self, Unanswered, Which, unreachable},
    contexts::{self, Origin},
    outcome::{Outcome, complain},
    output::{self, Output},
};
use redact::redact;

/// The most of a log that is taken, in bytes from its end.
const LOG: usize = 8 * 1024 * 1024;

/// What goes into the archive.
#[derive(Debug, Default)]
struct Collected {
    /// By their paths in the archive.
    files: Vec<(String, String)>,
    /// What could not be had.
    missing: Vec<String>,
}

pub(crate) fn run(args: &SysdumpArgs, output: Output) -> anyhow::Result<Outcome> {
    let origin = contexts::origin()?;
    let contexts = contexts::find_or_all(args.context.as_deref())?;
    let name = format!("clustermesh-sysdump-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let file = match &args.output_file {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{name}.tar.gz")),
    };
    let progress = ProgressBar::new_spinner();
    let mut collected = Collected::default();
    collected.ask(&origin, &contexts, &progress)?;
    for context in &contexts {
        collected.configuration(context)?;
    }
    progress.set_message("looking at routes and packet filters");
    match contexts::lab_of(&origin)? {
        Some(lab) => collected.lab(&Lab::peek(&lab)?),
        None => {
            collected.network("this-node", None);
            let units = ["-u", "clustermesh-agent", "-u", "clustermesh-apiserver"];
            let journal = ["--no-pager", "-n", "20000"];
            let command = [&["journalctl"][..], &units, &journal].concat();
            collected.command("logs/journal.log".into(), &command);
        }
    }
    progress.finish_and_clear();
    collected.write(&name, &file)?;
    match output {
        Output::Text => output::line(file.display().to_string())?,
        Output::Json => {
            let files: Vec<&String> = collected.files.iter().map(|(path, _)| path).collect();
            let value = json!({ "file": file, "items": files, "warnings": collected.missing });
            output::json("Sysdump", value)?;
        }
    }
    Ok(complain(collected.missing))
}

impl Collected {
    /// What this program's own commands say, each in a file.
    fn ask(
        &mut self,
        origin: &Origin,
        contexts: &[Context],
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let own = std::env::current_exe()?.display().to_string();
        let mut commands: Vec<(String, Vec<&str>)> = vec![
            ("version.json".into(), vec!["version"]),
            ("contexts.json".into(), vec!["config", "get-contexts"]),
        ];
        let directories: Vec<String> =
            contexts.iter().map(|context| context.name.clone()).collect();
        for name in &directories {
            let in_all = |words: &[&'static str]| -> Vec<&str> {
                words.iter().copied().chain(["--context", name.as_str()]).collect()
            };
            for (file, words) in [
                ("status", &["status"][..]),
                ("services", &["service", "list"]),
                ("explained", &["service", "explain"]),
                ("nodes", &["node", "list"]),
                ("identities", &["identity", "list"]),
                ("pods", &["pod", "list"]),
                ("etcd", &["etcd", "dump"]),
            ] {
                commands.push((format!("{name}/{file}.json"), in_all(words)));
            }
        }
        let file = origin.file()?.map(|file| file.display().to_string());
        let choice: Vec<&str> = match (&file, contexts) {
            (Some(file), _) => vec!["--contexts", file],
            (None, _) => Vec::new(),
        };
        for (file, words) in commands {
            progress.set_message(format!("clustermesh {}", words.join(" ")));
            progress.tick();
            // Where there are no contexts, the host's own daemons are asked without naming one.
            let words = match choice.is_empty() && words.first() != Some(&"etcd") {
                true => words.into_iter().filter(|word| !word.starts_with("--context")).collect(),
                false => words,
            };
            let command = [&[own.as_str()][..], &choice, &words, &["-o", "json"]].concat();
            self.command(file, &command);
        }
        Ok(())
    }

    /// A cluster's settings and its peers' files, and what flags its agents run with.
    fn configuration(&mut self, context: &Context) -> anyhow::Result<()> {
        let peers = fs::read_dir(context.directory.join("peers")).into_iter().flatten().flatten();
        let peers = peers.filter_map(|entry| entry.file_name().into_string().ok());
        let mut files = vec!["cluster.yaml".to_owned(), "drain.yaml".into(), "local.yaml".into()];
        files.extend(peers.map(|name| format!("peers/{name}")));
        for name in files {
            let Ok(text) = fs::read_to_string(context.directory.join(&name)) else { continue };
            // Certificates and keys are beside the peers' files.
            if !name.starts_with("peers/") || PeerFile::is_one(&text) {
                self.files.push((format!("{}/directory/{name}", context.name), redact(&text)));
            }
        }
        let all = std::slice::from_ref(context);
        let answers = ask::ask(all, Which::Every(None), async |socket| {
            let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
            let status = client.status(StatusRequest {}).await.map_err(Unanswered::failed)?;
            Ok(status.into_inner())
        })?;
        for answer in answers.answers {
            let StatusResponse { configuration, tables, counters, .. } = answer.answer;
            let flags: std::collections::BTreeMap<_, _> = configuration.into_iter().collect();
            let tables: Vec<_> = tables
                .iter()
                .map(|table| json!({ "name": table.name, "used": table.used, "size": table.size }))
                .collect();
            let value = json!({ "configuration": flags, "tables": tables, "counters": counters });
            let path = format!("{}/{}/agent.json", context.name, answer.node);
            self.files.push((path, redact(&serde_json::to_string_pretty(&value)?)));
        }
        self.missing.extend(answers.warnings);
        Ok(())
    }

    /// The network of each node of a lab, and the logs of its processes.
    fn lab(&mut self, lab: &LabState) {
        for (cluster, node) in
            lab.clusters.iter().flat_map(|c| c.nodes.iter().map(move |node| (&c.name, node)))
        {
            self.network(&format!("{cluster}/{}", node.name), Some(&node.netns));
        }
        for process in lab.all_processes() {
            let path = format!("logs/{}.log", process.name.replace('/', "-"));
            match fs::read(&process.log) {
                Ok(text) => {
                    let end = text.get(text.len().saturating_sub(LOG)..).unwrap_or_default();
                    self.files.push((path, redact(&String::from_utf8_lossy(end))));
                }
                Err(error) => self.missing.push(format!("{path}: {error}")),
            }
        }
    }

    /// The links, routes and packet filters of a network namespace; of this one, unless given.
    fn network(&mut self, folder: &str, netns: Option<&str>) {
        for (file, command) in [
            ("links.txt", &["ip", "address"][..]),
            ("rules.txt", &["ip", "rule"]),
            ("routes.txt", &["ip", "route", "show", "table", "all"]),
            ("routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
            ("nftables.txt", &["nft", "list", "ruleset"]),
        ] {
            let within = netns.map(|netns| ["ip", "netns", "exec", netns]);
            let command = [within.as_ref().map_or(&[][..], |words| words), command].concat();
            self.command(format!("{folder}/{file}"), &command);
        }
    }

    /// What a command prints, also where it reports that not all is well.
    fn command(&mut self, path: String, command: &[&str]) {
        let Some((program, arguments)) = command.split_first() else { return };
        let said = match Command::new(program).args(arguments).output() {
            Ok(ended) => ended,
            Err(error) => return self.missing.push(format!("{path}: {program}: {error}")),
        };
        let complaint = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        if !matches!(said.status.code(), Some(0 | 3)) {
            let line = complaint.lines().next().unwrap_or_default();
            self.missing.push(format!("{path}: {program}: {line}"));
        }
        if !complaint.is_empty() {
            self.files.push((format!("{path}.stderr"), redact(&complaint)));
        }
        self.files.push((path, redact(&String::from_utf8_lossy(&said.stdout))));
    }

    /// Writes the archive, which its owner alone may read.
    fn write(&self, name: &str, file: &PathBuf) -> anyhow::Result<()> {
        let place = || file.display().to_string();
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let archive = options.open(file).with_context(place)?;
        let mut archive = tar::Builder::new(GzEncoder::new(archive, Compression::default()));
        let missing = self.missing.iter().map(|line| format!("{line}\n")).collect::<String>();
        let all = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        for (path, text) in all.chain([("missing.txt", missing.as_str())]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(u64::try_from(text.len())?);
            header.set_mode(0o600);
            header.set_mtime(now);
            archive
                .append_data(&mut header, format!("{name}/{path}"), text.as_bytes())
                .with_context(place)?;
        }
        let mut archive = archive.into_inner().with_context(place)?.finish().with_context(place)?;
        archive.flush().with_context(place)
    }
}
