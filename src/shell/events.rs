//! Notices, told: an event on the policy, a log line, and a limit so that a storm of them harms nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chrono::SecondsFormat;
use http::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    api::{Api, Call, JSON, METADATA},
    metrics::Metrics,
};
use crate::core::{
    bootstrap::notice as bootstrap,
    facts::text,
    notice::{Notice, What},
    table::Key,
};

/// Events in a row before the pace is limited.
const BURST: f64 = 100.0;
/// Events a second after that.
const PER_SECOND: f64 = 10.0;
/// The longest note that events.k8s.io/v1 takes.
const MAX_NOTE: usize = 1024;

/// Tells people what happened.
#[derive(Clone)]
pub struct Reporter {
    api: Api,
    metrics: Arc<Metrics>,
    instance: Arc<str>,
    bucket: Arc<Mutex<(f64, Instant)>>,
}

impl Reporter {
    /// A reporter with a full bucket.
    #[must_use]
    pub fn new(api: Api, metrics: Arc<Metrics>) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "tokenward".into());
        Self { api, metrics, instance: instance.into(), bucket: Arc::new(Mutex::new((BURST, Instant::now()))) }
    }

    /// Logs what happened to a grant, counts it, and publishes it as an event if the bucket allows.
    pub fn report(&self, notice: &Notice) {
        log(notice);
        self.metrics.notice(&notice.what);
        if notice.what.is_news() {
            self.publish(News::of_grant(notice));
        }
    }

    /// The same for bootstrap tokens.
    pub fn report_bootstrap(&self, notice: &bootstrap::Notice) {
        log_bootstrap(notice);
        self.metrics.bootstrap.notice(&notice.what);
        if notice.what.is_news() {
            self.publish(News::of_bootstrap(notice));
        }
    }

    fn publish(&self, news: News) {
        if self.may_publish() {
            let reporter = self.clone();
            tokio::spawn(async move { reporter.send(&news).await });
        } else {
            self.metrics.events_dropped.inc();
        }
    }

    fn may_publish(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, since) = *bucket;
        let now = Instant::now();
        let level = (level + (now - since).as_secs_f64() * PER_SECOND).min(BURST);
        let allowed = level >= 1.0;
        *bucket = (if allowed { level - 1.0 } else { level }, now);
        allowed
    }

    async fn send(&self, news: &News) {
        let what = format!("create an Event in namespace {}", news.namespace);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", news.namespace);
        let body: SecretString = self.event(news).to_string().into();
        let call =
            Call { what: &what, method: &Method::POST, path: &path, accept: METADATA, content: JSON, body: &body };
        if let Err(error) = self.api.call(call).await {
            self.metrics.events_dropped.inc();
            warn!(error = error.failure.message, "event lost");
        }
    }

    fn event(&self, news: &News) -> Value {
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "tokenward-", "namespace": &*news.namespace},
            "eventTime": self.api.clock().now().to_rfc3339_opts(SecondsFormat::Micros, true),
            "reportingController": "tokenward.dev/tokenward",
            "reportingInstance": &*self.instance,
            "action": news.action,
            "reason": news.reason,
            "regarding": news.regarding,
            "note": news.note.chars().take(MAX_NOTE).collect::<String>(),
            "type": if news.warning { "Warning" } else { "Normal" },
        });
        if let Some(related) = &news.related {
            event["related"] = related.clone();
        }
        event
    }
}

/// An event before it has a time and a reporter.
struct News {
    namespace: Arc<str>,
    regarding: Value,
    related: Option<Value>,
    reason: &'static str,
    action: &'static str,
    note: String,
    warning: bool,
}

impl News {
    /// About the policy; the target is related to it.
    fn of_grant(notice: &Notice) -> Self {
        let namespace = &*notice.grant.namespace;
        let secret = |name| json!({"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": name});
        Self {
            namespace: notice.grant.namespace.clone(),
            regarding: json!({
                "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
                "namespace": namespace, "name": &*notice.grant.policy, "uid": notice.policy_uid,
            }),
            related: notice.target.as_ref().map(secret),
            reason: notice.what.reason(),
            action: notice.what.action(),
            note: notice.message(),
            warning: notice.what.is_warning(),
        }
    }

    /// About the Secret, or the ConfigMap that is signed.
    fn of_bootstrap(notice: &bootstrap::Notice) -> Self {
        let Key { namespace, name } = &notice.object;
        Self {
            namespace: namespace.clone(),
            regarding: json!({
                "apiVersion": "v1", "kind": notice.what.kind(),
                "namespace": &**namespace, "name": &**name, "uid": notice.uid,
            }),
            related: None,
            reason: notice.what.reason(),
            action: notice.what.action(),
            note: notice.message(),
            warning: notice.what.is_warning(),
        }
    }
}

/// One line for every deletion, as for everything else that was changed.
fn log_bootstrap(notice: &bootstrap::Notice) {
    let secret = notice.object.to_string();
    match &notice.what {
        bootstrap::What::Deleted(why) => info!(secret, reason = %why, "bootstrap token deleted"),
        bootstrap::What::WouldDelete(why) => info!(secret, reason = %why, "bootstrap token would be deleted"),
        bootstrap::What::Failing(failure) => warn!(secret, reason = failure.reason.as_str(), "{}", failure.message),
        bootstrap::What::Contested(_) => warn!("{}", notice.message()),
        bootstrap::What::Capped(_) | bootstrap::What::Uncontested => info!(secret, "{}", notice.message()),
    }
}

/// One line per issue and retirement joins the audit log's credential ids to policies.
fn log(notice: &Notice) {
    let policy = notice.grant.policy_key().to_string();
    let account = &*notice.grant.account;
    let secret = notice.target.as_deref().unwrap_or_default();
    match &notice.what {
        What::Issued { why, claims, .. } => info!(
            policy,
            account,
            secret,
            generation = notice.generation,
            token_id = claims.token_id,
            anchor = claims.secret.as_ref().map(|bound| bound.name.as_str()).unwrap_or_default(),
            issued = text(claims.issued_at),
            expires = text(claims.expires_at),
            reason = why.as_str(),
            "token issued"
        ),
        What::Retired(retirement) if retirement.is_sweep() => {
            info!(policy, account, anchor = &*retirement.secret, cause = retirement.cause.as_str(), "anchor swept");
        }
        What::Retired(retirement) => info!(
            policy,
            account,
            anchor = &*retirement.secret,
            token_id = retirement.token_id.as_deref().unwrap_or_default(),
            cause = retirement.cause.as_str(),
            reason = retirement.why(),
            "token revoked"
        ),
        What::Failing(failure) => {
            warn!(policy, account, secret, reason = failure.reason.as_str(), "{}", failure.message);
        }
        What::Repaired { .. } | What::Removed | What::RevocationScheduled(_) | What::Recovered => {
            info!(policy, account, secret, "{}", notice.message());
        }
    }
}
