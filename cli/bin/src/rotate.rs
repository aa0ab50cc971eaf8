//! `clustermesh certs rotate`: replaces certificates and CAs while everything runs.
//!
//! Before each step, the files show what is left to do (`rotate/plan.rs`). So a command that was killed continues when it is
//! repeated, and one that is repeated after its end does nothing. Files do not show which CAs the running etcd has read: the
//! command connects to the etcd to find out.

mod cluster;
mod plan;
mod pods;

use std::{
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use mesh_certs::cas_of_server;
use mesh_lab::within_netns;
use mesh_offline::time;
use serde_json::json;

use crate::{
    args::RotateArgs,
    contexts,
    outcome::Outcome,
    output::{self, Output},
};
use cluster::{Aim, Cluster};
use plan::{Todo, exchange, finish, reissue};

/// The longest time for a restarted etcd to answer.
const RESTART: Duration = Duration::from_secs(60);
/// The interval of checks meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// The result of a run.
#[derive(Default)]
struct Report {
    changes: Vec<String>,
    /// What the operator must do first.
    pending: Vec<String>,
    timed_out: bool,
}

/// Whether an etcd trusts the right CAs.
#[derive(Debug, PartialEq, Eq)]
enum Etcd {
    AsItShould,
    Otherwise(String),
}

pub(crate) fn run(args: &RotateArgs, output: Output) -> anyhow::Result<Outcome> {
    let mut report = Report::default();
    let context = contexts::find(&args.context)?;
    if let Some(cluster) = contexts::cluster_of(&context)? {
        report.changes = pods::rotate(&cluster, args)?;
        if output == Output::Text {
            report.changes.iter().try_for_each(output::line)?;
        }
        return report.print(args, output);
    }
    let cluster = Cluster::read(args)?;
    if args.server || args.clients {
        let aim = Aim::Young { server: args.server, clients: args.clients };
        let todo = reissue(&cluster.facts(aim)?);
        if todo.is_empty() && output == Output::Text {
            output::line(format!(
                "all certificates were issued less than {} ago (--min-age)",
                time(args.min_age)
            ))?;
        }
        report.take(args, &cluster, todo, output)?;
    }
    if args.ca && !args.finish {
        if args.dry_run {
            let todo = exchange(&cluster.facts(Aim::NewCa)?);
            report.changes.extend(todo.iter().map(ToString::to_string));
        } else {
            // One step at a time, each computed from the files as they are then.
            let mut asked = false;
            loop {
                let todo = exchange(&cluster.facts(Aim::NewCa)?);
                let next = todo.into_iter().find(|todo| !(asked && *todo == Todo::EtcdTrusts));
                let Some(next) = next else { break };
                asked |= next == Todo::EtcdTrusts;
                report.take(args, &cluster, vec![next], output)?;
                if !report.pending.is_empty() {
                    break;
                }
            }
        }
        if report.pending.is_empty() && !args.dry_run && output == Output::Text {
            output::line(format!(
                "both CAs are trusted, and the new one signs; when no certificate of the old CA is in use any more: clustermesh certs rotate --context {} --ca --finish",
                args.context
            ))?;
        }
    }
    if args.finish {
        match finish(&cluster.facts(Aim::NewCa)?) {
            Err(dependent) => bail!("the old CA is still needed: {}", dependent.join("; ")),
            Ok(todo) => report.take(args, &cluster, todo, output)?,
        }
    }
    report.print(args, output)
}

impl Report {
    /// Carries out the steps. Those that the operator must do are added to `pending`.
    fn take(
        &mut self,
        args: &RotateArgs,
        cluster: &Cluster,
        todo: Vec<Todo>,
        output: Output,
    ) -> anyhow::Result<()> {
        if args.dry_run {
            self.changes.extend(todo.iter().map(ToString::to_string));
            return Ok(());
        }
        let progress = ProgressBar::new_spinner();
        for todo in todo {
            progress.set_message(todo.to_string());
            progress.tick();
            let local = cluster.local.name();
            match &todo {
                Todo::AskPeer(peer) => self.pending.push(format!(
                    "{peer} must trust both CAs first, and its context is not at hand: copy {} there to peers/{local}.etcd-client-ca.crt, then run this again with --peer-done {peer}",
                    cluster.local.pki().certificate("ca").display()
                )),
                Todo::AskPeerForRequest(peer) => self.pending.push(format!(
                    "{peer} needs a new certificate, and its context is not at hand: there run `clustermesh certs request --user remote-{peer} --out NAME`, here `clustermesh certs sign --dir {} NAME.csr --user remote-{peer}`, and put the result there as peers/{local}.etcd-client.crt and .key",
                    cluster.local.directory.pki().display()
                )),
                Todo::EtcdTrusts | Todo::EtcdForgets => self.etcd(args, cluster, &todo, output)?,
                todo => {
                    cluster.carry_out(todo).with_context(|| format!("cannot {todo}"))?;
                    self.done(todo.to_string(), output)?;
                }
            }
        }
        Ok(())
    }

    fn done(&mut self, what: String, output: Output) -> anyhow::Result<()> {
        if output == Output::Text {
            output::line(&what)?;
        }
        self.changes.push(what);
        Ok(())
    }

    /// Asks the etcd which CAs it has read, and restarts it if it must read others.
    fn etcd(
        &mut self,
        args: &RotateArgs,
        cluster: &Cluster,
        todo: &Todo,
        output: Output,
    ) -> anyhow::Result<()> {
        let Etcd::Otherwise(why) = look(args, cluster, todo)? else { return Ok(()) };
        if args.etcd_restarted {
            return Ok(());
        }
        let Some(command) = &args.restart_etcd else {
            self.pending.push(format!(
                "the etcd of {} must be restarted ({why}): it reads its CAs once. Restart it and run this again, or give the command with --restart-etcd",
                cluster.local.name()
            ));
            return Ok(());
        };
        let status = Command::new("sh").args(["-c", command]).stdout(std::io::stderr()).status();
        let status = status.with_context(|| format!("--restart-etcd {command:?}"))?;
        if !status.success() {
            bail!("--restart-etcd {command:?}: {status}");
        }
        let deadline = Instant::now() + RESTART;
        while let Etcd::Otherwise(why) = look(args, cluster, todo)? {
            if Instant::now() >= deadline {
                self.timed_out = true;
                self.pending.push(format!("the etcd was restarted, and {why}"));
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        self.done("restart the etcd".into(), output)
    }

    fn print(self, args: &RotateArgs, output: Output) -> anyhow::Result<Outcome> {
        let Self { changes, pending, timed_out } = self;
        match output {
            Output::Text => {
                if args.dry_run {
                    changes.iter().try_for_each(output::line)?;
                    output::line("nothing was changed: --dry-run")?;
                } else if changes.is_empty() && pending.is_empty() {
                    output::line("nothing to change")?;
                }
                pending.iter().try_for_each(output::line)?;
            }
            Output::Json => output::json(
                "Rotate",
                json!({ "changes": changes, "pending": pending, "dryRun": args.dry_run }),
            )?,
        }
        Ok(match (pending.is_empty(), timed_out) {
            (true, _) => Outcome::Done,
            (false, false) => Outcome::NotReady,
            (false, true) => Outcome::Timeout,
        })
    }
}

/// Asks every replica's etcd whether it trusts the CAs that the step requires.
fn look(args: &RotateArgs, cluster: &Cluster, todo: &Todo) -> anyhow::Result<Etcd> {
    let netns = contexts::find(&args.context)?.netns;
    for addresses in &cluster.local.facts.settings.endpoints {
        let endpoints: Vec<SocketAddr> = addresses.iter().map(|&address| address.into()).collect();
        let found = look_at(netns.as_deref(), &endpoints, cluster, todo)?;
        if found != Etcd::AsItShould {
            return Ok(found);
        }
    }
    Ok(Etcd::AsItShould)
}

/// The same for the etcd at one of these addresses.
fn look_at(
    netns: Option<&str>,
    endpoints: &[SocketAddr],
    cluster: &Cluster,
    todo: &Todo,
) -> anyhow::Result<Etcd> {
    let trusted = cluster.trusted()?;
    let name = format!("{}.mesh.cilium.io", cluster.local.name());
    let pem = trusted.to_pem();
    let ask = || {
        let mut failures = Vec::new();
        for &endpoint in endpoints {
            match cas_of_server(endpoint, &name, &pem) {
                Ok(subjects) => return Ok(subjects),
                Err(error) => failures.push(format!("{endpoint}: {error}")),
            }
        }
        Err(failures.join("; "))
    };
    let subjects = match within(netns, ask)? {
        Ok(subjects) => subjects,
        Err(why) => return Ok(Etcd::Otherwise(format!("it cannot be asked: {why}"))),
    };
    let wanted = match cluster.next()? {
        Some(next) if *todo == Todo::EtcdTrusts => next.subjects(),
        _ => trusted.subjects(),
    };
    let missing = wanted.iter().find(|subject| !subjects.contains(subject));
    let extra = subjects.iter().find(|subject| !wanted.contains(subject));
    Ok(match (missing, extra) {
        (Some(missing), _) => Etcd::Otherwise(format!("it does not trust {missing:?} yet")),
        (None, Some(extra)) if *todo == Todo::EtcdForgets => {
            Etcd::Otherwise(format!("it still trusts {extra:?}"))
        }
        _ => Etcd::AsItShould,
    })
}

/// Runs a function in a network namespace, if one is given.
pub(crate) fn within<T: Send>(
    netns: Option<&str>,
    ask: impl FnOnce() -> T + Send,
) -> anyhow::Result<T> {
    match netns {
        Some(netns) => Ok(within_netns(netns, ask)?),
        None => Ok(ask()),
    }
}

#[cfg(test)]
mod tests;
