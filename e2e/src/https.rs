//! A small HTTPS server, for what an API server asks.

use crate::pki::Authority;
use crate::proxy::acceptor;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server answers to a path and the JSON that was sent there; `None` for 404.
type Answers = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;

/// A server on a loopback port, which lives as long as this process: tests that share a control plane share it.
pub struct Https {
    /// Where it is.
    pub url: String,
    /// The CA of its certificate.
    pub ca_pem: String,
}

impl Https {
    /// Starts a server; the answers are made for its URL.
    ///
    /// # Errors
    /// When no port or no thread is free.
    pub fn start<A>(answers: impl FnOnce(&str) -> A) -> Result<Self>
    where
        A: Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    {
        let authority = Authority::new("tokenward-e2e-https")?;
        let acceptor = acceptor(&authority.server(&["127.0.0.1"])?)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("https://{}", listener.local_addr()?);
        let answers: Arc<Answers> = Arc::new(answers(&url));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A runtime of its own: that of the test that happens to be first ends with that test.
        std::thread::spawn(move || runtime.block_on(serve(listener, acceptor, answers)));
        Ok(Self { url, ca_pem: authority.pem() })
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, answers: Arc<Answers>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, answers) = (acceptor.clone(), answers.clone());
        tokio::spawn(async move {
            let stream = TokioIo::new(acceptor.accept(stream).await?);
            let service = service_fn(|request| answer(request, answers.clone()));
            http1::Builder::new().serve_connection(stream, service).await.context("serving")
        });
    }
}

async fn answer(request: Request<Incoming>, answers: Arc<Answers>) -> Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let sent = request.into_body().collect().await?.to_bytes();
    let found = answers(&path, &serde_json::from_slice(&sent).unwrap_or_default());
    let response = Response::builder().status(if found.is_some() { 200 } else { 404 });
    let body = found.map(|value| value.to_string()).unwrap_or_default();
    Ok(response.header(CONTENT_TYPE, "application/json").body(Full::from(body))?)
}
