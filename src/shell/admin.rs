//! The two small HTTP servers: health for the kubelet, metrics for Prometheus.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{sleep, timeout},
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
    tokio::spawn(accept(listener, routes));
    Ok(())
}

/// Connections that a listener keeps; kubelet and Prometheus need one each.
const CONNECTIONS: usize = 64;
/// A request's head comes at once or not at all.
const HEAD: Duration = Duration::from_secs(10);
/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// What keeps a connection from being accepted, too many open files above all, passes.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves every new connection at once; of too many the oldest makes room, so those that only wait keep nobody out.
async fn accept(listener: TcpListener, routes: Router) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, routes.clone())).abort_handle());
    }
}

/// An error ends the connection, and whoever made it knows.
async fn connection(stream: TcpStream, routes: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let _ = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}
