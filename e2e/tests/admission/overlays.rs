//! `config/admission` as overlays and administrators change it: each test has a control plane of its own.

use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, apply_overlay, token};
use tokenward_e2e::scene::caller::Wanted::{Accepted, Refused, Unprocessable};
use tokenward_e2e::scene::caller::{Caller, administrator, in_force, policy, policy_path, secret_path, token_path};
use tokenward_e2e::scene::forged::{BELT, FOREIGN, Forged, OF_KUBERNETES, RBAC, all_refused, forged, marked, request};
use tokenward_e2e::scene::limits::limit;
use tokenward_e2e::scene::spec;
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, target_dir, write_overlay};

/// A control plane with `config/install` seen through an overlay with this text.
async fn own_plane(name: &str, overlay: &str) -> Result<ControlPlane> {
    let plane =
        ControlPlane::start(Profile::default(), target_dir().join("e2e").join(format!("admission-{name}"))).await?;
    apply_overlay(&plane, write_overlay(plane.dir().join("overlay"), overlay)?).await?;
    plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
    plane.create_namespace("ci").await?;
    Ok(plane)
}

/// Somebody who has stolen a token of the operator.
async fn thief(plane: &ControlPlane, namespace: &str, account: &str) -> Result<Caller> {
    let token = token(plane, namespace, account, Duration::from_hours(1)).await?;
    Caller::token(plane, token.expose_secret()).await
}

/// In the namespace `ci`: an unbound token, a foreign Secret and a token of the operator itself are refused.
async fn belts_are_on(plane: &ControlPlane, namespace: &str, account: &str) -> Result<()> {
    let thief = thief(plane, namespace, account).await?;
    let itself = token_path(namespace, account);
    let bound = request(&json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "x", "uid": "x"}}));
    let calls = [
        forged("an unbound token", "POST", token_path("ci", "default"), request(&json!({})), "unbound tokens are not"),
        forged("a foreign Secret", "POST", secret_path("ci", ""), json!({"metadata": {"name": "x"}}), FOREIGN),
        forged("its own token", "POST", itself, bound, "is reserved: Tokenward requests no token there"),
        forged("a Secret at home", "POST", secret_path(namespace, ""), marked("x", "Opaque"), "writes no Secret there"),
    ];
    all_refused(&thief, &calls).await
}

/// The operator, installed in this namespace, leads, publishes a token, and cleans bootstrap tokens.
async fn works_in(plane: &ControlPlane, home: &str) -> Result<()> {
    let secret = json!({"metadata": {"name": "bootstrap-token-expire"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "expire", "token-secret": "0123456789abcdef", "expiration": "2020-01-01T00:00:00Z"}});
    let info = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "{}"}});
    let admin = Caller::admin(plane).await?;
    Accepted.check(&admin.send("POST", &secret_path("kube-system", ""), &secret).await?)?;
    Accepted.check(&admin.send("POST", "/api/v1/namespaces/kube-public/configmaps", &info).await?)?;
    Accepted.check(&admin.send("POST", &policy_path("ci", ""), &policy("p", &spec(&["default"], json!({})))).await?)?;
    let token = token(plane, home, ACCOUNT, Duration::from_hours(1)).await?;
    let args = vec!["--leader-elect".to_owned()];
    let (dir, home) = (plane.dir().join("operator"), home.to_owned());
    let operator =
        Operator::start(plane, Options { dir, home, args, token: Some(token), ..Options::default() }).await?;
    let ready = ["-n", "ci", "wait", "tp/p", "--for=condition=Ready", "--timeout=60s"];
    plane.kubectl_ok(ready).await.with_context(|| operator.log().unwrap_or_default())?;
    let gone = ["-n", "kube-system", "wait", "secret/bootstrap-token-expire", "--for=delete", "--timeout=30s"];
    plane.kubectl_ok(gone).await.with_context(|| operator.log().unwrap_or_default())?;
    let log = operator.log()?;
    ensure!(!log.contains("forbidden"), "{log}");
    Ok(())
}

#[tokio::test]
async fn belts_and_limits_follow_the_operator_into_another_namespace_and_name() -> Result<()> {
    let overlay = "namespace: acme\nresources: [CONFIG/install]\ntransformers: [CONFIG/other-namespace]\n";
    let plane = own_plane("acme", overlay).await?;
    belts_are_on(&plane, "acme", ACCOUNT).await?;
    works_in(&plane, "acme").await?;
    let admin = Caller::admin(&plane).await?;
    let long = policy("p", &spec(&["default"], json!({"token": {"duration": "169h"}})));
    let path = format!("{}?dryRun=All", policy_path("ci", ""));
    admin.gets("POST", &path, &long, Refused("(ConfigMap acme/tokenward-limits, key maxDuration)")).await?;
    let home = format!("{}?dryRun=All", policy_path("acme", ""));
    admin.gets("POST", &home, &policy("p", &spec(&["a"], json!({}))), Refused("namespace acme is reserved")).await?;
    plane.stop().await
}

#[tokio::test]
async fn with_a_name_prefix_the_belts_are_on_and_no_policy_passes_without_limits() -> Result<()> {
    let plane = own_plane("prefix", "namePrefix: my-\nresources: [CONFIG/install]\n").await?;
    let thief = thief(&plane, NAMESPACE, "my-tokenward").await?;
    let pod = request(&json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "x", "uid": "x"}}));
    let secret = json!({"metadata": {"name": "x"}});
    let calls = [
        forged("bound to a pod", "POST", token_path("ci", "default"), pod, BELT),
        forged("a foreign Secret", "POST", secret_path("ci", ""), secret, FOREIGN),
        forged("a Secret at home", "POST", secret_path(NAMESPACE, ""), marked("x", "Opaque"), "writes no Secret there"),
    ];
    all_refused(&thief, &calls).await?;
    let asked = policy("p", &spec(&["default"], json!({})));
    let path = format!("{}?dryRun=All", policy_path("ci", ""));
    let refused = Unprocessable("no params found for policy binding");
    Caller::admin(&plane).await?.gets("POST", &path, &asked, refused).await?;
    plane.stop().await
}

#[tokio::test]
async fn belts_are_on_in_the_one_namespace_of_a_namespaced_install() -> Result<()> {
    let plane = own_plane("namespaced", "resources: [CONFIG/crd]\n").await?;
    apply_overlay(&plane, "config/namespaced").await?;
    let thief = thief(&plane, NAMESPACE, ACCOUNT).await?;
    let calls = [
        forged("an unbound token", "POST", token_path("ci", "default"), request(&json!({})), "unbound tokens are not"),
        forged("a foreign Secret", "POST", secret_path("ci", ""), json!({"metadata": {"name": "x"}}), FOREIGN),
        forged("a Secret elsewhere", "POST", secret_path("default", ""), marked("x", "Opaque"), RBAC),
        forged("a token elsewhere", "POST", token_path("default", "default"), request(&json!({})), RBAC),
    ];
    all_refused(&thief, &calls).await?;
    plane.stop().await
}

#[tokio::test]
async fn no_right_that_is_granted_to_the_operator_takes_its_belts_off() -> Result<()> {
    let plane = own_plane("almighty", "resources: [CONFIG/install]\n").await?;
    let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    plane.apply(&administrator(&user).to_string()).await?;
    in_force(&plane, &user).await?;
    belts_are_on(&plane, NAMESPACE, ACCOUNT).await?;
    plane.stop().await
}

#[tokio::test]
async fn the_policy_itself_stops_at_sixteen_names_should_the_schema_not() -> Result<()> {
    let plane = own_plane("seventeen", "resources: [CONFIG/install]\n").await?;
    let at =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/serviceAccounts/properties/names/maxItems";
    let patch = json!([{"op": "replace", "path": at, "value": 30}]).to_string();
    plane.kubectl_ok(["patch", "crd", "tokenpolicies.tokenward.dev", "--type=json", "-p", &patch]).await?;
    let path = format!("{}?dryRun=All", policy_path("ci", ""));
    let admin = Caller::admin(&plane).await?;
    let asked = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
        policy("p", &json!({"serviceAccounts": {"names": names}}))
    };
    let words = "serviceAccounts.names has 17 names, and no more than 16 can be checked";
    admin.gets("POST", &path, &asked(17), Refused(words)).await?;
    admin.gets("POST", &path, &asked(16), Accepted).await?;
    plane.stop().await
}

/// Changes the keys of the ConfigMap with the limits.
async fn set(plane: &ControlPlane, data: &Value) -> Result<()> {
    let patch = json!({"data": data}).to_string();
    let args = ["patch", "configmap", "tokenward-limits", "-n", NAMESPACE, "--type=merge", "-p", &patch];
    plane.kubectl_ok(args).await?;
    Ok(())
}

#[tokio::test]
async fn the_config_map_sets_the_limits_of_every_namespace() -> Result<()> {
    let plane = own_plane("limits", "resources: [CONFIG/install]\n").await?;
    let admin = Caller::admin(&plane).await?;
    let path = format!("{}?dryRun=All", policy_path("ci", ""));
    let asks = |token: Value| policy("p", &spec(&["default"], json!({ "token": token })));
    let none = asks(json!({"binding": "None"}));
    let (day, vault) = (asks(json!({"duration": "24h"})), asks(json!({"audiences": ["vault"]})));
    set(&plane, &json!({"maxDuration": "1h", "audiences": "vault\nsts", "bindingNone": "true"})).await?;
    let over = "token.duration 24h is over the limit 1h (ConfigMap tokenward-system/tokenward-limits, key maxDuration)";
    admin.gets("POST", &path, &day, Refused(over)).await?;
    limit(&plane.client().await?, "ci", "max-duration", Some("48h")).await?;
    admin.gets("POST", &path, &day, Accepted).await?;
    admin.gets("POST", &path, &vault, Accepted).await?;
    admin.gets("POST", &path, &none, Accepted).await?;
    limit(&plane.client().await?, "ci", "binding-none", Some("false")).await?;
    admin.gets("POST", &path, &none, Refused("(Namespace ci, annotation tokenward.dev/binding-none)")).await?;
    set(&plane, &json!({"reservedNamespaces": "other, ci"})).await?;
    let reserved = "namespace ci is reserved (ConfigMap tokenward-system/tokenward-limits, key reservedNamespaces)";
    admin.gets("POST", &path, &day, Refused(reserved)).await?;
    limit(&plane.client().await?, "ci", "reserved", Some("false")).await?;
    admin.gets("POST", &path, &day, Accepted).await?;
    // Without any key the defaults count.
    set(&plane, &Value::Null).await?;
    admin.gets("POST", &path, &vault, Refused("token.audiences vault is not among those allowed")).await?;
    admin.gets("POST", &path, &day, Accepted).await?;
    belts_are_on(&plane, NAMESPACE, ACCOUNT).await?;
    // Without the ConfigMap nobody asks for anything, and nobody else loses anything.
    plane.kubectl_ok(["delete", "configmap", "tokenward-limits", "-n", NAMESPACE]).await?;
    admin.gets("POST", &path, &day, Unprocessable("no params found for policy binding")).await?;
    admin.gets("POST", &token_path("ci", "default"), &request(&json!({})), Accepted).await?;
    plane.stop().await
}

/// Patches of a bootstrap token that the exemption for its cap does not cover.
fn beyond_a_cap() -> Vec<Forged> {
    let path = secret_path("kube-system", "bootstrap-token-abcdef");
    let merge = |what, body| forged(what, "MERGE", path.clone(), body, OF_KUBERNETES);
    let later = "MjA5OS0wMS0wMVQwMDowMDowMFo=";
    vec![
        merge("its secret", json!({"data": {"token-secret": "eA=="}})),
        merge("its secret as well", json!({"data": {"expiration": later, "token-secret": "eA=="}})),
        merge("its groups", json!({"data": {"auth-extra-groups": "eA=="}})),
        merge("an end of its use", json!({"data": {"token-id": null}})),
        merge("its mutability", json!({"immutable": true})),
        merge("its labels", json!({"metadata": {"labels": {"a": "b"}}})),
        merge("its annotations", json!({"metadata": {"annotations": {"a": "b"}}})),
        merge("its finalizers", json!({"metadata": {"finalizers": ["a.b/c"]}})),
        forged(
            "another Secret",
            "MERGE",
            secret_path("kube-system", "other"),
            json!({"data": {"expiration": later}}),
            FOREIGN,
        ),
    ]
}

#[tokio::test]
async fn with_the_component_the_expiration_of_a_bootstrap_token_may_change_and_nothing_else() -> Result<()> {
    let overlay = "resources: [CONFIG/install]\ncomponents: [CONFIG/components/bootstrap-token-policy]\n";
    let plane = own_plane("caps", overlay).await?;
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef"}});
    let admin = Caller::admin(&plane).await?;
    Accepted.check(&admin.send("POST", &secret_path("kube-system", ""), &secret).await?)?;
    let other = json!({"metadata": {"name": "other"}});
    Accepted.check(&admin.send("POST", &secret_path("kube-system", ""), &other).await?)?;
    belts_are_on(&plane, NAMESPACE, ACCOUNT).await?;
    let thief = thief(&plane, NAMESPACE, ACCOUNT).await?;
    all_refused(&thief, &beyond_a_cap()).await?;
    let cap = json!({"data": {"expiration": "MjA5OS0wMS0wMVQwMDowMDowMFo="}});
    thief.gets("MERGE", &secret_path("kube-system", "bootstrap-token-abcdef"), &cap, Accepted).await?;
    plane.stop().await
}
