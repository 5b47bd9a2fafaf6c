//! News for people: an event on the object, a log line, a count, and a limit so that a storm of them harms nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chrono::SecondsFormat;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{api::Api, metrics::Metrics};
use crate::core::{
    bootstrap::{
        TokenStep,
        event::{BootstrapEvent, BootstrapNews},
    },
    grant::event::{GrantEvent, GrantNews},
    id::Key,
    id::Name,
    legacy::{
        event::{LegacyEvent, LegacyNews},
        token::LegacyStep,
    },
    meta::text,
    request::{Accept, Request, Verb},
};

/// Events in a row before the pace is limited.
const BURST: f64 = 100.0;
/// Events a second after that.
const PER_SECOND: f64 = 10.0;
/// Events that may wait to be sent: a burst. Further ones are dropped and counted.
const WAITING: usize = 100;
/// Events that are sent at once: a slow API server must not be asked by more.
const SENDERS: usize = 8;
/// The longest note that events.k8s.io/v1 takes.
const MAX_NOTE: usize = 1024;

/// Tells people what happened.
#[derive(Clone)]
pub struct Reporter {
    metrics: Arc<Metrics>,
    bucket: Arc<Mutex<(f64, Instant)>>,
    events: mpsc::Sender<Event>,
}

/// A reporter, and the task that sends its events: it ends when every clone of the reporter is gone and every event is
/// sent.
pub fn reporter(api: Api, metrics: Arc<Metrics>) -> (Reporter, impl Future<Output = ()> + Send + 'static) {
    let (events, mut waiting) = mpsc::channel(WAITING);
    let instance: Arc<str> = std::env::var("HOSTNAME").unwrap_or_else(|_| "tokenward".into()).into();
    let reporter = Reporter { metrics: metrics.clone(), bucket: Arc::new(Mutex::new((BURST, Instant::now()))), events };
    let sending = async move {
        let waiting = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
        let sent = waiting.for_each_concurrent(SENDERS, |event| send(&api, &metrics, &instance, event));
        sent.await;
    };
    (reporter, sending)
}

impl Reporter {
    /// Logs what happened to a grant, counts it, and publishes it as an event if the bucket allows.
    pub fn report(&self, event: &GrantEvent) {
        log(event);
        self.metrics.news(&event.what);
        if event.what.is_news() {
            self.publish(Event::of_grant(event));
        }
    }

    /// The same for bootstrap tokens.
    pub fn report_bootstrap(&self, event: &BootstrapEvent) {
        log_bootstrap(event);
        self.metrics.bootstrap.news(&event.what);
        if event.what.is_news() {
            self.publish(Event::of_bootstrap(event));
        }
    }

    /// The same for legacy tokens.
    pub fn report_legacy(&self, event: &LegacyEvent) {
        let secret = event.secret.to_string();
        match &event.what {
            LegacyNews::Done(step) => {
                info!(secret, "{}", event.message());
                self.metrics.legacy.news(step);
            }
            LegacyNews::Failing(failure) => {
                warn!(secret, reason = failure.reason.into_str(), "{}", failure.message);
            }
        }
        for event in Event::of_legacy(event) {
            self.publish(event);
        }
    }

    fn publish(&self, event: Event) {
        if !self.may_publish() || self.events.try_send(event).is_err() {
            self.metrics.event_dropped();
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
}

async fn send(api: &Api, metrics: &Metrics, instance: &str, event: Event) {
    let namespace = &event.namespace;
    let request = Request {
        verb: Verb::Create,
        path: format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
        accept: Accept::Metadata,
        what: format!("create an Event in namespace {namespace}"),
        body: event
            .object(&api.clock().now().to_rfc3339_opts(SecondsFormat::Micros, true), instance)
            .to_string()
            .into(),
    };
    if let Err(refusal) = api.send(&request).await {
        metrics.event_dropped();
        warn!(error = refusal.failure.message.as_str(), "event lost");
    }
}

/// An event before it has a time and a reporter.
struct Event {
    namespace: Name,
    regarding: Value,
    related: Option<Value>,
    reason: &'static str,
    action: &'static str,
    note: String,
    warning: bool,
}

impl Event {
    /// About the policy; the target is related to it.
    fn of_grant(event: &GrantEvent) -> Self {
        let namespace = &*event.grant.namespace;
        let secret = |name| json!({"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": name});
        let (reason, action) = event.what.reason_and_action();
        Self {
            namespace: event.grant.namespace.clone(),
            regarding: json!({
                "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
                "namespace": namespace, "name": &*event.grant.policy, "uid": event.policy_uid.to_string(),
            }),
            related: event.target.as_ref().map(secret),
            reason,
            action,
            note: event.message(),
            warning: event.what.is_warning(),
        }
    }

    /// About the Secret, or the ConfigMap that is signed.
    fn of_bootstrap(event: &BootstrapEvent) -> Self {
        let Key { namespace, name } = &event.object;
        let (kind, reason, action, warning) = event.what.fields();
        Self {
            namespace: namespace.clone(),
            regarding: json!({
                "apiVersion": "v1", "kind": kind,
                "namespace": &**namespace, "name": &**name, "uid": event.uid.to_string(),
            }),
            related: None,
            reason,
            action,
            note: event.message(),
            warning,
        }
    }

    /// About the Secret, and about the account whose token it holds, if that is known; each is related to the other.
    fn of_legacy(event: &LegacyEvent) -> Vec<Self> {
        let Key { namespace, name } = &event.secret;
        let reference = |kind: &str, name: &str, uid: &str| json!({"apiVersion": "v1", "kind": kind, "namespace": &**namespace, "name": name, "uid": uid});
        let secret = reference("Secret", name, &event.uid);
        let account = reference("ServiceAccount", &event.account.0, &event.account.1);
        let (reason, action) = event.what.reason_and_action();
        let has_account = !event.account.0.is_empty();
        let objects = [(secret.clone(), account.clone()), (account, secret)].into_iter();
        let event = |(regarding, related)| Self {
            namespace: namespace.clone(),
            regarding,
            related: Some(related).filter(|_| has_account),
            reason,
            action,
            note: event.message(),
            warning: !matches!(event.what, LegacyNews::Done(LegacyStep::Lift)),
        };
        objects.take(if has_account { 2 } else { 1 }).map(event).collect()
    }

    fn object(&self, now: &str, instance: &str) -> Value {
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "tokenward-", "namespace": &*self.namespace},
            "eventTime": now,
            "reportingController": "tokenward.dev/tokenward",
            "reportingInstance": instance,
            "action": self.action,
            "reason": self.reason,
            "regarding": self.regarding,
            "note": self.note.chars().take(MAX_NOTE).collect::<String>(),
            "type": if self.warning { "Warning" } else { "Normal" },
        });
        if let Some(related) = &self.related {
            event["related"] = related.clone();
        }
        event
    }
}

/// One line for every deletion, as for everything else that was changed.
fn log_bootstrap(event: &BootstrapEvent) {
    let secret = event.object.to_string();
    match &event.what {
        BootstrapNews::Done(TokenStep::Delete(why)) => info!(secret, reason = %why, "bootstrap token deleted"),
        BootstrapNews::WouldDelete(why) => info!(secret, reason = %why, "bootstrap token would be deleted"),
        BootstrapNews::Failing(failure) => warn!(secret, reason = failure.reason.into_str(), "{}", failure.message),
        BootstrapNews::Contested(_) => warn!("{}", event.message()),
        BootstrapNews::Done(TokenStep::Cap(_)) | BootstrapNews::Uncontested => info!(secret, "{}", event.message()),
    }
}

/// One line per issue and retirement joins the audit log's credential ids to policies.
fn log(event: &GrantEvent) {
    let policy = event.grant.policy_key().to_string();
    let account = &*event.grant.account;
    let secret = event.target.as_deref().unwrap_or_default();
    match &event.what {
        GrantNews::Issued { why, claims, .. } => info!(
            policy,
            account,
            secret,
            generation = event.generation,
            token_id = claims.token_id,
            anchor = claims.secret.as_ref().map(|bound| bound.name.as_str()).unwrap_or_default(),
            issued = text(claims.issued_at),
            expires = text(claims.expires_at),
            reason = why.into_str(),
            "token issued"
        ),
        GrantNews::Retired(retirement) if retirement.is_sweep() => {
            info!(policy, account, anchor = &*retirement.secret, cause = retirement.cause.into_str(), "anchor swept");
        }
        GrantNews::Retired(retirement) => info!(
            policy,
            account,
            anchor = &*retirement.secret,
            token_id = retirement.token_id.map(|id| id.to_string()).unwrap_or_default(),
            cause = retirement.cause.into_str(),
            reason = retirement.why(),
            "token revoked"
        ),
        GrantNews::Failing(failure) | GrantNews::RevocationFailing(failure) => {
            warn!(policy, account, secret, reason = failure.reason.into_str(), "{}", failure.message);
        }
        GrantNews::Repaired { .. }
        | GrantNews::Removed
        | GrantNews::RevocationScheduled(_)
        | GrantNews::NothingToRevoke(_)
        | GrantNews::RevocationDone
        | GrantNews::Recovered => {
            info!(policy, account, secret, "{}", event.message());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::shell::api::tests::answering;

    #[tokio::test(start_paused = true)]
    async fn events_reported_while_stopping_are_sent_before_the_task_ends() {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let api = answering(move |_| {
            let counter = counter.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                counter.fetch_add(1, Ordering::Relaxed);
                http::Response::new(kube::client::Body::empty())
            }
        });
        let metrics = Arc::new(Metrics::default());
        let (reporter, sending) = reporter(api, metrics.clone());
        let object = Key::new("kube-system", "bootstrap-token-abcdef");
        for _ in 0..20 {
            let what = BootstrapNews::Uncontested;
            reporter.report_bootstrap(&BootstrapEvent { object: object.clone(), uid: "u".into(), what });
        }
        drop(reporter);
        sending.await;
        assert_eq!(sent.load(Ordering::Relaxed), 20);
        assert!(metrics.text().contains("tokenward_events_dropped_total 0\n"));
    }
}
