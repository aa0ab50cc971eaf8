//! `clustermesh lab`: what it creates and prints, and that `down` removes all of it. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mesh_e2e::{
    Mesh as _, Netns, json,
    mesh::{connect, eventually, wait_ready},
    netns::binary,
};
use mesh_lab::{
    Lab, Liveness, ProcessState,
    workload::{ApplyStep, Source},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// All processes of a lab, including those of its pods.
fn processes(lab: &Netns) -> Vec<ProcessState> {
    let state = lab.state();
    let pods = state.clusters.into_iter().flat_map(|cluster| cluster.pods);
    state.processes.into_iter().chain(pods.filter_map(|pod| pod.process)).collect()
}

/// Runs `clustermesh lab COMMAND --lab NAME ARG...`, for a lab that may not exist. Returns the exit code and standard
/// error.
fn lab(command: &str, name: &str, args: &[&str]) -> (i32, String) {
    let mut call = Command::new(binary());
    call.args(["lab", command, "--lab", name]).args(args);
    let output = call.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), complaints)
}

/// Everything on this machine that has a lab's name.
fn remains(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let prefix = format!("cm-{name}-");
    let namespaces = names("/run/netns").into_iter().filter(|netns| netns.starts_with(&prefix));
    found.extend(namespaces.map(|netns| format!("network namespace {netns}")));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroup2 = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroup2 =
        cgroup2.filter(|fields| fields[2] == "cgroup2").map(|fields| fields[1].to_owned());
    for folder in cgroup2
        .map(|point| format!("{point}/clustermesh-lab/{name}"))
        .chain([format!("/sys/fs/bpf/clustermesh-lab/{name}")])
        .chain([
            format!("/run/clustermesh-lab/{name}"),
            format!("/run/clustermesh-lab/{name}.lock"),
        ])
    {
        if Path::new(&folder).exists() {
            found.push(folder);
        }
    }
    // The interfaces of a lab are in its network namespaces, and are removed with them. None may be in the machine's.
    let is_ours = |link: &String| {
        link.len() == 12
            && link.starts_with("cm")
            && link[2..].bytes().all(|b| b.is_ascii_hexdigit())
    };
    found.extend(names("/sys/class/net").into_iter().filter(is_ours).map(|l| format!("link {l}")));
    // The command lines of daemons contain the lab's folder.
    let folder = format!("/run/clustermesh-lab/{name}/");
    for pid in names("/proc").into_iter().filter(|pid| pid.parse::<i32>().is_ok()) {
        let read =
            |file: &str| fs::read(Path::new("/proc").join(&pid).join(file)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if command.contains(&folder) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    found
}

/// Nothing is left of a lab, and none of its processes runs.
fn assert_gone(name: &str, processes: &[ProcessState]) {
    let running: Vec<_> =
        processes.iter().filter(|p| p.liveness() == Liveness::Running).map(|p| &p.name).collect();
    assert_eq!(running, Vec::<&String>::new(), "processes still run");
    assert_eq!(remains(name), Vec::<String>::new());
}

/// Kills every process of a lab at once, as a crash of the machine would.
fn crash(processes: &[ProcessState]) {
    for process in processes.iter().filter(|p| p.liveness() == Liveness::Running) {
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    }
    eventually("all processes have ended", || {
        let alive = processes.iter().find(|p| p.liveness() == Liveness::Running);
        alive.map_or(Ok(()), |process| Err(process.name.clone()))
    });
}

/// Starts a command that runs until it is killed.
fn sleeper(mut command: Command) -> std::process::Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until a client in cluster a gets an answer from the service.
fn wait_answered(lab: &Netns) {
    let shown = json::of(lab.clustermesh(&["service", "show", "echo", "--context", "a"]));
    let frontend = shown["services"][0]["frontends"].as_array().unwrap();
    let frontend = frontend.iter().find(|f| f["protocol"] == "TCP").unwrap();
    let address = mesh_e2e::mesh::socket_address(frontend).to_string();
    let call = ["clustermesh", "lab-pod", "call", &address];
    eventually("the service answers", || {
        let output = lab.in_pod("a", "client", &call).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if printed.contains("answered: pod echo-") { Ok(()) } else { Err(printed) }
    });
}

/// Two labs with the same addresses and clusters, and one name that is a prefix of the other. A crash and `down` of one
/// does not disturb the other.
#[test]
fn labs_do_not_disturb_each_other() {
    let (one, other) = ("e2elab1", "e2elab10");
    let first = Netns::sized(one, 2, 1);
    let second = Netns::sized(other, 2, 1);
    for lab in [&first, &second] {
        lab.apply("a", "echo", None);
        lab.apply("a", "client", None);
        connect(lab, "a", "b");
        wait_answered(lab);
    }
    let (state, kept) = (second.state(), remains(other));
    for what in
        ["network namespace", "/sys/fs/bpf", "/clustermesh-lab/", "/run/clustermesh-lab", "process"]
    {
        assert!(kept.iter().any(|found| found.contains(what)), "{what} is found: {kept:#?}");
    }
    // Commands that do not name one of the two labs are refused.
    let ask = |args: &[&str], lab: Option<&str>| {
        let mut ask = Command::new(binary());
        ask.args(args).env_remove("CLUSTERMESH_CONTEXTS").env_remove("CLUSTERMESH_LAB");
        let asked = ask.envs(lab.map(|lab| ("CLUSTERMESH_LAB", lab))).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (asked.status.code(), text(&asked.stdout), text(&asked.stderr))
    };
    for args in [
        &["status"][..],
        &["status", "--context", "a"],
        &["drain", "a"],
        &["quarantine", "lift", "b"],
        &["lab", "stop", "etcd"],
    ] {
        let (code, _, complaint) = ask(args, None);
        assert_eq!(code, Some(1), "{args:?}: {complaint}");
        assert!(
            complaint.contains("labs are up: ")
                && [one, other].iter().all(|lab| complaint.contains(lab))
                && complaint.contains("set CLUSTERMESH_LAB or --lab"),
            "{args:?}: {complaint}"
        );
    }
    let (code, shown, _) = ask(&["config", "current-context"], Some(other));
    assert!(code == Some(0) && shown.starts_with("lab e2elab10 ("), "{shown}");
    let (_, shown, _) = ask(&["config", "current-context", "--lab", one], Some(other));
    assert!(shown.starts_with("lab e2elab1 ("), "{shown}");
    let (_, listed, _) = ask(&["lab", "list", "-o", "name"], None);
    assert!([one, other].iter().all(|lab| listed.lines().any(|line| line == *lab)), "{listed}");

    let gone = processes(&first);
    crash(&gone);
    assert_eq!(lab("down", one, &[]).0, 0);
    assert_gone(one, &gone);

    assert_eq!(second.state(), state);
    assert_eq!(remains(other), kept);
    assert!(processes(&second).iter().all(|p| p.liveness() == Liveness::Running));
    wait_ready(&second);
    wait_answered(&second);
}

/// Two clusters of two nodes are up in seconds. `down` removes everything, including pods and the commands in them.
#[test]
fn down_leaves_nothing_behind() {
    let name = "e2elabdown";
    json::of(Netns::sized(name, 1, 1).lab("down"));
    let mut up = Command::new(binary());
    up.args(["lab", "up", "--lab", name]);
    let printed = json::of(up);
    assert_eq!((&printed["clusters"], &printed["nodes"]), (&2.into(), &2.into()));
    let seconds = printed["seconds"].as_f64().unwrap();
    assert!(seconds < 10.0, "up after {seconds} s");
    let mesh = ForeignLab(name);
    for cluster in ["a", "b"] {
        assert_eq!(lab("apply", name, &["--cluster", cluster, "--file", &example("echo")]).0, 0);
        assert_eq!(lab("apply", name, &["--cluster", cluster, "--file", &example("client")]).0, 0);
    }
    let exec = |place: &str| {
        let mut exec = Command::new(binary());
        exec.args(["lab", "exec", "--lab", name, place, "--", "sleep", "1000"]);
        exec
    };
    let mut sleepers = [sleeper(exec("a/client")), sleeper(exec("b/node/n2"))];
    let all = mesh.processes();
    assert_eq!(all.iter().filter(|p| p.liveness() == Liveness::Running).count(), 8 + 4);
    // A command joins the lab just before it is executed.
    for child in &sleepers {
        let path = format!("/proc/{}/cmdline", child.id());
        eventually("the command runs", || {
            let command = fs::read_to_string(&path).unwrap_or_default();
            if command.starts_with("sleep") { Ok(()) } else { Err(command) }
        });
    }

    assert_eq!(lab("down", name, &[]).0, 0);
    for child in &mut sleepers {
        let killed = child.try_wait().unwrap();
        assert!(killed.is_some(), "a command in the lab runs after `down`");
    }
    assert_gone(name, &all);
    // `down` succeeds also if there is no lab.
    assert_eq!(lab("down", name, &[]).0, 0);
}

/// After a crash and with an unreadable state file, `down` leaves nothing behind, and `up` works again.
#[test]
fn down_after_a_crash() {
    let name = "e2elabcrash";
    let first = Netns::sized(name, 2, 2);
    first.apply("a", "echo", None);
    connect(&first, "a", "b");
    let all = processes(&first);
    assert_eq!(all.len(), 8 + 2);
    crash(&all);

    let (code, status, _) = json::run(first.lab("status"));
    assert_eq!(code, 3, "{status:#}");
    let states = status["processes"].as_array().unwrap();
    assert!(states.iter().all(|process| process["state"] == "died"), "{status:#}");
    let (code, complaint) = lab("up", name, &[]);
    assert_eq!(code, 1);
    assert!(complaint.contains("is up already") && complaint.contains("lab down"), "{complaint}");

    let state = Path::new("/run/clustermesh-lab").join(name).join("lab.json");
    fs::write(&state, "{ \"name\": ").unwrap();
    let (code, complaint) = lab("status", name, &[]);
    assert_eq!(code, 1);
    assert!(complaint.contains("lab.json"), "{complaint}");
    assert_eq!(lab("down", name, &[]).0, 0);
    assert_gone(name, &all);

    assert_eq!(lab("up", name, &["--nodes", "1"]).0, 0);
    let again = processes(&first);
    assert_eq!(again.len(), 6);
    wait_ready(&first);
    json::of(first.lab("down"));
    assert_gone(name, &again);
}

/// `up` is killed at each of its stages. `down` removes what `up` created until then, and `up` works again.
#[test]
fn down_after_up_was_killed() {
    let name = "e2elabhalf";
    let _taken_down = ForeignLab(name);
    let folder = PathBuf::from("/run/clustermesh-lab").join(name);
    let stages: [(&str, PathBuf); 4] = [
        ("a node is made", format!("/run/netns/cm-{name}-b-n1").into()),
        ("a cluster has its certificates", folder.join("clusters/a/pki/ca.crt")),
        ("the state is written", folder.join("lab.json")),
        ("the last agent writes its log", folder.join("logs/b-n2-agent.log")),
    ];
    for (stage, path) in stages {
        let mut up = Command::new(binary());
        up.args(["lab", "up", "--lab", name]);
        let mut up = sleeper(up);
        eventually(stage, || {
            assert_eq!(up.try_wait().unwrap(), None, "`up` ended before {stage}");
            if path.exists() { Ok(()) } else { Err("not yet".into()) }
        });
        up.kill().unwrap();
        up.wait().unwrap();
        assert!(!remains(name).is_empty(), "{stage}: `up` left something to remove");
        assert_eq!(lab("down", name, &[]).0, 0, "{stage}");
        assert_eq!(remains(name), Vec::<String>::new(), "{stage}");
    }
    // After an interrupted `up`, another `up` works also without `down`.
    let node = PathBuf::from(format!("/run/netns/cm-{name}-a-n1"));
    for path in [node, folder.join("logs/b-n2-agent.log")] {
        let mut up = Command::new(binary());
        up.args(["lab", "up", "--lab", name]);
        let mut up = sleeper(up);
        eventually("a part of the lab exists", || {
            if path.exists() { Ok(()) } else { Err("not yet".into()) }
        });
        up.kill().unwrap();
        up.wait().unwrap();
        assert_eq!(lab("up", name, &["--nodes", "1"]), (0, String::new()));
        assert_eq!(lab("down", name, &[]).0, 0);
    }
}

/// The caller gets the output of commands and the logs unchanged. Every kind of process can be stopped and started, and the
/// status shows its state.
#[test]
fn processes_stop_start_and_show_their_state() {
    let name = "e2elabproc";
    let mesh = Netns::sized(name, 2, 1);
    mesh.apply("a", "echo", Some(1));
    mesh.apply("a", "client", None);
    connect(&mesh, "a", "b");

    // The caller gets a command's exit code, standard output and standard error.
    let output = mesh
        .in_pod("a", "client", &["sh", "-c", "echo out; echo err >&2; exit 7"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let output = mesh.on_node("a", "n1", &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let pod = mesh.in_pod("a", "client", &["ip", "-br", "address"]).output().unwrap();
    let shown = String::from_utf8_lossy(&pod.stdout).into_owned();
    let ips = mesh.pod_ips("a", "client");
    assert!(ips.iter().all(|ip| shown.contains(&ip.to_string())), "{shown} has {ips:?}");

    // Logs, as text and as JSON.
    let mut logs = mesh.lab("logs");
    let text = String::from_utf8(logs.arg("b/apiserver").output().unwrap().stdout).unwrap();
    assert!(text.contains("INFO") && text.lines().count() > 2, "{text}");
    let mut logs = mesh.lab("logs");
    let logs = json::of({
        logs.arg("apiserver");
        logs
    });
    let logs = logs["logs"].as_array().unwrap();
    assert_eq!(
        logs.iter().map(|log| &log["process"]).collect::<Vec<_>>(),
        ["a/apiserver", "b/apiserver"]
    );
    assert!(logs[1]["text"].as_str().unwrap().contains("INFO"));

    for (process, expected) in [
        ("a/etcd", ["the local etcd does not answer", "tcp"]),
        ("a/apiserver", ["the apiserver does not answer", "a: apiserver:"]),
        ("a/n1/agent", ["the agent does not answer", "a/n1:"]),
    ] {
        let changed = |command: &str, args: &[&str]| {
            let mut lab = mesh.lab(command);
            lab.args(args).arg(process);
            json::of(lab)
        };
        assert_eq!(changed("stop", &[])["stopped"], serde_json::json!([process]));
        assert_eq!(state_of(&mesh, process), (0, "stopped".into()));
        eventually(expected[0], || {
            let (code, status, _) = json::run(mesh.clustermesh(&["status", "--context", "a"]));
            let problems = status["clusters"][0]["problems"].to_string();
            if code == 3 && problems.contains(expected[1]) { Ok(()) } else { Err(problems) }
        });
        assert_eq!(changed("start", &[])["started"], serde_json::json!([process]));
        assert_eq!(
            changed("start", &[])["started"],
            serde_json::json!([]),
            "the process runs already"
        );
        assert_eq!(state_of(&mesh, process), (0, "running".into()));
        wait_ready(&mesh);
        // A process that ended without a command of the lab has died, until it is started again.
        let found = processes(&mesh).into_iter().find(|p| p.name == process).unwrap();
        crash(&[found]);
        assert_eq!(state_of(&mesh, process), (3, "died".into()));
        changed("start", &[]);
        wait_ready(&mesh);
    }
    // The apiserver reports that its etcd is down, although it has nothing to write.
    json::of({
        let mut stop = mesh.lab("stop");
        stop.args(["--kill", "a/etcd"]);
        stop
    });
    eventually("the apiserver is not ready", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", "a"]));
        let apiserver = &status["clusters"][0]["apiserver"];
        if apiserver["ready"] == false { Ok(()) } else { Err(apiserver.to_string()) }
    });
    // If a process ends right after its start, the command reports why.
    let start = |size: &str| {
        let mut start = mesh.lab("start");
        start.args(["b/n1/agent", "--env", &format!("CLUSTERMESH_MAX_BACKENDS={size}")]);
        json::run(start)
    };
    json::of({
        let mut stop = mesh.lab("stop");
        stop.arg("b/n1/agent");
        stop
    });
    let (code, _, complaint) = start("3");
    let says = ["b/n1/agent ended right after its start", "--max-backends"];
    assert!(code == 1 && says.iter().all(|says| complaint.contains(says)), "{complaint}");
    assert_eq!(start("1024").0, 0);
    // All processes of a kind, and all of a cluster.
    let named = |word: &str| {
        let mut stop = mesh.lab("stop");
        stop.args(["--kill", word]);
        json::of(stop)["stopped"].clone()
    };
    assert_eq!(named("agent"), serde_json::json!(["a/n1/agent", "b/n1/agent"]));
    assert_eq!(named("b/"), serde_json::json!(["b/etcd", "b/apiserver", "b/n1/agent"]));
    assert_eq!(state_of(&mesh, "b/apiserver"), (0, "stopped".into()));
    json::of({
        let mut start = mesh.lab("start");
        start.args(["etcd", "apiserver", "agent"]);
        start
    });
    wait_ready(&mesh);
}

/// A command that cannot succeed ends with code 1 and says what would work.
#[test]
fn errors_name_what_would_work() {
    for (command, args) in [
        ("status", &[][..]),
        ("exec", &["a/client", "true"]),
        ("logs", &["a/etcd"]),
        ("stop", &["a/etcd"]),
        ("start", &["a/etcd"]),
    ] {
        let (code, complaint) = lab(command, "e2elabnone", args);
        assert_eq!(code, 1, "{command}: {complaint}");
        assert!(
            complaint.contains("no lab \"e2elabnone\"") && complaint.contains("lab up"),
            "{complaint}"
        );
    }
    let (code, complaint) = lab("up", "No-Name", &[]);
    assert!(code == 2 && complaint.contains("a-z and 0-9"), "{complaint}");
    let (code, complaint) = lab("up", "e2elabnone", &["--clusters", "100"]);
    assert!(code == 2 && complaint.contains("1 to 99"), "{complaint}");
    let (code, complaint) = lab("up", "e2elabnone", &["--clusters", "0"]);
    assert!(code == 2 && complaint.contains("1 to 99"), "{complaint}");
    assert_eq!(remains("e2elabnone"), Vec::<String>::new(), "a refused command creates nothing");

    let name = "e2elaberr";
    let _mesh = Netns::sized(name, 1, 1);
    let known = "there is: a/etcd, a/apiserver, a/n1/agent";
    for (command, args, wanted) in [
        ("logs", &["a/scheduler"][..], ["\"a/scheduler\"", known]),
        ("stop", &["b/etcd"], ["\"b/etcd\"", known]),
        ("start", &["a/etcd", "a/n2/agent"], ["\"a/n2/agent\"", known]),
        ("exec", &["a/nobody", "true"], ["pod \"a/nobody\"", "there is: "]),
        ("exec", &["c/node/n1", "true"], ["cluster \"c\"", "there is: a"]),
        ("exec", &["a/node/n7", "true"], ["node \"a/node/n7\"", "there is: n1"]),
        ("exec", &["a/node/n1", "no-such-program"], ["no-such-program", "No such file"]),
    ] {
        let (code, complaint) = lab(command, name, args);
        assert_eq!(code, 1, "{command} {args:?}: {complaint}");
        assert!(
            wanted.iter().all(|part| complaint.contains(part)),
            "{command} {args:?}: {complaint}"
        );
    }
    // Wrong usage ends with code 2.
    assert_eq!(lab("stop", name, &[]).0, 2);
    assert_eq!(lab("exec", name, &["a/node/n1"]).0, 2);
}

/// The last apply of an object is in force, from whichever file it came. `delete` removes the objects in its file, and no
/// pods of others.
#[test]
fn objects_are_identified_by_their_names() {
    let name = "e2elabapply";
    let mesh = Netns::sized(name, 1, 1);
    mesh.apply("a", "echo", Some(1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service.yaml");
    let service = "kind: Service\nmetadata: { name: echo, annotations: { x: y } }\n\
                   spec: { selector: { app: echo }, ports: [{ port: 80 }] }\n---\n\
                   kind: StatefulSet\nmetadata: { name: db }\n";
    fs::write(&file, service).unwrap();
    let run = |command: &str, file: &Path, input: Stdio| {
        let mut lab = mesh.lab(command);
        lab.args(["--cluster", "a", "--file"]).arg(file).stdin(input);
        let (code, value, complaint) = json::run(lab);
        assert_eq!(code, 0, "{complaint}");
        assert!(complaint.contains("ignored: StatefulSet default/db"), "{complaint}");
        assert_eq!(value["objects"].as_array().unwrap().len(), 1, "{value:#}");
        assert_eq!(value["objects"][0]["object"], "Service default/echo");
        value["objects"][0]["change"].as_str().unwrap().to_owned()
    };
    assert_eq!(run("apply", &file, Stdio::null()), "configured");
    assert_eq!(run("apply", folder.path(), Stdio::null()), "unchanged");
    let input = || Stdio::from(fs::File::open(&file).unwrap());
    assert_eq!(run("apply", Path::new("-"), input()), "unchanged");
    assert_eq!(run("delete", &file, Stdio::null()), "deleted");
    let state = mesh.state();
    let pods: Vec<&str> = state.clusters[0].pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(pods, ["echo-0"]);

    fs::write(&file, "kind: [").unwrap();
    let (code, complaint) =
        lab("apply", name, &["--cluster", "a", "--file", &file.display().to_string()]);
    assert!(code == 1 && complaint.contains("service.yaml"), "{complaint}");
}

/// A pod is replaced if its template changed, and stays if it did not.
#[test]
fn pods_follow_their_template() {
    let mesh = Netns::sized("e2elabtmpl", 1, 1);
    mesh.apply("a", "echo", None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo.yaml");
    let text = fs::read_to_string(example("echo")).unwrap();
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut lab = mesh.lab("apply");
        lab.args(["--cluster", "a", "--file"]).arg(&file);
        let value = json::of(lab);
        (value["started"].clone(), value["stopped"].clone())
    };
    let (none, both) = (serde_json::json!([]), serde_json::json!(["echo-0", "echo-1"]));
    assert_eq!(apply(&text), (none.clone(), none));
    let changed = text.replace("labels: { app: echo }\n", "labels: { app: echo, version: two }\n");
    assert_ne!(changed, text);
    assert_eq!(apply(&changed), (both.clone(), both));

    // Whenever a pod of a Deployment is removed, its other pods run, including those that already replaced one.
    let mut seen = Vec::new();
    let mut look = |step: &ApplyStep| {
        let ApplyStep::Replacing { name, .. } = step else { return };
        let pods = Lab::peek("e2elabtmpl").unwrap().clusters.remove(0).pods.into_iter();
        let running = pods.filter(|pod| {
            pod.process.as_ref().is_some_and(|process| process.liveness() == Liveness::Running)
        });
        let mut running: Vec<String> = running
            .map(|pod| format!("{} {}", pod.name, pod.template["metadata"]["labels"]["version"]))
            .collect();
        running.sort();
        seen.push((name.clone(), running));
    };
    let third = changed.replace("version: two", "version: three");
    let grace = Duration::from_millis(100);
    let applied = Lab::open("e2elabtmpl").unwrap().apply(
        "a",
        Source::Manifest("echo"),
        &third,
        grace,
        &mut look,
    );
    assert_eq!(applied.unwrap().started, ["echo-0", "echo-1"]);
    let moment =
        |name: &str, running: [&str; 2]| (name.to_owned(), running.map(str::to_owned).to_vec());
    let two = moment("echo-0", [r#"echo-0 "two""#, r#"echo-1 "two""#]);
    let mixed = moment("echo-1", [r#"echo-0 "three""#, r#"echo-1 "two""#]);
    assert_eq!(seen, [two, mixed]);
}

/// `lab stop` asks all processes at once: each of these ends only when it has seen that all were asked, and one that did not
/// end by itself would be killed.
#[test]
fn several_processes_stop_side_by_side() {
    let mesh = Netns::sized("e2elabside", 1, 1);
    let folder = tempfile::tempdir().unwrap();
    for part in ["up", "asked", "ended"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    let script = format!(
        "cd {}; trap \"touch asked/$0; while [ \\$(ls asked | wc -l) -lt 3 ]; do sleep 0.01; done; touch ended/$0; exit\" TERM; touch up/$0; while :; do sleep 0.01; done",
        folder.path().display()
    );
    let names = ["one", "two", "three"];
    let pod = |name: &str| {
        serde_json::json!({
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "x", "command": ["sh", "-c", script, name] }] },
        })
    };
    let file = folder.path().join("pods.json");
    let list = serde_json::json!({ "kind": "List", "items": names.map(pod) });
    fs::write(&file, list.to_string()).unwrap();
    let mut apply = mesh.lab("apply");
    apply.args(["--cluster", "a", "--file"]).arg(&file);
    json::of(apply);
    let files = |part: &str| fs::read_dir(folder.path().join(part)).unwrap().count();
    eventually("all of them are up", || match files("up") {
        3 => Ok(()),
        count => Err(format!("{count} are")),
    });
    let mut stop = mesh.lab("stop");
    stop.args(names.map(|name| format!("a/default/{name}")));
    let stopped = json::of(stop)["stopped"].clone();
    assert_eq!(stopped, serde_json::json!(names.map(|name| format!("a/default/{name}"))));
    assert_eq!(files("ended"), 3, "each ended by itself");
    let running =
        processes(&mesh).into_iter().filter(|p| names.iter().any(|n| p.name.ends_with(n)));
    assert!(running.map(|process| process.pid).eq([0; 3]));
}

/// `lab status` and `pod list` say with which exit code a pod's process ended, or by which signal.
#[test]
fn the_status_shows_how_a_pod_ended() {
    let name = "e2elabended";
    let mesh = Netns::sized(name, 1, 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pods.yaml");
    let pod = |name: &str, script: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: x, command: [sh, -c, '{script}']}}]}}\n---\n"
        )
    };
    let pods =
        [pod("left", "exit 7"), pod("shot", "kill -KILL $$"), pod("stays", "exec sleep 9999")];
    fs::write(&file, pods.concat()).unwrap();
    let mut apply = mesh.lab("apply");
    apply.args(["--cluster", "a", "--file"]).arg(&file);
    json::of(apply);
    let wanted = serde_json::json!([
        ["left", "died", 7, null],
        ["shot", "died", null, "SIGKILL"],
        ["stays", "running", null, null],
    ]);
    let fields = |name: &Value, process: &Value| {
        serde_json::json!([name, process["state"], process["exitCode"], process["signal"]])
    };
    eventually("two pods have ended", || {
        let (code, status, _) = json::run(mesh.lab("status"));
        let processes = status["processes"].as_array().unwrap().iter();
        let name = |process: &Value| process["name"].as_str().unwrap().to_owned();
        let found: Value = processes
            .filter_map(|process| {
                let name = name(process).strip_prefix("a/default/")?.to_owned();
                Some(fields(&name.into(), process))
            })
            .collect();
        if (code, &found) == (3, &wanted) { Ok(()) } else { Err(format!("{code}: {found:#}")) }
    });
    let (code, pods, _) = json::run(mesh.clustermesh(&["pod", "list"]));
    let mut found: Vec<Value> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| fields(&pod["name"], &pod["process"]))
        .collect();
    found.sort_by_key(ToString::to_string);
    assert_eq!((code, Value::from(found)), (3, wanted));
    for (mut command, says) in [
        (mesh.lab("status"), "DIED: exited(7)"),
        (mesh.clustermesh(&["pod", "list"]), "DIED: killed(SIGKILL)"),
    ] {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(3) && text.contains(says), "{text}");
    }
    // The status says it too; it is no state of the mesh.
    let output = mesh.clustermesh(&["status", "--wait"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for says in ["pod default/left DIED: exited(7) → clustermesh", "lab logs a/default/left"] {
        assert!(text.contains(says), "{text}");
    }
}

/// The exit code of `lab status`, and the state that it reports for a process.
fn state_of(mesh: &Netns, process: &str) -> (i32, String) {
    let (code, status, _) = json::run(mesh.lab("status"));
    let processes = status["processes"].as_array().unwrap();
    let found = processes.iter().find(|p| p["name"] == process).unwrap();
    (code, found["state"].as_str().unwrap().to_owned())
}

fn example(manifest: &str) -> String {
    format!("{}/../deploy/examples/{manifest}.yaml", env!("CARGO_MANIFEST_DIR"))
}

/// A lab that another program creates. It is removed at the end of the test.
struct ForeignLab(&'static str);

impl ForeignLab {
    fn processes(&self) -> Vec<ProcessState> {
        let mut status = Command::new(binary());
        status.args(["lab", "status", "--lab", self.0]);
        let state: mesh_lab::LabState =
            serde_json::from_value(json::of(status)["lab"].clone()).unwrap();
        let pods = state.clusters.into_iter().flat_map(|cluster| cluster.pods);
        state.processes.into_iter().chain(pods.filter_map(|pod| pod.process)).collect()
    }
}

impl Drop for ForeignLab {
    fn drop(&mut self) {
        lab("down", self.0, &[]);
    }
}
