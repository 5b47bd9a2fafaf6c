//! The seat belts of `config/admission` on the operator's own identity: what its token can be abused for.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, token};
use tokenward_e2e::scene::caller::Wanted::{Accepted, Refused};
use tokenward_e2e::scene::caller::{Caller, in_force, policy, policy_path, secret_path, token_path};
use tokenward_e2e::scene::forged::{
    BELT, FOREIGN, Forged, OF_KUBERNETES, RBAC, all_refused, forged, marked, marks, request,
};
use tokenward_e2e::scene::{Scene, Target, spec};
use tokenward_e2e::{ControlPlane, eventually};

/// Somebody who has stolen a token of the operator.
async fn thief(plane: &ControlPlane, namespace: &str) -> Result<Caller> {
    in_force(plane, &format!("system:serviceaccount:{namespace}:{ACCOUNT}")).await?;
    let token = token(plane, namespace, ACCOUNT, Duration::from_hours(1)).await?;
    Caller::token(plane, token.expose_secret()).await
}

/// What there is to abuse: a grant `p` of `deployer` with its Secrets, and Secrets of others.
struct Loot<'a> {
    scene: &'a Scene,
    target: Target,
    anchor_uid: String,
}

impl<'a> Loot<'a> {
    async fn lay_out(scene: &'a Scene) -> Result<Self> {
        let target = scene.deployer(json!({})).await?;
        let data = json!({"password": "c2VjcmV0"});
        for (name, kind) in [("foreign", "Opaque"), ("release", "helm.sh/release.v1")] {
            let secret = json!({"metadata": {"name": name}, "type": kind, "data": data});
            scene.secrets().create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        }
        let copy = json!({"metadata": {"name": "copy", "labels": {"tokenward.dev/role": "target"},
            "annotations": marks("p-deployer")}, "data": data});
        scene.secrets().create(&PostParams::default(), &serde_json::from_value(copy)?).await?;
        let anchor_uid = target.says("anchor-uid").to_owned();
        Ok(Self { scene, target, anchor_uid })
    }

    fn secret(&self, name: &str) -> String {
        secret_path(&self.scene.namespace, name)
    }

    fn tokens(&self) -> String {
        token_path(&self.scene.namespace, "deployer")
    }

    /// A reference to the anchor of the grant.
    fn anchor(&self) -> Value {
        json!({"kind": "Secret", "apiVersion": "v1", "name": self.target.anchor(), "uid": self.anchor_uid})
    }
}

fn tokens(loot: &Loot<'_>) -> Vec<Forged> {
    let post = |what, path, spec, words| forged(what, "POST", path, request(&spec), words);
    let bound = |more: Value| {
        let mut spec = more;
        spec["boundObjectRef"] = loot.anchor();
        spec
    };
    let (own, anchor) = ("https://kubernetes.default.svc.cluster.local", loot.target.anchor());
    let pod = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "1"}});
    let node = json!({"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "n", "uid": "1"}});
    let by_name = json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": anchor}});
    let over = "is over the limit 168h (ConfigMap tokenward-system/tokenward-limits, key maxDuration)";
    let reserved = "is reserved: Tokenward requests no token there";
    let in_system = |account, namespace| (token_path(namespace, account), bound(json!({})));
    let mut calls = vec![
        post("unbound", loot.tokens(), json!({}), "unbound tokens are not allowed"),
        post("unbound, tried out", loot.tokens() + "?dryRun=All", json!({}), "unbound tokens are not allowed"),
        post("bound to a pod", loot.tokens(), pod, BELT),
        post("bound to a node", loot.tokens(), node, BELT),
        post("bound without a UID", loot.tokens(), by_name, BELT),
        post("for too long", loot.tokens(), bound(json!({"expirationSeconds": 168 * 3600 + 1})), over),
        post("for ten years", loot.tokens(), bound(json!({"expirationSeconds": 315_360_000})), over),
        post("for Vault", loot.tokens(), bound(json!({"audiences": ["vault"]})), "audience vault is not allowed"),
        post("for Vault as well", loot.tokens(), bound(json!({"audiences": [own, "vault"]})), "audience vault is not"),
    ];
    for (what, account, namespace) in [
        ("of an administrator's account", "default", "kube-system"),
        ("in kube-public", "default", "kube-public"),
        ("in kube-node-lease", "default", "kube-node-lease"),
        ("of the operator itself", ACCOUNT, NAMESPACE),
        ("next to the operator", "default", NAMESPACE),
    ] {
        let (path, spec) = in_system(account, namespace);
        calls.push(post(what, path, spec, reserved));
    }
    calls
}

fn creations(loot: &Loot<'_>) -> Vec<Forged> {
    let all = loot.secret("");
    let post = |what, body, words| forged(what, "POST", all.clone(), body, words);
    let plain = |metadata: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata});
    let mut eternal = marked("eternal", "kubernetes.io/service-account-token");
    eternal["metadata"]["annotations"]["kubernetes.io/service-account.name"] = "deployer".into();
    let mut certificate = marked("tls", "kubernetes.io/tls");
    certificate["data"] = json!({"tls.crt": "", "tls.key": ""});
    let mut key = marked("ssh", "kubernetes.io/ssh-auth");
    key["stringData"] = json!({"ssh-privatekey": "x"});
    let mut misnamed = marked("another", "Opaque");
    misnamed["metadata"]["annotations"]["tokenward.dev/target"] = "p-deployer".into();
    let anchor =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "anchor"}, "type": "tokenward.dev/anchor"});
    let bootstrap = marked("bootstrap-token-abcdef", "bootstrap.kubernetes.io/token");
    let system = |name| secret_path(name, "");
    let applied = format!("{}?fieldManager=tokenward&force=true", loot.secret("new"));
    vec![
        post("a Secret without marks", plain(json!({"name": "new"})), FOREIGN),
        post("one with a generated name", plain(json!({"generateName": "new-"})), FOREIGN),
        post(
            "one with the label alone",
            plain(json!({"name": "new", "labels": {"tokenward.dev/role": "target"}})),
            FOREIGN,
        ),
        post("one marked with another's name", misnamed, FOREIGN),
        post("an anchor with another name", anchor, FOREIGN),
        post("an eternal token", eternal, "Tokenward writes no Secret of type kubernetes.io/service-account-token"),
        post("a certificate", certificate, "no Secret of type kubernetes.io/tls"),
        post(
            "what Cluster API applies",
            marked("x", "addons.cluster.x-k8s.io/resource-set"),
            "addons.cluster.x-k8s.io",
        ),
        post("an SSH key", key, "type kubernetes.io/ssh-auth"),
        post("a Helm release", marked("sh.helm.release.v1.x.v1", "helm.sh/release.v1"), "type helm.sh/release.v1"),
        post("a bootstrap token elsewhere", bootstrap.clone(), "type bootstrap.kubernetes.io/token"),
        forged("a join token", "POST", system("kube-system"), bootstrap, "type bootstrap.kubernetes.io/token"),
        forged(
            "a target in kube-system",
            "POST",
            system("kube-system"),
            marked("x", "Opaque"),
            "writes no Secret there",
        ),
        forged("a target at home", "POST", system(NAMESPACE), marked("x", "Opaque"), "writes no Secret there"),
        forged("by apply", "APPLY", applied, plain(json!({"name": "new"})), FOREIGN),
    ]
}

fn changes(loot: &Loot<'_>) -> Vec<Forged> {
    let merge = |what, name, body, words| forged(what, "MERGE", loot.secret(name), body, words);
    let delete = |what, name| forged(what, "DELETE", loot.secret(name), Value::Null, FOREIGN);
    let annotate = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    let applied = format!("{}?fieldManager=tokenward&force=true", loot.secret("foreign"));
    let data = json!({"data": {"password": "eA=="}});
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}]);
    let owned = json!({"metadata": {"ownerReferences": owner}});
    let steps = json!([{"op": "replace", "path": "/data/password", "value": "eA=="}]);
    let emptied = json!({"metadata": {"annotations": null}});
    vec![
        forged("a foreign Secret, by apply", "APPLY", applied, marked("foreign", "Opaque"), FOREIGN),
        forged("by JSON patch", "JSON", loot.secret("foreign"), steps, FOREIGN),
        forged("by strategic patch", "STRATEGIC", loot.secret("foreign"), data.clone(), FOREIGN),
        merge("by merge patch", "foreign", data.clone(), FOREIGN),
        merge("marking it", "foreign", json!({"metadata": {"annotations": marks("foreign")}}), FOREIGN),
        merge("having it collected", "foreign", owned, FOREIGN),
        merge("a finalizer on it", "foreign", json!({"metadata": {"finalizers": ["a.b/c"]}}), FOREIGN),
        merge("a release of Helm", "release", data.clone(), FOREIGN),
        merge("a renamed copy", "copy", data, FOREIGN),
        merge("a target without its marks", "p-deployer", emptied, FOREIGN),
        merge("a target without its policy", "p-deployer", annotate("tokenward.dev/policy", Value::Null), FOREIGN),
        merge("a target under another name", "p-deployer", annotate("tokenward.dev/target", "x".into()), FOREIGN),
        delete("the foreign Secret's end", "foreign"),
        delete("the release's end", "release"),
        delete("the copy's end", "copy"),
    ]
}

/// In namespaces of the system, and with verbs that no role gives.
fn elsewhere(loot: &Loot<'_>) -> Vec<Forged> {
    let system = |name| secret_path("kube-system", name);
    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let admission = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/tokenward-secrets";
    let limits = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/tokenward-limits");
    let space = format!("/api/v1/namespaces/{}", loot.scene.namespace);
    let policies = policy_path(&loot.scene.namespace, "p");
    let expiration = json!({"data": {"expiration": "MjA5OS0wMS0wMVQwMDowMDowMFo="}});
    let wide = json!({"data": {"maxDuration": "99999h"}});
    let annotation = json!({"metadata": {"annotations": {"tokenward.dev/max-duration": "99999h"}}});
    let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}});
    vec![
        forged("a Secret of kube-system", "MERGE", system("forged-system"), expiration.clone(), FOREIGN),
        forged("its end", "DELETE", system("forged-system"), Value::Null, FOREIGN),
        forged("a bootstrap token for ever", "MERGE", system("bootstrap-token-forged"), expiration, OF_KUBERNETES),
        forged("a PUT", "PUT", loot.secret("foreign"), marked("foreign", "Opaque"), RBAC),
        forged("all Secrets' end", "DELETE", loot.secret(""), Value::Null, RBAC),
        forged("the limits", "MERGE", limits.clone(), wide, RBAC),
        forged("the limits' end", "DELETE", limits, Value::Null, RBAC),
        forged("the namespace's limits", "MERGE", space.clone(), annotation, RBAC),
        forged("the belt's end", "DELETE", admission.to_owned(), Value::Null, RBAC),
        forged("a role", "POST", binding.to_owned(), tokenward_e2e::scene::caller::administrator("x"), RBAC),
        forged("a policy", "POST", policy_path(&loot.scene.namespace, ""), policy("x", &spec(&["a"], json!({}))), RBAC),
        forged("another policy", "MERGE", policies, json!({"spec": {"suspend": true}}), RBAC),
        forged("a pod", "POST", format!("{space}/pods"), pod, RBAC),
    ]
}

/// A bootstrap token and another Secret, which no test of this binary may change.
async fn system_secrets(plane: &ControlPlane) -> Result<Api<Secret>> {
    let secrets: Api<Secret> = Api::namespaced(plane.client().await?, "kube-system");
    let id = json!({"token-id": "forged", "token-secret": "0123456789abcdef"});
    for (name, kind) in [("forged-system", "Opaque"), ("bootstrap-token-forged", "bootstrap.kubernetes.io/token")] {
        let secret = json!({"metadata": {"name": name}, "type": kind, "stringData": id});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    }
    Ok(secrets)
}

#[tokio::test]
async fn a_stolen_token_of_the_operator_is_good_for_nothing_else() -> Result<()> {
    let scene = Scene::start("stolen").await?;
    scene.shipped_limits().await?;
    let loot = Loot::lay_out(&scene).await?;
    let system = system_secrets(scene.plane).await?;
    let thief = thief(scene.plane, NAMESPACE).await?;
    let system_before = system.get("forged-system").await?;
    let (before, minted) = (scene.versions().await?, scene.mints());
    let calls = [tokens(&loot), creations(&loot), changes(&loot), elsewhere(&loot)];
    let calls: Vec<Forged> = calls.into_iter().flatten().collect();
    assert!(calls.len() >= 50, "{}", calls.len());
    all_refused(&thief, &calls).await?;
    assert_eq!((scene.versions().await?, scene.mints()), (before, minted));
    assert_eq!(system.get("forged-system").await?, system_before);
    system.get("bootstrap-token-forged").await?;
    own_calls_pass(&thief, &loot).await
}

/// The same caller may do what the operator does; so the refusals above are not for want of a role.
async fn own_calls_pass(thief: &Caller, loot: &Loot<'_>) -> Result<()> {
    let path = loot.secret("") + "?dryRun=All";
    let anchor = json!({"metadata": {"name": "tw-0123456789"}, "type": "tokenward.dev/anchor", "immutable": true});
    let registry = r#"{"auths":{}}"#;
    let mut registry_secret = marked("registry", "kubernetes.io/dockerconfigjson");
    registry_secret["stringData"] = json!({".dockerconfigjson": registry});
    thief.gets("POST", &path, &anchor, Accepted).await?;
    thief.gets("POST", &path, &marked("target", "Opaque"), Accepted).await?;
    thief.gets("POST", &path, &marked("linkerd", "mirror.linkerd.io/remote-kubeconfig"), Accepted).await?;
    let mut login = marked("login", "kubernetes.io/basic-auth");
    login["stringData"] = json!({"password": ""});
    thief.gets("POST", &path, &login, Accepted).await?;
    thief.gets("POST", &path, &registry_secret, Accepted).await?;
    let bound = request(&json!({"boundObjectRef": loot.anchor(), "expirationSeconds": 168 * 3600}));
    thief.gets("POST", &(loot.tokens() + "?dryRun=All"), &bound, Accepted).await?;
    let labels = json!({"metadata": {"labels": {"tokenward.dev/role": null}}});
    let target = loot.secret("p-deployer") + "?dryRun=All";
    thief.gets("MERGE", &target, &labels, Accepted).await?;
    thief.gets("DELETE", &target, &Value::Null, Accepted).await?;
    let bootstrap = secret_path("kube-system", "bootstrap-token-forged") + "?dryRun=All";
    thief.gets("DELETE", &bootstrap, &Value::Null, Accepted).await
}

#[tokio::test]
async fn limits_of_the_namespace_bind_the_operators_token_as_well() -> Result<()> {
    let scene = Scene::start("bound").await?;
    scene.shipped_limits().await?;
    let loot = Loot::lay_out(&scene).await?;
    let thief = thief(scene.plane, NAMESPACE).await?;
    let path = loot.tokens() + "?dryRun=All";
    let lasts = |seconds: u32| request(&json!({"boundObjectRef": loot.anchor(), "expirationSeconds": seconds}));
    let speaks = |to: &str| request(&json!({"boundObjectRef": loot.anchor(), "audiences": [to]}));
    let here = |limit: &str| format!("(Namespace bound, annotation tokenward.dev/{limit})");
    let over = format!("7201s is over the limit 2h {}", here("max-duration"));
    scene.limit("max-duration", Some("2h")).await?;
    thief.gets("POST", &path, &lasts(7201), Refused(&over)).await?;
    thief.gets("POST", &path, &lasts(7200), Accepted).await?;
    scene.limit("max-duration", Some("2000h")).await?;
    thief.gets("POST", &path, &lasts(7_200_000), Accepted).await?;
    scene.limit("audiences", Some("vault")).await?;
    thief.gets("POST", &path, &speaks("vault"), Accepted).await?;
    thief.gets("POST", &path, &speaks("vaults"), Refused("audience vaults is not allowed (Namespace bound,")).await?;
    scene.limit("binding-none", Some("true")).await?;
    thief.gets("POST", &path, &request(&json!({})), Accepted).await?;
    scene.limit("reserved", Some("true")).await?;
    let reserved = format!("namespace bound is reserved {}", here("reserved"));
    thief.gets("POST", &path, &lasts(7200), Refused(&reserved)).await
}

#[tokio::test]
async fn a_lowered_limit_shows_at_the_next_mint_and_costs_no_token_before() -> Result<()> {
    let scene = Scene::start("lowered").await?;
    scene.shipped_limits().await?;
    let target = scene.deployer(json!({})).await?;
    in_force(scene.plane, &format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}")).await?;
    scene.limit("max-duration", Some("1h")).await?;
    scene.account("fence", &[]).await?;
    scene.policy("fence", &spec(&["fence"], json!({"token": {"duration": "1h"}}))).await?;
    scene.ready("fence").await?;
    scene.ready("p").await?;
    assert_eq!(scene.target("p-deployer").await?.token_id(), target.token_id());
    scene.rotate("p", "1").await?;
    let told = async || {
        let (_, told) = scene.condition("p", "Reconciling", "True").await?;
        ensure!(told.reason == "AdmissionDenied", "{told:?}");
        Ok(told.message)
    };
    let message = eventually(tokenward_e2e::scene::SOON, "the limit is the reason", told).await?;
    assert!(message.contains("86400s is over the limit 1h (Namespace lowered,"), "{message}");
    let whole =
        "or for one namespace by its annotation tokenward.dev/max-duration; change the limit that the message names";
    assert!(message.contains(whole), "{message}");
    scene.ready("p").await?;
    let kept = scene.target("p-deployer").await?;
    assert_eq!(kept.token_id(), target.token_id());
    scene.bearer(kept.token()).await?.lives().await?;
    scene.limit("max-duration", Some("24h")).await?;
    let renewed = async || {
        let now = scene.target("p-deployer").await?;
        ensure!(now.token_id() != kept.token_id(), "still the old one");
        Ok(now)
    };
    // It is tried again once a minute.
    let next = eventually(Duration::from_mins(2), "a fresh token", renewed).await?;
    scene.ready("p").await?;
    scene.bearer(next.token()).await?.lives().await
}

#[tokio::test]
async fn a_target_whose_label_was_stripped_is_mended_under_the_belts() -> Result<()> {
    let scene = Scene::start("stripped").await?;
    scene.shipped_limits().await?;
    let target = scene.deployer(json!({})).await?;
    in_force(scene.plane, &format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}")).await?;
    scene.patch_secret("p-deployer", json!({"metadata": {"labels": {"tokenward.dev/role": null}}})).await?;
    let mended = async || {
        let now = scene.target("p-deployer").await?;
        let labels = now.secret.metadata.labels.clone().unwrap_or_default();
        ensure!(labels.get("tokenward.dev/role").is_some_and(|role| role == "target"), "{labels:?}");
        Ok(now)
    };
    let now = eventually(tokenward_e2e::scene::SOON, "the label is back", mended).await?;
    assert_eq!(now.token_id(), target.token_id());
    scene.delete_policy("p").await?;
    scene.gone("p-deployer").await
}
