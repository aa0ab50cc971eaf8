//! `clustermesh sysdump`: an archive for bug reports with the daemons' answers, the contents of etcds, the kernels' network
//! settings, and logs. It has no keys and no passwords.

mod pods;
mod redact;

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use indicatif::ProgressBar;
use jiff::Timestamp;
use mesh_admin::v1::StatusResponse;
use mesh_lab::{Lab, LabState, contexts::Context};
use mesh_wire::peer_file::PeerFile;
use serde_json::json;

use crate::{
    args::SysdumpArgs,
    ask::{self, Which},
    contexts::{self, Origin},
    kube_context::name_of,
    outcome::{Outcome, complain},
    output::{self, Output},
    status::json::counters_json,
};
use redact::redact;

/// The longest part of a log that is included, in bytes from its end.
const LOG: usize = 8 * 1024 * 1024;

/// The daemons' systemd units.
const UNITS: [&str; 2] = ["clustermesh-agent", "clustermesh-apiserver"];
/// The files of a cluster directory that are included, besides peer files.
const FILES: [&str; 6] = [
    "cluster.yaml",
    "drain.yaml",
    "drained-peers.yaml",
    "local.yaml",
    "users.yaml",
    "contexts.yaml",
];

/// The contents of the archive.
#[derive(Debug, Default)]
struct Collected {
    /// The path in the archive and the text of each file.
    files: Vec<(String, String)>,
    /// What could not be collected, and why.
    missing: Vec<String>,
}

pub(crate) fn run(args: &SysdumpArgs, output: Output) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(args.context.as_deref())?;
    let name = format!("clustermesh-sysdump-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let file = match &args.output_file {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{name}.tar.gz")),
    };
    let progress = ProgressBar::new_spinner();
    let mut collected = Collected::default();
    // A context that is a directory or a kubeconfig's is in no contexts file.
    let origin_asked = match (args.context.as_deref(), contexts.as_slice()) {
        (Some(_), [context]) => &contexts::origin_of(context)?,
        _ => &contexts::origin()?,
    };
    collected.ask(origin_asked, &contexts, &progress)?;
    for context in &contexts {
        collected.configuration(context)?;
    }
    progress.set_message("looking at routes and packet filters");
    match contexts::lab_of(origin_asked)? {
        Some(lab) => collected.lab(&Lab::peek(&lab)?),
        // Of daemons in pods this machine has nothing.
        None if contexts.iter().all(|context| name_of(context).is_some()) => {}
        None => {
            collected.network("this-node", None);
            UNITS.iter().for_each(|unit| collected.journal(unit));
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

/// The commands of this program to run, each with the file for its output. Without a contexts file, and for a context that
/// is a directory, `--context` names the directory. `flags`: those for clusters of a kubeconfig.
fn commands(
    file: Option<&Path>,
    contexts: &[Context],
    flags: &[String],
) -> Vec<(String, Vec<String>)> {
    let mut choice: Vec<String> = match file {
        Some(file) => vec!["--contexts".into(), file.display().to_string()],
        None => Vec::new(),
    };
    choice.extend_from_slice(flags);
    let command = |words: &[&str]| {
        let words = words.iter().copied().chain(["-o", "json"]).map(str::to_owned);
        choice.iter().cloned().chain(words).collect::<Vec<String>>()
    };
    let mut commands = vec![
        ("version.json".to_owned(), command(&["version"])),
        ("check.json".to_owned(), command(&["check"])),
        ("contexts.json".to_owned(), command(&["config", "get-contexts"])),
    ];
    for found in contexts {
        let name = &found.name;
        let directory = found.directory.display().to_string();
        let is_named = file.is_some() || name_of(found).is_some();
        let context = if is_named { name.as_str() } else { &directory };
        for (file, words) in [
            ("status", &["status"][..]),
            ("services", &["service", "list"]),
            ("explained", &["service", "explain"]),
            ("nodes", &["node", "list"]),
            ("identities", &["identity", "list"]),
            ("pods", &["pod", "list"]),
            ("etcd", &["etcd", "dump"]),
        ] {
            let words = [words, &["--context", context]].concat();
            commands.push((format!("{name}/{file}.json"), command(&words)));
        }
    }
    commands
}

impl Collected {
    /// Runs commands of this program, each into a file.
    fn ask(
        &mut self,
        origin: &Origin,
        contexts: &[Context],
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let own = std::env::current_exe()?.display().to_string();
        let flags = contexts::kubernetes_flags();
        for (file, words) in commands(origin.file()?.as_deref(), contexts, &flags) {
            progress.set_message(format!("clustermesh {}", words.join(" ")));
            progress.tick();
            let words = words.iter().map(String::as_str);
            let command: Vec<&str> = [own.as_str()].into_iter().chain(words).collect();
            self.command(file, &command);
        }
        Ok(())
    }

    /// The settings of a cluster, its peer files, and the flags of its daemons.
    fn configuration(&mut self, context: &Context) -> anyhow::Result<()> {
        self.directory(&context.name, &context.directory)?;
        if let Some(cluster) = contexts::cluster_of(context)? {
            self.pods(&cluster);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let replicas = [&context.apiserver].into_iter().chain(&context.replicas);
        for (number, socket) in (1..).zip(replicas) {
            let name = if number == 1 { "apiserver".into() } else { format!("apiserver{number}") };
            match runtime.block_on(ask::status(socket)) {
                Ok(status) => self.daemon(format!("{}/{name}.json", context.name), status)?,
                Err(why) => self.missing.push(format!("the {name} of {} {why}", context.name)),
            }
        }
        let all = std::slice::from_ref(context);
        let answers = ask::ask(all, Which::Every(None), ask::status)?;
        for answer in answers.answers {
            self.daemon(format!("{}/{}/agent.json", context.name, answer.node), answer.answer)?;
        }
        self.missing.extend(answers.warnings);
        Ok(())
    }

    /// The files of a cluster directory without secrets. Manifests are not included, since they may have Secrets.
    fn directory(&mut self, cluster: &str, directory: &Path) -> anyhow::Result<()> {
        let peers = mesh_files::texts(&directory.join("peers")).unwrap_or_default().into_iter();
        let peers = peers.map(|(name, text)| (format!("peers/{name}"), text));
        let files = FILES.into_iter().map(|name| {
            let text = fs::read_to_string(directory.join(name));
            (name.to_owned(), text)
        });
        for (name, text) in files.chain(peers) {
            let path = format!("{cluster}/directory/{name}");
            let text = match text {
                Ok(text) => text,
                // Most files exist only if they are needed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    self.missing.push(format!("{path}: {error}"));
                    continue;
                }
            };
            // The folder has certificates and keys, too.
            if !name.starts_with("peers/") || PeerFile::is_one(&text) {
                self.files.push((path, redact(&text)));
            }
        }
        Ok(())
    }

    /// The configuration that a daemon reports.
    fn daemon(&mut self, path: String, status: StatusResponse) -> anyhow::Result<()> {
        let StatusResponse { configuration, tables, counters, version, .. } = status;
        let flags: std::collections::BTreeMap<_, _> = configuration.into_iter().collect();
        let tables: Vec<_> = tables
            .iter()
            .map(|table| json!({ "name": table.name, "used": table.used, "size": table.size }))
            .collect();
        let value = json!({
            "version": version.map(|version| version.version), "configuration": flags, "tables": tables,
            "counters": counters_json(&counters),
        });
        self.files.push((path, redact(&serde_json::to_string_pretty(&value)?)));
        Ok(())
    }

    /// The journal of a systemd unit. If it is empty, `errors.txt` says so.
    fn journal(&mut self, unit: &str) {
        let path = format!("logs/{unit}.log");
        let errors = self.missing.len();
        self.command(
            path.clone(),
            &["journalctl", "--no-pager", "--output=short-iso", "--lines=20000", "--unit", unit],
        );
        let is_entry = |line: &str| !line.starts_with("-- ") && !line.trim().is_empty();
        let found = self.files.iter().find(|(file, _)| *file == path);
        let is_empty = found.is_none_or(|(_, text)| !text.lines().any(is_entry));
        if is_empty && self.missing.len() == errors {
            self.missing.push(format!(
                "{path}: the journal has no entries of {unit}: if it does not run under systemd, add its log to the report"
            ));
        }
    }

    /// The network settings of each node of a lab, and the logs of its processes.
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

    /// The links, routes and packet filters of a network namespace, by default of this one.
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

    /// The output of a command. Exit code 3 is no error.
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

    /// Writes the archive, which only its owner may read.
    fn write(&self, name: &str, file: &PathBuf) -> anyhow::Result<()> {
        let place = || file.display().to_string();
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let archive = options.open(file).with_context(place)?;
        let mut archive = tar::Builder::new(GzEncoder::new(archive, Compression::default()));
        // Error messages of commands may have secrets.
        let missing =
            redact(&self.missing.iter().map(|line| format!("{line}\n")).collect::<String>());
        let all = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        for (path, text) in all.chain([("errors.txt", missing.as_str())]) {
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use clap::Parser as _;

    use super::*;
    use crate::{args::Args, output::Format};

    /// The files of an archive, by path.
    fn written(collected: &Collected) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dump.tar.gz");
        collected.write("dump", &file).unwrap();
        let archive = flate2::read::GzDecoder::new(fs::File::open(&file).unwrap());
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (path.trim_start_matches("dump/").to_owned(), text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    /// All commands that it runs exist, with a contexts file and on a host without one.
    #[test]
    fn each_command_is_one_of_ours() {
        let context = Context {
            name: "clustermesh".into(),
            directory: "/etc/clustermesh".into(),
            apiserver: "/run/apiserver.sock".into(),
            replicas: Vec::new(),
            agents: Vec::new(),
            netns: None,
        };
        for (file, named) in
            [(None, "/etc/clustermesh"), (Some(Path::new("/contexts.yaml")), "clustermesh")]
        {
            let all = commands(file, std::slice::from_ref(&context), &contexts::kubernetes_flags());
            assert_eq!(all.len(), 3 + 7);
            for (path, words) in all {
                let words = ["clustermesh".to_owned()].into_iter().chain(words);
                let args =
                    Args::try_parse_from(words).unwrap_or_else(|error| panic!("{path}: {error}"));
                assert_eq!(args.output, Some(Format::Json), "{path}");
                let context = path.contains('/').then_some(named);
                assert_eq!(args.context.as_deref(), context, "{path}");
            }
        }
    }

    /// Puts a secret into each kind of file, whether it is included or not.
    #[test]
    fn no_kind_of_file_brings_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        fs::create_dir_all(directory.join("peers")).unwrap();
        fs::create_dir_all(directory.join("manifests")).unwrap();
        let key = "-----BEGIN EC PRIVATE KEY-----\nHUSHHUSH\nHUSH=\n-----END EC PRIVATE KEY-----\n";
        let secrets = format!("name: a\npassword: HUSH\ntoken: |\n  HUSH\n  HUSH\nid: 1\n{key}");
        for name in FILES {
            fs::write(directory.join(name), &secrets).unwrap();
        }
        fs::write(directory.join("peers/b"), format!("endpoints: [https://b:2379]\n{secrets}"))
            .unwrap();
        fs::write(directory.join("peers/b.etcd-client.key"), key).unwrap();
        fs::write(directory.join("manifests/secret.yaml"), &secrets).unwrap();
        let mut collected = Collected::default();
        collected.directory("a", directory).unwrap();
        // The output and errors of commands; a log whose beginning is cut off; a daemon's answer.
        collected.command("a/status.json".into(), &["echo", "{\"token\": \"HUSH\"}"]);
        collected.command("a/nftables.txt".into(), &["sh", "-c", "echo password=HUSH >&2; exit 1"]);
        let cut_off = key.split_once('\n').unwrap().1;
        collected.command("logs/a.log".into(), &["printf", cut_off]);
        let configuration = [("effective".to_owned(), "Args { token: \"HUSH\" }".to_owned())];
        let status =
            StatusResponse { configuration: configuration.into(), ..StatusResponse::default() };
        collected.daemon("a/n1/agent.json".into(), status).unwrap();
        let files = written(&collected);
        for path in [
            "a/directory/cluster.yaml",
            "a/directory/users.yaml",
            "a/directory/peers/b",
            "a/status.json",
            "a/nftables.txt.stderr",
            "logs/a.log",
            "a/n1/agent.json",
            "errors.txt",
        ] {
            assert!(files.iter().any(|(file, _)| file == path), "no {path}");
        }
        for (path, text) in &files {
            assert!(!text.contains("HUSH") && !path.contains("key"), "{path}: {text}");
            assert!(!path.contains("manifests"), "{path}");
        }
        let (_, cluster) =
            files.iter().find(|(path, _)| path == "a/directory/cluster.yaml").unwrap();
        assert!(cluster.contains("name: a") && cluster.contains("id: 1"), "{cluster}");
    }

    /// Whether this machine has a journal or not, it has no entries of this unit, and the archive says so.
    #[test]
    fn a_journal_without_entries_is_an_error_of_the_archive() {
        let mut collected = Collected::default();
        collected.journal("clustermesh-no-such-unit");
        let [error] = collected.missing.as_slice() else { panic!("{:?}", collected.missing) };
        assert!(error.starts_with("logs/clustermesh-no-such-unit.log: "), "{error}");
        let files = written(&collected);
        let (_, errors) = files.iter().find(|(path, _)| path == "errors.txt").unwrap();
        assert_eq!(errors, &format!("{error}\n"));
    }
}
