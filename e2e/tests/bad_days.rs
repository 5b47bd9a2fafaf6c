//! What goes wrong around the operator: nothing is lost, nothing runs wild, and people are told what to do.

mod common;

use anyhow::{Context, Result, ensure};
use common::{SOON, Scene, condition, plane, spec};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota};
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, apply_overlay, token};
use tokenward_e2e::{Act, Call, Component, Operator, Options, Rule, eventually};

/// Waits until `/readyz` answers 503 with this text, and returns the whole answer.
async fn waits_for(operator: &Operator, text: &str) -> Result<String> {
    let check = async || {
        let (status, body) = operator.readyz().await?;
        ensure!(status == 503 && body.contains(text), "{status} {body}");
        Ok(body)
    };
    eventually(SOON, &format!("/readyz names {text}"), check).await
}

fn one(more: Value) -> Value {
    spec(&["deployer"], more)
}

#[tokio::test]
async fn a_crd_that_is_not_installed_is_waited_for() -> Result<()> {
    let scene = Scene::alone("late-crd").await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(scene.client.clone());
    definitions.delete("tokenpolicies.tokenward.dev", &DeleteParams::default()).await?;
    let gone = async || {
        ensure!(definitions.get_opt("tokenpolicies.tokenward.dev").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the CRD goes", gone).await?;
    scene.operator.restart()?;
    let pid = scene.operator.pid();
    waits_for(&scene.operator, "tokenpolicies").await?;
    // It goes on asking, in one and the same process.
    let mark = scene.proxy.mark();
    let asked = async || {
        let calls = scene.proxy.calls_since(mark, "GET", "/tokenpolicies").len();
        ensure!(calls >= 2, "{calls} calls");
        Ok(())
    };
    eventually(SOON, "it asks again", asked).await?;
    apply_overlay(scene.plane, "config/crd").await?;
    scene.operator.ready().await?;
    assert_eq!((scene.operator.pid(), scene.operator.exited()?), (pid, None));
    let established = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"];
    scene.plane.kubectl_ok(established).await?;
    let target = scene.deployer(json!({})).await?;
    scene.bearer(target.token()).await?.lives().await
}

#[tokio::test]
async fn an_api_server_that_is_down_is_waited_for_and_nothing_is_lost() -> Result<()> {
    let scene = Scene::alone("outage").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "15s"}})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    let before = scene.target("p-deployer").await?;
    // In the middle: the overlap ends while nobody answers.
    scene.plane.apiserver_stop().await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(scene.operator.exited()?, None);
    scene.plane.apiserver_start().await?;
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    // At the start.
    scene.plane.apiserver_stop().await?;
    scene.operator.restart()?;
    waits_for(&scene.operator, "API server").await?;
    scene.plane.apiserver_start().await?;
    scene.operator.ready().await?;
    scene.fence("after").await?;
    assert_eq!(scene.target("p-deployer").await?.version(), before.version());
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

#[tokio::test]
async fn sigterm_while_waiting_for_the_api_server_exits_0() -> Result<()> {
    let scene = Scene::start("stopped-early").await?;
    let down = scene.proxy.add(Rule::before(|_| true, Act::Drop));
    scene.operator.restart()?;
    waits_for(&scene.operator, "API server").await?;
    let (status, _) = scene.operator.terminate().await?;
    assert!(status.success(), "{status}");
    down.remove();
    Ok(())
}

/// A copy of the shipped rights without one verb on one resource, for an account of the namespace.
struct Rights {
    role: ClusterRole,
    roles: Api<ClusterRole>,
}

impl Rights {
    /// Creates role, account and binding in a namespace that must exist.
    async fn without(client: &kube::Client, namespace: &str, resource: &str, verb: &str) -> Result<Self> {
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let shipped = roles.get(ACCOUNT).await?;
        let mut role = ClusterRole { rules: shipped.rules, ..ClusterRole::default() };
        role.metadata.name = Some(namespace.to_owned());
        let rules = role.rules.iter_mut().flatten();
        let found = rules.filter(|rule| rule.resources.iter().flatten().any(|name| name == resource));
        let mut removed = false;
        for rule in found {
            removed |= rule.verbs.iter().any(|granted| granted == verb);
            rule.verbs.retain(|granted| granted != verb);
        }
        ensure!(removed, "the shipped role does not grant {verb} on {resource}");
        role.rules.iter_mut().for_each(|rules| rules.retain(|rule| !rule.verbs.is_empty()));
        roles.create(&PostParams::default(), &role).await?;
        let subject = json!({"kind": "ServiceAccount", "name": "limited", "namespace": namespace});
        let binding = json!({
            "metadata": {"name": "limited"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace},
        });
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        Ok(Self { role, roles })
    }

    /// Grants everything that is shipped.
    async fn complete(&self) -> Result<()> {
        let rules = self.roles.get(ACCOUNT).await?.rules;
        let name = self.role.metadata.name.as_deref().context("no name")?;
        self.roles.patch(name, &PatchParams::default(), &Patch::Merge(json!({"rules": rules}))).await?;
        Ok(())
    }
}

/// A scene whose operator lacks one verb, with an account and a policy; it may never become ready.
async fn limited(namespace: &str, resource: &str, verb: &str) -> Result<(Scene, Rights)> {
    let plane = plane().await?;
    // The account's namespace must exist before its token, so it is not the scene's own.
    let home = format!("{namespace}-home");
    plane.create_namespace(&home).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "limited", "namespace": home}});
    plane.apply(&account.to_string()).await?;
    let token: SecretString = token(plane, &home, "limited", Duration::from_hours(1)).await?;
    let options = Options { token: Some(token), ..Options::default() };
    let scene = Scene::start_unready(namespace, options).await?;
    let rights = Rights::without(&scene.client, namespace, resource, verb).await?;
    let subjects = json!({"subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": home}]});
    let bindings: Api<RoleBinding> = Api::namespaced(scene.client.clone(), namespace);
    bindings.patch("limited", &PatchParams::default(), &Patch::Merge(subjects)).await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    Ok((scene, rights))
}

/// That condition and event name the verb and the resource, and that all is well when the right is granted.
async fn names_and_heals(namespace: &str, resource: &str, verb: &str) -> Result<Scene> {
    let (scene, rights) = limited(namespace, resource, verb).await?;
    let (verb, resource) = (format!(r#"cannot {verb} resource "{resource}""#), resource);
    let message = eventually(SOON, &verb, async || {
        let policy = scene.policies().get("p").await?;
        let ready = condition(&policy, "Ready").context("no condition yet")?;
        ensure!(ready.status == "False" && ready.reason == "Forbidden" && ready.message.contains(&verb), "{ready:?}");
        Ok(ready.message)
    });
    let message = message.await?;
    ensure!(message.contains("apply config/rbac of this release, or grant the verb"), "{resource}: {message}");
    scene.told("p", "Forbidden", &verb).await?;
    rights.complete().await?;
    let ready = async || {
        let policy = scene.policies().get("p").await?;
        let ready = condition(&policy, "Ready").context("no condition")?;
        ensure!(ready.status == "True", "{ready:?}");
        Ok(())
    };
    eventually(2 * SOON, "ready with all rights", ready).await?;
    scene.operator.ready().await?;
    let target = scene.target("p-deployer").await?;
    scene.bearer(target.token()).await?.lives().await?;
    ensure!(scene.anchors().await? == [target.anchor()], "{:?}", scene.anchors().await?);
    Ok(scene)
}

#[tokio::test]
async fn a_missing_right_to_mint_is_named_and_heals() -> Result<()> {
    let scene = names_and_heals("no-mint", "serviceaccounts/token", "create").await;
    assert_eq!(scene?.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_write_the_target_is_named_and_costs_one_token() -> Result<()> {
    let scene = names_and_heals("no-patch", "secrets", "patch").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_create_anchors_is_named_and_costs_no_token() -> Result<()> {
    let (scene, _rights) = limited("no-create", "secrets", "create").await?;
    let message = scene.not_ready("p", "Forbidden").await?;
    assert!(message.contains(r#"cannot create resource "secrets""#), "{message}");
    assert_eq!(scene.mints(), 0);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_list_is_named_and_heals() -> Result<()> {
    let scene = names_and_heals("no-list", "serviceaccounts", "list").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_write_events_tokens_are_published_all_the_same() -> Result<()> {
    let (scene, _rights) = limited("no-events", "events", "create").await?;
    scene.ready("p").await?;
    let counted = async || {
        let text = scene.operator.metrics().await?;
        let dropped = text.lines().find_map(|line| line.strip_prefix("tokenward_events_dropped_total "));
        ensure!(dropped.is_some_and(|count| count != "0"), "{dropped:?}");
        Ok(())
    };
    eventually(SOON, "the lost event is counted", counted).await?;
    scene.bearer(scene.target("p-deployer").await?.token()).await?.lives().await
}

#[tokio::test]
async fn without_the_right_to_write_status_tokens_are_published_all_the_same() -> Result<()> {
    let (scene, rights) = limited("no-status", "tokenpolicies/status", "patch").await?;
    let target = eventually(SOON, "the target", async || scene.target("p-deployer").await).await?;
    scene.bearer(target.token()).await?.lives().await?;
    assert!(scene.operator.log()?.contains("tokenpolicies/status"));
    rights.complete().await?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

/// An admission policy that denies writes of the Secret of this name in the scene's namespace.
struct Denial<'a> {
    scene: &'a Scene,
    secret: &'a str,
}

impl<'a> Denial<'a> {
    /// Returns when it is in force.
    async fn of(scene: &'a Scene, secret: &'a str) -> Result<Self> {
        let name = &scene.namespace;
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"],
            "operations": ["CREATE", "UPDATE"]});
        let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        let denies = json!({"expression": format!("object.metadata.name != '{secret}'"), "message": "not today"});
        let policy = json!({"metadata": {"name": name}, "spec": {"validations": [denies],
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": namespace}}});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(scene.client.clone());
        policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(scene.client.clone());
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        let denial = Self { scene, secret };
        eventually(SOON, "the denial is in force", async || denial.in_force(true).await).await?;
        Ok(denial)
    }

    async fn in_force(&self, wanted: bool) -> Result<()> {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.secret}});
        let dry = PatchParams { dry_run: true, ..PatchParams::apply("e2e-probe") };
        let answer = self.scene.secrets().patch(self.secret, &dry, &Patch::Apply(body)).await;
        ensure!(answer.is_err() == wanted, "{answer:?}");
        Ok(())
    }

    /// Returns when nothing is denied any more.
    async fn lift(&self) -> Result<()> {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.scene.client.clone());
        bindings.delete(&self.scene.namespace, &DeleteParams::default()).await?;
        eventually(SOON, "the denial is lifted", async || self.in_force(false).await).await
    }
}

/// Waits until the operator was refused so many writes of the target since `mark`.
async fn refused_writes(scene: &Scene, mark: usize, times: usize) -> Result<()> {
    let check = async || {
        let calls = scene.proxy.calls_since(mark, "PATCH", "/secrets/p-deployer");
        let refused = calls.iter().filter(|call| call.status.is_some_and(|status| status >= 400)).count();
        ensure!(refused >= times, "{refused} of {times}");
        Ok(())
    };
    eventually(SOON, "the write is tried again", check).await
}

#[tokio::test]
async fn a_denied_first_target_costs_one_token_which_is_published_later() -> Result<()> {
    let scene = Scene::start("denied-first").await?;
    let denial = Denial::of(&scene, "p-deployer").await?;
    let mark = scene.proxy.mark();
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    let message = scene.not_ready("p", "AdmissionDenied").await?;
    assert!(message.contains("not today") && message.contains("change the admission policy"), "{message}");
    scene.told("p", "AdmissionDenied", "not today").await?;
    refused_writes(&scene, mark, 4).await?;
    assert_eq!(scene.mints(), 1);
    denial.lift().await?;
    scene.ready("p").await?;
    let target = scene.target("p-deployer").await?;
    assert_eq!((scene.mints(), target.token()), (1, scene.proxy.minted()[0].token()));
    assert_eq!(scene.anchors().await?, [target.anchor()]);
    scene.bearer(target.token()).await?.lives().await
}

#[tokio::test]
async fn a_denied_rotation_costs_one_token_and_the_old_one_lives() -> Result<()> {
    let scene = Scene::start("denied-rotation").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "1h"}})).await?;
    let denial = Denial::of(&scene, "p-deployer").await?;
    let mark = scene.proxy.mark();
    scene.rotate("p", "1").await?;
    refused_writes(&scene, mark, 4).await?;
    scene.told("p", "AdmissionDenied", "not today").await?;
    assert_eq!(scene.mints(), 2);
    scene.bearer(first.token()).await?.lives().await?;
    denial.lift().await?;
    let second = scene.next_target("p-deployer", &first).await?;
    assert_eq!((scene.mints(), second.token()), (2, scene.proxy.minted()[1].token()));
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    Ok(())
}

/// Limits the number of Secrets, and returns when the limit is in force.
async fn quota(scene: &Scene, secrets: u32) -> Result<()> {
    let quotas: Api<ResourceQuota> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let hard = json!({"secrets": secrets.to_string()});
    let body =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}});
    quotas.patch("few", &PatchParams::apply("e2e").force(), &Patch::Apply(body)).await?;
    let in_force = async || {
        let status = serde_json::to_value(quotas.get("few").await?.status)?;
        ensure!(status["hard"] == hard && status["used"]["secrets"].is_string(), "{status}");
        Ok(())
    };
    eventually(SOON, "the quota is in force", in_force).await
}

#[tokio::test]
async fn a_quota_that_forbids_the_anchor_costs_no_token() -> Result<()> {
    let scene = Scene::start("quota-anchor").await?;
    quota(&scene, 0).await?;
    let mark = scene.proxy.mark();
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    let message = scene.not_ready("p", "QuotaExceeded").await?;
    assert!(message.contains("exceeded quota: few") && message.contains("raise the quota"), "{message}");
    scene.told("p", "QuotaExceeded", "raise the quota").await?;
    let again = async || {
        let tries = scene.proxy.calls_since(mark, "POST", "/secrets").len();
        ensure!(tries >= 3, "{tries} tries");
        Ok(())
    };
    eventually(SOON, "it is tried again", again).await?;
    assert_eq!(scene.mints(), 0);
    quota(&scene, 10).await?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_quota_that_forbids_the_target_costs_one_token() -> Result<()> {
    let scene = Scene::start("quota-target").await?;
    quota(&scene, 1).await?;
    let mark = scene.proxy.mark();
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    scene.not_ready("p", "QuotaExceeded").await?;
    refused_writes(&scene, mark, 3).await?;
    assert_eq!(scene.mints(), 1);
    quota(&scene, 10).await?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn nothing_is_issued_in_a_terminating_namespace_and_others_go_on() -> Result<()> {
    let scene = Scene::alone("terminating").await?;
    let first = scene.deployer(json!({})).await?;
    // A finalizer keeps the namespace; without its controller its content stays as well.
    let held = json!({"metadata": {"name": "held", "finalizers": ["e2e.example/hold"]}});
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "terminating");
    maps.create(&PostParams::default(), &serde_json::from_value(held)?).await?;
    scene.plane.stop_component(Component::ControllerManager).await?;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    namespaces.delete("terminating", &DeleteParams::default()).await?;
    scene.rotate("p", "1").await?;
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let failures = policy.data["status"]["failures"].to_string();
        ensure!(failures.contains("NamespaceTerminating") && failures.contains("is being deleted"), "{failures}");
        Ok(())
    };
    eventually(SOON, "the failure is told", check).await?;
    assert_eq!(scene.mints(), 1);
    assert_eq!(scene.target("p-deployer").await?.version(), first.version());
    scene.bearer(first.token()).await?.lives().await?;
    scene.plane.start_component(Component::ControllerManager).await?;
    scene.bearer(first.token()).await?.dies().await?;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &patch).await?;
    let gone = async || {
        ensure!(namespaces.get_opt("terminating").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the namespace goes", gone).await?;
    assert_eq!((scene.mints(), scene.operator.exited()?), (1, None));
    // The namespace may come back.
    scene.plane.create_namespace("terminating").await?;
    let again = scene.deployer(json!({})).await?;
    scene.bearer(again.token()).await?.lives().await
}

#[tokio::test]
async fn a_terminating_account_gets_no_token() -> Result<()> {
    let scene = Scene::start("account-terminating").await?;
    let first = scene.deployer(json!({})).await?;
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["e2e.example/hold"]}}));
    scene.accounts().patch("deployer", &PatchParams::default(), &hold).await?;
    scene.accounts().delete("deployer", &DeleteParams::default()).await?;
    scene.rotate("p", "1").await?;
    scene.fence("after").await?;
    scene.told("p", "AccountTerminating", "create it again").await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    assert_eq!(scene.target("p-deployer").await?.version(), first.version());
    let let_go = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    scene.accounts().patch("deployer", &PatchParams::default(), &let_go).await?;
    scene.not_ready("p", "AccountNotFound").await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_in_time_while_a_call_hangs() -> Result<()> {
    let scene = Scene::start("stopped").await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    held.reached().await?;
    let (status, took) = scene.operator.terminate().await?;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    held.cut();
    scene.operator.restart()?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_a_token_on_its_way_be_published() -> Result<()> {
    let scene = Scene::start("finished").await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    held.reached().await?;
    let release = async {
        let log = async || {
            // The readiness server is up until the end, so what it has begun shows only in what it lets go of.
            ensure!(scene.operator.exited()?.is_none(), "it has ended");
            Ok(())
        };
        eventually(SOON, "it still runs", log).await?;
        held.release();
        anyhow::Ok(())
    };
    let (ended, released) = tokio::join!(scene.operator.terminate(), release);
    released?;
    assert!(ended?.0.success());
    let target = scene.target("p-deployer").await?;
    assert_eq!((scene.mints(), target.token()), (1, scene.proxy.minted()[0].token()));
    scene.bearer(target.token()).await?.lives().await
}

#[tokio::test]
async fn a_lost_token_of_its_own_is_told_and_nothing_is_lost() -> Result<()> {
    let scene = Scene::start("unauthorized").await?;
    let first = scene.deployer(json!({})).await?;
    let refusal = Act::fail(401, "Unauthorized", "Unauthorized");
    let refused = scene.proxy.add(Rule::before(|call| !call.is_watch(), refusal));
    scene.rotate("p", "1").await?;
    refused.reached().await?;
    refused.remove();
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(second.token()).await?.lives().await?;
    assert_eq!(scene.operator.exited()?, None);
    let own = token(scene.plane, NAMESPACE, ACCOUNT, Duration::from_mins(10)).await;
    assert!(own.is_ok());
    Ok(())
}
