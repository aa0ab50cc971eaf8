//! The interface of health for the rest of the agent.

use std::{
    io,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Instant,
};

use mesh_model::ClusterName;
use tokio::sync::{mpsc, watch};

use crate::{
    endings::EndingPolicy, machine::Machine, order::Order, report::Report, thread::Worker,
    verdict::Verdict,
};

/// The initial settings of health.
#[derive(Clone, Debug)]
pub struct HealthOptions {
    /// The local cluster, which is never cut.
    pub local: ClusterName,
    /// The UDP port at which agents are asked, and this one answers.
    pub port: u16,
    /// Which sockets are ended, and when.
    pub endings: EndingPolicy,
}

/// Health, in a thread that lives as long as this.
#[derive(Debug)]
pub struct Health {
    /// `None` when it is dropped.
    orders: Option<mpsc::UnboundedSender<Order>>,
    report: watch::Receiver<Arc<Report>>,
    thread: Option<JoinHandle<()>>,
}

/// The verdicts on nodes and clusters, in order.
#[derive(Debug)]
pub struct Verdicts(mpsc::UnboundedReceiver<Verdict>);

/// Why health does not run.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No thread can be started.
    #[error("no thread for probes: {0}")]
    Thread(#[source] io::Error),
}

// === impl Health ===

impl Health {
    /// Starts the thread. Sockets that cannot be opened are tried again, and the report says so.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(options: HealthOptions) -> Result<(Self, Verdicts), HealthError> {
        let HealthOptions { local, port, endings } = options;
        let machine = Machine::new(local, endings, Instant::now());
        let (orders, taken) = mpsc::unbounded_channel();
        let (verdict, verdicts) = mpsc::unbounded_channel();
        let (made, report) = watch::channel(Arc::new(machine.report()));
        let worker = Worker { machine, port, orders: taken, verdicts: verdict, report: made };
        let run = || {
            if let Err(error) = worker.run() {
                tracing::error!(%error, "health has no runtime");
            }
        };
        let thread = Builder::new().name("health".into()).spawn(run);
        let thread = Some(thread.map_err(HealthError::Thread)?);
        Ok((Self { orders: Some(orders), report, thread }, Verdicts(verdicts)))
    }

    /// Gives an order. Orders are taken in their sequence.
    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // It ends with this handle.
            let _ = orders.send(order);
        }
    }

    /// How everything was lately.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.borrow())
    }

    /// The reports as they come.
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }
}

impl Drop for Health {
    /// Ends the thread, and waits until no state word is written any more.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Verdicts ===

impl Verdicts {
    /// The next one; `None` when health has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Verdict> {
        self.0.recv().await
    }

    /// The next one, if there is one.
    pub fn try_next(&mut self) -> Option<Verdict> {
        self.0.try_recv().ok()
    }
}
