//! The thread that runs health: apart from everything else, with a runtime of its own (`docs/adr/0034`). Whatever the
//! rest of the agent does, and however few threads its runtime has, probes and answers leave and cuts are written in
//! time.
//!
//! Two futures in one task: the prober, which takes orders and ends with their sender, and the echo. Both may be
//! stopped anywhere.

use std::{
    cell::RefCell,
    future::pending,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_backoff::{Backoff, Policy};
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
    time::{sleep, sleep_until},
};

use crate::{
    echo::EchoSocket,
    machine::Machine,
    order::Order,
    question::{Probe, Reply},
    report::Report,
    socket::ProbeSocket,
    verdict::Verdict,
};

/// The thread's ends of the channels, and what it works with.
pub(crate) struct Worker {
    pub(crate) machine: Machine,
    /// The UDP port at which nodes are asked.
    pub(crate) port: u16,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) verdicts: mpsc::UnboundedSender<Verdict>,
    pub(crate) report: watch::Sender<Arc<Report>>,
}

/// The socket for questions, which is opened again where it fails.
struct Asking {
    port: u16,
    socket: Option<ProbeSocket>,
    backoff: Backoff,
    /// When to try again.
    retry: Option<Instant>,
    problem: Option<String>,
}

/// How often the report is made again, in addition to every change.
const REPORT: Duration = Duration::from_secs(1);

// === impl Worker ===

impl Worker {
    /// Runs until the sender of orders is gone.
    pub(crate) fn run(self) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (problem, port) = (RefCell::default(), self.port);
            tokio::select! {
                () = self.probe(&problem) => {}
                () = echo(port, &problem) => {}
            }
        });
        Ok(())
    }

    async fn probe(mut self, echo: &RefCell<Option<String>>) {
        let mut asking = Asking::new(self.port);
        let mut report = Instant::now();
        loop {
            asking.open();
            let due = [self.machine.next_timeout(), asking.retry].into_iter().flatten();
            let due = due.chain([report]).min().unwrap_or(report);
            let first = tokio::select! {
                biased;
                replies = asking.receive() => replies,
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.machine.order(order, Instant::now());
                        Ok(Vec::new())
                    }
                    None => return,
                },
                () = sleep_until(due.into()) => Ok(Vec::new()),
            };
            // All replies that have arrived are counted before any probe is lost.
            let now = Instant::now();
            let first = first.unwrap_or_else(|error| asking.close(&error));
            for (probe, reply) in first.into_iter().chain(asking.received()) {
                self.machine.reply(probe, reply, now);
            }
            while let Ok(order) = self.orders.try_recv() {
                self.machine.order(order, now);
            }
            let questions = self.machine.due(now, nonce);
            if let Some(socket) = &asking.socket {
                questions.into_iter().for_each(|question| socket.ask(question));
            }
            for verdict in self.machine.take_verdicts() {
                verdict.log();
                let _ = self.verdicts.send(verdict);
            }
            if self.machine.take_news() || report <= now {
                let problems = [asking.problem.clone(), echo.borrow().clone()];
                let problems = problems.into_iter().flatten().collect();
                let made = Report { problems, ..self.machine.report() };
                self.report.send_replace(Arc::new(made));
                report = now + REPORT;
            }
        }
    }
}

/// Answers agents that probe this node.
async fn echo(port: u16, problem: &RefCell<Option<String>>) {
    let mut backoff = Backoff::new(Policy::CONNECTION, u64::from(port));
    loop {
        let error = match EchoSocket::bind(port) {
            Ok(mut socket) => {
                problem.take();
                backoff.reset();
                socket.serve().await
            }
            Err(error) => error,
        };
        let text = format!("probes are not answered by this agent (--probe-port {port}): {error}");
        tracing::warn!(problem = text, "the probe echo");
        problem.replace(Some(text));
        sleep(backoff.failed()).await;
    }
}

// === impl Asking ===

impl Asking {
    fn new(port: u16) -> Self {
        let backoff = Backoff::new(Policy::CONNECTION, u64::from(port));
        Self { port, socket: None, backoff, retry: None, problem: None }
    }

    /// Opens the socket, if there is none and it is time to.
    fn open(&mut self) {
        if self.socket.is_some() || self.retry.is_some_and(|retry| Instant::now() < retry) {
            return;
        }
        match ProbeSocket::bind(self.port) {
            Ok(socket) => {
                (self.socket, self.retry, self.problem) = (Some(socket), None, None);
            }
            Err(error) => drop(self.close(&error)),
        }
    }

    /// The socket is of no use, and is opened again in a while. Nothing was received.
    fn close(&mut self, error: &io::Error) -> Vec<(Probe, Reply)> {
        let text = format!("nodes cannot be probed: {error}");
        tracing::warn!(problem = text, "the probe socket");
        self.socket = None;
        self.retry = Some(Instant::now() + self.backoff.failed());
        self.problem = Some(text);
        Vec::new()
    }

    /// The next replies. Cancel-safe.
    async fn receive(&self) -> io::Result<Vec<(Probe, Reply)>> {
        match &self.socket {
            Some(socket) => socket.receive().await,
            None => pending().await,
        }
    }

    fn received(&mut self) -> Vec<(Probe, Reply)> {
        let received = self.socket.as_ref().map(ProbeSocket::received).unwrap_or_default();
        if !received.is_empty() {
            self.backoff.reset();
        }
        received
    }
}

/// A number that cannot be guessed well enough to answer in another's place.
fn nonce() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
