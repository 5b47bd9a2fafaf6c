//! Leadership, by a Lease in the API server: one process leads and writes, the others watch and stand by.

use std::{sync::Arc, time::Duration};

use chrono::SecondsFormat;
use futures::future::pending;
use kube::Config;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{api::Api, leadership::Leadership, metrics::Metrics};
use crate::core::{
    lease::{Election, LEASE, LeaseRecord, LeaseStep, RENEW_DEADLINE, RETRY},
    request::{self, Accept, Refusal, Request, Verb},
};

/// Name of the Lease.
const NAME: &str = "tokenward";
/// Where it is when neither a pod nor a kubeconfig says more.
const INSTALL_NAMESPACE: &str = "tokenward-system";
/// Where a pod finds the name of its own namespace.
const POD_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// A call that is not answered by then is given up: a leader has time for a second one before its own is over.
const CALL: Duration = Duration::from_secs(3);

/// This process led and may not any more.
#[derive(Debug, thiserror::Error)]
#[error("leadership is lost: {0}; this process must start anew, as a standby")]
pub struct Lost(String);

/// Takes part in the election.
pub struct Candidate {
    api: Api,
    metrics: Arc<Metrics>,
    namespace: String,
    start: Instant,
    election: Election,
    /// Whether others may have written the lease since we last saw it.
    stale: bool,
    /// `spec.acquireTime`.
    acquired: String,
    until: watch::Sender<Option<Instant>>,
    /// Why the last round failed.
    failure: Option<String>,
    /// The leader that was told of last, empty for none.
    told: Option<String>,
}

impl Candidate {
    /// A candidate under the name of this pod and a random suffix, as two processes of one name would both lead.
    #[must_use]
    pub fn new(api: Api, config: &Config, metrics: Arc<Metrics>) -> (Self, Leadership) {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| NAME.into());
        let (until, leadership) = watch::channel(None);
        let candidate = Self {
            api: api.within(CALL),
            metrics,
            namespace: namespace(config),
            start: Instant::now(),
            election: Election::new(&format!("{host}_{:016x}", rand::rng().random::<u64>())),
            stale: true,
            acquired: String::new(),
            until,
            failure: None,
            told: None,
        };
        (candidate, Leadership::until(leadership))
    }

    /// Stands by, leads and goes on leading, and releases the lease when `ended` says that nothing is under way.
    ///
    /// # Errors
    /// When leadership is lost.
    pub async fn campaign(mut self, mut ended: oneshot::Receiver<()>) -> Result<(), Lost> {
        loop {
            tokio::select! {
                biased;
                () = expiry(self.until()) => return Err(self.late()),
                done = self.round() => self.tell(done),
            }
            self.publish()?;
            tokio::select! {
                biased;
                () = expiry(self.until()) => {}
                _ = &mut ended => break,
                () = sleep(RETRY) => {}
            }
        }
        self.release().await;
        Ok(())
    }

    fn until(&self) -> Option<Instant> {
        self.election.until().map(|until| self.start + until)
    }

    /// One look or one renewal. Who holds the lease knows it, and need not look.
    async fn round(&mut self) -> Result<(), Box<Refusal>> {
        if self.stale {
            self.look().await?;
        }
        self.stale = true;
        let begun = self.start.elapsed();
        let written = match self.election.step(begun) {
            LeaseStep::Wait => return Ok(()),
            LeaseStep::Create => self.hold(None, 0).await,
            LeaseStep::Replace { version, transitions } => self.hold(Some(&version), transitions).await,
        };
        match written {
            Ok(record) => {
                self.election.wrote(record, begun);
                self.stale = false;
                Ok(())
            }
            // Somebody else was first, perhaps another leader; or it was deleted.
            Err(error) if matches!(error.code, Some(404 | 409)) => self.look().await,
            Err(error) => Err(error),
        }
    }

    async fn look(&mut self) -> Result<(), Box<Refusal>> {
        let record = match self.send(Verb::Get, "").await {
            Ok(record) => Some(record),
            Err(error) if error.code == Some(404) => None,
            Err(error) => return Err(error),
        };
        self.election.observe(record, self.start.elapsed());
        Ok(())
    }

    async fn hold(&mut self, version: Option<&str>, transitions: i32) -> Result<LeaseRecord, Box<Refusal>> {
        let now = self.api.clock().now().to_rfc3339_opts(SecondsFormat::Micros, true);
        if self.until().is_none() {
            self.acquired.clone_from(&now);
        }
        let spec = json!({
            "holderIdentity": self.election.identity(),
            "leaseDurationSeconds": LEASE.as_secs(),
            "acquireTime": self.acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        });
        self.write(version, &spec).await
    }

    /// Creates the lease, or changes it in exactly this version; what others put on it stays.
    async fn write(&self, version: Option<&str>, spec: &Value) -> Result<LeaseRecord, Box<Refusal>> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self.namespace, "resourceVersion": version},
            "spec": spec,
        });
        let verb = if version.is_some() { Verb::MergePatch } else { Verb::Create };
        self.send(verb, &lease.to_string()).await
    }

    async fn send(&self, verb: Verb, body: &str) -> Result<LeaseRecord, Box<Refusal>> {
        let (word, name) = match verb {
            Verb::Get => ("get", "/tokenward"),
            Verb::Create => ("create", ""),
            _ => ("patch", "/tokenward"),
        };
        let what = format!("{word} Lease {}/{NAME}", self.namespace);
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases{name}", self.namespace);
        let request = Request { verb, path, accept: Accept::Json, body: body.into(), what };
        let answer = self.api.send(&request).await?;
        Ok(request::parse::<Lease>(&request.what, &answer)?.into())
    }

    /// Logs the first failure of several in a row, and their end.
    fn tell(&mut self, done: Result<(), Box<Refusal>>) {
        let failure = done.err().map(|error| error.failure.message.to_string());
        match (&self.failure, &failure) {
            (None, Some(message)) => warn!("{message}"),
            (Some(_), None) => info!("the lease can be reached again"),
            _ => {}
        }
        self.failure = failure;
    }

    /// Makes known whether we lead, and to people who does.
    fn publish(&mut self) -> Result<(), Lost> {
        let until = self.until();
        let (lease, holder) = (format!("{}/{NAME}", self.namespace), self.election.holder());
        self.metrics.lease_transitions(self.election.transitions());
        if self.until.send_replace(until).is_some() && until.is_none() {
            return Err(Lost(format!("Lease {lease} is held by {holder:?}")));
        }
        if self.failure.is_none() && self.told.as_deref() != Some(holder) {
            self.told = Some(holder.to_owned());
            let role = match (until, holder) {
                (Some(_), _) => "leading",
                (None, "") => "nobody holds the lease: a standby takes it within 15 s",
                _ => "standing by",
            };
            info!(lease, holder, "{role}");
        }
        Ok(())
    }

    fn late(&self) -> Lost {
        let seconds = RENEW_DEADLINE.as_secs();
        let why = self.failure.as_deref().unwrap_or("the process stood still, or a call was not answered");
        Lost(format!("Lease {}/{NAME} was not renewed for {seconds} s: {why}", self.namespace))
    }

    /// Lets the next process lead at once. Otherwise it waits until the lease has expired.
    async fn release(&mut self) {
        if self.stale {
            let looked = self.look().await;
            self.tell(looked);
        }
        let Some(record) = self.election.release() else { return };
        match self.write(Some(&record.version), &json!({"holderIdentity": null, "renewTime": null})).await {
            Ok(_) => info!("leadership released"),
            Err(error) => warn!("{}: another process leads in {} s", error.failure.message, LEASE.as_secs()),
        }
    }
}

/// Never, when there is nothing that ends.
async fn expiry(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// The pod's own namespace; outside of a pod that of the kubeconfig's context. A context without one has `default`,
/// where nobody installs.
pub(super) fn namespace(config: &Config) -> String {
    let own = std::fs::read_to_string(POD_NAMESPACE).ok().map(|name| name.trim().to_owned());
    let context = Some(config.default_namespace.clone()).filter(|name| name != "default");
    own.or(context).filter(|name| !name.is_empty()).unwrap_or_else(|| INSTALL_NAMESPACE.into())
}

/// The fields of a `coordination.k8s.io/v1` Lease that are read. Its times and its duration are somebody else's belief.
#[derive(Deserialize)]
struct Lease {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    holder_identity: Option<Box<str>>,
    renew_time: Option<Box<str>>,
    lease_transitions: Option<i32>,
}

impl From<Lease> for LeaseRecord {
    fn from(Lease { metadata, spec }: Lease) -> Self {
        Self {
            holder: spec.holder_identity,
            renewed: spec.renew_time,
            transitions: spec.lease_transitions.unwrap_or_default(),
            version: metadata.resource_version,
        }
    }
}
