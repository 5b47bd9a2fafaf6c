//! One keep-alive connection to the API server, with nothing between the caller and HTTP/1.1.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::sync::Arc;
use tokenward_e2e::ControlPlane;

/// The `Accept` headers that the operator sends.
pub const JSON: &str = "application/json";
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// What all connections of one identity have in common.
#[derive(Clone)]
pub struct Endpoint {
    url: String,
    authorization: HeaderValue,
    tls: ClientConfig,
}

impl Endpoint {
    pub fn new(plane: &ControlPlane, token: &SecretString) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(plane.ca_pem().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
        authorization.set_sensitive(true);
        Ok(Self { url: plane.url(), authorization, tls: tls.with_root_certificates(roots).with_no_client_auth() })
    }

    /// A connection of its own; it opens at the first call.
    pub fn connect(&self) -> Connection {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone()).https_only().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(http));
        Connection { endpoint: self.clone(), client }
    }
}

pub struct Connection {
    endpoint: Endpoint,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// One call: method, path, `Accept`, and `Content-Type` with the body.
pub struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub accept: &'static str,
    pub body: Option<(&'static str, &'a Value)>,
}

impl Connection {
    /// Status and whole body of the answer.
    pub async fn call(&self, call: Call<'_>) -> Result<(u16, Bytes)> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{}{}", self.endpoint.url, call.path))
            .header(AUTHORIZATION, self.endpoint.authorization.clone())
            .header(ACCEPT, call.accept);
        let mut bytes = Bytes::new();
        if let Some((content, body)) = call.body {
            request = request.header(CONTENT_TYPE, content);
            bytes = serde_json::to_vec(body)?.into();
        }
        let answer = self.client.request(request.body(Full::new(bytes))?).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// The JSON of an answer that must be a success.
    pub async fn json(&self, call: Call<'_>) -> Result<Value> {
        let what = format!("{} {}", call.method, call.path);
        let (status, body) = self.call(call).await.with_context(|| what.clone())?;
        ensure!((200..300).contains(&status), "{what}: {status} {}", message(&body));
        serde_json::from_slice(&body).context(what)
    }
}

/// The message of a refusal; an answer that is none may hold a token and is not shown.
fn message(body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    status["message"].as_str().unwrap_or_default().to_owned()
}
