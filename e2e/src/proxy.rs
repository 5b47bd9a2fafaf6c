//! The fault proxy: a TLS server between operator and API server that records every call and breaks what it is told to.

mod rules;
mod server;
mod told;

use crate::ControlPlane;
use crate::pki::Authority;
use anyhow::{Context, Result};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rules::Active;
pub use rules::{Act, Rule, RuleHandle};
use secrecy::{ExposeSecret, SecretString};
pub(crate) use server::acceptor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
pub use told::Told;

/// One request, as a rule sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// `GET`, `POST`, `PATCH`, `PUT` or `DELETE`.
    pub method: String,
    /// For example `/api/v1/namespaces/ci/secrets/deploy`.
    pub path: String,
    /// For example `watch=true&labelSelector=…`, percent-encoded as it came.
    pub query: String,
    /// What the client sent.
    pub body: Bytes,
}

impl Call {
    /// Whether the method is `method` and the path contains `part`.
    #[must_use]
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    /// Whether it asks for a token: `POST …/serviceaccounts/<name>/token`.
    #[must_use]
    pub fn is_mint(&self) -> bool {
        self.method == "POST" && self.path.contains("/serviceaccounts/") && self.path.ends_with("/token")
    }

    /// Whether it opens a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1")
    }

    /// Whether the body contains `text`.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }
}

/// A call that came in, without its body.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Position among all calls, from 0.
    pub sequence: usize,
    /// When it came in.
    pub at: DateTime<Utc>,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query as it came.
    pub query: String,
    /// What the client was answered; `None` while it waits and when it got nothing.
    pub status: Option<u16>,
}

/// A token that the API server issued through the proxy.
#[derive(Clone, Debug)]
pub struct Minted {
    token: SecretString,
    /// When the server had answered.
    pub at: DateTime<Utc>,
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// Name of the object the token is bound to, empty without one.
    pub bound_name: String,
    /// UID of the object the token is bound to, empty without one.
    pub bound_uid: String,
    /// Whether the client was given this answer.
    pub passed_on: bool,
    sequence: usize,
}

impl Minted {
    /// The token itself.
    #[must_use]
    pub fn token(&self) -> &str {
        self.token.expose_secret()
    }
}

/// A running proxy; it has threads of its own, so a test that blocks does not block it.
pub struct Proxy {
    url: String,
    ca_pem: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    minted: Mutex<Vec<Minted>>,
    told: Mutex<Vec<u8>>,
    rules: Mutex<Vec<Arc<Active>>>,
    // Each change ends the connections made before it.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy in front of the API server, on a port of its own.
    ///
    /// # Errors
    /// When the certificates or the port cannot be had.
    pub fn start(plane: &ControlPlane) -> Result<Self> {
        let authority = Authority::new("tokenward-e2e-proxy")?;
        let identity = authority.server(&["127.0.0.1"])?;
        let shared = Arc::new(Shared::default());
        let upstream = server::Upstream::new(plane.url(), plane.ca_pem())?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("proxy").enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("a port for the proxy")?;
        let url = format!("https://{}", listener.local_addr()?);
        let acceptor = acceptor(&identity)?;
        runtime.spawn(server::accept(listener, acceptor, shared.clone(), Arc::new(upstream)));
        Ok(Self { url, ca_pem: authority.pem(), shared, runtime: Some(runtime) })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate that signed the proxy's; the API server's own clients do not trust it.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Adds a rule, which lives as long as its handle.
    #[must_use = "dropping the handle ends the rule"]
    pub fn add(&self, rule: Rule) -> RuleHandle {
        let active = Arc::new(Active::new(rule));
        locked(&self.shared.rules).push(active.clone());
        RuleHandle::new(active)
    }

    /// Closes every open connection, watches included.
    pub fn cut_connections(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Every token issued through the proxy so far.
    #[must_use]
    pub fn minted(&self) -> Vec<Minted> {
        locked(&self.shared.minted).clone()
    }

    /// What clients have told the API server so far, also when this proxy is gone.
    #[must_use]
    pub fn told(&self) -> Told {
        Told::new(self.shared.clone())
    }

    /// Every call so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }

    /// The number of calls so far, to count from with [`Proxy::calls_since`].
    #[must_use]
    pub fn mark(&self) -> usize {
        locked(&self.shared.seen).len()
    }

    /// The calls since `mark` of this method (empty: of any) whose path contains `part`.
    #[must_use]
    pub fn calls_since(&self, mark: usize, method: &str, part: &str) -> Vec<Seen> {
        let wanted = |seen: &&Seen| (method.is_empty() || seen.method == method) && seen.path.contains(part);
        locked(&self.shared.seen).iter().skip(mark).filter(wanted).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for its tasks is not allowed inside of another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn record(&self, call: &Call) -> usize {
        told::append(&mut locked(&self.told), call);
        let mut seen = locked(&self.seen);
        let sequence = seen.len();
        let (method, path, query) = (call.method.clone(), call.path.clone(), call.query.clone());
        seen.push(Seen { sequence, at: Utc::now(), method, path, query, status: None });
        sequence
    }

    /// The rules that are to act on this call; counts it for all that match.
    fn acting_on(&self, call: &Call) -> Vec<Arc<Active>> {
        let mut rules = locked(&self.rules);
        rules.retain(|rule| !rule.is_over());
        rules.iter().filter(|rule| rule.counts(call)).cloned().collect()
    }

    fn remember(&self, minted: Minted) {
        locked(&self.minted).push(minted);
    }

    fn answered(&self, sequence: usize, status: u16, passed_on: bool) {
        if let Some(seen) = locked(&self.seen).get_mut(sequence) {
            seen.status = Some(status);
        }
        let mut minted = locked(&self.minted);
        if let Some(minted) = minted.iter_mut().rev().find(|minted| minted.sequence == sequence) {
            minted.passed_on = passed_on;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
