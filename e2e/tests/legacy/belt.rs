//! What somebody with the operator's own token can do to Secrets with legacy tokens.

use super::lab::{INVALID_SINCE, Lab};
use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, token};
use tokenward_e2e::scene::SOON;
use tokenward_e2e::scene::caller::Wanted::{Accepted, Refused};
use tokenward_e2e::scene::caller::{Caller, in_force, secret_path};
use tokenward_e2e::scene::forged::{FOREIGN, Forged, OF_KUBERNETES, all_refused, forged};

fn dry(namespace: &str, name: &str) -> String {
    secret_path(namespace, name) + "?dryRun=All"
}

fn labelled(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

/// Everything but that one label of that one type.
fn calls() -> Vec<Forged> {
    let words = |name: &str| if name == "opaque" { FOREIGN } else { OF_KUBERNETES };
    let merge = |what, name, body| forged(what, "MERGE", dry("belt", name), body, words(name));
    let delete = |what, name| forged(what, "DELETE", dry("belt", name), Value::Null, words(name));
    let day = json!({INVALID_SINCE: "2026-01-01"});
    let with = |field: &str, value: Value| json!({"metadata": {"labels": day, field: value}});
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}]);
    let data = json!({"metadata": {"labels": day}, "data": {"token": "eA=="}});
    let eternal = json!({"metadata": {"name": "eternal", "labels": day, "annotations": {
        "kubernetes.io/service-account.name": "robot"}}, "type": "kubernetes.io/service-account-token"});
    vec![
        merge("another label", "legacy", labelled(&json!({"team": "b"}))),
        merge("another label as well", "legacy", labelled(&json!({INVALID_SINCE: "x", "more": "x"}))),
        merge("another label's end", "legacy", labelled(&json!({INVALID_SINCE: "x", "team": null}))),
        merge("an annotation", "legacy", with("annotations", json!({"a": "b"}))),
        merge(
            "another account",
            "legacy",
            with("annotations", json!({"kubernetes.io/service-account.name": "default"})),
        ),
        merge("a finalizer", "legacy", with("finalizers", json!(["a.b/c"]))),
        merge("an owner", "legacy", with("ownerReferences", owner)),
        merge("the token", "legacy", data),
        merge("that it is immutable", "legacy", json!({"immutable": true})),
        merge("the label on another type", "opaque", labelled(&day)),
        delete("the end of one in use", "legacy"),
        delete("the end of one that was lifted", "lifted"),
        delete("the end of another type", "opaque"),
        forged("a new one", "POST", dry("belt", ""), eternal, FOREIGN),
    ]
}

#[tokio::test]
async fn the_operator_may_change_one_label_of_one_type_and_delete_what_has_it() -> Result<()> {
    let lab = Lab::start("belt").await?;
    in_force(lab.plane, &format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}")).await?;
    let token = token(lab.plane, NAMESPACE, ACCOUNT, Duration::from_hours(1)).await?;
    let thief = Caller::token(lab.plane, token.expose_secret()).await?;
    lab.token("legacy", json!({"team": "a"})).await?;
    lab.token("lifted", json!({ INVALID_SINCE: "" })).await?;
    lab.token("quarantined", json!({"team": "a", INVALID_SINCE: "2026-01-01"})).await?;
    let opaque = json!({"metadata": {"name": "opaque", "labels": {INVALID_SINCE: "2026-01-01"}}});
    lab.secrets.create(&PostParams::default(), &serde_json::from_value(opaque)?).await?;
    all_refused(&thief, &calls()).await?;
    for (name, value) in [("legacy", json!("2026-01-01")), ("quarantined", json!("")), ("quarantined", Value::Null)] {
        thief.gets("MERGE", &dry("belt", name), &labelled(&json!({ INVALID_SINCE: value })), Accepted).await?;
    }
    thief.gets("DELETE", &dry("belt", "quarantined"), &Value::Null, Accepted).await?;
    let system: Api<Secret> = Api::namespaced(lab.plane.client().await?, "kube-system");
    let secret = json!({"metadata": {"name": "legacy", "annotations": {
        "kubernetes.io/service-account.name": "default"}}, "type": "kubernetes.io/service-account-token"});
    system.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let label = labelled(&json!({INVALID_SINCE: "2026-01-01"}));
    thief.gets("MERGE", &dry("kube-system", "legacy"), &label, Accepted).await?;
    // With the component's role gone, the refusal names the component.
    let binding = ["clusterrolebinding", "tokenward-legacy-token-policy"];
    lab.plane.kubectl_ok(["delete", binding[0], binding[1]]).await?;
    let refused = Refused("only what the component config/components/legacy-token-policy allows");
    let check = async || thief.gets("MERGE", &dry("belt", "legacy"), &label, refused).await;
    eventually(SOON, "the role is gone", check).await
}
