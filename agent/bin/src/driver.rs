//! The driver of the core: takes messages, passes events to the core, and makes the writers do what the core wants.
//!
//! It runs on a thread of its own and awaits only its inbox and timers. It performs only element updates and stores
//! into mapped tables itself; everything else is a message to a task. It may be stopped anywhere: the kernel keeps what
//! was written, and the next run begins from there.

use std::{
    collections::BTreeMap,
    future::ready,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use mesh_core::Input;
use mesh_dataplane::{Left, PinLock};
use mesh_files::until;
use mesh_health::{Order, Verdict, Verdicts};
use mesh_hooks::ProgramsHandle;
use mesh_metrics::Metrics;
use mesh_model::ClusterName;
use mesh_peers::{Follower, PeerMessage};
use mesh_pods::{AttachmentKey, AttachmentsRead, PodAnswer, State};
use mesh_routes::KubeProxyNeed;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use mesh_node::Node;

use crate::message::Message;

mod audit;
mod carry_out;

pub(crate) use audit::Audits;
use carry_out::AfterChanges;

/// The core and its writers, and what waits for them.
pub(crate) struct Driver {
    node: Node,
    /// Callers that wait for the identity of an attachment.
    waiting: BTreeMap<AttachmentKey, Vec<oneshot::Sender<PodAnswer>>>,
    verdicts: Verdicts,
    after: AfterChanges,
    audits: Audits,
    metrics: Metrics,
    /// When the first of what the tables do not have yet arrived, and how many changes there were before.
    arrived: Option<(Instant, u64)>,
    _pin_lock: PinLock,
}

/// How long tables are written before the inbox is checked again.
const TURN: Duration = Duration::from_millis(2);
/// How often connections are checked, failed changes are retried, and metrics are set.
const TICK: Duration = Duration::from_secs(1);
/// How long an agent that stops begins to write snapshots.
const STOP: Duration = Duration::from_secs(2);

impl Driver {
    pub(crate) fn new(
        node: Node,
        verdicts: Verdicts,
        audits: Audits,
        metrics: Metrics,
        pin_lock: PinLock,
    ) -> Self {
        Self {
            node,
            waiting: BTreeMap::new(),
            verdicts,
            after: AfterChanges::default(),
            audits,
            metrics,
            arrived: None,
            _pin_lock: pin_lock,
        }
    }

    pub(crate) fn programs(&self) -> ProgramsHandle {
        self.node.writers.programs.clone()
    }

    /// The clusters that the previous run left something of.
    pub(crate) fn previous_peers(&self) -> Vec<ClusterName> {
        self.node.writers.snapshots.clusters().cloned().collect()
    }

    /// Takes messages until it is to stop, or no sender is left.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = Left::Nothing;
        loop {
            let now = Instant::now();
            let retry = if let Left::Later(at) = left { Some(at) } else { None };
            let due = self.node.core.next_timeout(now).into_iter().chain(retry);
            let due = due.chain([self.audits.due()]).min();
            tokio::select! {
                biased;
                verdict = self.verdicts.next() => match verdict {
                    Some(verdict) => self.verdict(verdict),
                    None => return,
                },
                () = until(due) => {
                    self.input(Input::Timeout);
                    self.audit(Instant::now());
                }
                _ = tick.tick() => self.tick(),
                Some(event) = self.node.writers.routes.event() => {
                    self.node.writers.routes.report(event);
                }
                message = inbox.recv() => match message {
                    None | Some(Message::Stop) => return self.write_snapshots().await,
                    Some(message) => self.take(message),
                },
                () = ready(()), if left == Left::Due => {}
            }
            left = self.node.lb.turn(TURN, Instant::now);
            let changes = self.node.lb.changes();
            self.metrics.tables.changes.inner().store(changes, Ordering::Relaxed);
            if left != Left::Due {
                // What led to no change was no news.
                if let Some((arrived, _)) = self.arrived.take().filter(|(_, n)| *n < changes) {
                    self.metrics.tables.programming.observe(arrived.elapsed());
                }
                self.after_changes(Instant::now());
            }
        }
    }

    /// The next agent may find a kernel without tables, or tables that it cannot read.
    async fn write_snapshots(&mut self) {
        let (core, end) = (&self.node.core, Instant::now() + STOP);
        self.node.writers.snapshots.write_all(core.local(), end, |name| core.snapshot(name)).await;
    }

    fn input(&mut self, input: Input) {
        let now = Instant::now();
        self.node.core.handle(input, now);
        self.carry_out(now);
    }

    /// Health found something, and more at the same time.
    fn verdict(&mut self, first: Verdict) {
        let now = Instant::now();
        self.node.core.handle(Input::Verdict(first), now);
        while let Some(verdict) = self.verdicts.try_next() {
            self.node.core.handle(Input::Verdict(verdict), now);
        }
        self.carry_out(now);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Peer(message) => self.peer(message),
            Message::LiftQuarantine(name, answer) => {
                let _ = answer.send(self.node.core.lift_quarantine(&name));
                self.carry_out(Instant::now());
            }
            Message::Attachments(AttachmentsRead {
                found,
                complete,
                namespaces,
                problems,
                waiter,
            }) => {
                self.node.attachment_problems = problems;
                self.input(Input::Attachments { found, complete, namespaces });
                if let Some((key, answer)) = waiter {
                    self.wait_for_pod(key, answer);
                }
            }
            Message::KubeProxy(found) => self.input(Input::KubeProxy(found)),
            Message::Query(query) => (query.0)(&self.node),
            Message::Stop => {}
        }
    }

    fn peer(&mut self, message: PeerMessage) {
        match message {
            PeerMessage::Events(name, events) => {
                let follower = self.node.followers.get(&name);
                let connection = follower.map(Follower::connection).unwrap_or_default();
                let changes = self.node.lb.changes();
                self.arrived.get_or_insert_with(|| (Instant::now(), changes));
                self.input(Input::Events(name, events.into_events(), connection));
            }
            PeerMessage::Follow(name, follower) => {
                let order = Order::Follow(name.clone(), follower.link());
                self.node.writers.health.order(order);
                let settings = follower.settings.clone();
                self.node.followers.insert(name.clone(), follower);
                self.input(Input::Follow(name, settings));
            }
            PeerMessage::Unfollow(name) => {
                self.node.followers.remove(&name);
                self.input(Input::Unfollow(name));
            }
            PeerMessage::Read { problems, complete, drained } => {
                self.input(Input::PeersRead { problems, complete, drained });
            }
        }
    }

    fn wait_for_pod(&mut self, key: AttachmentKey, answer: oneshot::Sender<PodAnswer>) {
        match self.node.core.pods().state(&key) {
            None => {
                let _ = answer.send(PodAnswer::NotAttached);
            }
            Some(State::Bound(identity)) => {
                let _ = answer.send(PodAnswer::Bound(identity));
            }
            Some(State::Waiting) => self.waiting.entry(key).or_default().push(answer),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let connections = self.node.followers.iter();
        let connections: Vec<_> =
            connections.map(|(name, follower)| (name.clone(), follower.connection())).collect();
        for (name, connection) in connections {
            // What did not change costs a comparison.
            self.node.core.handle(Input::Connection(name, connection), now);
        }
        self.carry_out(now);
        self.node.followers.values_mut().for_each(Follower::deliver);
        self.waiting.retain(|_, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty()
        });
        let need = match (self.node.core.is_writer_away(now), self.node.core.takes_all_services()) {
            (true, _) => KubeProxyNeed::Fallback,
            (false, true) => KubeProxyNeed::Beside,
            (false, false) => KubeProxyNeed::None,
        };
        self.node.writers.kube_proxy.send_if_modified(|sent| std::mem::replace(sent, need) != need);
        let core = &self.node.core;
        let addresses = core.merge().node_addresses(core.local(), core.node());
        self.node.writers.probe_answer.set_addresses(addresses);
        if let Node { core, policy: Some(policy), .. } = &mut self.node {
            policy.enforcer.tick(policy.interfaces.host(), core.merge(), core.pods(), now);
            policy.attach(core);
        }
        self.exchange_programs(now);
        self.node.writers.snapshots.write(now, |name| self.node.core.snapshot(name));
        if self.node.core.is_synced() {
            self.node.forecast.observe(&self.node.lb.tables().occupancy(), now);
        }
        self.node.observe_repairs(now);
        self.node.set_metrics(&self.metrics, now);
    }
}
