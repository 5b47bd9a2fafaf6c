//! What the API server refuses of formats, labels and annotations, and what it says to do.

use anyhow::Result;
use serde_json::{Value, json};
use tokenward_e2e::scene::refused::{accepted, refused};
use tokenward_e2e::scene::spec;

const NOT_OURS: &str = "choose other keys";

/// Keys that make some controller act on sight of them.
const ACT_ON_SIGHT: [&str; 31] = [
    "reflector.v1.k8s.emberstack.com/reflects",
    "replicator.v1.mittwald.de/replicate-to",
    "kubed.appscode.com/sync",
    "argocd.argoproj.io/secret-type",
    "istio/multiCluster",
    "networking.istio.io/cluster",
    "cert-manager.io/allow-direct-injection",
    "resources.gardener.cloud/purpose",
    "serviceaccount.resources.gardener.cloud/name",
    "addon.open-cluster-management.io/x",
    "external-secrets.io/x",
    "field.cattle.io/projectId",
    "projectsveltos.io/x",
    "crossplane.io/external-name",
    "meta.helm.sh/release-name",
    "kustomize.toolkit.fluxcd.io/prune",
    "reconcile.fluxcd.io/requestedAt",
    "kapp.k14s.io/app",
    "secretgen.carvel.dev/image-pull-secret",
    "sealedsecrets.bitnami.com/managed",
    "capsule.clastix.io/managed-by",
    "cluster.x-k8s.io/cluster-name",
    "kubernetes.io/x",
    "app.kubernetes.io/managed-by",
    "kubernetes.io/service-account.name",
    "kubectl.kubernetes.io/last-applied-configuration",
    "k8s.io/x",
    "x-k8s.io/x",
    "tokenward.dev/x",
    "argoproj.io/x",
    "istio.io/x",
];

fn one(more: Value) -> Value {
    spec(&["deployer"], more)
}

fn format(format: &Value) -> Value {
    one(json!({"secret": {"format": format}}))
}

/// The smallest format of each type.
fn smallest() -> [Value; 5] {
    [
        json!({"type": "Token"}),
        json!({"type": "Kubeconfig"}),
        json!({"type": "ArgoCDCluster"}),
        json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "c"}}),
        json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["registry.example.com"]}}),
    ]
}

fn with_key(member: &str, key: &str, format: &Value) -> Value {
    one(json!({"secret": {(member): {(key): "true"}, "format": format}}))
}

#[tokio::test]
async fn keys_that_controllers_act_on_are_refused() -> Result<()> {
    let [token, kubeconfig, argo_cd, istio, docker] = smallest();
    let pairs = |key: &'static str| ["labels", "annotations"].map(|member| (member, key));
    let of_token = ACT_ON_SIGHT.into_iter().flat_map(pairs).map(|(member, key)| with_key(member, key, &token));
    let mut cases: Vec<Value> = of_token.collect();
    // Keys of one consumer do not come with the format of another.
    for other in [&kubeconfig, &istio, &docker] {
        cases.push(with_key("labels", "argocd.argoproj.io/secret-type", other));
    }
    for other in [&kubeconfig, &argo_cd, &docker] {
        cases.push(with_key("labels", "istio/multiCluster", other));
        cases.push(with_key("annotations", "networking.istio.io/cluster", other));
    }
    for tracked in ["instance", "tracking-id", "managed-by", "sync-options", "hook"] {
        cases.push(with_key("annotations", &format!("argocd.argoproj.io/{tracked}"), &argo_cd));
    }
    // Nor does any format open what belongs to others still.
    for own in [&argo_cd, &istio] {
        cases.push(with_key("labels", "tokenward.dev/role", own));
        cases.push(with_key("annotations", "reflector.v1.k8s.emberstack.com/reflects", own));
    }
    let cases: Vec<(Value, &str)> = cases.into_iter().map(|case| (case, NOT_OURS)).collect();
    refused("act-on-sight", &cases).await
}

#[tokio::test]
async fn keys_of_a_consumer_are_accepted_with_its_own_format() -> Result<()> {
    let [token, _, argo_cd, istio, _] = smallest();
    let cases = [
        with_key("labels", "argocd.argoproj.io/auto-label-cluster-info", &argo_cd),
        with_key("annotations", "argocd.argoproj.io/refresh", &argo_cd),
        with_key("labels", "istio/x", &istio),
        with_key("annotations", "networking.istio.io/x", &istio),
        with_key("labels", "team", &token),
        with_key("annotations", "example.com/note", &token),
        with_key("annotations", "notistio.example/note", &token),
    ];
    accepted("own-keys", &cases).await
}

#[tokio::test]
async fn formats_for_the_api_server_have_no_audiences() -> Result<()> {
    let with = |format: &Value| one(json!({"token": {"audiences": ["vault"]}, "secret": {"format": format}}));
    let [token, kubeconfig, argo_cd, istio, docker] = smallest();
    let cases = [&kubeconfig, &argo_cd, &istio].map(|format| (with(format), "token.audiences must be empty"));
    refused("audiences", &cases).await?;
    accepted("audiences-fit", &[with(&token), with(&docker)]).await
}

/// A format of the type at `n` with one more member.
fn plus(n: usize, member: &str, options: Value) -> Value {
    let mut more = smallest()[n].clone();
    more[member] = options;
    format(&more)
}

#[tokio::test]
async fn options_come_with_their_own_type() -> Result<()> {
    let advice = "change the type";
    let registries = json!({"registries": ["registry.example.com"]});
    let cases = [
        (format(&json!({"kubeconfig": {}})), advice),
        (plus(0, "argoCDCluster", json!({})), advice),
        (plus(1, "istioRemoteSecret", json!({"clusterName": "c"})), advice),
        (plus(2, "dockerConfigJson", registries), advice),
        (plus(3, "kubeconfig", json!({"key": "value"})), advice),
        (plus(4, "argoCDCluster", json!({"project": "web"})), advice),
        (format(&json!({"type": "IstioRemoteSecret"})), "needs istioRemoteSecret.clusterName"),
        (plus(3, "istioRemoteSecret", json!({})), "clusterName"),
        (plus(3, "istioRemoteSecret", json!({"clusterName": "a/b"})), "clusterName"),
        (format(&json!({"type": "DockerConfigJson"})), "needs dockerConfigJson.registries"),
        (plus(4, "dockerConfigJson", json!({"registries": []})), "at least 1 item"),
        (plus(4, "dockerConfigJson", json!({"registries": vec!["r"; 17]})), "registries"),
        (plus(4, "dockerConfigJson", json!({"registries": ["https://r"]})), "registries"),
        (plus(1, "kubeconfig", json!({"key": "../config"})), "key"),
        (plus(2, "argoCDCluster", json!({"namespaces": ["a,b"]})), "namespaces"),
        (format(&json!({"type": "Yaml"})), "Unsupported value"),
    ];
    refused("options", &cases).await?;
    accepted("options-fit", &smallest().map(|smallest| format(&smallest))).await
}

#[tokio::test]
async fn a_server_is_an_https_url_that_hides_nothing() -> Result<()> {
    let advice = "server must be the https URL of the API server";
    let urls =
        ["http://api.example.com", "https://user@api.example.com", "https://api.example.com#x", "https://a\nb", "api"];
    let mut cases: Vec<(Value, &str)> =
        urls.iter().map(|url| (plus(1, "kubeconfig", json!({ "server": url })), advice)).collect();
    cases.push((plus(2, "argoCDCluster", json!({"server": "https://a?b"})), advice));
    cases.push((plus(3, "istioRemoteSecret", json!({"clusterName": "c", "server": "https://"})), advice));
    cases.push((plus(1, "kubeconfig", json!({"server": format!("https://{}", "a".repeat(250))})), "Too long"));
    refused("servers", &cases).await
}

#[tokio::test]
async fn what_needs_anchors_comes_with_anchors() -> Result<()> {
    let with = |binding: &str, rotation: Value| one(json!({"token": {"binding": binding}, "rotation": rotation}));
    let mut cases = Vec::new();
    for binding in ["Target", "None"] {
        cases.push((with(binding, json!({"overlap": "1h"})), "use token.binding Anchor"));
        cases.push((with(binding, json!({"maxAge": "1h", "overlap": "1h"})), "use token.binding Anchor"));
    }
    cases.push((with("Pod", json!({})), "Unsupported value"));
    refused("bindings", &cases).await?;
    let plain = ["Anchor", "Target", "None"].map(|binding| with(binding, json!({})));
    accepted("bindings-fit", &plain).await
}

#[tokio::test]
async fn wrong_windows_are_refused() -> Result<()> {
    let windows = |windows: Value| one(json!({"rotation": {"windows": windows}}));
    let scheduled = |schedule: &str| windows(json!([{"schedule": schedule, "duration": "2h"}]));
    let nightly = json!({"schedule": "0 2 * * *", "duration": "2h"});
    let cases = [
        (windows(json!(vec![&nightly; 9])), "must have at most 8 items"),
        (windows(json!([{"schedule": "0 2 * * *"}])), "duration"),
        (windows(json!([{"duration": "2h"}])), "schedule"),
        (scheduled("0 2 * *"), r#"windows[0].schedule: Invalid value: "0 2 * *": write five fields"#),
        (scheduled("0 24 * * *"), "hour 0-23"),
        (scheduled("*/0 2 * * *"), "with /n for every nth"),
        (scheduled("@fortnightly"), "@daily or @hourly"),
        (scheduled("@every 1h"), "@every has no fixed instants"),
        (scheduled("TZ=Asia/Tokyo 0 2 * * *"), "write the time zone into timeZone"),
        (scheduled(&format!("{} * * * *", "1,".repeat(200))), "Too long"),
        (windows(json!([{"schedule": "0 2 * * *", "duration": "59s"}])), "at least 1m"),
        (
            windows(json!([{"schedule": "0 2 * * *", "duration": "2h", "timeZone": "Europe Berlin"}])),
            "write one like Europe/Berlin",
        ),
    ];
    refused("windows", &cases).await?;
    let berlin = json!({"schedule": "@daily", "duration": "1h30m", "timeZone": "Europe/Berlin"});
    let mut fit = vec![windows(json!([nightly, berlin])), windows(json!([]))];
    let schedules = [
        "@midnight",
        "0/30 2 * * *",
        "5/15 * * * *",
        "*/7,8-9,? 2 1-31/2 jan-DEC/3 Sun,MON-fri",
        " 0\t2  * * * ",
        "+5\u{a0}0002\u{3000}*\u{b}*\u{85}*-x",
        ",1,, 2 ,3 * *",
        "0 2 30 2 *",
    ];
    fit.extend(schedules.map(scheduled));
    accepted("windows-fit", &fit).await
}
