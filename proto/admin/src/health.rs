//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What a daemon shows to a kubelet and to Prometheus.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    /// Why the daemon is not ready; empty when it is.
    unready: Mutex<Vec<String>>,
    metrics: Metrics,
}

impl Health {
    /// Not ready yet, with these metrics.
    pub fn new(metrics: Metrics) -> Self {
        let unready = Mutex::new(vec!["starting".to_owned()]);
        Self { inner: Arc::new(Inner { unready, metrics }) }
    }

    /// Says what keeps the daemon from being ready; nothing, if it is.
    pub fn set(&self, unready: Vec<String>) {
        self.inner.metrics.set_ready(unready.is_empty());
        *self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner) = unready;
    }

    /// What keeps the daemon from being ready.
    pub fn unready(&self) -> Vec<String> {
        self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(self, address: SocketAddr) -> std::io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, router).await
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let unready = health.unready();
    if unready.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, unready.iter().map(|reason| format!("{reason}\n")).collect())
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let content_type = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    match health.inner.metrics.text() {
        Ok(text) => (StatusCode::OK, content_type, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, content_type, error.to_string()),
    }
}
