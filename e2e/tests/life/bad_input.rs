//! What people get wrong: each time they are told what to do, nothing is lost, and nothing else stops.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokenward_e2e::scene::refused::refused;
use tokenward_e2e::scene::{SOON, Scene, Target, apply_policy, claims, condition, plane, spec};
use tokenward_e2e::{Options, eventually};

fn one(more: Value) -> Value {
    spec(&["deployer"], more)
}

fn duration(text: &str) -> Value {
    one(json!({"token": {"duration": text}}))
}

fn rotation(rotation: &Value) -> Value {
    one(json!({"rotation": rotation}))
}

fn secret(secret: &Value) -> Value {
    one(json!({"secret": secret}))
}

/// Creates a Secret as somebody else would.
async fn foreign(scene: &Scene, secret: Value) -> Result<Secret> {
    Ok(scene.secrets().create(&PostParams::default(), &serde_json::from_value(secret)?).await?)
}

/// Waits until the status lists a failure of this reason, and returns its message.
async fn failure(scene: &Scene, policy: &str, reason: &str) -> Result<String> {
    let check = async || {
        let policy = scene.policies().get(policy).await?;
        let failures = policy.data["status"]["failures"].as_array().cloned().unwrap_or_default();
        let found = failures.iter().find(|failure| failure["reason"] == reason);
        let found = found.with_context(|| policy.data["status"].to_string())?;
        Ok(found["message"].as_str().unwrap_or_default().to_owned())
    };
    eventually(SOON, &format!("{policy} fails: {reason}"), check).await
}

#[tokio::test]
async fn wrong_durations_are_refused() -> Result<()> {
    let unit = "24h, 1h30m or 90s";
    let cases = [
        (duration("5m"), "ask for 10m or more"),
        (duration("0s"), "ask for 10m or more"),
        (duration("30d"), unit),
        (duration("soon"), unit),
        (duration("1h-5m"), unit),
        (duration(""), unit),
        (duration("123456h"), unit),
        (rotation(&json!({"maxAge": "59s", "overlap": "1m"})), "rotation.maxAge must be at least 1m"),
        (rotation(&json!({"maxAge": "1d", "overlap": "1m"})), unit),
        (rotation(&json!({"overlap": "never"})), unit),
        (rotation(&json!({"maxAge": "1h"})), "rotation.maxAge \"1h\" needs rotation.overlap"),
        (
            rotation(&json!({"maxAge": "1h", "overlap": "7h1m"})),
            "rotation.overlap \"7h1m\" must be at most 7 times rotation.maxAge \"1h\"",
        ),
        (rotation(&json!({"renewBeforePercentage": 4})), "greater than or equal to 5"),
        (rotation(&json!({"renewBeforePercentage": 86})), "less than or equal to 85"),
    ];
    refused("durations", &cases).await
}

#[tokio::test]
async fn wrong_selections_are_refused() -> Result<()> {
    let many: Vec<String> = (0..17).map(|n| format!("a{n}")).collect();
    let select = |accounts: Value| json!({"serviceAccounts": accounts});
    let all = json!({"matchLabels": {}});
    let exactly_one = "set exactly one of serviceAccounts.names and serviceAccounts.selector";
    let operator = json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}});
    let template = json!({"serviceAccounts": {"names": ["a", "b"]}, "secret": {"name": "one"}});
    let selected = json!({"serviceAccounts": {"selector": {}}, "secret": {"name": "{policy}"}});
    let cases = [
        (select(json!({"names": ["a"], "selector": all})), exactly_one),
        (select(json!({})), exactly_one),
        (select(json!({"names": many})), "must have at most 16 items"),
        (select(json!({"names": []})), "at least 1 item"),
        (select(json!({"names": ["a..b"]})), "write the name of a ServiceAccount"),
        (select(json!({"selector": {"matchLabels": {"foo": "a b"}}})), "write nothing, or letters"),
        (select(operator), "write In or NotIn with values"),
        (template, "put {serviceAccount} into it"),
        (selected, "put {serviceAccount} into it"),
        (json!({}), "spec.serviceAccounts"),
    ];
    refused("selections", &cases).await
}

#[tokio::test]
async fn wrong_secrets_are_refused() -> Result<()> {
    let kubeconfig = json!({"type": "Kubeconfig"});
    let audiences = json!({"token": {"audiences": ["vault"]}, "secret": {"format": kubeconfig}});
    let cases = [
        (one(audiences), "remove the audiences or use format type Token"),
        (secret(&json!({"format": {"kubeconfig": {}}})), "remove it, or choose the type of its name"),
        (secret(&json!({"format": {"type": "Yaml"}})), "Kubeconfig"),
        (secret(&json!({"labels": {"tokenward.dev/role": "x"}})), "choose other keys"),
        (secret(&json!({"labels": {"app.kubernetes.io/managed-by": "x"}})), "choose other keys"),
        (secret(&json!({"annotations": {"tokenward.dev/policy": "x"}})), "choose other keys"),
        (secret(&json!({"annotations": {"kubectl.kubernetes.io/x": "x"}})), "choose other keys"),
        (secret(&json!({"labels": {"not a key": "x"}})), "secret.labels has the key \"not a key\"; write a name"),
        (secret(&json!({"name": "bootstrap-token-abcdef"})), "choose another secret.name"),
        (secret(&json!({"name": "{namespace}"})), "secret.name"),
        (secret(&json!({"name": "-foo"})), "at both ends"),
        (secret(&json!({"name": "a..b"})), "beside each '.'"),
    ];
    refused("secrets", &cases).await
}

#[tokio::test]
async fn ten_thousand_hours_are_granted() -> Result<()> {
    let scene = Scene::start("long").await?;
    let target = scene.deployer(json!({"token": {"duration": "10000h"}})).await?;
    let claims = claims(target.token())?;
    let life = claims["exp"].as_i64().context("exp")? - claims["iat"].as_i64().context("iat")?;
    assert_eq!(life, 36_000_000);
    let policy = scene.ready("p").await?;
    assert_eq!((&policy.data["status"]["grantedDuration"], scene.mints()), (&json!("10000h"), 1));
    Ok(())
}

#[tokio::test]
async fn a_missing_account_is_named_and_the_others_go_on() -> Result<()> {
    let scene = Scene::start("missing").await?;
    scene.account("there", &[]).await?;
    scene.policy("p", &spec(&["there", "missing"], json!({}))).await?;
    let there = eventually(SOON, "the other's target", async || scene.target("p-there").await).await?;
    let told = async || {
        let message = scene.not_ready("p", "AccountNotFound").await?;
        for text in ["1 of 2 accounts", "missing/missing does not exist", "create the ServiceAccount or correct"] {
            ensure!(message.contains(text), "{message}");
        }
        Ok(())
    };
    eventually(SOON, "what to do", told).await?;
    scene.bearer(there.token()).await?.lives().await?;
    let told = scene.told("p", "AccountNotFound", "missing/missing").await?;
    assert_eq!(told.kind, "Warning");
    scene.account("missing", &[]).await?;
    let policy = scene.ready("p").await?;
    assert_eq!(policy.data["status"]["accounts"]["summary"], "2/2");
    assert_eq!(condition(&policy, "Stalled"), None);
    assert_eq!(scene.target("p-there").await?.version(), there.version());
    Ok(())
}

#[tokio::test]
async fn a_policy_that_selects_nobody_is_ready_and_says_so() -> Result<()> {
    let scene = Scene::start("nobody").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"token": "yes"}}}})).await?;
    let (policy, ready) = scene.condition("p", "Ready", "True").await?;
    assert_eq!(ready.reason, "NoAccountsSelected");
    assert!(ready.message.contains("check spec.serviceAccounts"), "{}", ready.message);
    assert_eq!(policy.data["status"]["accounts"]["summary"], "0/0");
    scene.account("late", &[("token", "yes")]).await?;
    let target = eventually(SOON, "a target for an account that comes later", async || scene.target("p-late").await);
    scene.bearer(target.await?.token()).await?.lives().await
}

#[tokio::test]
async fn of_two_policies_on_one_target_the_younger_yields() -> Result<()> {
    let scene = Scene::start("conflict").await?;
    let shared = json!({"secret": {"name": "shared"}});
    scene.account("deployer", &[]).await?;
    scene.policy("a-older", &one(shared.clone())).await?;
    scene.ready("a-older").await?;
    let before = scene.target("shared").await?;
    scene.policy("b-younger", &one(shared)).await?;
    let message = scene.not_ready("b-younger", "TargetConflict").await?;
    assert!(message.contains("choose another secret.name"), "{message}");
    assert!(message.contains("a-older"), "{message}");
    scene.told("b-younger", "TargetConflict", "shared").await?;
    scene.fence("after").await?;
    assert_eq!(scene.target("shared").await?.version(), before.version());
    assert_eq!(scene.mints_of("deployer"), 1);
    scene.delete_policy("a-older").await?;
    scene.ready("b-younger").await?;
    let after = scene.target("shared").await?;
    assert_eq!(after.says("policy"), "b-younger");
    scene.bearer(before.token()).await?.dies().await?;
    scene.bearer(after.token()).await?.lives().await
}

#[tokio::test]
async fn an_edit_never_takes_a_target_from_the_policy_that_has_it() -> Result<()> {
    let scene = Scene::start("edited-onto").await?;
    scene.account("deployer", &[]).await?;
    let named = |name: &str| one(json!({"secret": {"name": name}}));
    scene.policy("a-older", &named("own")).await?;
    scene.ready("a-older").await?;
    scene.policy("b-younger", &named("shared")).await?;
    scene.ready("b-younger").await?;
    let (own, shared) = (scene.target("own").await?, scene.target("shared").await?);
    // The older one is edited, so age would speak for it.
    scene.policy("a-older", &named("shared")).await?;
    let message = failure(&scene, "a-older", "TargetConflict").await?;
    assert!(message.contains("choose another secret.name"), "{message}");
    scene.fence("after").await?;
    assert_eq!(scene.target("shared").await?.version(), shared.version());
    assert_eq!(scene.target("own").await?.token_id(), own.token_id());
    scene.rotate("b-younger", "1").await?;
    scene.next_target("shared", &shared).await?;
    // What it had is kept fresh until it can have the new name.
    scene.rotate("a-older", "1").await?;
    scene.next_target("own", &own).await?;
    scene.policy("b-younger", &named("elsewhere")).await?;
    scene.ready("a-older").await?;
    assert_eq!(scene.target("shared").await?.says("policy"), "a-older");
    scene.gone("own").await
}

#[tokio::test]
async fn a_foreign_secret_is_not_touched() -> Result<()> {
    let scene = Scene::start("foreign").await?;
    let theirs = json!({"metadata": {"name": "p-deployer"}, "stringData": {"token": "theirs"}});
    let theirs = Target::read(foreign(&scene, theirs).await?)?;
    scene.reader("deployer").await?;
    scene.policy("p", &one(json!({}))).await?;
    let message = scene.not_ready("p", "TargetNotOwned").await?;
    assert!(message.contains("foreign/p-deployer"), "{message}");
    assert!(message.contains("delete that Secret or choose another secret.name"), "{message}");
    scene.told("p", "TargetNotOwned", "p-deployer").await?;
    scene.fence("after").await?;
    let after = scene.target("p-deployer").await?;
    assert_eq!((after.version(), &after.data), (theirs.version(), &theirs.data));
    assert_eq!(scene.mints_of("deployer"), 0);
    assert_eq!(scene.anchors().await?.len(), 1);
    // Nor when the policy goes, or when it is one of several that want it.
    scene.delete_policy("p").await?;
    scene.fence("deleted").await?;
    assert_eq!(scene.target("p-deployer").await?.version(), theirs.version());
    scene.policy("p", &one(json!({}))).await?;
    scene.not_ready("p", "TargetNotOwned").await?;
    scene.delete_secret("p-deployer").await?;
    scene.ready("p").await?;
    let healed = scene.target("p-deployer").await?;
    scene.bearer(healed.token()).await?.lives().await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    Ok(())
}

#[tokio::test]
async fn a_secret_that_only_has_our_label_is_foreign() -> Result<()> {
    let scene = Scene::start("labelled").await?;
    // A copy of another target has the annotations of that one.
    let annotations = json!({"tokenward.dev/policy": "p", "tokenward.dev/target": "another"});
    for (name, annotations) in [("p-one", json!({})), ("p-two", annotations)] {
        let labels = json!({"tokenward.dev/role": "target"});
        let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        foreign(&scene, json!({"metadata": metadata, "stringData": {"token": "theirs"}})).await?;
    }
    let before = scene.versions().await?;
    scene.account("one", &[]).await?;
    scene.account("two", &[]).await?;
    scene.policy("p", &spec(&["one", "two"], json!({}))).await?;
    let message = scene.not_ready("p", "TargetNotOwned").await?;
    assert!(message.contains("2 of 2 accounts"), "{message}");
    assert_eq!((scene.versions().await?, scene.mints()), (before, 0));
    Ok(())
}

#[tokio::test]
async fn a_service_account_token_secret_is_never_written() -> Result<()> {
    let scene = Scene::start("legacy").await?;
    scene.account("deployer", &[]).await?;
    let annotations = json!({"kubernetes.io/service-account.name": "deployer"});
    let metadata = json!({"name": "p-deployer", "annotations": annotations});
    foreign(&scene, json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"})).await?;
    let filled = async || {
        let secret = scene.target("p-deployer").await?;
        ensure!(!secret.token().is_empty(), "no token yet");
        Ok(secret)
    };
    let before = eventually(SOON, "the token controller fills the Secret", filled).await?;
    scene.policy("p", &one(json!({}))).await?;
    scene.not_ready("p", "TargetNotOwned").await?;
    // Marks of ours do not make it ours to write.
    let annotations = json!({"tokenward.dev/policy": "p", "tokenward.dev/target": "p-deployer",
        "tokenward.dev/service-account": "deployer"});
    let marks = json!({"labels": {"tokenward.dev/role": "target"}, "annotations": annotations});
    scene.patch_secret("p-deployer", json!({"metadata": marks})).await?;
    let marked = scene.target("p-deployer").await?;
    let message = scene.not_ready("p", "TargetImmutable").await?;
    assert!(message.contains("choose another secret.name, or delete that Secret"), "{message}");
    let after = scene.target("p-deployer").await?;
    assert_eq!((after.version(), &after.data), (marked.version(), &before.data));
    assert!(scene.mints() <= 1, "{} tokens", scene.mints());
    Ok(())
}

#[tokio::test]
async fn a_name_longer_than_253_characters_is_told_and_the_others_go_on() -> Result<()> {
    let scene = Scene::start("long-name").await?;
    let long = "a".repeat(252);
    scene.account("short", &[]).await?;
    scene.account(&long, &[]).await?;
    scene.policy("p", &spec(&["short", &long], json!({}))).await?;
    let message = scene.not_ready("p", "TargetNameInvalid").await?;
    assert!(message.contains("254 characters, more than 253"), "{message}");
    assert!(message.contains("change secret.name"), "{message}");
    eventually(SOON, "the other's target", async || scene.target("p-short").await).await?;
    assert_eq!((scene.mints_of(&long), scene.anchors().await?.len()), (0, 1));
    scene.policy("p", &spec(&["short", &long], json!({"secret": {"name": "{serviceAccount}"}}))).await?;
    scene.ready("p").await?;
    scene.bearer(scene.target(&long).await?.token()).await?.lives().await
}

#[tokio::test]
async fn an_immutable_target_of_ours_is_told_and_heals_when_it_is_deleted() -> Result<()> {
    let scene = Scene::start("immutable").await?;
    let first = scene.deployer(json!({})).await?;
    scene.patch_secret("p-deployer", json!({"immutable": true})).await?;
    scene.rotate("p", "1").await?;
    let message = failure(&scene, "p", "TargetImmutable").await?;
    assert!(
        message.contains("Secret immutable/p-deployer is immutable; choose another secret.name, or delete that Secret"),
        "{message}"
    );
    scene.told("p", "TargetImmutable", "p-deployer").await?;
    scene.bearer(first.token()).await?.lives().await?;
    // The old token still works, so the policy is ready; it says that something is under way.
    let (_, working) = scene.condition("p", "Reconciling", "True").await?;
    assert_eq!(working.reason, "TargetImmutable");
    scene.ready("p").await?;
    scene.delete_secret("p-deployer").await?;
    let second = eventually(SOON, "a new target", async || scene.target("p-deployer").await).await?;
    scene.bearer(second.token()).await?.lives().await?;
    // The token that could not be written was held and is published now.
    assert_eq!(scene.mints(), 2);
    scene.bearer(first.token()).await?.dies().await
}

#[tokio::test]
async fn a_target_of_another_type_is_told() -> Result<()> {
    let scene = Scene::start("type").await?;
    let annotations = json!({"tokenward.dev/policy": "p", "tokenward.dev/target": "p-deployer",
        "tokenward.dev/service-account": "deployer"});
    let metadata =
        json!({"name": "p-deployer", "labels": {"tokenward.dev/role": "target"}, "annotations": annotations});
    let theirs = foreign(&scene, json!({"metadata": metadata, "type": "example.com/other"})).await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &one(json!({}))).await?;
    let message = scene.not_ready("p", "TargetImmutable").await?;
    assert!(message.contains("choose another secret.name, or delete that Secret"), "{message}");
    let types = r#"has the type "example.com/other", which cannot change, and spec.secret.format needs "Opaque""#;
    assert!(message.contains(types), "{message}");
    assert_eq!(scene.target("p-deployer").await?.version().1, theirs.metadata.resource_version.as_deref());
    assert!(scene.mints() <= 1, "{} tokens", scene.mints());
    scene.delete_secret("p-deployer").await?;
    scene.ready("p").await?;
    assert!(scene.mints() <= 2, "{} tokens", scene.mints());
    Ok(())
}

/// Lets the API server store anything as the spec of a policy, and returns what was there before.
async fn loosen(client: &kube::Client) -> Result<CustomResourceDefinition> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let before = definitions.get("tokenpolicies.tokenward.dev").await?;
    let loose = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let patch = json!([{"op": "replace", "path": schema, "value": loose}]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    definitions.patch("tokenpolicies.tokenward.dev", &PatchParams::default(), &patch).await?;
    Ok(before)
}

/// Puts the schema back.
async fn tighten(client: &kube::Client, mut before: CustomResourceDefinition) -> Result<()> {
    before.metadata.resource_version = None;
    before.metadata.managed_fields = None;
    let patch = json!({"spec": {"versions": before.spec.versions}});
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch("tokenpolicies.tokenward.dev", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Stores a spec that no release of Tokenward can read, as soon as the API server lets it through.
async fn store(policies: &Api<DynamicObject>, name: &str, spec: &Value) -> Result<()> {
    let check = async || apply_policy(policies, name, spec).await;
    eventually(SOON, "the loose schema is in force", check).await?;
    Ok(())
}

/// That the schema is in force again; asked without storing, as what is stored once is let through later.
async fn tight(scene: &Scene) -> Result<()> {
    let spec = one(json!({"token": {"duration": "1m"}}));
    let probe = json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "probe"}, "spec": spec,
    });
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("e2e") };
    let check = async || {
        let answer = scene.policies().patch("probe", &dry, &Patch::Apply(&probe)).await;
        ensure!(answer.is_err(), "the schema is still loose");
        Ok(())
    };
    eventually(SOON, "the schema is in force", check).await
}

#[tokio::test]
async fn a_stored_policy_that_does_not_parse_freezes_and_the_others_go_on() -> Result<()> {
    let scene = Scene::alone("unreadable").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "20s"}})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    let before = loosen(&scene.client).await?;
    store(&scene.policies(), "p", &one(json!({"token": {"duration": "30d"}}))).await?;
    store(&scene.policies(), "never-read", &json!({"serviceAccounts": 5})).await?;
    let unknown = json!({"type": "Custom", "custom": {"data": {"a": "{token} {unknown}"}}});
    store(&scene.policies(), "unknown", &secret(&json!({ "format": unknown }))).await?;
    tighten(&scene.client, before).await?;
    tight(&scene).await?;
    for policy in ["p", "never-read", "unknown"] {
        let message = stalled(&scene, policy).await?;
        assert!(
            message.contains("does not parse") && message.contains("correct that field of the policy"),
            "{message}"
        );
        scene.told(policy, "PolicyUnreadable", "correct that field of the policy").await?;
    }
    assert!(scene.operator.metrics().await?.contains("PolicyUnreadable"));
    scene.rotate("p", "2").await?;
    scene.delete_secret("p-deployer").await?;
    scene.fence("others").await?;
    assert!(scene.target("p-deployer").await.is_err() && scene.target("unknown-deployer").await.is_err());
    assert_eq!(scene.mints_of("deployer"), 2);
    // Whoever deletes the Secret revokes its tokens, whatever the policy says.
    scene.bearer(second.token()).await?.dies().await?;
    scene.policy("p", &one(json!({}))).await?;
    scene.ready("p").await?;
    let third = scene.target("p-deployer").await?;
    scene.bearer(third.token()).await?.lives().await?;
    scene.delete_policy("unknown").await?;
    scene.delete_policy("never-read").await?;
    Ok(())
}

#[tokio::test]
async fn a_policy_that_does_not_parse_still_retires_what_is_due() -> Result<()> {
    let scene = Scene::alone("unreadable-retires").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "10s"}})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    let before = loosen(&scene.client).await?;
    store(&scene.policies(), "p", &one(json!({"token": {"duration": "30d"}}))).await?;
    tighten(&scene.client, before).await?;
    tight(&scene).await?;
    stalled(&scene, "p").await?;
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    assert_eq!(scene.target("p-deployer").await?.version(), second.version());
    Ok(())
}

/// Waits until the policy is stalled because it cannot be read, whatever generation that was.
async fn stalled(scene: &Scene, policy: &str) -> Result<String> {
    let check = async || {
        let policy = scene.policies().get(policy).await?;
        let stalled = condition(&policy, "Stalled").with_context(|| policy.data["status"].to_string())?;
        ensure!(stalled.reason == "PolicyUnreadable", "{stalled:?}");
        Ok(stalled.message)
    };
    eventually(SOON, &format!("{policy} is stalled"), check).await
}

/// Starts the operator with this argument or environment, and returns its exit code and its output.
async fn started_with(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
    let plane = plane().await?;
    let options = Options {
        name: name.to_owned(),
        dir: plane.dir().join("wrong-settings"),
        args: args.iter().map(ToString::to_string).collect(),
        env: env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Options::default()
    };
    let operator = tokenward_e2e::Operator::start(plane, options).await?;
    let ended = async || operator.exited()?.context("it still runs");
    let status = eventually(SOON, &format!("{args:?} {env:?} is refused"), ended).await?;
    Ok((status.code(), operator.log()?))
}

#[tokio::test]
async fn an_empty_variable_counts_as_none() -> Result<()> {
    let plane = plane().await?;
    let flags = documented_variables()?;
    ensure!(flags.len() > 10, "{flags:?}");
    let options = Options {
        name: "empty-variables".to_owned(),
        dir: plane.dir().join("wrong-settings"),
        env: flags.into_iter().map(|variable| (variable, String::new())).collect(),
        ..Options::default()
    };
    let operator = tokenward_e2e::Operator::start(plane, options).await?;
    operator.ready().await?;
    Ok(())
}

/// The environment variables in the table of flags.
fn documented_variables() -> Result<Vec<String>> {
    let page = tokenward_e2e::pages::read("docs/reference/flags.md")?;
    let words = page.split('`').filter(|word| word.starts_with("TOKENWARD_"));
    Ok(words.map(str::to_owned).collect())
}

#[tokio::test]
async fn wrong_settings_end_with_code_2_and_one_line_that_says_what_is_right() -> Result<()> {
    let none: &[(&str, &str)] = &[];
    let cases = [
        (&["--namespace=UPPER"] as &[&str], none, "lower-case letters"),
        (&["--concurrency=0"], none, "a number from 1 to 256"),
        (&["--cluster-server=http://x"], none, "https URL"),
        (&["--log-format=xml"], none, "json"),
        (&["--no-such-flag"], none, "--no-such-flag"),
        (&[], &[("TOKENWARD_CONCURRENCY", "many")], "a number from 1 to 256"),
        (&[], &[("TOKENWARD_NAMESPACE", "a,B")], "lower-case letters"),
    ];
    for (n, (args, env, advice)) in cases.into_iter().enumerate() {
        let (code, output) = started_with(&format!("case-{n}"), args, env).await?;
        assert_eq!(code, Some(2), "{args:?} {env:?}: {output}");
        assert_eq!(output.lines().count(), 1, "{args:?} {env:?}: {output}");
        assert!(output.contains(advice), "{args:?} {env:?}: {output}");
    }
    Ok(())
}
