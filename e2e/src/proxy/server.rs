//! HTTP on both sides of the proxy.

use super::rules::{Act, Active, When};
use super::{Call, Minted, Shared};
use crate::pki::Identity;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use chrono::Utc;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use secrecy::SecretString;
use serde_json::Value;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, BoxError>;
type Answer = Response<Body>;

/// The API server, seen from the proxy.
pub(super) struct Upstream {
    url: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Upstream {
    pub(super) fn new(url: String, ca_pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(http));
        Ok(Self { url, client })
    }

    async fn send(&self, parts: Parts, body: Bytes) -> Result<Response<Incoming>> {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder().method(parts.method).uri(format!("{}{target}", self.url));
        if let Some(headers) = request.headers_mut() {
            *headers = end_to_end(parts.headers);
        }
        Ok(self.client.request(request.body(Full::new(body))?).await?)
    }
}

pub(crate) fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let tls = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

pub(super) async fn accept(
    listener: std::net::TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let proxied = Proxied { shared: shared.clone(), upstream: upstream.clone() };
        tokio::spawn(connection(stream, acceptor.clone(), proxied));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, proxied: Proxied) -> Result<()> {
    let mut cuts = proxied.shared.cuts.subscribe();
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(acceptor.accept(stream).await?);
    let service = service_fn(move |request| proxied.clone().serve(request));
    tokio::select! {
        done = hyper::server::conn::http1::Builder::new().serve_connection(stream, service) => Ok(done?),
        _ = cuts.changed() => Ok(()),
    }
}

#[derive(Clone)]
struct Proxied {
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
}

/// How a rule leaves the body that is passing: an answer of its own ends the call.
enum Verdict {
    Pass(Option<Bytes>),
    Truncate,
    Answer(Answer),
}

impl Proxied {
    /// An error closes the connection without an answer.
    async fn serve(self, request: Request<Incoming>) -> Result<Answer> {
        let (parts, body) = request.into_parts();
        let call = call(&parts, body.collect().await?.to_bytes());
        let sequence = self.shared.record(&call);
        let rules = self.shared.acting_on(&call);
        let replaced = match judge(&rules, When::Before).await? {
            Verdict::Answer(answer) => return Ok(self.deliver(sequence, answer, false)),
            Verdict::Pass(replaced) => replaced,
            Verdict::Truncate => bail!("there is no answer yet that could break off"),
        };
        // A task of its own: what has been sent is answered and recorded even when the client goes away.
        let answer = tokio::spawn(self.clone().forward(parts, call, replaced, sequence)).await??;
        match judge(&rules, When::After).await? {
            Verdict::Answer(failure) => Ok(self.deliver(sequence, failure, false)),
            Verdict::Pass(Some(body)) => Ok(self.deliver(sequence, answer.map(|_| full(body)), false)),
            Verdict::Pass(None) => Ok(self.deliver(sequence, answer, true)),
            Verdict::Truncate => Ok(self.deliver(sequence, truncated(answer).await?, false)),
        }
    }

    fn deliver(&self, sequence: usize, answer: Answer, original: bool) -> Answer {
        self.shared.answered(sequence, answer.status().as_u16(), original);
        answer
    }

    async fn forward(self, parts: Parts, call: Call, body: Option<Bytes>, sequence: usize) -> Result<Answer> {
        let sent = body.unwrap_or_else(|| call.body.clone());
        let (mut head, body) = self.upstream.send(parts, sent).await?.into_parts();
        head.headers = end_to_end(head.headers);
        if call.is_watch() && head.status.is_success() {
            return Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed()));
        }
        let body = body.collect().await?.to_bytes();
        if call.is_mint() && head.status.is_success() {
            self.shared.remember(minted(&call, &body, sequence)?);
        }
        Ok(Response::from_parts(head, full(body)))
    }
}

async fn judge(rules: &[Arc<Active>], when: When) -> Result<Verdict> {
    let mut replaced = None;
    for active in rules.iter().filter(|active| active.rule.when == when) {
        active.acts();
        match &active.rule.act {
            Act::Hold if active.passes().await => {}
            Act::Hold | Act::Drop => bail!("closed by a rule"),
            Act::Fail { status, body, headers } => return Ok(Verdict::Answer(failure(*status, body, headers)?)),
            Act::Truncate => return Ok(Verdict::Truncate),
            Act::Replace(body) => replaced = Some(Bytes::from(body.clone())),
        }
    }
    Ok(Verdict::Pass(replaced))
}

/// Announces the whole answer, sends the half that ends in the middle of what a token takes most of, and breaks off.
async fn truncated(answer: Answer) -> Result<Answer> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    let half = Frame::data(body.slice(..body.len() / 2));
    let frames = futures::stream::iter([Ok(half), Err(BoxError::from("broken off by a rule"))]);
    Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(frames))))
}

fn failure(status: u16, body: &str, headers: &[(String, String)]) -> Result<Answer> {
    let answer = Response::builder().status(status);
    let answer = headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value));
    Ok(answer.body(full(Bytes::from(body.to_owned())))?)
}

fn call(parts: &Parts, body: Bytes) -> Call {
    Call {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body,
    }
}

fn minted(call: &Call, answer: &[u8], sequence: usize) -> Result<Minted> {
    let mut path = call.path.split('/').skip_while(|part| *part != "namespaces").skip(1);
    let namespace = path.next().context("no namespace in the path")?.to_owned();
    let account = path.nth(1).context("no account in the path")?.to_owned();
    let answer: Value = serde_json::from_slice(answer).context("the answer to a TokenRequest")?;
    let text = |at: &str| answer.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Minted {
        token: SecretString::from(text("/status/token")),
        at: Utc::now(),
        namespace,
        account,
        bound_name: text("/spec/boundObjectRef/name"),
        bound_uid: text("/spec/boundObjectRef/uid"),
        passed_on: false,
        sequence,
    })
}

/// Without what belongs to one connection, and without compression, so that bodies can be read.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, ACCEPT_ENCODING] {
        headers.remove(name);
    }
    headers
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
