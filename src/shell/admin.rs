//! The two small HTTP servers: health for the kubelet, metrics for Prometheus.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, http::StatusCode, routing::get};
use futures::{
    future::{OptionFuture, join3},
    stream,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{metrics::Metrics, tasks::joined, turn::Input};
use crate::core::{
    Time,
    bootstrap::controller::Bootstrap,
    grant::controller::{Grants, Readiness},
    kernel::controller::Controller,
    legacy::controller::Legacy,
};

/// Serves `/livez` and `/readyz`, for ever.
///
/// # Errors
/// When the address cannot be bound.
pub async fn health(
    address: SocketAddr,
    readiness: watch::Receiver<Readiness>,
) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let routes =
        Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness);
    Ok(accept(TcpListener::bind(address).await?, routes))
}

async fn ready(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    let Readiness { ready, lacks } = &*readiness.borrow();
    let (status, first) = if *ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "") };
    (status, lacks.iter().fold(first.to_owned(), |lines, line| lines + line + "\n"))
}

/// The counts, and the loops that bring the gauges among them up to date when they are asked for: an idle operator does
/// nothing.
#[derive(Clone)]
pub struct Scrape {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The loop of the grants.
    pub grants: mpsc::Sender<Input<Grants>>,
    /// The loop of the bootstrap tokens, if it runs.
    pub bootstrap: Option<mpsc::Sender<Input<Bootstrap>>>,
    /// The loop of the legacy tokens, if it runs.
    pub legacy: Option<mpsc::Sender<Input<Legacy>>>,
}

/// A loop that is this busy is scraped as it was; and before it begins there is nobody to ask.
const UP_TO_DATE: Duration = Duration::from_secs(1);

/// Serves `/metrics`, for ever.
///
/// # Errors
/// When the address cannot be bound.
pub async fn metrics(address: SocketAddr, scrape: Scrape) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let routes = Router::new().route("/metrics", get(scraped)).with_state(scrape);
    Ok(accept(TcpListener::bind(address).await?, routes))
}

async fn scraped(State(scrape): State<Scrape>) -> Result<([(&'static str, &'static str); 1], Body), StatusCode> {
    let Scrape { metrics, grants, bootstrap, legacy } = scrape;
    let refreshed = metrics.clone();
    let grants = refresh(&grants, move |grants, _| refreshed.refresh(grants));
    let refreshed = metrics.clone();
    let of_bootstrap = move |bootstrap: &Bootstrap, now| refreshed.refresh_bootstrap(bootstrap, now);
    let bootstrap = OptionFuture::from(bootstrap.as_ref().map(|bootstrap| refresh(bootstrap, of_bootstrap)));
    let refreshed = metrics.clone();
    let of_legacy = move |legacy: &Legacy, _| refreshed.refresh_legacy(legacy);
    let legacy = OptionFuture::from(legacy.as_ref().map(|legacy| refresh(legacy, of_legacy)));
    if metrics.leads() {
        // Also without an answer there is something to show.
        let _ = timeout(UP_TO_DATE, join3(grants, bootstrap, legacy)).await;
    }
    let pieces = metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<String, Infallible>)));
    Ok(([("content-type", "text/plain; version=0.0.4; charset=utf-8")], body))
}

async fn refresh<C: Controller>(inputs: &mpsc::Sender<Input<C>>, refresh: impl FnOnce(&C, Time) + Send + 'static) {
    let (done, told) = oneshot::channel();
    let call = move |controller: &mut C, now: Time| {
        refresh(controller, now);
        // The asker may have given up.
        let _ = done.send(());
    };
    if inputs.send(Input::Call(Box::new(call))).await.is_ok() {
        let _ = told.await;
    }
}

/// Connections that a listener keeps; kubelet and Prometheus need one each.
const CONNECTIONS: usize = 64;
/// A request's head comes at once or not at all.
const HEAD: Duration = Duration::from_secs(10);
/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// An error of accept, too many open files above all, passes.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves every new connection at once; of too many the oldest makes room, so those that only wait keep nobody out.
async fn accept(listener: TcpListener, routes: Router) {
    let (mut connections, mut open) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                joined(ended);
                continue;
            }
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connections.spawn(connection(stream, routes.clone())));
    }
}

/// An error ends the connection, and whoever made it knows.
async fn connection(stream: TcpStream, routes: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let _ = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standby_shows_no_states() {
        let (grants, mut grants_asked) = mpsc::channel(1);
        let (legacy, mut legacy_asked) = mpsc::channel(1);
        let metrics = Arc::new(Metrics::default());
        let scrape = Scrape { metrics: metrics.clone(), grants, bootstrap: None, legacy: Some(legacy) };
        assert!(scraped(State(scrape.clone())).await.is_ok());
        assert!(grants_asked.try_recv().is_err() && legacy_asked.try_recv().is_err());
        metrics.turned(true, chrono::TimeDelta::zero());
        assert!(scraped(State(scrape)).await.is_ok());
        assert!(grants_asked.try_recv().is_ok() && legacy_asked.try_recv().is_ok(), "the leader does");
    }
}
