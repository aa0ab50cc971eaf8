//! The task that makes the kernel answer probes where they arrive: follows the node's addresses and interfaces, and
//! checks each second whether the program is still attached.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_dataplane::{AnswerState, PinRoot, ProbeAnswer, ProbeAnswerError};
use mesh_routes::{Attachments, Interfaces, attachments};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

/// How others see the task.
#[derive(Debug)]
pub struct ProbeAnswerHandle {
    /// The node's addresses, as its cluster reports them; none while that is not known.
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    report: watch::Receiver<ProbeAnswerReport>,
}

/// The report of who answers probes of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeAnswerReport {
    /// A short description.
    pub who: String,
    /// Problems for an operator.
    pub problems: Vec<String>,
    /// How much was restored at interfaces.
    pub repairs: u64,
}

/// The task.
pub struct ProbeAnswerTask {
    pins: PinRoot,
    port: u16,
    by_kernel: bool,
    repairs: u64,
    addresses: watch::Receiver<BTreeSet<IpAddr>>,
    report: watch::Sender<ProbeAnswerReport>,
}

/// How often interfaces are checked although nothing was reported of them.
const AUDIT: Duration = Duration::from_secs(1);
/// How long what cannot be opened is left alone.
const RETRY: Duration = Duration::from_secs(30);

// === impl ProbeAnswerHandle ===

impl ProbeAnswerHandle {
    /// Questions at this port are answered by the kernel, or, unless `by_kernel`, by the agent alone. And what must run.
    pub fn new(pins: PinRoot, port: u16, by_kernel: bool) -> (Self, ProbeAnswerTask) {
        let (addresses, receiver) = watch::channel(BTreeSet::new());
        let (sender, report) = watch::channel(ProbeAnswerReport::default());
        let task = ProbeAnswerTask {
            pins,
            port,
            by_kernel,
            repairs: 0,
            addresses: receiver,
            report: sender,
        };
        (Self { addresses, report }, task)
    }

    /// The node has these addresses. Without any it keeps those that it had.
    pub fn set_addresses(&self, addresses: &[IpAddr]) {
        self.addresses.send_if_modified(|before| {
            let same =
                before.len() == addresses.len() && addresses.iter().all(|ip| before.contains(ip));
            if same || addresses.is_empty() {
                return false;
            }
            *before = addresses.iter().copied().collect();
            true
        });
    }

    /// Who answers now.
    ///
    /// It is a copy: a caller that asks twice while it holds a borrow of the channel would wait for itself, if the task
    /// reports in between.
    pub fn report(&self) -> ProbeAnswerReport {
        self.report.borrow().clone()
    }
}

// === impl ProbeAnswerTask ===

impl ProbeAnswerTask {
    /// Runs forever. It may be stopped anywhere: what was attached stays.
    pub async fn run(mut self) {
        loop {
            match ProbeAnswer::load(self.pins.clone()) {
                Ok(answer) if self.by_kernel => {
                    let error = self.follow(answer).await;
                    self.publish(error, Vec::new());
                }
                Ok(answer) => {
                    let detached = answer.detach().map_err(|error| error.to_string());
                    self.publish(
                        "the agent (--probe-answer agent)".into(),
                        detached.err().into_iter().collect(),
                    );
                    return std::future::pending().await;
                }
                Err(error @ ProbeAnswerError::NoTcx) => {
                    self.publish(format!("the agent: {error}"), Vec::new());
                    return std::future::pending().await;
                }
                Err(error) => {
                    let problem =
                        format!("the kernel cannot answer probes, the agent does: {error}");
                    self.publish("the agent".into(), vec![problem]);
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Follows addresses and interfaces until one cannot be followed any more. Why.
    async fn follow(&mut self, mut answer: ProbeAnswer) -> String {
        let mut interfaces = match Interfaces::open() {
            Ok(interfaces) => interfaces,
            Err(error) => return format!("the agent: {error}"),
        };
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut found = Attachments::default();
        loop {
            let is_moved = tokio::select! {
                changed = interfaces.changed() => match changed {
                    Ok(()) => true,
                    Err(error) => return format!("the agent: {error}"),
                },
                changed = self.addresses.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return std::future::pending().await,
                },
                _ = audit.tick() => false,
            };
            let addresses = self.addresses.borrow_and_update().clone();
            // What the previous run attached stays until it is known where it should be.
            if addresses.is_empty() {
                continue;
            }
            let now = Instant::now();
            let made = if is_moved {
                found = attachments(interfaces.all(), &addresses);
                let at = found.ethernet.iter().map(|interface| interface.index).collect();
                let addressed = answer.set_addresses(&addresses, self.port);
                addressed.map_err(Into::into).and_then(|()| answer.set_interfaces(&at, now))
            } else {
                answer.audit(now).map(|repairs| {
                    if repairs > 0 {
                        tracing::error!(
                            repairs,
                            "another process removed the program that answers probes"
                        );
                    }
                    self.repairs += repairs;
                })
            };
            let failed = made.err().map(|error| format!("answering probes in the kernel: {error}"));
            self.describe(&answer, &found, failed);
        }
    }

    /// Describes where the kernel answers, and where the agent has to.
    fn describe(&self, answer: &ProbeAnswer, found: &Attachments, failed: Option<String>) {
        let name = |index: u32| {
            let interface = found.ethernet.iter().find(|interface| interface.index == index);
            interface.map_or_else(|| index.to_string(), |interface| interface.name.clone())
        };
        let (mut kernel, mut problems) = (Vec::new(), Vec::new());
        for (index, state) in answer.interfaces() {
            match state {
                AnswerState::Answers => kernel.push(name(index)),
                AnswerState::Behind => {
                    kernel.push(name(index));
                    problems.push(format!("{}: {state}", name(index)));
                }
                AnswerState::NotEthernet | AnswerState::Failed(_) => {
                    problems.push(format!("{}: {state}", name(index)));
                }
            }
        }
        let others: Vec<&str> = found.others.iter().map(|other| other.name.as_str()).collect();
        let missing: Vec<String> = found.missing.iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            problems
                .push(format!("no interface of this node has its address {}", missing.join(", ")));
        }
        let who = match (kernel.is_empty(), others.is_empty()) {
            (false, true) => format!("the kernel, at {}", kernel.join(", ")),
            (false, false) => {
                format!(
                    "the kernel, at {}, and the agent, at {}",
                    kernel.join(", "),
                    others.join(", ")
                )
            }
            (true, _) => "the agent".into(),
        };
        problems.extend(failed);
        self.publish(who, problems);
    }

    fn publish(&self, who: String, problems: Vec<String>) {
        let report = ProbeAnswerReport { who, problems, repairs: self.repairs };
        self.report.send_if_modified(|before| {
            if *before == report {
                return false;
            }
            report
                .problems
                .iter()
                .filter(|problem| !before.problems.contains(problem))
                .for_each(|problem| tracing::warn!(problem, "answering probes"));
            *before = report;
            true
        });
    }
}
