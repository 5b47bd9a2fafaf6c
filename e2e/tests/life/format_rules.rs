//! What the API server refuses of formats, labels and annotations, and what it says to do.

use anyhow::Result;
use serde_json::{Value, json};
use tokenward_e2e::scene::refused::{accepted, refused};
use tokenward_e2e::scene::spec;

/// Keys that make some controller act on sight of them.
const ACT_ON_SIGHT: [&str; 38] = [
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
    "propagate.hnc.x-k8s.io/select",
    "generate.kyverno.io/clone-policy-name",
    "applyset.kubernetes.io/part-of",
    "addonmanager.kubernetes.io/mode",
    "secrets-store.csi.k8s.io/managed",
    "config.k8s.io/owning-inventory",
    "kubernetes.io/x",
    "app.kubernetes.io/managed-by",
    "kubernetes.io/service-account.name",
    "kubectl.kubernetes.io/last-applied-configuration",
    "k8s.io/x",
    "tokenward.dev/x",
    "argoproj.io/x",
    "istio.io/x",
    "kluctl.io/discriminator",
    "tanka.dev/environment",
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
    let with_key =
        |member: &str, key: &str, format: &Value| (with_key(member, key, format), format!("the key \"{key}\""));
    let pairs = |key: &'static str| ["labels", "annotations"].map(|member| (member, key));
    let of_token = ACT_ON_SIGHT.into_iter().flat_map(pairs).map(|(member, key)| with_key(member, key, &token));
    let mut cases: Vec<(Value, String)> = of_token.collect();
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
    let cases: Vec<(Value, &str)> = cases.iter().map(|(case, named)| (case.clone(), named.as_str())).collect();
    refused("act-on-sight", &cases).await
}

#[tokio::test]
async fn keys_that_only_describe_are_accepted() -> Result<()> {
    let [token, ..] = smallest();
    let labels = [
        "app.kubernetes.io/name",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/instance",
        "sigs.k8s.io/multicluster-runtime-kubeconfig",
        "x-k8s.io/cluster-profile",
        "multicluster.x-k8s.io/clusterset",
        "jenkins.io/credentials-type",
        "reconcile.fluxcd.io/watch",
        "secrets-store.csi.k8s.io/used",
    ];
    let mut cases = labels.map(|key| with_key("labels", key, &token)).to_vec();
    cases.push(with_key("annotations", "kubernetes.io/description", &token));
    accepted("describe", &cases).await
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
    let advice = "choose the type of its name";
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
        (plus(4, "dockerConfigJson", json!({"registries": ["https://r"]})), "without a scheme"),
        (plus(1, "kubeconfig", json!({"key": "../config"})), "key"),
        (plus(2, "argoCDCluster", json!({"namespaces": ["a,b"]})), "namespaces"),
        (format(&json!({"type": "Yaml"})), "Unsupported value"),
    ];
    refused("options", &cases).await?;
    accepted("options-fit", &smallest().map(|smallest| format(&smallest))).await
}

fn custom(custom: &Value) -> Value {
    format(&json!({"type": "Custom", "custom": custom}))
}

#[tokio::test]
async fn a_custom_format_is_text_with_known_placeholders_and_a_type_on_which_nobody_acts() -> Result<()> {
    let text = |text: &str| custom(&json!({"data": {"a": text}}));
    let typed = |kind: &str| custom(&json!({"secretType": kind, "data": {"a": "{token}"}}));
    let mut many = serde_json::Map::new();
    (0..17).for_each(|n| drop(many.insert(format!("k{n}"), "{token}".into())));
    let cases = [
        (text("{token} {tokem}"), "\"{tokem}\" is no placeholder; write one of {token}, {server}, {ca}, {caBase64}"),
        (text("x"), "must hold {token}"),
        (text("v1.{token}"), "must not have {token} right beside"),
        (text(&"{token} ".repeat(17)), "at most 16 placeholders"),
        (text(&"x".repeat(4097)), "Too long"),
        (custom(&json!({"data": {}})), "at least 1 propert"),
        (custom(&json!({"data": many})), "must have at most 16 items"),
        (custom(&json!({"data": {"a/b": "{token}"}})), "custom.data has the key \"a/b\"; write letters"),
        (custom(&json!({})), "data"),
        (format(&json!({"type": "Custom"})), "type Custom needs custom.data"),
        (
            typed("kubernetes.io/service-account-token"),
            "act on Secrets of type \"kubernetes.io/service-account-token\"",
        ),
        (typed("bootstrap.kubernetes.io/token"), "of type \"bootstrap.kubernetes.io/token\"; choose Opaque"),
        (typed("helm.sh/release.v1"), "of type \"helm.sh/release.v1\""),
        (typed("addons.cluster.x-k8s.io/resource-set"), "of type \"addons.cluster.x-k8s.io/resource-set\""),
        (typed("kubernetes.io/basic-auth"), "needs the key username or password"),
        (typed("a b"), "secretType"),
        (plus(1, "kubeconfig", json!({"secretType": "kubernetes.io/tls"})), "of type \"kubernetes.io/tls\""),
        (plus(0, "custom", json!({"data": {"a": "{token}"}})), "custom is not read with type Token"),
    ];
    refused("customs", &cases).await?;
    let full = text(&format!("{}{{token}}\n", "{{ } \u{e9}\n".repeat(500)));
    accepted("customs-fit", &[full, typed("mirror.linkerd.io/remote-kubeconfig"), typed("Opaque")]).await
}

#[tokio::test]
async fn options_of_a_server_and_of_argo_cd_need_each_other() -> Result<()> {
    let both = json!({"server": "https://a", "systemRoots": true, "caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"});
    let mut cases: Vec<(Value, &str)> = Vec::new();
    for (n, member) in [(1, "kubeconfig"), (2, "argoCDCluster"), (3, "istioRemoteSecret")] {
        let with = |mut options: Value| {
            if n == 3 {
                options["clusterName"] = "c".into();
            }
            plus(n, member, options)
        };
        cases.push((with(json!({"systemRoots": true})), "set server, or remove them"));
        cases.push((with(both.clone()), "exclude each other"));
        cases.push((with(json!({"server": "https://a", "caBundle": "YQ=="})), "caBundle holds no PEM certificate"));
        cases.push((with(json!({"server": "https://a", "caBundle": "%"})), "caBundle is no base64"));
    }
    cases.push((plus(2, "argoCDCluster", json!({"clusterResources": true})), "set argoCDCluster.namespaces"));
    cases.push((plus(2, "argoCDCluster", json!({"shard": -1})), "greater than or equal to 0"));
    refused("server-options", &cases).await
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
    cases.push((plus(1, "kubeconfig", json!({"server": format!("https://{}", "a".repeat(250))})), advice));
    cases.push((plus(1, "kubeconfig", json!({"server": "https://a:99999"})), advice));
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
        (scheduled(&format!("{} * * * *", "1,".repeat(200))), "at most 400 characters"),
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
