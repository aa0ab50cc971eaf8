//! `clustermesh certs rotate`: replaces certificates and CAs while everything runs.
//!
//! Before each step, what is there shows what is left to do (`rotate/plan.rs`). So a command that was killed continues when it is
//! repeated, and one that is repeated after its end does nothing. Neither files nor Secrets show which CAs a running etcd has
//! read: the command asks the etcd.

mod cluster;
mod etcd;
mod kubernetes;
mod plan;

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use mesh_offline::time;
use serde_json::json;

use crate::{
    args::RotateArgs,
    contexts,
    outcome::Outcome,
    output::{self, Output},
};
use cluster::{Aim, Cluster};
use etcd::InDirectory;
pub(crate) use etcd::within;
use kubernetes::InPods;
use plan::{Facts, Todo, exchange, finish, reissue};

/// A cluster whose certificates are replaced.
trait Rotated {
    /// What is there now. `aim`: which certificates are to be replaced.
    fn facts(&self, aim: Aim) -> anyhow::Result<Facts>;

    /// Carries out a step; it is no error if it was carried out already.
    fn carry_out(&self, todo: &Todo) -> anyhow::Result<()>;

    /// Has the etcds read other CAs, if a step needs that.
    fn etcd(&self, todo: &Todo) -> anyhow::Result<Etcd>;

    /// What the operator must do for a peer that is not at hand.
    fn to_ask(&self, todo: &Todo) -> String;
}

/// Whether etcds trust the right CAs.
#[derive(Debug, PartialEq, Eq)]
enum Etcd {
    AsItShould,
    /// They were started again, and are as they should be.
    Restarted,
    /// The operator must do something first.
    Pending(String),
    /// They were started again, and are not as they should be in time.
    Late(String),
}

/// The result of a run.
#[derive(Default)]
struct Report {
    changes: Vec<String>,
    /// What the operator must do first.
    pending: Vec<String>,
    timed_out: bool,
}

pub(crate) fn run(args: &RotateArgs, output: Output) -> anyhow::Result<Outcome> {
    let mut report = Report::default();
    let context = contexts::find(&args.context)?;
    let cluster: Box<dyn Rotated> = match contexts::cluster_of(&context)? {
        Some(cluster) => Box::new(InPods::find(cluster, args)?),
        None => Box::new(InDirectory { args, cluster: Cluster::read(args)?, netns: context.netns }),
    };
    let cluster = cluster.as_ref();
    if args.server || args.clients {
        let aim = Aim::Young { server: args.server, clients: args.clients };
        let todo = reissue(&cluster.facts(aim)?);
        if todo.is_empty() && output == Output::Text {
            output::line(format!(
                "all certificates were issued less than {} ago (--min-age)",
                time(args.min_age)
            ))?;
        }
        report.take(args, cluster, todo, output)?;
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
                report.take(args, cluster, vec![next], output)?;
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
            Ok(todo) => report.take(args, cluster, todo, output)?,
        }
    }
    report.print(args, output)
}

impl Report {
    /// Carries out the steps. Those that the operator must do are added to `pending`.
    fn take(
        &mut self,
        args: &RotateArgs,
        cluster: &dyn Rotated,
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
            match &todo {
                Todo::AskPeer(_) | Todo::AskPeerForRequest(_) => {
                    self.pending.push(cluster.to_ask(&todo));
                }
                Todo::EtcdTrusts | Todo::EtcdForgets => match cluster.etcd(&todo)? {
                    Etcd::AsItShould => {}
                    Etcd::Restarted => self.done("restart the etcd".into(), output)?,
                    Etcd::Pending(what) => self.pending.push(what),
                    Etcd::Late(why) => {
                        self.timed_out = true;
                        self.pending.push(format!("the etcd was restarted, and {why}"));
                    }
                },
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

#[cfg(test)]
mod tests;
