//! Which contexts commands use, by flags and variables; and the output for wrong arguments. Needs no lab, and labs that are
//! up make no difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this is test code"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// Runs a command line in a folder, with variables. Returns the exit code, standard output and standard error.
fn run(folder: &Path, variables: &[(&str, &str)], line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(line.split(' ')).current_dir(folder);
    for variable in ["CLUSTERMESH_CONTEXTS", "CLUSTERMESH_LAB", "COLUMNS"] {
        command.env_remove(variable);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder with two contexts files. The daemons of their clusters do not run.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, clusters) in [("one.yaml", ["a", "b"]), ("two.yaml", ["c", "c"])] {
        let context = |(index, name): (usize, &str)| {
            let at = format!("{}/{index}", folder.path().display());
            let agents = ["n1", "n2"]
                .map(|node| json!({ "node": node, "socket": format!("{at}/{node}.sock") }));
            json!({
                "name": name, "directory": at, "apiserver": format!("{at}/apiserver.sock"),
                "agents": agents,
            })
        };
        let contexts: Vec<Value> = clusters.into_iter().enumerate().map(context).collect();
        let text = json!({ "contexts": contexts }).to_string();
        fs::write(folder.path().join(file), text).unwrap();
    }
    folder
}

#[test]
fn flags_come_before_variables() {
    let folder = folder();
    let names = |variables: &[(&str, &str)], line: &str| {
        let (code, stdout, stderr) = run(folder.path(), variables, line);
        assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
        stdout
    };
    let variable = [("CLUSTERMESH_CONTEXTS", "two.yaml"), ("CLUSTERMESH_LAB", "nosuchlab")];
    assert_eq!(names(&variable, "config get-contexts -o name"), "c\n");
    // Before the command and after it.
    for line in [
        "--contexts one.yaml config get-contexts -o name",
        "config get-contexts --contexts one.yaml -o name",
    ] {
        assert_eq!(names(&variable, line), "a\nb\n");
    }
    let shown = names(&variable, "config current-context --contexts one.yaml");
    assert_eq!(shown, "contexts file one.yaml: a, b\n");
    for line in [
        "--context b config get-contexts -o name --contexts one.yaml",
        "config get-contexts --context b -o name --contexts one.yaml",
    ] {
        assert_eq!(names(&[], line), "b\n");
    }
    // Also where the command requires the flag.
    for line in ["--context z etcd dump", "--context z connect --destination-context a"] {
        let (code, _, stderr) = run(folder.path(), &[("CLUSTERMESH_CONTEXTS", "one.yaml")], line);
        assert!(code == 1 && stderr.contains("no context \"z\""), "{line}: {code}: {stderr}");
    }
    let (code, _, stderr) = run(folder.path(), &variable, "config get-contexts --lab nosuchlab");
    assert!(code == 1 && stderr.contains("there is no lab \"nosuchlab\""), "{code}: {stderr}");
    let both = "--lab x config get-contexts --contexts one.yaml";
    let (code, _, stderr) = run(folder.path(), &[], both);
    assert!(code == 2 && stderr.contains("--contexts and --lab"), "{code}: {stderr}");
}

#[test]
fn a_context_that_is_there_twice_is_refused() {
    let folder = folder();
    let path = folder.path().display();
    let (code, _, stderr) =
        run(folder.path(), &[], "quarantine lift x --contexts two.yaml --context c");
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("2 contexts \"c\": {path}/0, {path}/1.")), "{stderr}");
    let (_, _, stderr) = run(folder.path(), &[], "service list --contexts one.yaml --context z");
    assert!(stderr.contains("(known: a, b)"), "{stderr}");
}

/// Lists lack the agents that do not answer; a warning names each.
#[test]
fn dead_agents_are_named_one_by_one() {
    let folder = folder();
    let path = folder.path().display();
    for (command, field) in [
        ("service list", "services"),
        ("node list", "nodes"),
        ("identity list", "identities"),
        ("pod list", "pods"),
    ] {
        let line = format!("{command} --contexts one.yaml -o json");
        let (code, stdout, stderr) = run(folder.path(), &[], &line);
        assert_eq!(code, 3, "{command}: {stderr}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&value[field], &value["items"]), (&json!([]), &json!([])), "{value:#}");
        assert_eq!(value["warnings"].as_array().unwrap().len(), 4, "{value:#}");
        let warning = format!("warning: the agent of b/n2 does not run (socket {path}/1/n2.sock)");
        assert!(stderr.lines().any(|line| line == warning), "{stderr}");
        assert_eq!(stderr.lines().count(), 4, "{stderr}");
    }
}

/// With `-o json`, an error is an object on standard output; the message is on standard error, too.
#[test]
fn errors_are_objects() {
    let folder = folder();
    let is_root = nix::unistd::Uid::effective().is_root();
    for (line, code, message) in [
        ("service show web --contexts none.yaml", 1, "none.yaml"),
        ("no-such-command", 2, "unrecognized subcommand"),
        ("connect --destination-context b", 2, "--context"),
        ("lab up --clusters 0", 2, "1 to 99 clusters"),
        ("lab status --lab Bad_Name", 2, "Bad_Name"),
        ("lab status --lab nosuchlab", 1, if is_root { "nosuchlab" } else { "root" }),
        ("lab apply --cluster a", 2, "--file"),
        ("lab apply --cluster a --file none.yaml", 1, if is_root { "none.yaml" } else { "root" }),
        ("bench nosuch", 2, "nosuch"),
        ("bench fill --lab Bad_Name", 2, "Bad_Name"),
        ("bench report none.json", 1, "none.json"),
        ("certs show none.pem", 1, "none.pem"),
        ("certs init --cluster Bad_Name --dir x", 1, "--cluster"),
        ("certs init --cluster a --dir x --lifetime soon", 2, "not a duration"),
        ("certs rotate --context a", 2, "--server"),
        ("drain a --contexts none.yaml", 1, "none.yaml"),
        ("sysdump --contexts none.yaml", 1, "none.yaml"),
        ("etcd dump", 2, "--context"),
    ] {
        for format in ["-o json", "--output=json", "-ojson"] {
            let (found, stdout, stderr) = run(folder.path(), &[], &format!("{line} {format}"));
            assert_eq!(found, code, "{line}: {stderr}");
            let value: Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(value["apiVersion"], "clustermesh.dev/v1");
            assert_eq!((&value["kind"], &value["code"]), (&json!("Error"), &json!(code)));
            assert!(value["message"].as_str().unwrap().contains(message), "{value:#}");
            assert!(stderr.starts_with("error: "), "{stderr}");
        }
        let (_, stdout, stderr) = run(folder.path(), &[], line);
        assert_eq!(stdout, "", "{line}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    let (code, _, stderr) = run(folder.path(), &[], "version -o name");
    assert!(code == 2 && stderr.contains("-o name"), "{stderr}");
}

/// bash completes the existing contexts; the scripts of the other shells ask for them too.
#[test]
fn contexts_are_completed() {
    let folder = folder();
    let variables = [("CLUSTERMESH_CONTEXTS", "one.yaml")];
    let (code, script, _) = run(folder.path(), &variables, "completion bash");
    assert_eq!(code, 0);
    assert!(!script.contains("lab-pod") && script.contains("disconnect"), "{script}");
    fs::write(folder.path().join("completions"), script).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_clustermesh")).parent().unwrap().display();
    let complete = |words: &str| {
        let shell = format!(
            "PATH={binary}:$PATH; source ./completions; COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _clustermesh_names clustermesh \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &shell]).current_dir(folder.path()).envs(variables);
        String::from_utf8(bash.output().unwrap().stdout).unwrap()
    };
    assert_eq!(complete("clustermesh status --context ''"), "a b\n");
    assert_eq!(complete("clustermesh connect --destination-context b"), "b\n");
    assert!(complete("clustermesh sysd").contains("sysdump"));
    let (_, zsh, _) = run(folder.path(), &[], "completions zsh");
    assert!(zsh.starts_with("#compdef clustermesh\n"), "{zsh}");
    assert!(zsh.contains(":CONTEXT:_clustermesh_contexts"), "{zsh}");
    let (_, fish, _) = run(folder.path(), &[], "completions fish");
    assert!(fish.contains("config get-contexts -o name"), "{fish}");
}

/// Without a terminal too, the command reports what is missing: while it waits, and at the end.
#[test]
fn what_is_waited_for_is_named() {
    let folder = folder();
    let missing = "a: apiserver: ";
    for line in ["status --wait=2s", "status --wait --wait-duration 2"] {
        let (code, stdout, stderr) =
            run(folder.path(), &[], &format!("{line} --contexts one.yaml -o json"));
        assert_eq!(code, 4, "{stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        let [first, last] = lines.as_slice() else { panic!("{stderr}") };
        assert!(first.starts_with(&format!("waiting: {missing}")), "{stderr}");
        let end = format!("warning: still waiting after 2s: {missing}");
        assert!(last.starts_with(&end), "{stderr}");
        let status: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&status["kind"], &status["state"]), (&json!("Status"), &json!("notReady")));
    }
}

#[test]
fn who_loses_patience_reads_what_is_missing() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(["status", "--wait=10m", "--contexts", "one.yaml"]).current_dir(folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = command.spawn().unwrap();
    let mut complaints = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    complaints.read_line(&mut line).unwrap();
    assert!(line.starts_with("waiting: a: apiserver: "), "{line}");
    let pid = nix::unistd::Pid::from_raw(waiting.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut rest = String::new();
    complaints.read_to_string(&mut rest).unwrap();
    let last = rest.lines().last().unwrap();
    assert!(last.starts_with("warning: stopped while waiting: a: apiserver: "), "{rest}");
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(4));
    assert!(String::from_utf8(ended.stdout).unwrap().contains("NOT READY"));
}

/// A flag sets the time to wait for a daemon that accepts a connection and does not answer.
#[test]
fn a_daemon_is_waited_for_as_long_as_a_flag_says() {
    let folder = folder();
    let at = folder.path().join("0");
    fs::create_dir_all(&at).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at.join("n1.sock")).unwrap();
    let line = "node list --context a --contexts one.yaml --request-timeout 200ms --node n1";
    let (code, _, stderr) = run(folder.path(), &[], line);
    assert!(code == 3 && stderr.contains("no answer within 200ms"), "{code}: {stderr}");
    drop(socket);
}

#[test]
fn lists_are_watched_and_other_commands_are_not() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(["config", "get-contexts", "-w", "-o", "name", "--contexts", "one.yaml"]);
    command.current_dir(folder.path()).stdout(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let shown: Vec<String> = lines.take(4).map(Result::unwrap).collect();
    assert_eq!(shown, ["a", "b", "a", "b"]);
    watching.kill().unwrap();
    watching.wait().unwrap();
    let (code, _, stderr) = run(folder.path(), &[], "drain a -w --contexts one.yaml");
    assert!(code == 2 && stderr.contains("--watch"), "{code}: {stderr}");
}
