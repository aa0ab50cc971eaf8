//! What a daemon counts, as Prometheus reads it.
//!
//! Names are `clustermesh_<daemon>_<what>`, in base units; counters end in `_total`. Labels are `peer`, `kind` and `reason`, and
//! never the name of a pod or a service. `docs/metrics.md` has all of them.

use std::{borrow::Cow, fmt};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::gauge::{ConstGauge, Gauge},
    registry::{Metric, Registry},
};

use crate::version::{COMMIT, VERSION, WIRE_REVISION, layout};

pub mod conventions;
mod former;
mod process;
mod series;
mod text;

pub use former::Former;
pub use series::{Counters, Gauges};

/// A daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    prefix: &'static str,
    former: &'static [Former],
    ready: Gauge,
}

// === impl Metrics ===

impl Metrics {
    /// What every daemon has: its build, its process, and whether it is ready. `prefix` is `clustermesh_<daemon>`.
    pub fn new(prefix: &'static str, former: &'static [Former]) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let labels = [
            ("version", VERSION.to_owned()),
            ("commit", COMMIT.to_owned()),
            ("wire_revision", WIRE_REVISION.to_string()),
            ("map_layout", layout()),
        ];
        let labels = labels.map(|(name, value)| (Cow::from(name), Cow::from(value)));
        let build = registry.sub_registry_with_labels(labels.into_iter());
        let help = "Always 1; the labels say what was built";
        build.register(format!("{prefix}_build_info"), help, ConstGauge::new(1_u32));
        let mut metrics = Self { registry, prefix, former, ready: Gauge::default() };
        let help = "1 while /readyz answers 200, else 0";
        metrics.register("ready", help, metrics.ready.clone());
        metrics
    }

    /// Adds one. `name` is without the daemon's prefix and a counter's `_total`, `help` without its full stop.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(format!("{}_{name}", self.prefix), help, metric);
    }

    /// Whether the daemon is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// None in practice: a metric that does not encode.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut encoded = String::new();
        encode_registry(&mut encoded, &self.registry)?;
        let mut text = text::prometheus(&encoded);
        former::append(&mut text, self.former);
        Ok(text)
    }
}
