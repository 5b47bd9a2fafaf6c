//! What the scenarios share: one installed control plane per test binary; one namespace, proxy and operator per test.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "only scenarios call this, and each function fails when what it waits for does not come"
)]

pub mod audited;
pub mod caller;
pub mod consumers;
pub mod follower;
pub mod forged;
pub mod grants;
pub mod kstatus;
pub mod leaks;
pub mod limits;
pub mod metrics;
pub mod overlay;
pub mod refused;

use crate::control_plane::shared;
use crate::operator::install;
use crate::{ControlPlane, Operator, Options, Proxy, eventually, kubeconfig};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::http::Request;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How long anything that comes by itself may take; it decides nothing but when to give up.
pub const SOON: Duration = Duration::from_mins(1);

/// The control plane of this test binary, with `config/install` applied.
pub async fn plane() -> Result<&'static ControlPlane> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let plane = shared().await?;
    INSTALLED.get_or_try_init(async || install(plane).await).await?;
    Ok(plane)
}

/// A namespace with an operator that governs it alone, through a proxy of its own.
pub struct Scene {
    pub plane: &'static ControlPlane,
    pub namespace: String,
    pub proxy: Proxy,
    pub operator: Operator,
    pub client: kube::Client,
    #[expect(dead_code, reason = "held until the scene ends")]
    turn: Turn,
}

/// Scenes share the control plane; one that breaks it for all has it alone.
static TURNS: RwLock<()> = RwLock::const_new(());

#[expect(dead_code, reason = "held until the scene ends")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
    Apart,
}

impl Scene {
    /// A namespace of this name, and an operator that is ready.
    pub async fn start(namespace: &str) -> Result<Self> {
        Self::start_with(namespace, Options::default()).await
    }

    /// As [`Scene::start`], with more options; name, folder, namespace and proxy are set here unless given.
    pub async fn start_with(namespace: &str, options: Options<'_>) -> Result<Self> {
        let scene = Self::start_unready(namespace, options).await?;
        scene.operator.ready().await?;
        Ok(scene)
    }

    /// As [`Scene::start_with`], without waiting for the operator.
    pub async fn start_unready(namespace: &str, options: Options<'_>) -> Result<Self> {
        let turn = Turn::Shared(TURNS.read().await);
        Ok(Self { turn, ..Self::on(plane().await?, namespace, options).await? })
    }

    /// As [`Scene::start`], while no other scene of this test binary is under way: for what breaks the control plane.
    pub async fn alone(namespace: &str) -> Result<Self> {
        let turn = Turn::Alone(TURNS.write().await);
        let scene = Self::on(plane().await?, namespace, Options::default()).await?;
        scene.operator.ready().await?;
        Ok(Self { turn, ..scene })
    }

    /// As [`Scene::start_unready`], on a control plane with Tokenward installed that is not the shared one.
    pub async fn on(plane: &'static ControlPlane, namespace: &str, options: Options<'_>) -> Result<Self> {
        plane.create_namespace(namespace).await?;
        let client = plane.client().await?;
        limits::widen(&client, namespace).await?;
        let proxy = Proxy::start(plane)?;
        let operator = operator(plane, namespace, &proxy, options).await?;
        Ok(Self { plane, namespace: namespace.to_owned(), proxy, operator, client, turn: Turn::Apart })
    }

    /// A scene in a namespace that is there, with an operator that was started for it.
    pub async fn around(
        plane: &'static ControlPlane,
        namespace: &str,
        proxy: Proxy,
        operator: Operator,
    ) -> Result<Self> {
        let client = plane.client().await?;
        Ok(Self { plane, namespace: namespace.to_owned(), proxy, operator, client, turn: Turn::Apart })
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn policies(&self) -> Api<DynamicObject> {
        policies(&self.client, &self.namespace)
    }

    /// Creates an account with these labels.
    pub async fn account(&self, name: &str, labels: &[(&str, &str)]) -> Result<ServiceAccount> {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let account = json!({"metadata": {"name": name, "labels": labels}});
        Ok(self.accounts().create(&PostParams::default(), &serde_json::from_value(account)?).await?)
    }

    /// Creates an account that may get and list `ConfigMap`s, and nothing else.
    pub async fn reader(&self, name: &str) -> Result<()> {
        self.account(name, &[]).await?;
        let metadata = json!({"name": name});
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]);
        let role = json!({"metadata": metadata, "rules": rules});
        let binding = json!({
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
        });
        let role_api: Api<Role> = Api::namespaced(self.client.clone(), &self.namespace);
        role_api.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), &self.namespace);
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        Ok(())
    }

    /// Applies (creates or edits) a policy with exactly this spec.
    pub async fn policy(&self, name: &str, spec: &Value) -> Result<DynamicObject> {
        apply_policy(&self.policies(), name, spec).await
    }

    /// What the API server says when it refuses this spec.
    pub async fn refusal(&self, name: &str, spec: &Value) -> Result<String> {
        match self.policy(name, spec).await {
            Ok(_) => bail!("accepted: {spec}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Sets an annotation of a policy; `None` removes it.
    pub async fn annotate(&self, policy: &str, key: &str, value: Option<&str>) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        self.policies().patch(policy, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Asks for a rotation under this value.
    pub async fn rotate(&self, policy: &str, value: &str) -> Result<()> {
        self.annotate(policy, "tokenward.dev/rotate", Some(value)).await
    }

    /// Waits until the policy is `Ready` in its current generation.
    pub async fn ready(&self, policy: &str) -> Result<DynamicObject> {
        self.condition(policy, "Ready", "True").await.map(|(object, _)| object)
    }

    /// Waits until the policy has this condition with this status, in its current generation.
    pub async fn condition(&self, policy: &str, kind: &str, status: &str) -> Result<(DynamicObject, Condition)> {
        let what = format!("policy {policy}: {kind}={status}");
        let check = async || {
            let object = self.policies().get(policy).await?;
            let found = condition(&object, kind).with_context(|| format!("none; {}", object.data["status"]))?;
            ensure!(found.status == status && is_current(&object), "{}", object.data["status"]);
            Ok((object, found))
        };
        let found = eventually(SOON, &what, check).await;
        found.with_context(|| self.log_end())
    }

    /// Waits until the policy is not ready for this reason, and returns the condition's message.
    pub async fn not_ready(&self, policy: &str, reason: &str) -> Result<String> {
        let check = async || {
            let object = self.policies().get(policy).await?;
            let ready = condition(&object, "Ready").context("no Ready condition")?;
            let fits = ready.status == "False" && ready.reason == reason && is_current(&object);
            ensure!(fits, "{}", object.data["status"]);
            Ok(ready.message)
        };
        let found = eventually(SOON, &format!("policy {policy} is not ready: {reason}"), check).await;
        found.with_context(|| self.log_end())
    }

    /// A target with what it says.
    pub async fn target(&self, name: &str) -> Result<Target> {
        Target::read(self.secrets().get(name).await.with_context(|| format!("target {name}"))?)
    }

    /// Waits until the target holds another token than `before`.
    pub async fn next_target(&self, name: &str, before: &Target) -> Result<Target> {
        let check = async || {
            let target = self.target(name).await?;
            ensure!(target.token_id() != before.token_id(), "{name} still holds {}", target.token_id());
            Ok(target)
        };
        let found = eventually(SOON, &format!("a fresh token in {name}"), check).await;
        found.with_context(|| self.log_end())
    }

    /// Waits until there is no such Secret.
    pub async fn gone(&self, secret: &str) -> Result<()> {
        let check = async || {
            ensure!(self.secrets().get_metadata_opt(secret).await?.is_none(), "it is there");
            Ok(())
        };
        eventually(SOON, &format!("Secret {secret} goes"), check).await.with_context(|| self.log_end())
    }

    /// Deletes a Secret.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        self.secrets().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Names of all anchors of the namespace, by their type.
    pub async fn anchors(&self) -> Result<Vec<String>> {
        let list = ListParams::default().fields("type=tokenward.dev/anchor");
        let anchors = self.secrets().list_metadata(&list).await?;
        Ok(anchors.items.into_iter().filter_map(|anchor| anchor.metadata.name).collect())
    }

    /// Every Secret of the namespace with its UID and resourceVersion: equal means that nothing was written.
    pub async fn versions(&self) -> Result<BTreeMap<String, (String, String)>> {
        let secrets = self.secrets().list_metadata(&ListParams::default()).await?;
        let version = |meta: kube::core::ObjectMeta| {
            Some((meta.name?, (meta.uid.unwrap_or_default(), meta.resource_version.unwrap_or_default())))
        };
        Ok(secrets.items.into_iter().filter_map(|secret| version(secret.metadata)).collect())
    }

    /// Events about this policy, oldest first.
    pub async fn events(&self, policy: &str) -> Result<Vec<Told>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = events.list(&ListParams::default()).await?.items;
        events.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(policy));
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        Ok(events.into_iter().map(Told::from).collect())
    }

    /// Waits for an event about the policy with this reason whose note contains `text`.
    pub async fn told(&self, policy: &str, reason: &str, text: &str) -> Result<Told> {
        let check = async || {
            let events = self.events(policy).await?;
            let found = events.iter().find(|event| event.reason == reason && event.note.contains(text));
            found.cloned().with_context(|| format!("told so far: {events:?}"))
        };
        eventually(SOON, &format!("an event {reason} with {text:?}"), check).await
    }

    /// What this token can do, asked of the API server itself, not through the proxy.
    pub async fn bearer(&self, token: &str) -> Result<Bearer> {
        Bearer::new(self.plane, token).await
    }

    /// The path of the `ConfigMap`s of the namespace: what a [`Scene::reader`] may list.
    pub fn config_maps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    /// Tokens issued in this namespace so far, also those never published.
    pub fn mints(&self) -> usize {
        self.proxy.minted().len()
    }

    /// As [`Scene::mints`], for one account.
    pub fn mints_of(&self, account: &str) -> usize {
        self.proxy.minted().iter().filter(|minted| minted.account == account).count()
    }

    /// Returns when the operator has seen and acted on all that was done before: a policy made now, for an account
    /// made now, is `Ready`. Its token counts among the [`Scene::mints`].
    pub async fn fence(&self, name: &str) -> Result<()> {
        self.account(name, &[]).await?;
        self.policy(name, &spec(&[name], json!({}))).await?;
        self.ready(name).await?;
        Ok(())
    }

    /// Lets the API server demand this of every Secret of the namespace, with a policy and a binding of the namespace's name.
    /// Returns before it is in force.
    pub async fn validate_secrets(&self, operations: &[&str], validation: &Value) -> Result<()> {
        let name = &self.namespace;
        let rule =
            json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": operations});
        let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        let policy = json!({"metadata": {"name": name}, "spec": {"validations": [validation],
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": namespace}}});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        Ok(())
    }

    /// A merge patch of a Secret, as somebody else would write it.
    pub async fn patch_secret(&self, name: &str, patch: Value) -> Result<()> {
        self.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes a policy.
    pub async fn delete_policy(&self, name: &str) -> Result<()> {
        self.policies().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// An account `deployer` that may read `ConfigMap`s and a ready policy `p` for it: the target `p-deployer`.
    pub async fn deployer(&self, more: Value) -> Result<Target> {
        self.reader("deployer").await?;
        self.policy("p", &spec(&["deployer"], more)).await?;
        self.ready("p").await?;
        self.target("p-deployer").await
    }

    pub fn log_end(&self) -> String {
        let log = self.operator.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        format!("the operator's last words, newest first:\n{}", lines.join("\n"))
    }
}

/// An operator for one namespace of this plane; name, folder, namespaces and proxy are set unless given.
pub async fn operator<'a>(
    plane: &ControlPlane,
    namespace: &str,
    proxy: &'a Proxy,
    mut options: Options<'a>,
) -> Result<Operator> {
    options.via = Some(proxy);
    if options.namespaces.is_empty() {
        options.namespaces = vec![namespace.to_owned()];
    }
    if options.name.is_empty() {
        namespace.clone_into(&mut options.name);
    }
    if options.dir.as_os_str().is_empty() {
        options.dir = plane.dir().join("operators");
    }
    Operator::start(plane, options).await
}

/// The policies of a namespace.
pub fn policies(client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("tokenward.dev", "v1alpha1", "TokenPolicy");
    let resource = ApiResource::from_gvk_with_plural(&kind, "tokenpolicies");
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Server-side apply of a policy with exactly this spec.
pub async fn apply_policy(policies: &Api<DynamicObject>, name: &str, spec: &Value) -> Result<DynamicObject> {
    let body = json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": name}, "spec": spec,
    });
    Ok(policies.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(body)).await?)
}

/// The spec of a policy for these accounts, with the fields of `more`.
pub fn spec(accounts: &[&str], more: Value) -> Value {
    let mut spec = more;
    spec["serviceAccounts"] = json!({"names": accounts});
    spec
}

/// One condition of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: String,
}

/// The condition of this type, if the policy has it.
pub fn condition(policy: &DynamicObject, kind: &str) -> Option<Condition> {
    let conditions = policy.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some(Condition {
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
        since: text("lastTransitionTime"),
    })
}

/// Whether the status was computed for the policy's current generation.
pub fn is_current(policy: &DynamicObject) -> bool {
    policy.data["status"]["observedGeneration"].as_i64() == policy.metadata.generation
}

/// One event.
#[derive(Clone, Debug)]
pub struct Told {
    pub kind: String,
    pub reason: String,
    pub note: String,
    pub related: String,
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        Self {
            kind: event.type_.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            note: event.note.unwrap_or_default(),
            related: event.related.and_then(|related| related.name).unwrap_or_default(),
        }
    }
}

/// A Secret that the operator wrote.
#[derive(Clone, Debug)]
pub struct Target {
    pub secret: Secret,
    pub data: BTreeMap<String, String>,
}

impl Target {
    /// Reads a Secret's data as text.
    pub fn read(secret: Secret) -> Result<Self> {
        let data = secret.data.iter().flatten();
        let data = data.map(|(key, value)| Ok((key.clone(), String::from_utf8(value.0.clone())?)));
        Ok(Self { data: data.collect::<Result<_>>()?, secret })
    }

    /// The value of this key, or an empty text.
    pub fn value(&self, key: &str) -> &str {
        self.data.get(key).map_or("", String::as_str)
    }

    /// The token of format `Token`.
    pub fn token(&self) -> &str {
        self.value("token")
    }

    pub fn name(&self) -> &str {
        self.secret.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.secret.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The annotation `tokenward.dev/<name>`, or an empty text.
    pub fn says(&self, name: &str) -> &str {
        self.annotation(&format!("tokenward.dev/{name}")).unwrap_or_default()
    }

    /// Name of the current anchor.
    pub fn anchor(&self) -> &str {
        self.says("anchor")
    }

    /// Id of the current token.
    pub fn token_id(&self) -> &str {
        self.says("token-id")
    }

    /// Anchors of older tokens, oldest first.
    pub fn previous(&self) -> Result<Vec<String>> {
        let entries: Vec<Value> = serde_json::from_str(self.says("previous")).context("annotation previous")?;
        Ok(entries.iter().filter_map(|entry| entry["anchor"].as_str().map(str::to_owned)).collect())
    }

    /// UID and resourceVersion.
    pub fn version(&self) -> (Option<&str>, Option<&str>) {
        (self.secret.metadata.uid.as_deref(), self.secret.metadata.resource_version.as_deref())
    }
}

/// The claims of a token, without any check of its signature.
pub fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("no payload")?;
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload)?)?)
}

/// Somebody who has nothing but a token.
pub struct Bearer(kube::Client);

impl Bearer {
    /// A client with this token.
    pub async fn new(plane: &ControlPlane, token: &str) -> Result<Self> {
        Self::at(&plane.url(), plane.ca_pem(), token).await
    }

    /// As [`Bearer::new`], for the server of this URL with a certificate that `ca` signed.
    pub async fn at(url: &str, ca: &str, token: &str) -> Result<Self> {
        let text = kubeconfig::with_token(url, ca, token);
        let text = Kubeconfig::from_yaml(&text)?;
        let config = kube::Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await?;
        Ok(Self(kube::Client::try_from(config)?))
    }

    /// HTTP status of a GET.
    pub async fn get(&self, path: &str) -> Result<u16> {
        let answer = self.0.request_text(Request::get(path).body(Vec::new())?).await;
        match answer {
            Ok(_) => Ok(200),
            Err(kube::Error::Api(status)) => Ok(status.code),
            Err(error) => Err(error.into()),
        }
    }

    /// The user name that the API server knows this token by, `None` when it answers 401.
    pub async fn whoami(&self) -> Result<Option<String>> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&review)?)?;
        match self.0.request::<Value>(request).await {
            Ok(answer) => Ok(answer["status"]["userInfo"]["username"].as_str().map(str::to_owned)),
            Err(kube::Error::Api(status)) if status.code == 401 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the token is dead.
    pub async fn dies(&self) -> Result<()> {
        let check = async || {
            let user = self.whoami().await?;
            ensure!(user.is_none(), "still {user:?}");
            Ok(())
        };
        eventually(SOON, "401 for a revoked token", check).await
    }

    /// That the token is alive.
    pub async fn lives(&self) -> Result<()> {
        self.whoami().await?.map(|_| ()).context("401 for a token that should be alive")
    }
}
