//! Metric families whose owner sets all series at once.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeGaugeValue, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Gauges of one name. Only the series of the last `set` are exported.
#[derive(Debug)]
pub struct Gauges<L, V = u64>(Series<L, V>);

/// Counters of one name that are counted elsewhere. Only the series of the last `set` are exported.
#[derive(Debug)]
pub struct Counters<L>(Series<L, u64>);

type Series<L, V> = Arc<Mutex<Vec<(L, V)>>>;

fn set<L, V>(series: &Series<L, V>, all: impl IntoIterator<Item = (L, V)>) {
    let all = all.into_iter().collect();
    *series.lock().unwrap_or_else(PoisonError::into_inner) = all;
}

// === impl Gauges ===

impl<L, V> Gauges<L, V> {
    /// Replaces all series. Each label set must occur once.
    pub fn set(&self, all: impl IntoIterator<Item = (L, V)>) {
        set(&self.0, all);
    }
}

impl<L, V> Default for Gauges<L, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L, V> Clone for Gauges<L, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: EncodeLabelSet, V: EncodeGaugeValue> EncodeMetric for Gauges<L, V> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        for (labels, value) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            encoder.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

// === impl Counters ===

impl<L> Counters<L> {
    /// Replaces all series. Each label set must occur once.
    pub fn set(&self, all: impl IntoIterator<Item = (L, u64)>) {
        set(&self.0, all);
    }
}

impl<L> Default for Counters<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L> Clone for Counters<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: EncodeLabelSet> EncodeMetric for Counters<L> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        for (labels, value) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
