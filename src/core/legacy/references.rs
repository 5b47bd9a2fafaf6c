//! Who refers to Secrets: pods by volumes, environment and pull secrets, accounts by their lists of Secrets and pull secrets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::{
    api::core::v1::{Pod, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::Value;

use crate::core::{
    id::{Key, Name},
    kernel::store::{Changed, Store, WatchEvent},
};

/// A pod, without anything that names no Secret: the values of its environment are never kept.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct PodReferences {
    /// Standard metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    volumes: Vec<Volume>,
    image_pull_secrets: Value,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    name: String,
    #[serde(flatten)]
    sources: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    env: Vec<Variable>,
    env_from: Value,
    volume_mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Variable {
    value_from: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mount {
    name: String,
    sub_path: String,
    sub_path_expr: String,
}

/// How an object refers to a Secret, which decides when it sees a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A variable of a container, which never changes.
    Environment,
    /// A volume that a container mounts by `subPath`: there it never changes.
    SubPath,
    /// A volume that the kubelet keeps up to date.
    Volume,
    /// A volume whose driver gets the Secret, as those of CSI do.
    Driver,
    /// `imagePullSecrets`.
    Pull,
    /// `secrets` of an account.
    List,
}

/// An object that may refer to Secrets of its namespace.
pub trait Refers {
    /// Its kind.
    const BY: By;

    /// The Secrets that it refers to, in each way.
    fn references(&self) -> BTreeSet<(Name, Way)>;

    /// The Secrets that it refers to.
    fn secrets(&self) -> BTreeSet<Name> {
        self.references().into_iter().map(|(name, _)| name).collect()
    }
}

impl Refers for PodReferences {
    const BY: By = By::Pod;

    fn references(&self) -> BTreeSet<(Name, Way)> {
        let mut found = BTreeSet::new();
        for volume in &self.spec.volumes {
            for (kind, source) in &volume.sources {
                collect(source, is_secret(kind), self.spec.way(&volume.name, kind), &mut found);
            }
        }
        for container in self.spec.all_containers() {
            collect(&container.env_from, false, Way::Environment, &mut found);
            for variable in &container.env {
                collect(&variable.value_from, false, Way::Environment, &mut found);
            }
        }
        collect(&self.spec.image_pull_secrets, true, Way::Pull, &mut found);
        found
    }
}

impl PodSpec {
    fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init_containers).chain(&self.ephemeral_containers)
    }

    fn way(&self, volume: &str, kind: &str) -> Way {
        let mut mounts = self.all_containers().flat_map(|container| &container.volume_mounts);
        let is_part =
            |mount: &Mount| mount.name == volume && !(mount.sub_path.is_empty() && mount.sub_path_expr.is_empty());
        match kind {
            "secret" | "projected" if mounts.any(is_part) => Way::SubPath,
            "secret" | "projected" => Way::Volume,
            _ => Way::Driver,
        }
    }
}

/// Every kind of volume calls a Secret by a key like `secretName`, or by a `name` within one like `secretRef`. A name too many
/// does no harm: it protects a Secret.
fn collect(value: &Value, of_secret: bool, way: Way, found: &mut BTreeSet<(Name, Way)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, of_secret, way, found)),
        Value::Object(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(name) if is_secret(key) || (of_secret && key == "name") => {
                        found.insert((name.into(), way));
                    }
                    _ => collect(field, is_secret(key), way, found),
                }
            }
        }
        _ => {}
    }
}

fn is_secret(key: &str) -> bool {
    key.to_ascii_lowercase().contains("secret")
}

/// An account, as far as it refers to Secrets.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = ServiceAccount)]
#[serde(rename_all = "camelCase")]
pub struct AccountReferences {
    /// Standard metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    secrets: Value,
    #[serde(default)]
    image_pull_secrets: Value,
}

impl Refers for AccountReferences {
    const BY: By = By::Account;

    fn references(&self) -> BTreeSet<(Name, Way)> {
        let mut found = BTreeSet::new();
        collect(&self.secrets, true, Way::List, &mut found);
        collect(&self.image_pull_secrets, true, Way::Pull, &mut found);
        found
    }
}

/// A kind of object that refers to Secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A pod.
    Pod,
    /// An account.
    Account,
}

/// An object that refers to a Secret of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Referrer(By, Name);

impl fmt::Display for Referrer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0 == By::Pod { "pod" } else { "serviceaccount" };
        write!(f, "{kind}/{}", self.1)
    }
}

/// All of them, by the Secret.
#[derive(Debug)]
pub struct References {
    pods: Store<BTreeSet<Name>, Key>,
    accounts: Store<BTreeSet<Name>, Key>,
    by_secret: BTreeMap<Key, BTreeSet<Referrer>>,
}

impl References {
    /// None known. `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { pods: Store::new(1, seed), accounts: Store::new(1, seed), by_secret: BTreeMap::new() }
    }

    /// Whether both watches have listed once.
    #[must_use]
    pub fn listed(&self) -> bool {
        self.pods.listed(0) && self.accounts.listed(0)
    }

    /// Takes a step of a watch in, and returns the Secrets that it concerns.
    pub fn observe(&mut self, by: By, event: WatchEvent<BTreeSet<Name>>) -> BTreeSet<Key> {
        let store = if by == By::Pod { &mut self.pods } else { &mut self.accounts };
        let mut concerned = BTreeSet::new();
        for Changed { id, before } in store.apply(0, event, Key::clone) {
            let Some(Key { namespace, name }) = store.link(id).cloned() else { continue };
            let (before, after) = (before.unwrap_or_default(), store.get(id).cloned().unwrap_or_default());
            store.release(id);
            for secret in before.symmetric_difference(&after) {
                let key = Key { namespace: namespace.clone(), name: secret.clone() };
                let referrers = self.by_secret.entry(key.clone()).or_default();
                let referrer = Referrer(by, name.clone());
                if !referrers.remove(&referrer) {
                    referrers.insert(referrer);
                }
                concerned.insert(key);
            }
        }
        for key in &concerned {
            if self.by_secret.get(key).is_some_and(BTreeSet::is_empty) {
                self.by_secret.remove(key);
            }
        }
        concerned
    }

    /// Who refers to a Secret.
    pub fn to(&self, secret: &Key) -> impl Iterator<Item = &Referrer> {
        self.by_secret.get(secret).into_iter().flatten()
    }

    /// Whether a pod refers to it.
    #[must_use]
    pub fn is_mounted(&self, secret: &Key) -> bool {
        self.to(secret).any(|referrer| referrer.0 == By::Pod)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_refers_to_secrets_in_every_way_that_there_is() {
        let pod: PodReferences = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "no-1", "secret": {"secretName": "volume", "items": [{"key": "token", "path": "no-2"}]}},
                    {"name": "no-3", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "no-4"}}]}},
                    {"name": "no-5", "azureFile": {"secretName": "azure", "shareName": "no-6"}},
                    {"name": "no-7", "csi": {"driver": "no-8", "nodePublishSecretRef": {"name": "csi"}}},
                    {"name": "no-9", "iscsi": {"secretRef": {"name": "iscsi"}}},
                    {"name": "secret", "secret": {"secretName": "part"}},
                ],
                "containers": [{"name": "no-10", "volumeMounts": [
                    {"name": "secret", "mountPath": "/secret", "subPath": "token"}, {"name": "no-1", "mountPath": "/no-1"},
                ], "env": [
                    {"name": "A", "value": "no-11"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "variable", "key": "no-12"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "no-13", "key": "x"}}},
                ]}],
                "initContainers": [{"envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "no-14"}}]}],
                "ephemeralContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "debug"}}}]}],
            }
        }))
        .unwrap();
        assert!(!format!("{pod:?}").contains("no-11"), "the value of a variable is not kept");
        let expected = [
            ("all", Way::Environment),
            ("azure", Way::Driver),
            ("csi", Way::Driver),
            ("debug", Way::Environment),
            ("iscsi", Way::Driver),
            ("part", Way::SubPath),
            ("projected", Way::Volume),
            ("pull", Way::Pull),
            ("variable", Way::Environment),
            ("volume", Way::Volume),
        ];
        assert_eq!(pod.references(), expected.map(|(name, way)| (Name::from(name), way)).into());
        assert_eq!(pod.secrets(), expected.map(|(name, _)| Name::from(name)).into());
    }

    #[test]
    fn an_account_refers_to_secrets_by_two_lists() {
        let account =
            json!({"metadata": {"name": "a"}, "secrets": [{"name": "s"}], "imagePullSecrets": [{"name": "p"}]});
        let account: AccountReferences = serde_json::from_value(account).unwrap();
        assert_eq!(account.references(), [("p".into(), Way::Pull), ("s".into(), Way::List)].into());
    }

    #[test]
    fn references_follow_pods_and_accounts() {
        let mut references = References::new(7);
        let (pod, secret) = (Key::new("n", "p"), Key::new("n", "s"));
        let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect::<BTreeSet<_>>();
        let told = |references: &References| references.to(&secret).map(ToString::to_string).collect::<Vec<_>>();
        let account = WatchEvent::Applied(Key::new("n", "a"), 1, names(&["s"]));
        assert_eq!(references.observe(By::Account, account), [secret.clone()].into());
        assert!(!references.is_mounted(&secret));
        references.observe(By::Pod, WatchEvent::Applied(pod.clone(), 2, names(&["s", "t"])));
        assert_eq!(
            (told(&references), references.is_mounted(&secret)),
            (vec!["pod/p".into(), "serviceaccount/a".into()], true)
        );
        assert!(references.observe(By::Pod, WatchEvent::Applied(pod.clone(), 3, names(&["s", "t"]))).is_empty());
        let moved = references.observe(By::Pod, WatchEvent::Applied(pod.clone(), 4, names(&["t", "u"])));
        assert_eq!(moved, [secret.clone(), Key::new("n", "u")].into());
        assert!(!references.is_mounted(&secret) && !references.is_mounted(&Key::new("other", "t")));
        references.observe(By::Pod, WatchEvent::Listing);
        assert_eq!(references.observe(By::Pod, WatchEvent::Listed), [Key::new("n", "t"), Key::new("n", "u")].into());
        assert_eq!((told(&references), references.by_secret.len()), (vec!["serviceaccount/a".into()], 1));
    }
}
