//! An operator of the whole cluster, and a namespace with Secrets of legacy tokens.

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::apply_overlay;
use tokenward_e2e::scene::overlay::with_component;
use tokenward_e2e::scene::{Bearer, SOON, limits, plane};
use tokenward_e2e::{ControlPlane, Operator, Options, Proxy, eventually};
use tokio::sync::{Mutex, MutexGuard};

pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// A day after which nobody used anything.
pub const OLD: &str = "2020-01-01";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// One test at a time: the operator and the ConfigMap are the cluster's.
static TURN: Mutex<()> = Mutex::const_new(());

pub struct Lab {
    pub plane: &'static ControlPlane,
    pub proxy: Proxy,
    pub operator: Operator,
    pub namespace: String,
    pub secrets: Api<Secret>,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// An account `robot` in this namespace, and an operator that is ready.
    pub async fn start(namespace: &str) -> Result<Self> {
        let turn = TURN.lock().await;
        let plane = plane().await?;
        let overlay = with_component(plane.dir().join("overlay-legacy"), "legacy-token-policy")?;
        apply_overlay(plane, overlay).await?;
        plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
        // The kind may have been installed a moment ago.
        eventually(SOON, "no policy is left", async || plane.kubectl_ok(["delete", "ltpol", "--all"]).await).await?;
        plane.create_namespace(namespace).await?;
        limits::widen(&plane.client().await?, namespace).await?;
        plane.kubectl_ok(["-n", namespace, "create", "serviceaccount", "robot"]).await?;
        let proxy = Proxy::start(plane)?;
        let dir = plane.dir().join("legacy");
        let options = Options { name: namespace.to_owned(), dir, via: Some(&proxy), ..Options::default() };
        let operator = Operator::start(plane, options).await?;
        operator.ready().await?;
        let secrets = Api::namespaced(plane.client().await?, namespace);
        let lab = Self { plane, proxy, operator, namespace: namespace.to_owned(), secrets, _turn: turn };
        lab.record_uses_since(Some(OLD)).await?;
        Ok(lab)
    }

    /// What the API server says of the day since when it records uses; none: nothing.
    pub async fn record_uses_since(&self, day: Option<&str>) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.plane.client().await?, "kube-system");
        if let Some(day) = day {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING}, "data": {"since": day}});
            maps.patch(TRACKING, &PatchParams::apply("e2e").force(), &Patch::Apply(map)).await?;
        } else {
            maps.delete(TRACKING, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// A Secret of this name with a token of `robot`, as old as [`OLD`].
    pub async fn token(&self, name: &str, labels: Value) -> Result<String> {
        let token = self.token_of("robot", name, labels).await?;
        self.plane.age_secret(&self.namespace, name, OLD).await?;
        Ok(token)
    }

    /// A new Secret of this name with a token of this account.
    pub async fn token_of(&self, account: &str, name: &str, labels: Value) -> Result<String> {
        let metadata = json!({"name": name, "labels": labels,
            "annotations": {"kubernetes.io/service-account.name": account}});
        let secret = json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"});
        self.secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        eventually(SOON, "the token is there", async || self.read(name).await).await
    }

    /// The token in a Secret.
    pub async fn read(&self, secret: &str) -> Result<String> {
        let data = self.secrets.get(secret).await?.data.context("no data")?;
        Ok(String::from_utf8(data.get("token").context("no token yet")?.0.clone())?)
    }

    pub async fn bearer(&self, token: &str) -> Result<Bearer> {
        Bearer::new(self.plane, token).await
    }

    /// Sets a label, or removes it.
    pub async fn label(&self, secret: &str, key: &str, value: Option<&str>) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
        self.secrets.patch_metadata(secret, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub async fn label_of(&self, secret: &str, key: &str) -> Result<Option<String>> {
        let labels = self.secrets.get_metadata(secret).await?.metadata.labels.unwrap_or_default();
        Ok(labels.get(key).cloned())
    }

    /// Waits until the operator has quarantined this Secret today.
    pub async fn quarantined(&self, secret: &str) -> Result<()> {
        let before = Utc::now().date_naive().to_string();
        let check = async || {
            let label = self.label_of(secret, INVALID_SINCE).await?.unwrap_or_default();
            let today = [before.clone(), Utc::now().date_naive().to_string()];
            ensure!(today.contains(&label), "{secret} has {label:?}\n{}", self.last_words());
            Ok(())
        };
        eventually(Duration::from_secs(90), &format!("{secret} is quarantined"), check).await
    }

    /// Everything before this has been seen and judged: what comes later is done.
    pub async fn fence(&self, name: &str) -> Result<()> {
        self.token(name, json!({ LAST_USED: OLD })).await?;
        self.quarantined(name).await
    }

    /// Quarantines these Secrets by hand, and lifts that by removing the label.
    pub async fn lifted_unseen(&self, secrets: &[&str]) -> Result<()> {
        for secret in secrets {
            self.label(secret, INVALID_SINCE, Some(OLD)).await?;
            self.state(secret, "Quarantined").await?;
            self.label(secret, INVALID_SINCE, None).await?;
        }
        Ok(())
    }

    /// A policy for this namespace alone.
    pub async fn policy(&self, mut spec: Value) -> Result<()> {
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        spec["namespaceSelector"] = selector;
        let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "LegacyTokenPolicy",
            "metadata": {"name": self.namespace}, "spec": spec});
        self.plane.apply(&policy.to_string()).await?;
        Ok(())
    }

    /// Waits until the status of the policy satisfies `test`.
    pub async fn status(&self, what: &str, test: impl Fn(&Value) -> bool) -> Result<Value> {
        let check = async || {
            let text = self.plane.kubectl_ok(["get", "ltpol", &self.namespace, "-o", "json"]).await?;
            let policy: Value = serde_json::from_str(&text)?;
            let current = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            ensure!(current && test(&policy["status"]), "{}\n{}", policy["status"], self.last_words());
            Ok(policy["status"].clone())
        };
        // The kind may have been installed a moment ago.
        eventually(Duration::from_secs(90), what, check).await
    }

    /// Waits until the status has this Secret in this state.
    pub async fn state(&self, secret: &str, state: &str) -> Result<Value> {
        let is = |finding: &&Value| finding["secret"] == secret && finding["state"] == state;
        let found = |status: &Value| status["findings"].as_array().into_iter().flatten().find(is).cloned();
        let status = self.status(&format!("{secret} is {state}"), |status| found(status).is_some()).await?;
        found(&status).context("a finding")
    }

    /// The note of the event of this reason on this object.
    pub async fn told(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.plane.client().await?, &self.namespace);
        let check = async || {
            let told = events.list(&ListParams::default()).await?.items;
            let is = |event: &&Event| {
                let on = event.regarding.as_ref().map(|on| (on.kind.as_deref(), on.name.as_deref()));
                event.reason.as_deref() == Some(reason) && on == Some((Some(kind), Some(name)))
            };
            let event = told.iter().find(is).with_context(|| format!("no {reason} among {told:?}"))?;
            ensure!(event.regarding.as_ref().is_some_and(|on| on.uid.is_some()), "without a UID: {event:?}");
            event.note.clone().context("no note")
        };
        eventually(SOON, &format!("the event {reason} on {kind} {name}"), check).await
    }

    /// The kinds of the objects that have an event of this reason, in order.
    pub async fn told_of(&self, reason: &str) -> Result<Vec<String>> {
        let events: Api<Event> = Api::namespaced(self.plane.client().await?, &self.namespace);
        let told = events.list(&ListParams::default()).await?.items.into_iter();
        let told = told.filter(|event| event.reason.as_deref() == Some(reason));
        let mut kinds: Vec<String> = told.filter_map(|event| event.regarding?.kind).collect();
        kinds.sort();
        Ok(kinds)
    }

    /// The writes of this verb to this Secret.
    pub fn writes(&self, verb: &str, secret: &str) -> usize {
        self.proxy.calls_since(0, verb, &format!("/namespaces/{}/secrets/{secret}", self.namespace)).len()
    }

    pub fn last_words(&self) -> String {
        let log = self.operator.log().unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join("\n")
    }
}
