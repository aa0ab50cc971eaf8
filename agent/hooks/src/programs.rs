//! The task of the programs: replaces those of another release by ours when the tables are filled, checks each second
//! whether they are still at their hooks, whether they have an effect and which others are there, and exempts the agent's own
//! sockets.

use std::{
    mem,
    path::PathBuf,
    time::{Duration, Instant},
};

use mesh_dataplane::{Bypass, ForeignCgroups, HookAudit, Programs};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};

use crate::effect::Effect;

/// How others see the task.
#[derive(Clone, Debug)]
pub struct ProgramsHandle {
    orders: mpsc::UnboundedSender<Order>,
    report: watch::Receiver<ProgramsReport>,
}

/// How the programs are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramsReport {
    /// Why ours are not in place, or are not seen to have an effect.
    pub unready: Option<String>,
    /// Problems for an operator.
    pub problems: Vec<String>,
    /// How much was restored at hooks and among pins, since the start.
    pub repairs: u64,
    /// The last of it.
    pub last_repair: Option<String>,
}

#[derive(Debug)]
enum Order {
    /// Ours are to be in place, unless something is waited for.
    Exchange(Option<String>),
    Counters(oneshot::Sender<Vec<u64>>),
}

/// Where programs are, or are to be.
#[derive(Debug)]
pub struct Place {
    /// The cgroup.
    pub root: PathBuf,
    /// The cgroups of others there if the programs are attached, or what that waits for.
    pub attached: Result<ForeignCgroups, Waits>,
}

/// What attaching the programs waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Programs of another release are in place until the tables are filled, which waits for this.
    Exchange(String),
    /// They would have no effect, for this reason. What is in place stays.
    Effect(String),
}

/// The task.
pub struct ProgramsTask {
    programs: Programs,
    bypass: Bypass,
    bypass_due: Instant,
    /// At the last look another process was in the agent's cgroup.
    is_bypass_doubted: bool,
    root: PathBuf,
    effect: Result<Effect, Waits>,
    /// Why the programs are not seen to have an effect.
    unproved: Option<String>,
    failure: Option<String>,
    others: Option<String>,
    repairs: u64,
    last_repair: Option<String>,
    orders: mpsc::UnboundedReceiver<Order>,
    report: watch::Sender<ProgramsReport>,
}

/// How often the hooks are checked.
const AUDIT: Duration = Duration::from_secs(1);
/// How often the agent's own cgroup is.
const BYPASS: Duration = Duration::from_secs(30);

// === impl ProgramsHandle ===

impl ProgramsHandle {
    /// Programs that are in place, or are to be once nothing is waited for; and what must run for them.
    pub fn new(programs: Programs, bypass: Bypass, place: Place) -> (Self, ProgramsTask) {
        let Place { root, attached } = place;
        let effect = attached.map(|foreign| Effect::new(&root, foreign, &programs));
        let (sender, orders) = mpsc::unbounded_channel();
        let (report, receiver) = watch::channel(ProgramsReport::default());
        let task = ProgramsTask {
            programs,
            bypass,
            bypass_due: Instant::now() + BYPASS,
            is_bypass_doubted: false,
            root,
            effect,
            unproved: Some("it is not checked yet whether the programs have an effect".into()),
            failure: None,
            others: None,
            repairs: 0,
            last_repair: None,
            orders,
            report,
        };
        task.publish();
        (Self { orders: sender, report: receiver }, task)
    }

    /// Has ours exchanged for those of another release, unless something is waited for.
    pub fn exchange(&self, waits_for: Option<String>) {
        let _ = self.orders.send(Order::Exchange(waits_for));
    }

    /// The programs' counters, by `mesh_layout::Counter`.
    pub async fn counters(&self) -> Vec<u64> {
        let (sender, counters) = oneshot::channel();
        let _ = self.orders.send(Order::Counters(sender));
        counters.await.unwrap_or_default()
    }

    /// Their present state.
    ///
    /// It is a copy: a caller that asks twice while it holds a borrow of the channel would wait for itself, if the task
    /// reports in between.
    pub fn report(&self) -> ProgramsReport {
        self.report.borrow().clone()
    }
}

// === impl ProgramsTask ===

impl ProgramsTask {
    /// Looks after the programs until the last handle is dropped. It may be stopped anywhere: what was attached stays.
    pub async fn run(mut self) {
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Exchange(waits_for)) => self.exchange(waits_for),
                    Some(Order::Counters(answer)) => {
                        let counters = self.programs.counters().map(Vec::from);
                        let _ = answer.send(counters.unwrap_or_default());
                    }
                    None => return,
                },
                _ = audit.tick() => {
                    self.audit();
                    self.check_effect();
                    if Instant::now() >= self.bypass_due {
                        self.bypass_due = Instant::now() + BYPASS;
                        self.look_at_own_cgroup();
                    }
                }
            }
            self.publish();
        }
    }

    fn exchange(&mut self, waits_for: Option<String>) {
        let Err(Waits::Exchange(reason)) = &mut self.effect else { return };
        match waits_for {
            Some(waits_for) => *reason = waits_for,
            None => self.attach(),
        }
    }

    fn attach(&mut self) {
        let cgroup = self.root.display();
        let foreign = match ForeignCgroups::find(&self.root) {
            Ok(foreign) => foreign,
            Err(why) => {
                self.effect = Err(Waits::Effect(why.to_string()));
                return;
            }
        };
        match self.programs.attach(&self.root) {
            Ok(()) => {
                tracing::info!(%cgroup, "the programs are in place");
                self.effect = Ok(Effect::new(&self.root, foreign, &self.programs));
            }
            Err(error) => {
                tracing::error!(%error, "the programs cannot be attached or replaced; trying again");
                self.effect = Err(Waits::Effect(error.to_string()));
            }
        }
    }

    /// Attaches the programs once they would have an effect, and checks it where they are.
    fn check_effect(&mut self) {
        if let Err(Waits::Effect(_)) = self.effect {
            self.attach();
        }
        let unproved = self.effect.as_mut().ok().and_then(|e| e.check(&mut self.programs).err());
        if unproved != self.unproved {
            match &unproved {
                Some(why) if self.unproved.is_none() => {
                    tracing::warn!(why, "the programs are no longer seen to have an effect");
                }
                Some(why) => tracing::info!(why, "the programs are not seen to have an effect yet"),
                None if self.effect.is_ok() => {
                    tracing::info!("the programs run for other processes than the agent");
                }
                None => {}
            }
        }
        self.unproved = unproved;
    }

    /// Restores what was removed from the hooks: no event reports it, so they are checked.
    fn audit(&mut self) {
        let found = match self.programs.audit() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the programs at their hooks cannot be checked or restored");
                self.failure = Some(format!("the programs at their hooks: {error}"));
                return;
            }
        };
        self.failure = None;
        if found.repairs() > 0 {
            let HookAudit { attached, pinned, .. } = &found;
            let again = [("attached", attached), ("pinned", pinned)];
            let again = again.into_iter().filter(|(_, names)| !names.is_empty());
            let again = again.map(|(verb, names)| format!("{verb} again: {}", names.join(", ")));
            let what = again.collect::<Vec<_>>().join("; ");
            tracing::error!(what, "another process removed programs or pins of the mesh");
            self.repairs += found.repairs();
            self.last_repair = Some(what);
        }
        let others = others(&found);
        if others.is_some() && others != self.others {
            tracing::warn!(others, "other programs at the mesh's hooks");
        }
        self.others = others;
    }

    /// A process that has joined the agent's cgroup since is balanced again.
    fn look_at_own_cgroup(&mut self) {
        let bypass = Bypass::find();
        let was_doubted = mem::take(&mut self.is_bypass_doubted);
        if bypass == self.bypass {
            return;
        }
        // A process that `kubectl exec` starts is in the cgroup before it is in the container's process namespace.
        if bypass.problem.is_some() && !was_doubted {
            self.is_bypass_doubted = true;
            self.bypass_due = Instant::now();
            return;
        }
        tracing::warn!(
            before = self.bypass.cgroup,
            now = bypass.cgroup,
            problem = bypass.problem,
            "the agent's cgroup, whose sockets are left alone, changed"
        );
        match self.programs.set_bypass(bypass.cgroup.as_slice()) {
            Ok(()) => self.bypass = bypass,
            Err(error) => tracing::warn!(%error, "the agent's own sockets"),
        }
    }

    fn publish(&self) {
        let unready = match &self.effect {
            Ok(_) => self.unproved.clone(),
            Err(Waits::Exchange(waits_for)) => Some(format!(
                "the programs and tables of another release are still in place, as they were when this agent started: \
                 waiting for {waits_for}"
            )),
            Err(Waits::Effect(why)) => Some(format!("the programs are not attached: {why}")),
        };
        let problems = [&self.bypass.problem, &self.failure, &self.others];
        let report = ProgramsReport {
            unready,
            problems: problems.into_iter().flatten().cloned().collect(),
            repairs: self.repairs,
            last_repair: self.last_repair.clone(),
        };
        self.report.send_if_modified(|before| {
            let modified = *before != report;
            *before = report;
            modified
        });
    }
}

/// The other programs there, as text.
fn others(found: &HookAudit) -> Option<String> {
    let named = |first: bool| {
        let of = found.others.iter().filter(|other| other.is_first == first);
        let mut names: Vec<&str> = of.map(|other| other.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let (before, after) = (named(true), named(false));
    if found.others.is_empty() {
        return None;
    }
    let before = match before.as_str() {
        "" => String::new(),
        names => {
            format!("; before the mesh's, whose services they may lead elsewhere first: {names}")
        }
    };
    let after = match after.as_str() {
        "" => String::new(),
        names => format!("; after the mesh's: {names}"),
    };
    Some(format!(
        "other programs are attached at the sockets' hooks of the cgroup root{before}{after}"
    ))
}

#[cfg(test)]
mod tests {
    use mesh_dataplane::OtherProgram;

    use super::*;

    #[test]
    fn other_programs_are_named_and_whether_they_come_first() {
        let other =
            |beside, name: &str, is_first| OtherProgram { beside, name: name.into(), is_first };
        let mut found = HookAudit::default();
        assert_eq!(others(&found), None);
        found.others = vec![
            other("cm_connect4", "cil_sock4_conne", true),
            other("cm_connect6", "cil_sock4_conne", true),
            other("cm_sendmsg4", "calico_send_v4", false),
        ];
        let text = "other programs are attached at the sockets' hooks of the cgroup root; before the mesh's, whose services \
                    they may lead elsewhere first: cil_sock4_conne; after the mesh's: calico_send_v4";
        assert_eq!(others(&found).unwrap(), text);
    }
}
