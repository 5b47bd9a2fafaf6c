//! The two small HTTP servers: health for the kubelet, metrics for Prometheus.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::metrics::Metrics;
use crate::core::index::Readiness;

/// Serves `/livez` and `/readyz`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn health(address: SocketAddr, readiness: watch::Receiver<Readiness>) -> std::io::Result<()> {
    let routes =
        Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness);
    serve(address, routes).await
}

async fn ready(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    let Readiness { ready, lacks } = &*readiness.borrow();
    let (status, first) = if *ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "") };
    (status, lacks.iter().fold(first.to_owned(), |lines, line| lines + line + "\n"))
}

/// Who asks for the gauges to be brought up to date, and is told when they are.
pub type Scrape = oneshot::Sender<()>;

/// A loop that is this busy is scraped as it was; and before it begins there is nobody to ask.
const UP_TO_DATE: Duration = Duration::from_secs(1);

/// Serves `/metrics`. Gauges are computed when they are asked for, so that an idle operator does nothing.
///
/// # Errors
/// When the address cannot be bound.
pub async fn metrics(address: SocketAddr, metrics: Arc<Metrics>, ask: mpsc::Sender<Scrape>) -> std::io::Result<()> {
    let routes = Router::new().route("/metrics", get(scrape)).with_state((metrics, ask));
    serve(address, routes).await
}

async fn scrape(
    State((metrics, ask)): State<(Arc<Metrics>, mpsc::Sender<Scrape>)>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let (done, told) = oneshot::channel();
    if ask.try_send(done).is_ok() {
        // Also without an answer there is something to show.
        let _ = timeout(UP_TO_DATE, told).await;
    }
    let text = metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text))
}

async fn serve(address: SocketAddr, routes: Router) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(())
}
