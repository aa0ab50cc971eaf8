//! A daemon's Prometheus metrics.
//!
//! Names are `clustermesh_<daemon>_<what>`, in base units; counters end in `_total`. Labels are `peer`, `kind` and
//! `reason`, and never the name of a pod or a service. `docs/metrics.md` lists all metrics.

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
    /// The metrics that every daemon has: its build, its process, and whether it is ready. `prefix` is
    /// `clustermesh_<daemon>`; `former` are old names that are still exported.
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
        let help = "Always 1; the labels describe the build";
        build.register(format!("{prefix}_build_info"), help, ConstGauge::new(1_u32));
        let mut metrics = Self { registry, prefix, former, ready: Gauge::default() };
        let help = "1 while /readyz answers 200, else 0";
        metrics.register("ready", help, metrics.ready.clone());
        metrics
    }

    /// Adds a metric. `name` has neither the daemon's prefix nor a counter's `_total`; `help` has no full stop at its end.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(format!("{}_{name}", self.prefix), help, metric);
    }

    /// Sets whether the daemon is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// If a metric cannot be encoded, which does not happen in practice.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut encoded = String::new();
        encode_registry(&mut encoded, &self.registry)?;
        let mut text = text::prometheus(&encoded);
        former::append(&mut text, self.former);
        Ok(text)
    }
}
