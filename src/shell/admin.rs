//! The two small HTTP servers: health for the kubelet, metrics for Prometheus.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

use super::metrics::Metrics;

/// What the process still waits for; ready when that is nothing.
pub type Waiting = watch::Receiver<Vec<String>>;

/// Serves `/livez` and `/readyz`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn health(address: SocketAddr, waiting: Waiting) -> std::io::Result<()> {
    let routes =
        Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(waiting);
    serve(address, routes).await
}

async fn ready(State(waiting): State<Waiting>) -> (StatusCode, String) {
    let waiting = waiting.borrow();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let lines: String = waiting.iter().flat_map(|what| ["waiting for ", what.as_str(), "\n"]).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

/// Serves `/metrics`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn metrics(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let routes = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    serve(address, routes).await
}

async fn scrape(
    State(metrics): State<Arc<Metrics>>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let text = metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

async fn serve(address: SocketAddr, routes: Router) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(())
}
