//! A cluster of a directory: its etcds are asked at their addresses, and restarted by the operator's command.

use std::{
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use mesh_certs::cas_of_server;
use mesh_lab::within_netns;

use super::{
    Etcd, Rotated,
    cluster::{Aim, Cluster},
    plan::{Facts, Todo},
};
use crate::args::RotateArgs;

/// The longest time for a restarted etcd to answer.
const RESTART: Duration = Duration::from_secs(60);
/// The interval of checks meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// A cluster directory.
pub(super) struct InDirectory<'a> {
    pub(super) args: &'a RotateArgs,
    pub(super) cluster: Cluster,
    /// The network namespace from which its etcds are reached.
    pub(super) netns: Option<String>,
}

impl Rotated for InDirectory<'_> {
    fn facts(&self, aim: Aim) -> anyhow::Result<Facts> {
        self.cluster.facts(aim)
    }

    fn carry_out(&self, todo: &Todo) -> anyhow::Result<()> {
        self.cluster.carry_out(todo)
    }

    fn etcd(&self, todo: &Todo) -> anyhow::Result<Etcd> {
        let Err(why) = self.look(todo)? else { return Ok(Etcd::AsItShould) };
        if self.args.etcd_restarted {
            return Ok(Etcd::AsItShould);
        }
        let Some(command) = &self.args.restart_etcd else {
            return Ok(Etcd::Pending(format!(
                "the etcd of {} must be restarted ({why}): it reads its CAs once. Restart it and run this again, or give the command with --restart-etcd",
                self.cluster.local.name()
            )));
        };
        let status = Command::new("sh").args(["-c", command]).stdout(std::io::stderr()).status();
        let status = status.with_context(|| format!("--restart-etcd {command:?}"))?;
        if !status.success() {
            bail!("--restart-etcd {command:?}: {status}");
        }
        let deadline = Instant::now() + RESTART;
        while let Err(why) = self.look(todo)? {
            if Instant::now() >= deadline {
                return Ok(Etcd::Late(why));
            }
            thread::sleep(LOOK);
        }
        Ok(Etcd::Restarted)
    }

    fn to_ask(&self, todo: &Todo) -> String {
        let local = self.cluster.local.name();
        match todo {
            Todo::AskPeer(peer) => format!(
                "{peer} must trust both CAs first, and its context is not at hand: copy {} there to peers/{local}.etcd-client-ca.crt, then run this again with --peer-done {peer}",
                self.cluster.local.pki().certificate("ca").display()
            ),
            Todo::AskPeerForRequest(peer) => format!(
                "{peer} needs a new certificate, and its context is not at hand: there run `clustermesh certs request --user remote-{peer} --out NAME`, here `clustermesh certs sign --dir {} NAME.csr --user remote-{peer}`, and put the result there as peers/{local}.etcd-client.crt and .key",
                self.cluster.local.directory.pki().display()
            ),
            todo => todo.to_string(),
        }
    }
}

impl InDirectory<'_> {
    /// Asks every replica's etcd whether it trusts the CAs that the step requires; if not, says why.
    fn look(&self, todo: &Todo) -> anyhow::Result<Result<(), String>> {
        for addresses in &self.cluster.local.facts.settings.endpoints {
            let endpoints: Vec<SocketAddr> =
                addresses.iter().map(|&address| address.into()).collect();
            let found = self.look_at(&endpoints, todo)?;
            if found.is_err() {
                return Ok(found);
            }
        }
        Ok(Ok(()))
    }

    /// The same for the etcd at one of these addresses.
    fn look_at(&self, endpoints: &[SocketAddr], todo: &Todo) -> anyhow::Result<Result<(), String>> {
        let trusted = self.cluster.trusted()?;
        let name = format!("{}.mesh.cilium.io", self.cluster.local.name());
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
        let subjects = match within(self.netns.as_deref(), ask)? {
            Ok(subjects) => subjects,
            Err(why) => return Ok(Err(format!("it cannot be asked: {why}"))),
        };
        let next = self.cluster.next()?.unwrap_or_default();
        Ok(is_right(todo, &subjects, &trusted.subjects(), &next.subjects()))
    }
}

/// Whether an etcd that trusts the CAs of these subjects is as a step wants it: it trusts the new CA, or for
/// [`Todo::EtcdForgets`] no other than the trusted ones. If not, says why.
pub(super) fn is_right(
    todo: &Todo,
    subjects: &[String],
    trusted: &[String],
    next: &[String],
) -> Result<(), String> {
    let wanted = if *todo == Todo::EtcdTrusts && !next.is_empty() { next } else { trusted };
    let missing = wanted.iter().find(|subject| !subjects.contains(subject));
    let extra = subjects.iter().find(|subject| !wanted.contains(subject));
    match (missing, extra) {
        (Some(missing), _) => Err(format!("it does not trust {missing:?} yet")),
        (None, Some(extra)) if *todo == Todo::EtcdForgets => {
            Err(format!("it still trusts {extra:?}"))
        }
        _ => Ok(()),
    }
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
