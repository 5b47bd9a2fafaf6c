//! One request to the API server and its answer, without kube's typed response path: that one logs bodies it
//! cannot parse, and the bodies here hold tokens.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{connection::with_causes, leadership::Leadership, metrics::Calls, time::Clock};
use crate::core::{
    failure::Failure,
    request::{Accept, Answer, Refusal, Request, Verb},
};

/// A call that has no answer by then is given up: a slot must not wait for a silent peer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is read; a Secret has at most 1 MiB of data.
const MAX_ANSWER: usize = 4 << 20;

/// The API server, for single calls. Nothing is retried here: a repeated TokenRequest would be a second token.
#[derive(Clone)]
pub struct Api {
    client: Client,
    clock: Arc<Clock>,
    deadline: Duration,
    leadership: Leadership,
}

/// A client whose calls are counted. It repeats none: who calls knows whether and when to.
///
/// # Errors
/// When the TLS or authentication settings of the configuration cannot be used.
pub fn client(mut config: Config, calls: &Calls) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(calls).build())
}

impl Api {
    /// A client of its own for this configuration.
    ///
    /// # Errors
    /// When the TLS or authentication settings of the configuration cannot be used.
    pub fn new(config: Config, clock: Arc<Clock>, calls: &Calls) -> Result<Self, kube::Error> {
        Ok(Self::over(client(config, calls)?, clock))
    }

    /// Calls over this client.
    pub(super) fn over(client: Client, clock: Arc<Clock>) -> Self {
        Self { client, clock, deadline: DEADLINE, leadership: Leadership::default() }
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
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Sends one call. A write is given up when leadership ends: it must not land while another process leads.
    ///
    /// # Errors
    /// When there is no answer in time, or it is a refusal; and for a write when this process may not act.
    pub async fn send(&self, request: &Request) -> Answer {
        let mut deadline = self.deadline;
        if request.verb != Verb::Get {
            let left = self.leadership.left();
            let left = left.ok_or_else(|| unanswered(&request.what, "not sent, as this process does not lead"))?;
            deadline = deadline.min(left);
        }
        let answer = tokio::time::timeout(deadline, self.exchange(request)).await;
        let late = |_| unanswered(&request.what, &format!("no answer in {:.0} s", deadline.as_secs_f32()));
        answer.map_err(late)?
    }

    async fn exchange(&self, request: &Request) -> Answer {
        let failed = |error: &(dyn Error + 'static)| unanswered(&request.what, &with_causes(error));
        let sent = Instant::now();
        let response = self.client.send(http_request(request).map_err(|error| failed(&error))?).await;
        let (head, body) = response.map_err(|error| failed(&error))?.into_parts();
        if let Some(date) = text(&head.headers, &header::DATE) {
            self.clock.follow(date, sent);
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| failed(&*error))?;
        let body = String::from_utf8(body.to_bytes().into());
        let body = body.map_err(|_| unanswered(&request.what, "the answer is not text"))?;
        let body = SecretString::from(body);
        if head.status.is_success() {
            return Ok(body);
        }
        let seconds = text(&head.headers, &header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let mut refusal = refused(&request.what, head.status.as_u16(), body.expose_secret());
        refusal.failure.retry_after = seconds.and_then(TimeDelta::try_seconds);
        Err(refusal)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn http_request(request: &Request) -> Result<http::Request<Body>, http::Error> {
    let (method, content) = match request.verb {
        Verb::Get => (Method::GET, "application/json"),
        Verb::Create => (Method::POST, "application/json"),
        Verb::Apply => (Method::PATCH, "application/apply-patch+yaml"),
        Verb::MergePatch => (Method::PATCH, "application/merge-patch+json"),
        Verb::JsonPatch => (Method::PATCH, "application/json-patch+json"),
        Verb::Delete => (Method::DELETE, "application/json"),
    };
    let accept = match request.accept {
        Accept::Any => "*/*",
        Accept::Json => "application/json",
        Accept::Metadata => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        Accept::MetadataList => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    };
    let body = request.body.expose_secret();
    let mut http = http::Request::builder()
        .method(method)
        .uri(&request.path)
        .header(header::ACCEPT, accept)
        .body(Body::from(body.as_bytes().to_vec()))?;
    if !body.is_empty() {
        http.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    }
    Ok(http)
}

#[expect(clippy::unnecessary_box_returns, reason = "refusals travel boxed")]
fn unanswered(what: &str, error: &str) -> Box<Refusal> {
    Failure::unanswered(what, error).into()
}

#[expect(clippy::unnecessary_box_returns, reason = "refusals travel boxed")]
fn refused(what: &str, code: u16, body: &str) -> Box<Refusal> {
    let Ok(mut status) = serde_json::from_str::<Status>(body) else {
        return unanswered(what, &format!("answered HTTP {code} without a Kubernetes status"));
    };
    status.code = Some(i32::from(code));
    let object = status.details.as_ref().and_then(|details| details.name.clone());
    Box::new(Refusal { code: Some(code), object, failure: Failure::refused(what, &status) })
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;

    use http::Response;
    use tokio::sync::watch;

    use super::*;
    use crate::shell::metrics::Metrics;

    /// An API server that answers with this.
    pub fn answering<F>(answer: impl Fn(http::Request<Body>) -> F + Send + Sync + Clone + 'static) -> Api
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let service = tower::service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        Api::over(Client::new(service, "default"), Arc::default())
    }

    fn delete() -> Request {
        Request::delete_secret("ci", "x", "uid".into(), None)
    }

    #[tokio::test]
    async fn the_pause_that_the_api_server_asks_for_is_read() {
        let api = answering(|_| async {
            let body = r#"{"kind":"Status","code":429,"message":"too many requests"}"#;
            Response::builder()
                .status(429)
                .header("retry-after", "7")
                .body(Body::from(body.as_bytes().to_vec()))
                .unwrap()
        });
        let refusal = api.send(&delete()).await.unwrap_err();
        assert_eq!((refusal.code, refusal.failure.retry_after), (Some(429), Some(TimeDelta::seconds(7))));
    }

    #[tokio::test]
    async fn a_call_that_does_not_get_through_says_why() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = Config::new(format!("http://{free}").parse().unwrap());
        let api = Api::new(config, Arc::default(), &Metrics::default().calls).unwrap();
        let refusal = api.send(&Request::read("get x".to_owned(), "/x".to_owned())).await.unwrap_err();
        assert!(refusal.failure.message.contains("Connection refused"), "{}", refusal.failure.message);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_given_up_before_leadership_ends() {
        let (until, leadership) = watch::channel(Some(tokio::time::Instant::now() + Duration::from_secs(2)));
        let api = answering(|_| std::future::pending()).led_by(Leadership::until(leadership));
        let begun = tokio::time::Instant::now();
        let refusal = api.send(&delete()).await.unwrap_err();
        assert_eq!((begun.elapsed(), refusal.code), (Duration::from_secs(2), None));
        let refusal = api.send(&delete()).await.unwrap_err();
        assert!(refusal.failure.message.contains("does not lead"), "{}", refusal.failure.message);
        drop(until);
    }
}
