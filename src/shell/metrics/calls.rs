//! Counts calls to the API server, by verb and answer, and times them: a layer around each client. What kube retries by itself, lists and
//! watches only, counts once.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tower::{Layer, Service};

use super::Histograms;

/// One verb and one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    verb: &'static str,
    /// HTTP status; 0 without an answer.
    code: u16,
}

/// From an answer out of the API server's cache to the 10 s after which a call is given up, in seconds.
pub(super) const DURATIONS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Calls so far.
#[derive(Clone, Debug)]
pub struct Calls {
    /// How many.
    pub count: Family<CallLabels, Counter>,
    /// How long the head of the answer took; that of a watch comes when it begins.
    pub duration: Histograms,
}

/// A client whose calls are counted.
#[derive(Clone, Debug)]
pub struct CountedService<S> {
    inner: S,
    calls: Calls,
}

impl<S> Layer<S> for Calls {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { inner, calls: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for CountedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (verb, calls) = (verb(request.method(), request.uri().query()), self.calls.clone());
        let begun = Instant::now();
        let answered = self.inner.call(request).inspect(move |answer| {
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            calls.count.get_or_create(&CallLabels { verb, code }).inc();
            calls.duration.get_or_create(&[("verb", verb.into())]).observe(begun.elapsed().as_secs_f64());
        });
        answered.boxed()
    }
}

/// The verb as RBAC and the audit log name it; a list is told from a get by its query, which ours always have.
fn verb(method: &Method, query: Option<&str>) -> &'static str {
    let asks = |name: &str| query.unwrap_or_default().split('&').any(|pair| pair.starts_with(name));
    match *method {
        Method::GET if asks("watch=") => "watch",
        Method::GET if asks("limit=") || asks("fieldSelector=") => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "update",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_those_of_rbac() {
        for (method, query, verb) in [
            (Method::GET, Some("watch=true&timeoutSeconds=60"), "watch"),
            (Method::GET, Some("&limit=500&resourceVersion=0"), "list"),
            (Method::GET, Some("fieldSelector=type%3Dx"), "list"),
            (Method::GET, None, "get"),
            (Method::POST, Some("fieldManager=tokenward"), "create"),
            (Method::PATCH, Some("fieldManager=tokenward&force=true"), "patch"),
            (Method::DELETE, None, "delete"),
        ] {
            assert_eq!(super::verb(&method, query), verb, "{method} {query:?}");
        }
    }
}
