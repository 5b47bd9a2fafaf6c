//! What goes wrong around the operator: nothing is lost, nothing runs wild, and people are told what to do.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, apply_overlay, install, token};
use tokenward_e2e::proxy::Seen;
use tokenward_e2e::scene::{SOON, Scene, Target, condition, operator, plane, spec};
use tokenward_e2e::{Act, Call, Component, ControlPlane, Operator, Options, Profile, Rule, eventually, target_dir};
use tokio::sync::OnceCell;

/// A stop takes at most 10 s; the rest is for a busy machine to notice it.
const PROMISED: Duration = Duration::from_secs(12);

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
    let previous: Vec<Value> = serde_json::from_str(second.says("previous"))?;
    let retires: DateTime<Utc> = previous[0]["retires-at"].as_str().context("no retires-at")?.parse()?;
    // In the middle: the overlap ends while nobody answers.
    scene.plane.apiserver_stop().await?;
    let passed = async || {
        ensure!(Utc::now() > retires, "the overlap ends at {retires}");
        Ok(())
    };
    eventually(SOON, "the overlap ends", passed).await?;
    back(scene.plane).await?;
    assert_eq!(scene.operator.exited()?, None);
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    // At the start.
    scene.plane.apiserver_stop().await?;
    scene.operator.restart()?;
    let waits = waits_for(&scene.operator, "API server").await;
    back(scene.plane).await?;
    waits?;
    scene.operator.ready().await?;
    scene.fence("after").await?;
    assert_eq!(scene.target("p-deployer").await?.token(), second.token());
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

/// Brings the API server back. The controller manager starts anew with it: it waits for up to a minute after an
/// outage, and then the next scene's namespace would have no default account for so long.
async fn back(plane: &ControlPlane) -> Result<()> {
    plane.apiserver_start().await?;
    plane.stop_component(Component::ControllerManager).await?;
    plane.start_component(Component::ControllerManager).await
}

/// Waits until so many calls since `mark` got no answer at all.
async fn unanswered(scene: &Scene, mark: usize, times: usize) -> Result<()> {
    let check = async || {
        let calls = scene.proxy.calls_since(mark, "", "/");
        let lost = calls.iter().filter(|call| call.status.is_none()).count();
        ensure!(lost >= times, "{lost} of {times}");
        Ok(())
    };
    eventually(SOON, "the operator notices the outage", check).await
}

#[tokio::test]
async fn an_outage_costs_no_token_and_a_rotation_right_after_it_works() -> Result<()> {
    let scene = Scene::alone("outage-middle").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "1h"}})).await?;
    let pid = scene.operator.pid();
    scene.plane.apiserver_stop().await?;
    let noticed = unanswered(&scene, scene.proxy.mark(), 5).await;
    back(scene.plane).await?;
    noticed?;
    let after = scene.target("p-deployer").await?;
    assert_eq!((scene.mints(), after.version()), (1, first.version()));
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.ready("p").await?;
    assert_eq!((scene.mints(), second.previous()?), (2, vec![first.anchor().to_owned()]));
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    assert_eq!((scene.operator.pid(), scene.operator.exited()?), (pid, None));
    Ok(())
}

#[tokio::test]
async fn sigterm_while_the_first_call_hangs_exits_0() -> Result<()> {
    let scene = Scene::start("stopped-hanging").await?;
    let hung = scene.proxy.add(Rule::before(|_| true, Act::Hold));
    let mark = scene.proxy.mark();
    scene.operator.restart()?;
    // The first call of every start.
    let called = async || {
        let calls = scene.proxy.calls_since(mark, "GET", "/configmaps/cluster-info").len();
        ensure!(calls > 0, "not called yet");
        Ok(())
    };
    eventually(SOON, "the first call", called).await?;
    waits_for(&scene.operator, "API server").await?;
    let (status, took) = scene.operator.terminate().await?;
    assert!(status.success() && took < PROMISED, "{status} after {took:?}");
    hung.cut();
    Ok(())
}

#[tokio::test]
async fn sigterm_while_waiting_for_the_api_server_exits_0() -> Result<()> {
    let scene = Scene::start("stopped-early").await?;
    let down = scene.proxy.add(Rule::before(|_| true, Act::Drop));
    scene.operator.restart()?;
    waits_for(&scene.operator, "API server").await?;
    let (status, took) = scene.operator.terminate().await?;
    assert!(status.success() && took < PROMISED, "{status} after {took:?}");
    down.remove();
    Ok(())
}

/// The shipped rights without `verb` on `resource`.
fn reduced(shipped: &ClusterRole, resource: &str, verb: &str) -> Result<Vec<PolicyRule>> {
    let mut rules = shipped.rules.clone().unwrap_or_default();
    let found = rules.iter_mut().find(|rule| rule.resources.iter().flatten().any(|name| name == resource));
    let verbs = &mut found.with_context(|| format!("nothing shipped on {resource}"))?.verbs;
    ensure!(verbs.iter().any(|granted| granted == verb), "{verb} on {resource} is not shipped");
    verbs.retain(|granted| granted != verb);
    rules.retain(|rule| !rule.verbs.is_empty());
    Ok(rules)
}

/// A token of an account that holds no rights yet, in a namespace of its own.
async fn stranger(plane: &ControlPlane, namespace: &str) -> Result<Options<'static>> {
    let home = format!("{namespace}-home");
    plane.create_namespace(&home).await?;
    Ok(Options { token: Some(token(plane, &home, "default", Duration::from_hours(1)).await?), ..Options::default() })
}

/// A scene whose operator is another account that lacks one verb; it may never become ready.
async fn limited(namespace: &str, resource: &str, verb: &str) -> Result<Scene> {
    let options = stranger(plane().await?, namespace).await?;
    limit(Scene::start_unready(namespace, options).await?, resource, verb).await
}

/// As [`limited`], where the API server streams no lists.
async fn limited_with_pages(namespace: &str, resource: &str, verb: &str) -> Result<Scene> {
    static PAGES: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || {
        let plane = ControlPlane::start(Profile::with_pages(), target_dir().join("e2e/bad_days-pages")).await?;
        install(&plane).await?;
        anyhow::Ok(plane)
    };
    let plane = PAGES.get_or_try_init(start).await?;
    let options = stranger(plane, namespace).await?;
    limit(Scene::on(plane, namespace, options).await?, resource, verb).await
}

/// Grants the account of [`stranger`] all that is shipped but one verb, and gives it something to do.
async fn limit(scene: Scene, resource: &str, verb: &str) -> Result<Scene> {
    let namespace = &scene.namespace;
    let roles: Api<ClusterRole> = Api::all(scene.client.clone());
    let reduced = reduced(&roles.get(ACCOUNT).await?, resource, verb)?;
    let role = json!({"metadata": {"name": namespace}, "rules": reduced});
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let binding = json!({
        "metadata": {"name": "limited"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": format!("{namespace}-home")}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(scene.client.clone(), namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    Ok(scene)
}

/// Grants a [`limited`] operator all that is shipped.
async fn complete(scene: &Scene) -> Result<()> {
    let roles: Api<ClusterRole> = Api::all(scene.client.clone());
    let shipped = Patch::Merge(json!({"rules": roles.get(ACCOUNT).await?.rules}));
    roles.patch(&scene.namespace, &PatchParams::default(), &shipped).await?;
    Ok(())
}

/// How the API server words the refusal.
fn refusal(resource: &str, verb: &str) -> String {
    format!(r#"cannot {verb} resource "{resource}""#)
}

/// That the condition and a warning name the verb and the resource, and say what to do.
async fn names(scene: &Scene, resource: &str, verb: &str) -> Result<()> {
    let named = refusal(resource, verb);
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let ready = condition(&policy, "Ready").context("no condition yet")?;
        let fits = ready.status == "False" && ready.reason == "Forbidden" && ready.message.contains(&named);
        ensure!(fits, "{ready:?}");
        Ok(ready.message)
    };
    let message = eventually(SOON, &named, check).await?;
    ensure!(
        message.contains("apply the overlay or Helm chart that you installed with again, or grant the verb"),
        "{message}"
    );
    let told = scene.told("p", "Forbidden", &named).await?;
    ensure!(told.kind == "Warning", "{told:?}");
    Ok(())
}

/// That all is well soon after the right is granted, in one and the same process.
async fn heals(scene: &Scene) -> Result<()> {
    let pid = scene.operator.pid();
    complete(scene).await?;
    // Refused watches and grants are tried again once a minute.
    eventually(2 * SOON, "ready with all rights", async || scene.ready("p").await).await?;
    scene.operator.ready().await?;
    let target = scene.target("p-deployer").await?;
    scene.bearer(target.token()).await?.lives().await?;
    ensure!(scene.anchors().await? == [target.anchor()], "{:?}", scene.anchors().await?);
    ensure!(scene.operator.pid() == pid && scene.operator.exited()?.is_none(), "it was restarted");
    Ok(())
}

/// Both, and that one token was issued in all.
async fn names_and_heals(scene: Scene, resource: &str, verb: &str) -> Result<()> {
    names(&scene, resource, verb).await?;
    heals(&scene).await?;
    ensure!(scene.mints() == 1, "{} tokens", scene.mints());
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_mint_is_named_and_heals() -> Result<()> {
    names_and_heals(limited("no-mint", "serviceaccounts/token", "create").await?, "serviceaccounts/token", "create")
        .await
}

#[tokio::test]
async fn a_missing_right_to_write_the_target_is_named_and_costs_one_token() -> Result<()> {
    names_and_heals(limited("no-patch", "secrets", "patch").await?, "secrets", "patch").await
}

#[tokio::test]
async fn a_missing_right_to_create_anchors_is_named_and_costs_no_token() -> Result<()> {
    let scene = limited("no-create", "secrets", "create").await?;
    names(&scene, "secrets", "create").await?;
    assert_eq!(scene.mints(), 0);
    heals(&scene).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_delete_makes_a_revocation_loud_and_holds_up_no_rotation() -> Result<()> {
    let scene = limited("no-delete", "secrets", "delete").await?;
    scene.ready("p").await?;
    let first = scene.target("p-deployer").await?;
    // An instant that is over, so that the replacement follows at once.
    let instant = (Utc::now() + TimeDelta::seconds(1)).to_rfc3339();
    scene.annotate("p", "tokenward.dev/revoke-issued-before", Some(&instant)).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(second.token()).await?.lives().await?;
    let named = refusal("secrets", "delete");
    for kind in ["RevocationFailing", "Stalled"] {
        let (policy, condition) = scene.condition("p", kind, "True").await?;
        ensure!(condition.reason == "Forbidden" && condition.message.contains(&named), "{kind}: {condition:?}");
        scene.ready("p").await.with_context(|| format!("{}", policy.data["status"]))?;
    }
    let told = scene.told("p", "RevocationFailing", &named).await?;
    let by_hand = format!("by hand: kubectl -n {} delete secret {}", scene.namespace, first.anchor());
    ensure!(told.kind == "Warning" && told.note.contains(&by_hand), "{told:?}");
    scene.bearer(first.token()).await?.lives().await?;
    // What fails is tried again and told once.
    let mark = scene.proxy.mark();
    let again = async || {
        let tries = scene.proxy.calls_since(mark, "DELETE", first.anchor()).len();
        ensure!(tries >= 2, "{tries} tries");
        Ok(())
    };
    eventually(2 * SOON, "the delete is tried again", again).await?;
    let events = scene.events("p").await?;
    ensure!(events.iter().filter(|event| event.reason == "RevocationFailing").count() == 1, "{events:?}");
    complete(&scene).await?;
    // Refused calls are tried again once a minute.
    eventually(2 * SOON, "the old anchor goes", async || scene.gone(first.anchor()).await).await?;
    scene.bearer(first.token()).await?.dies().await?;
    let over = async || {
        let policy = scene.policies().get("p").await?;
        ensure!(condition(&policy, "RevocationFailing").is_none_or(|condition| condition.status == "False"));
        Ok(())
    };
    eventually(SOON, "the condition ends", over).await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_watch_accounts_is_named_and_heals() -> Result<()> {
    names_and_heals(limited("no-accounts", "serviceaccounts", "watch").await?, "serviceaccounts", "watch").await
}

#[tokio::test]
async fn a_missing_right_to_list_accounts_in_pages_is_named_and_heals() -> Result<()> {
    let scene = limited_with_pages("no-list", "serviceaccounts", "list").await?;
    names_and_heals(scene, "serviceaccounts", "list").await
}

/// That nothing is done while Secrets are not known, and that `/readyz` tells why.
async fn waits_and_heals(scene: Scene, verb: &str) -> Result<()> {
    names(&scene, "secrets", verb).await?;
    let body = waits_for(&scene.operator, &refusal("secrets", verb)).await?;
    let waiting = format!("waiting for secrets (targets) in {}", scene.namespace);
    ensure!(body.contains(&waiting), "{body}");
    ensure!(scene.mints() == 0 && scene.anchors().await?.is_empty());
    heals(&scene).await?;
    ensure!(scene.mints() == 1, "{} tokens", scene.mints());
    Ok(())
}

#[tokio::test]
async fn a_missing_right_to_watch_secrets_is_named_everywhere_and_heals() -> Result<()> {
    waits_and_heals(limited("no-secrets", "secrets", "watch").await?, "watch").await
}

#[tokio::test]
async fn a_missing_right_to_list_secrets_in_pages_is_named_everywhere_and_heals() -> Result<()> {
    waits_and_heals(limited_with_pages("no-secrets", "secrets", "list").await?, "list").await
}

#[tokio::test]
async fn lists_that_are_streamed_need_no_right_to_list() -> Result<()> {
    let scene = limited("no-list", "secrets", "list").await?;
    scene.operator.ready().await?;
    scene.ready("p").await?;
    scene.bearer(scene.target("p-deployer").await?.token()).await?.lives().await
}

/// Messages of all conditions of a policy.
fn messages(policy: &DynamicObject) -> String {
    let conditions = policy.data["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter_map(|condition| condition["message"].as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_lost_right_to_watch_secrets_is_named_and_heals() -> Result<()> {
    let scene = limited("no-watch", "secrets", "watch").await?;
    heals(&scene).await?;
    let roles: Api<ClusterRole> = Api::all(scene.client.clone());
    let rules = reduced(&roles.get(ACCOUNT).await?, "secrets", "watch")?;
    roles.patch(&scene.namespace, &PatchParams::default(), &Patch::Merge(json!({"rules": rules}))).await?;
    let named = refusal("secrets", "watch");
    // The lists are done and the token is out: it is told for as long as it lasts, not at the start only.
    let told = async || {
        let policy = scene.policies().get("p").await?;
        let ready = condition(&policy, "Ready").context("no condition yet")?;
        let messages = messages(&policy);
        ensure!(ready.status == "True" && messages.contains(&named), "{messages}");
        Ok(())
    };
    // A watch that is open goes on for up to a minute.
    eventually(2 * SOON, "a condition of the ready policy names the verb", told).await?;
    assert_eq!(scene.told("p", "Forbidden", &named).await?.kind, "Warning");
    heals(&scene).await?;
    let over = async || {
        let messages = messages(&scene.policies().get("p").await?);
        ensure!(!messages.contains(&named), "{messages}");
        Ok(())
    };
    eventually(SOON, "no condition names the verb any more", over).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_write_events_tokens_are_published_all_the_same() -> Result<()> {
    let scene = limited("no-events", "events", "create").await?;
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
    let scene = limited("no-status", "tokenpolicies/status", "patch").await?;
    let target = eventually(SOON, "the target", async || scene.target("p-deployer").await).await?;
    scene.bearer(target.token()).await?.lives().await?;
    // A first status waits for the token, and so may come after it.
    let told = async || {
        ensure!(scene.operator.log()?.contains("tokenpolicies/status"), "the refusal is not logged");
        Ok(())
    };
    eventually(SOON, "the refusal is logged", told).await?;
    complete(&scene).await?;
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
        let denies = json!({"expression": format!("object.metadata.name != '{secret}'"), "message": "not today"});
        scene.validate_secrets(&["CREATE", "UPDATE"], &denies).await?;
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
    assert!(message.contains("not today") && message.contains("the admission policy or webhook"), "{message}");
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

/// That the policy says why nothing is issued, and that nothing is and nothing is lost.
async fn says_terminating(scene: &Scene, first: &Target) -> Result<()> {
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let failures = policy.data["status"]["failures"].to_string();
        ensure!(failures.contains("NamespaceTerminating") && failures.contains("is being deleted"), "{failures}");
        Ok(())
    };
    eventually(SOON, "the failure is told", check).await?;
    ensure!(scene.mints() == 1, "{} mints", scene.mints());
    let target = scene.target("p-deployer").await?;
    ensure!(target.version() == first.version(), "{target:?}");
    scene.bearer(first.token()).await?.lives().await
}

#[tokio::test]
async fn nothing_is_issued_in_a_terminating_namespace_which_may_come_back() -> Result<()> {
    let scene = Scene::alone("terminating").await?;
    let first = scene.deployer(json!({})).await?;
    // A finalizer keeps the namespace; without its controller its content stays as well.
    let held = json!({"metadata": {"name": "held", "finalizers": ["e2e.example/hold"]}});
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "terminating");
    maps.create(&PostParams::default(), &serde_json::from_value(held)?).await?;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    scene.plane.stop_component(Component::ControllerManager).await?;
    let checks = async {
        namespaces.delete("terminating", &DeleteParams::default()).await?;
        scene.rotate("p", "1").await?;
        says_terminating(&scene, &first).await
    };
    let checks = checks.await;
    scene.plane.start_component(Component::ControllerManager).await?;
    checks?;
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

/// Calls into the scene's namespace since `mark`, watches left out.
fn calls_into(scene: &Scene, mark: usize) -> Vec<Seen> {
    let mut calls = scene.proxy.calls_since(mark, "", &format!("/namespaces/{}/", scene.namespace));
    calls.retain(|call| !call.query.contains("watch=true"));
    calls
}

/// That tries to issue in the terminating namespace come ever more slowly and cost next to nothing else.
async fn is_not_hammered(scene: &Scene, first: &Target, mark: usize) -> Result<()> {
    let tries = async || {
        let tries = scene.proxy.calls_since(mark, "POST", &format!("/namespaces/{}/secrets", scene.namespace));
        ensure!(tries.len() >= 4, "{} tries", tries.len());
        Ok(tries)
    };
    let tries = eventually(SOON, "it is tried again", tries).await?;
    // Pauses of 1, 2 and 4 s, each up to a tenth shorter.
    let took = tries[3].at - tries[0].at;
    ensure!(took >= TimeDelta::seconds(6), "four tries in {took}");
    let calls = calls_into(scene, mark);
    ensure!(calls.len() <= 3 * tries.len(), "{} tries made {} calls: {calls:#?}", tries.len(), calls.len());
    ensure!(scene.mints() == 1, "{} mints", scene.mints());
    let target = scene.target("p-deployer").await?;
    ensure!(target.version() == first.version(), "{target:?}");
    Ok(())
}

/// That tokens are issued and rotated in the scene's namespace.
async fn goes_on(scene: &Scene) -> Result<()> {
    let first = scene.deployer(json!({"rotation": {"overlap": "1h"}})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_terminating_namespace_is_not_hammered_while_another_goes_on() -> Result<()> {
    let mut scene = Scene::alone("ending").await?;
    scene.plane.create_namespace("lasting").await?;
    let namespaces = ["ending", "lasting"].map(str::to_owned).to_vec();
    let both = Options { name: "ending-and-lasting".to_owned(), namespaces, ..Options::default() };
    scene.operator = operator(scene.plane, "ending", &scene.proxy, both).await?;
    scene.operator.ready().await?;
    let first = scene.deployer(json!({})).await?;
    // Without its controller a namespace stays as it is, and nothing in it is deleted.
    scene.plane.stop_component(Component::ControllerManager).await?;
    let mark = scene.proxy.mark();
    let checks = async {
        let namespaces: Api<Namespace> = Api::all(scene.client.clone());
        namespaces.delete("ending", &DeleteParams::default()).await?;
        scene.rotate("p", "1").await?;
        is_not_hammered(&scene, &first, mark).await?;
        "lasting".clone_into(&mut scene.namespace);
        goes_on(&scene).await
    };
    let checks = checks.await;
    scene.plane.start_component(Component::ControllerManager).await?;
    checks?;
    let minted = scene.proxy.minted();
    let of = |namespace: &str| minted.iter().filter(|minted| minted.namespace == namespace).count();
    assert_eq!((of("ending"), of("lasting")), (1, 2));
    Ok(())
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
    assert!(status.success() && took < PROMISED, "{status} after {took:?}");
    held.cut();
    scene.operator.restart()?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_in_time_while_every_call_hangs() -> Result<()> {
    let scene = Scene::start("stopped-mute").await?;
    let first = scene.deployer(json!({})).await?;
    let held = scene.proxy.add(Rule::before(|_| true, Act::Hold));
    let mark = scene.proxy.mark();
    // Its watches end now; what it begins anew hangs.
    scene.proxy.cut_connections();
    let hangs = async || {
        let calls = scene.proxy.calls_since(mark, "GET", "/stopped-mute/").len();
        ensure!(calls >= 4, "{calls} of four watches");
        Ok(())
    };
    eventually(SOON, "the watches hang", hangs).await?;
    let (status, took) = scene.operator.terminate().await?;
    assert!(status.success() && took < PROMISED, "{status} after {took:?}");
    held.cut();
    scene.operator.restart()?;
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.target("p-deployer").await?.version()), (1, first.version()));
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_a_token_on_its_way_be_published() -> Result<()> {
    let scene = Scene::start("finished").await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    held.reached().await?;
    // The signal is sent before the call goes on: the first of the two runs first.
    let release = async { held.release() };
    let (ended, ()) = tokio::join!(scene.operator.terminate(), release);
    assert!(ended?.0.success());
    let target = scene.target("p-deployer").await?;
    assert_eq!((scene.mints(), target.token()), (1, scene.proxy.minted()[0].token()));
    scene.bearer(target.token()).await?.lives().await
}

#[tokio::test]
async fn answers_of_401_are_survived() -> Result<()> {
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
    Ok(())
}
