//! `clustermesh lab-pod`: the servers and clients in a lab's pods.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow};
use mesh_lab::workload::{call, echo, hang, load, relay};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    args::LabPodCommand,
    outcome::Outcome,
    output::{self, Output},
};

/// A request without an answer after this time has failed.
const DEADLINE: Duration = Duration::from_secs(2);
/// The pause between two requests of a long connection.
const FLOW_PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(command: LabPodCommand, output: Output) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            LabPodCommand::Serve { tcp, udp } => {
                echo::serve(&tcp, &udp).await?;
                Ok(Outcome::Done)
            }
            LabPodCommand::Relay { port, to_port, delay_ms } => {
                let delay = Duration::from_millis(delay_ms);
                relay::relay(port, to_port, delay)
                    .await
                    .with_context(|| format!("port {port}/TCP cannot be listened on"))?;
                Ok(Outcome::Done)
            }
            LabPodCommand::Call { to, udp, count, timeout } => {
                ask(to, udp, (count, timeout), output).await
            }
            LabPodCommand::Hang { to, udp } => {
                let print = |event| output::line(serde_json::to_string(&event)?);
                let done = hang::hang(transport(udp), to, DEADLINE, print).await;
                done.map_err(|error| match error.kind() {
                    // The reader of standard output is gone.
                    io::ErrorKind::BrokenPipe => error.into(),
                    _ => failed(to, &error),
                })?;
                Ok(Outcome::Done)
            }
            LabPodCommand::Load { tcp, udp, rate, flows, datagram_flows, requests } => {
                let targets = |transport, all: Vec<SocketAddr>| {
                    all.into_iter().map(move |to| (transport, to))
                };
                let targets = targets(call::Transport::Tcp, tcp)
                    .chain(targets(call::Transport::Udp, udp))
                    .collect();
                let load = load::Load {
                    targets,
                    rate,
                    requests,
                    flows,
                    datagram_flows,
                    flow_pause: FLOW_PAUSE,
                    deadline: DEADLINE,
                };
                put_under_load(load, output).await
            }
        }
    })
}

fn transport(udp: bool) -> call::Transport {
    if udp { call::Transport::Udp } else { call::Transport::Tcp }
}

/// Why there is no answer.
fn failed(to: SocketAddr, error: &io::Error) -> anyhow::Error {
    anyhow!("{to}: {}", call::failure(error))
}

async fn ask(
    to: SocketAddr,
    udp: bool,
    (count, timeout): (u32, Duration),
    output: Output,
) -> anyhow::Result<Outcome> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let called = call::call(transport(udp), to, timeout).await;
        calls.push(called.map_err(|error| failed(to, &error))?);
    }
    match output {
        Output::Text => {
            for called in &calls {
                let answer = &called.answer;
                output::line(format!(
                    "{} answered: pod {}, node {}, cluster {}; it saw {}",
                    called.peer, answer.pod, answer.node, answer.cluster, answer.client
                ))?;
            }
        }
        Output::Json => output::json("Calls", json!({ "calls": calls }))?,
    }
    Ok(Outcome::Done)
}

async fn put_under_load(load: load::Load, output: Output) -> anyhow::Result<Outcome> {
    let (stop, stopped) = watch::channel(false);
    let mut running = tokio::spawn(load::run(load, stopped));
    let asked_to_stop = mesh_admin::stop_signal()?;
    let over = tokio::select! {
        report = &mut running => Some(report?),
        () = asked_to_stop => None,
    };
    let _ = stop.send(true);
    let report = match over {
        Some(report) => report,
        None => running.await?,
    };
    match output {
        Output::Text => print(&report)?,
        Output::Json => output::json("Load", &report)?,
    }
    Ok(if report.failed.is_empty() && report.answered > 0 {
        Outcome::Done
    } else {
        Outcome::NotReady
    })
}

fn print(report: &load::Report) -> anyhow::Result<()> {
    output::line(format!(
        "offered {}, answered {} (of them {} over long flows), failed {} in {} ms",
        report.offered,
        report.answered,
        report.over_flows,
        report.failed.values().sum::<u64>(),
        report.milliseconds
    ))?;
    let counts = [
        ("cluster", &report.clusters),
        ("pod", &report.pods),
        ("client seen as", &report.clients),
        ("FAILED", &report.failed),
    ];
    let rows = counts.iter().flat_map(|(what, counts)| {
        counts.iter().map(|(name, count)| vec![(*what).to_owned(), name.clone(), count.to_string()])
    });
    Ok(output::table(&["", "", "REQUESTS"], rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn a_report_fits() {
        let counts = |name: &str| [(name.to_owned(), 1_000)].into();
        let report = load::Report {
            offered: 1_000,
            answered: 999,
            failed: counts("the connection was reset after 2 bytes"),
            over_flows: 100,
            clusters: counts("a"),
            pods: counts("a/shop/web-0"),
            clients: counts("10.1.1.2"),
            ..load::Report::default()
        };
        samples::fits(100, || print(&report));
    }
}
