//! One request to the API server and its answer, without kube's typed response path: that one logs bodies it
//! cannot parse, and the bodies here hold tokens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

use super::{lease::Leadership, metrics::Calls, time::Clock};
use crate::core::failure::Failure;

/// A call that has no answer by then is given up: a slot must not wait for a silent peer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is read; a Secret has at most 1 MiB of data.
const MAX_ANSWER: usize = 4 << 20;

/// Answers with metadata only: token bytes never come back.
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The same for a list.
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// Plain JSON.
pub const JSON: &str = "application/json";
/// Server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";
/// RFC 7396.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// RFC 6902.
pub const JSON_PATCH: &str = "application/json-patch+json";

/// The API server, for single calls. Nothing is retried here: a repeated TokenRequest would be a second token.
#[derive(Clone)]
pub struct Api {
    client: Client,
    clock: Arc<Clock>,
    deadline: Duration,
    leadership: Leadership,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is being done to which object, for messages: "create Secret ci/x".
    pub what: &'a str,
    /// HTTP method.
    pub method: &'a Method,
    /// Path and query.
    pub path: &'a str,
    /// `Accept`.
    pub accept: &'static str,
    /// `Content-Type`.
    pub content: &'static str,
    /// The body.
    pub body: &'a SecretString,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub struct CallError {
    /// The HTTP status, if the API server itself answered.
    pub code: Option<u16>,
    /// What it was about, when the server said so: `details.kind` and `details.name`.
    pub object: Option<(String, String)>,
    /// For people.
    pub failure: Failure,
}

#[expect(clippy::unnecessary_box_returns, reason = "errors travel boxed")]
impl CallError {
    fn unanswered(what: &str, error: &str) -> Box<Self> {
        Box::new(Self { code: None, object: None, failure: Failure::unanswered(what, error) })
    }

    fn refused(what: &str, code: u16, body: &str) -> Box<Self> {
        let Ok(mut status) = serde_json::from_str::<Status>(body) else {
            return Self::unanswered(what, &format!("answered HTTP {code} without a Kubernetes status"));
        };
        status.code = Some(i32::from(code));
        let object = status
            .details
            .as_ref()
            .map(|details| (details.kind.clone().unwrap_or_default(), details.name.clone().unwrap_or_default()));
        Box::new(Self { code: Some(code), object, failure: Failure::refused(what, &status) })
    }
}

/// A client whose calls are counted.
///
/// # Errors
/// When the TLS or authentication settings of the configuration cannot be used.
pub fn client(config: Config, calls: &Calls) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?.with_layer(calls).build())
}

impl Api {
    /// A client of its own for this configuration.
    ///
    /// # Errors
    /// When the TLS or authentication settings of the configuration cannot be used.
    pub fn new(mut config: Config, clock: Arc<Clock>, calls: &Calls) -> Result<Self, kube::Error> {
        config.default_retry = false;
        Ok(Self { client: client(config, calls)?, clock, deadline: DEADLINE, leadership: Leadership::default() })
    }

    /// Gives calls up after this time.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Writes only while that leads.
    #[must_use]
    pub fn led_by(self, leadership: Leadership) -> Self {
        Self { leadership, ..self }
    }

    /// Whether and how long it may write.
    #[must_use]
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// The clock that follows the answers.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sends one call and returns the body of a successful answer.
    ///
    /// # Errors
    /// When there is no answer in time, or it is a refusal; and for a write when this process may not act.
    pub async fn call(&self, call: Call<'_>) -> Result<SecretString, Box<CallError>> {
        if *call.method != Method::GET && !self.leadership.leads() {
            return Err(CallError::unanswered(call.what, "not sent, as this process does not lead"));
        }
        let answer = tokio::time::timeout(self.deadline, self.exchange(call)).await;
        let late = |_| CallError::unanswered(call.what, &format!("no answer in {} s", self.deadline.as_secs()));
        let (code, body) = answer.map_err(late)??;
        if (200..300).contains(&code) {
            Ok(body)
        } else {
            Err(CallError::refused(call.what, code, body.expose_secret()))
        }
    }

    async fn exchange(&self, call: Call<'_>) -> Result<(u16, SecretString), Box<CallError>> {
        let unanswered = |error: &dyn std::fmt::Display| CallError::unanswered(call.what, &error.to_string());
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::ACCEPT, call.accept)
            .body(Body::from(call.body.expose_secret().as_bytes().to_vec()))
            .map_err(|error| unanswered(&error))?;
        if !call.body.expose_secret().is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(call.content));
        }
        let sent = Instant::now();
        let response = self.client.send(request).await.map_err(|error| unanswered(&error))?;
        let code = response.status().as_u16();
        if let Some(date) = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()) {
            self.clock.follow(date, sent);
        }
        let body =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| unanswered(&error))?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(|_| unanswered(&"the answer is not text"))?;
        Ok((code, text.into()))
    }
}

/// Reads an answer that holds no token.
///
/// # Errors
/// When it is not what was asked for; the answer itself is never quoted.
pub fn parse<T: DeserializeOwned>(what: &str, body: &SecretString) -> Result<T, Box<CallError>> {
    serde_json::from_str(body.expose_secret())
        .map_err(|_| CallError::unanswered(what, "the answer has another form than asked for"))
}
