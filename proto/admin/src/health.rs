//! The HTTP endpoints `/healthz`, `/readyz` and `/metrics`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What a daemon serves to a kubelet and to Prometheus. Clones share their state.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    /// Why the daemon is not ready, one sentence each; empty if it is ready.
    unready: Mutex<Vec<String>>,
    metrics: Metrics,
}

impl Health {
    /// The health of a daemon that is starting, so not ready.
    pub fn new(metrics: Metrics) -> Self {
        let unready = Mutex::new(vec!["starting".to_owned()]);
        Self { inner: Arc::new(Inner { unready, metrics }) }
    }

    /// Sets the reasons why the daemon is not ready. An empty list means that it is ready.
    pub fn set(&self, unready: Vec<String>) {
        self.inner.metrics.set_ready(unready.is_empty());
        *self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner) = unready;
    }

    /// The reasons why the daemon is not ready; empty if it is ready.
    pub fn unready(&self) -> Vec<String> {
        self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves HTTP at an address until the future is dropped.
    ///
    /// # Errors
    /// If the address cannot be bound.
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
