//! `clustermesh lab`: clusters made of network namespaces.

mod chaos;
mod cuts;
pub(crate) mod ended;
mod history;
mod list;
mod logs;
mod manifests;

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use mesh_admin::v1::StatusRequest;
use mesh_lab::{
    Component, Impairment, Lab, LabOptions, LabState, Liveness, Phase, ProcessState, need_root,
    workload::{ApplyStep, Source},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use manifests::Manifest;

use crate::{
    args::LabCommand,
    contexts,
    outcome::Outcome,
    output::{self, Output},
    wait::Progress,
};

/// The longest time for a new lab's daemons to become ready.
const READY: Duration = Duration::from_secs(60);

pub(crate) fn run(command: LabCommand, output: Output) -> anyhow::Result<Outcome> {
    if !matches!(command, LabCommand::List) {
        need_root()?;
    }
    match command {
        LabCommand::Up { clusters, nodes, replicas, etcd, etcd_quota } => {
            let name = new_lab();
            let bin_dir = bin_dir()?;
            let options = LabOptions { name, clusters, nodes, replicas, bin_dir, etcd, etcd_quota };
            up(options, output)
        }
        LabCommand::Down => {
            let name = new_lab();
            let existed = Lab::down(&name)?;
            let text = if existed {
                format!("the lab {name} is removed")
            } else {
                format!("there is no lab {name}{}", others(&Lab::all()))
            };
            print_result(output, "LabDown", &text, json!({ "lab": name, "existed": existed }))
        }
        LabCommand::List => list::run(output),
        LabCommand::Status => status(&Lab::open(&contexts::lab()?)?, output),
        // `-i` and `-t` make no difference: the command always has standard input and the terminal.
        LabCommand::Exec { place, command, stdin: _, tty: _ } => {
            let lab = Lab::open(&contexts::lab()?)?;
            let mut command = match place.split('/').collect::<Vec<_>>().as_slice() {
                [cluster, "node", node] => lab.command_on_node(cluster, node, &command)?,
                _ => lab.command_in_pod(&place, &command)?,
            };
            // The lock must not be held while the user's command runs.
            drop(lab);
            let error = command.exec();
            let program = command.get_program().to_string_lossy().into_owned();
            Err(error).context(format!("{program} cannot be run in {place}"))
        }
        LabCommand::CheckPod { pod } => {
            Lab::open(&contexts::lab()?)?.check_pod(&pod)?;
            let text = format!("the network of {pod} is as it was attached");
            print_result(output, "LabCheckPod", &text, json!({ "pod": pod }))
        }
        LabCommand::Logs { process, follow, tail } => {
            logs::run(&process, logs::Part { follow, tail }, output)
        }
        LabCommand::Stop { processes, kill } => {
            let mut lab = Lab::open(&contexts::lab()?)?;
            let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
            let mut progress = Progress::new();
            let mut show = |left: &[&str]| progress.show(&still_running(left));
            let names = lab.stop(&processes, signal, &mut show)?;
            drop(progress);
            print_result(
                output,
                "LabStop",
                &format!("stopped {}", names.join(", ")),
                json!({ "stopped": names }),
            )
        }
        LabCommand::Start { processes, environment } => {
            let mut lab = Lab::open(&contexts::lab()?)?;
            lab.set_environment(&processes, &environment)?;
            let started = lab.start(&processes)?;
            lab.watch_start(&started)?;
            let text = match started.as_slice() {
                [] => "all are running already".to_owned(),
                started => format!("started {}", started.join(", ")),
            };
            print_result(output, "LabStart", &text, json!({ "started": started }))
        }
        LabCommand::Cut { one, other, port, rate, loss, delay } => {
            let rate = rate.as_deref().map(Impairment::rate);
            let loss = || loss.as_deref().map(Impairment::loss);
            let delay = || delay.as_deref().map(Impairment::delay);
            let impairment = rate.or_else(loss).or_else(delay).transpose()?;
            cuts::cut(&contexts::lab()?, [&one, &other], port, impairment, output)
        }
        LabCommand::Heal { places } => cuts::heal(&contexts::lab()?, &places, output),
        LabCommand::CheckHistory { wait, wait_duration, record } => {
            history::check(&contexts::lab()?, wait_duration.limit(wait), record, output)
        }
        LabCommand::Chaos { lab, seed, faults, replicas, keep } => {
            let options = mesh_chaos::run::Options { lab, seed, faults, replicas, keep };
            chaos::run(&options, output)
        }
        LabCommand::Apply { cluster, file, replicas, grace } => {
            let manifests = manifests::read(&file)?;
            let mut lab = Lab::open(&contexts::lab()?)?;
            let mut progress = Progress::new();
            let mut show = |step: &ApplyStep| progress.show(&manifests::in_progress(step));
            let applied = manifests.into_iter().map(|Manifest { name, path, text }| {
                let text = match replicas {
                    Some(replicas) => with_replicas(&text, replicas),
                    None => text,
                };
                let source = name.as_deref().map_or(Source::Stream, Source::Manifest);
                lab.apply(&cluster, source, &text, grace, &mut show).context(path)
            });
            let applied = applied.collect::<anyhow::Result<Vec<_>>>()?;
            drop(progress);
            manifests::print(applied, output)
        }
        LabCommand::Delete { cluster, file, grace } => {
            let manifests = manifests::read(&file)?;
            let mut lab = Lab::open(&contexts::lab()?)?;
            let mut progress = Progress::new();
            let mut show = |step: &ApplyStep| progress.show(&manifests::in_progress(step));
            let deleted = manifests.into_iter().map(|Manifest { path, text, .. }| {
                lab.delete(&cluster, &text, grace, &mut show).context(path)
            });
            let deleted = deleted.collect::<anyhow::Result<Vec<_>>>()?;
            drop(progress);
            manifests::print(deleted, output)
        }
    }
}

fn up(options: LabOptions, output: Output) -> anyhow::Result<Outcome> {
    let LabOptions { name, clusters, nodes, .. } = &options;
    let started = Instant::now();
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    let mut interrupted = false;
    let lab = Lab::up(&options, |phase| {
        interrupted |= phase == Phase::Remains;
        progress.set_message(match phase {
            Phase::Remains => "removing what an interrupted `lab up` left",
            Phase::Machines => "creating network namespaces",
            Phase::Directories => "creating cluster directories and certificates",
            Phase::Daemons => "starting etcd, apiservers and agents",
        });
    })?;
    progress.set_message("waiting until they are ready");
    let file = lab.contexts_file();
    let sockets = sockets(&lab);
    // Waiting needs no lock, and other commands may read the lab meanwhile.
    drop(lab);
    wait_ready(name, &sockets, started + READY)?;
    progress.finish_and_clear();
    let took = started.elapsed();
    let remains = match interrupted {
        true => "removed what an interrupted `lab up` had left\n",
        false => "",
    };
    let text = format!(
        "{remains}the lab {name} is up: {clusters} clusters of {nodes} nodes, after {:.1} s\nexport CLUSTERMESH_LAB={name}",
        took.as_secs_f64(),
    );
    let value = json!({
        "lab": name, "clusters": clusters, "nodes": nodes, "contexts": file, "seconds": took.as_secs_f64(),
    });
    print_result(output, "LabUp", &text, value)
}

/// The names and admin sockets of all daemons.
fn sockets(lab: &Lab) -> Vec<(String, PathBuf)> {
    let mut sockets = Vec::new();
    for cluster in &lab.state().clusters {
        for replica in 1..=cluster.replicas {
            let apiserver = Component::Apiserver(replica);
            let socket = cluster.directory.join("state").join(format!("{apiserver}.sock"));
            sockets.push((apiserver.process(&cluster.name), socket));
        }
        for node in &cluster.nodes {
            sockets
                .push((format!("{}/{}/agent", cluster.name, node.name), node.admin_socket.clone()));
        }
    }
    sockets
}

fn wait_ready(lab: &str, sockets: &[(String, PathBuf)], deadline: Instant) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for (name, socket) in sockets {
            loop {
                let asked = async {
                    let status = mesh_admin::connect(socket).await.map_err(|e| e.to_string())?;
                    let mut status = status;
                    let status = status
                        .status(StatusRequest::default())
                        .await
                        .map_err(|e| e.message().to_owned())?;
                    let status = status.into_inner();
                    if status.ready { Ok(()) } else { Err(status.problems.join("; ")) }
                };
                match asked.await {
                    Ok(()) => break,
                    Err(reason) if Instant::now() >= deadline => {
                        bail!(
                            "{name} is not ready: {reason}. See `clustermesh lab logs {name} --lab {lab}`"
                        )
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
        Ok(())
    })
}

fn status(lab: &Lab, output: Output) -> anyhow::Result<Outcome> {
    let state = lab.state();
    match output {
        Output::Text => print_status(state)?,
        Output::Json => {
            let processes: Vec<Value> = lab
                .processes()
                .map(|p| {
                    let mut value = ended::json(p);
                    value.extend([("name".into(), json!(p.name)), ("pid".into(), json!(p.pid))]);
                    value.insert("log".into(), json!(p.log));
                    Value::Object(value)
                })
                .collect();
            output::json("Lab", json!({ "lab": state, "processes": processes }))?;
        }
    }
    let well = lab.processes().all(|process| process.liveness() != Liveness::Died);
    Ok(if well { Outcome::Done } else { Outcome::NotReady })
}

fn print_status(state: &LabState) -> anyhow::Result<()> {
    let rows = state.all_processes().map(|process: &ProcessState| {
        let pid = if process.pid == 0 { String::new() } else { process.pid.to_string() };
        let state = ended::state(process);
        vec![process.name.clone(), state, pid, process.netns.clone()]
    });
    output::table(&["PROCESS", "STATE", "PID", "NETWORK NAMESPACE"], rows)?;
    for died in state.all_processes().filter(|process| process.liveness() == Liveness::Died) {
        output::line(format!("{} died → clustermesh lab logs {0} --tail 20", died.name))?;
    }
    let rows = state.clusters.iter().flat_map(|cluster| {
        cluster.pods.iter().map(|pod| {
            let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
            let name = format!("{}/{}/{}", cluster.name, pod.namespace, pod.name);
            let state = pod.process.as_ref().map(ended::state).unwrap_or_default();
            vec![name, state, pod.node.clone(), ips.join(", ")]
        })
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        output::line("")?;
        output::table(&["POD", "STATE", "NODE", "ADDRESSES"], rows)?;
    }
    cuts::print(&state.cuts)
}

fn print_result(output: Output, kind: &str, text: &str, value: Value) -> anyhow::Result<Outcome> {
    match output {
        Output::Text => output::line(text)?,
        Output::Json => output::json(kind, value)?,
    }
    Ok(Outcome::Done)
}

/// What `lab stop` waits for.
fn still_running(left: &[&str]) -> String {
    format!("stopping {}: not ended yet", left.join(", "))
}

/// The lab that is made or taken down: the one that is named, or `default`. What is up does not decide that.
fn new_lab() -> String {
    contexts::named_lab().unwrap_or_else(|| "default".into())
}

/// The names of other labs, for an error.
fn others(labs: &[String]) -> String {
    if labs.is_empty() { String::new() } else { format!("; up: {}", labs.join(", ")) }
}

/// The folder of this program, which must have the daemons too.
fn bin_dir() -> anyhow::Result<PathBuf> {
    need_root()?;
    let here = env::current_exe()?;
    let folder = here.parent().unwrap_or(Path::new("/")).to_owned();
    for binary in ["clustermesh-agent", "clustermesh-apiserver", "clustermesh-cni"] {
        if !folder.join(binary).is_file() {
            bail!(
                "{} is missing: build the whole workspace (`make build`)",
                folder.join(binary).display()
            );
        }
    }
    Ok(folder)
}

/// The manifest with another number in each `replicas:` line.
fn with_replicas(text: &str, replicas: u32) -> String {
    let line = |line: &str| match line.split_once("replicas:") {
        Some((before, _)) => format!("{before}replicas: {replicas}"),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn the_status_of_a_lab_fits() {
        let process = |name: &str| ProcessState {
            name: name.into(),
            command: Vec::new(),
            netns: "cm-demo-a-n1".into(),
            cgroup: "/".into(),
            environment: Vec::new(),
            log: "/nonexistent/log".into(),
            pid: 0,
            start_time: 0,
        };
        let pod = json!({
            "namespace": "shop", "name": "web-0", "node": "n1", "netns": "cm-demo-a-n1-shop-web-0",
            "ips": ["10.1.1.2", "fd00:10:1:1::2"], "cgroup": "/", "source": "shop", "manifest": "/",
            "process": process("a/shop/web-0"),
        });
        let state = json!({
            "name": "demo", "binDir": "/",
            "clusters": [{
                "name": "a", "id": 1, "directory": "/", "nodes": [], "pods": [pod], "lastService": 0,
            }],
            "processes": [process("a/etcd"), process("a/n1/agent")],
            "cuts": [{ "places": ["a", "b"], "port": 2379 }],
        });
        let state: LabState = serde_json::from_value(state).unwrap();
        samples::fits(80, || print_status(&state));
    }

    #[test]
    fn who_waits_for_a_stop_reads_what_still_runs() {
        assert_eq!(
            still_running(&["a/etcd", "a/n1/agent"]),
            "stopping a/etcd, a/n1/agent: not ended yet"
        );
    }

    #[test]
    fn replicas_are_set_in_every_deployment() {
        let text = "a:\n  replicas: 2\nb: {x: 1}\n  replicas: 3 # few";
        assert_eq!(with_replicas(text, 0), "a:\n  replicas: 0\nb: {x: 1}\n  replicas: 0");
    }
}
