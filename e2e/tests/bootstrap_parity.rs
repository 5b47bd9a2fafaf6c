//! Side by side with kube-controller-manager's own token cleaner and bootstrap signer: the same Secrets in two control
//! planes, the same survivors and the same signatures.
//!
//! One difference is meant: a token that is extended between the cleaner's read and its delete survives with ours
//! (`bootstrap.rs`, `a_token_that_is_extended_between_read_and_delete_survives`).

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{SecondsFormat, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;
use tokenward_e2e::operator::install;
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, eventually, target_dir, workspace_dir};
use tokio::sync::OnceCell;

const CASES: usize = 1000;
const SYSTEM: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const CLUSTER_INFO: &str = "cluster-info";
const SOON: Duration = Duration::from_mins(2);

/// Two control planes: who cleans and signs in the first is upstream, in the second Tokenward.
struct Pair {
    upstream: ControlPlane,
    ours: ControlPlane,
}

async fn pair() -> Result<&'static Pair> {
    static PAIR: OnceCell<Pair> = OnceCell::const_new();
    let start = async || {
        // Its defaults of 20 requests a second would only take longer to come to the same end.
        let args = [
            "--controllers=token-cleaner-controller,bootstrap-signer-controller",
            "--kube-api-qps=1000",
            "--kube-api-burst=1000",
        ];
        let profile = Profile { controller_manager: args.map(str::to_owned).to_vec(), ..Profile::default() };
        let upstream = ControlPlane::start(profile, target_dir().join("e2e/parity-upstream")).await?;
        let ours = ControlPlane::start(Profile::default(), target_dir().join("e2e/parity-ours")).await?;
        install(&ours).await?;
        signer_component(&ours).await?;
        anyhow::Ok(Pair { upstream, ours })
    };
    PAIR.get_or_try_init(start).await
}

async fn signer_component(plane: &ControlPlane) -> Result<()> {
    let rbac = workspace_dir().join("config/components/bootstrap-signer/rbac.yaml");
    plane.kubectl_ok(["apply", "--server-side", "-f", &rbac.to_string_lossy()]).await?;
    Ok(())
}

async fn operator(name: &str, args: &[&str]) -> Result<Operator> {
    let plane = &pair().await?.ours;
    let mut args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    args.push("--bootstrap-signer".into());
    let options = Options { name: name.into(), dir: plane.dir().join("operators"), args, ..Options::default() };
    let operator = Operator::start(plane, options).await?;
    operator.ready().await?;
    Ok(operator)
}

/// Raw expirations of the cases file with the verdict of Go's parser, spread over the whole file.
fn cases() -> Result<Vec<(String, bool)>> {
    let text = fs::read_to_string(workspace_dir().join("e2e/cases/bootstrap-expirations.tsv"))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let drawn = lines.iter().step_by(lines.len() / CASES).take(CASES);
    let read = drawn.map(|line| {
        let (raw, verdict) = line.split_once('\t').context("a case without a verdict")?;
        // Nanoseconds since 1970; whole years away from now on either side, or no time at all.
        let ahead = verdict.parse::<i128>().is_ok_and(|at| at > i128::from(Utc::now().timestamp()) * 1_000_000_000);
        Ok((raw.to_owned(), ahead))
    });
    read.collect()
}

/// The n-th Secret: mostly bootstrap tokens with legal names, but also all that a cleaner could trip over.
fn secret(n: usize, raw: &str) -> Value {
    let id = format!("{n:06}");
    let kind = if n.is_multiple_of(17) { "Opaque" } else { TYPE };
    let namespace = if n.is_multiple_of(23) { "default" } else { SYSTEM };
    let name = if n.is_multiple_of(13) { format!("odd.name-{id}") } else { format!("bootstrap-token-{id}") };
    let text = |text: &str| BASE64_STANDARD.encode(text);
    let named = if n.is_multiple_of(19) { text("abcdef") } else { text(&id) };
    let signing = ["true", "true", "True", "false", "", "true\n"][n % 6];
    let mut data = json!({
        "token-id": named, "token-secret": text(&format!("secret-of-{id}")),
        "expiration": raw, "usage-bootstrap-signing": text(signing),
    });
    if n.is_multiple_of(29) {
        data["token-secret"] = "".into();
    }
    json!({"metadata": {"name": name, "namespace": namespace}, "type": kind, "data": data})
}

async fn create(plane: &ControlPlane, secrets: &[Value]) -> Result<()> {
    let client = plane.client().await?;
    let create = |secret: &Value| {
        let secret: Result<Secret, _> = serde_json::from_value(secret.clone());
        let client = client.clone();
        async move {
            let secret = secret?;
            let namespace = secret.metadata.namespace.clone().unwrap_or_default();
            Api::namespaced(client, &namespace).create(&PostParams::default(), &secret).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(secrets.iter().map(create)).buffer_unordered(16).try_collect().await
}

/// Namespace and name of every Secret that could be one of ours.
async fn survivors(plane: &ControlPlane) -> Result<BTreeSet<String>> {
    let secrets: Api<Secret> = Api::all(plane.client().await?);
    let all = secrets.list(&ListParams::default()).await?.items.into_iter();
    let names = all.map(|secret| {
        let meta = secret.metadata;
        format!("{}/{}", meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default())
    });
    Ok(names.filter(|name| name.contains("/bootstrap-token-") || name.contains("/odd.name-")).collect())
}

async fn cluster_info(plane: &ControlPlane) -> Result<Api<ConfigMap>> {
    Ok(Api::namespaced(plane.client().await?, "kube-public"))
}

async fn signed(plane: &ControlPlane) -> Result<BTreeMap<String, String>> {
    Ok(cluster_info(plane).await?.get(CLUSTER_INFO).await?.data.unwrap_or_default())
}

async fn publish(plane: &ControlPlane, data: Value) -> Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CLUSTER_INFO, "namespace": "kube-public"}, "data": data,
    });
    let params = PatchParams::apply("administrator").force();
    cluster_info(plane).await?.patch(CLUSTER_INFO, &params, &Patch::Apply(map)).await?;
    Ok(())
}

/// Waits until both hold the same Secrets and the same signatures, and returns these.
async fn agree(pair: &Pair) -> Result<(BTreeSet<String>, BTreeMap<String, String>)> {
    let check = async || {
        let (theirs, ours) = (survivors(&pair.upstream).await?, survivors(&pair.ours).await?);
        let differ: Vec<&String> = theirs.symmetric_difference(&ours).take(5).collect();
        ensure!(differ.is_empty(), "{} with upstream, {} with ours: {differ:?}", theirs.len(), ours.len());
        let (signed_there, signed_here) = (signed(&pair.upstream).await?, signed(&pair.ours).await?);
        ensure!(signed_there == signed_here, "{} and {} keys", signed_there.len(), signed_here.len());
        Ok((ours, signed_here))
    };
    eventually(SOON, "both have done the same", check).await
}

async fn edit(pair: &Pair, name: &str, data: Value) -> Result<()> {
    for plane in [&pair.upstream, &pair.ours] {
        let secrets: Api<Secret> = Api::namespaced(plane.client().await?, SYSTEM);
        secrets.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "stringData": data }))).await?;
    }
    Ok(())
}

/// A signing token of this id in both.
async fn add(pair: &Pair, id: &str, expiration: &str) -> Result<String> {
    let name = format!("bootstrap-token-{id}");
    let data = json!({
        "token-id": id, "token-secret": "tokenSecret", "expiration": expiration, "usage-bootstrap-signing": "true",
    });
    let secret = json!({"metadata": {"name": name, "namespace": SYSTEM}, "type": TYPE, "stringData": data});
    for plane in [&pair.upstream, &pair.ours] {
        create(plane, std::slice::from_ref(&secret)).await?;
    }
    Ok(name)
}

fn ahead(seconds: i64) -> String {
    (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// What must be left: everything that is no bootstrap token in kube-system, and what lies ahead or never ends.
fn expected(cases: &[(String, bool)]) -> BTreeSet<String> {
    let stays = |(n, (raw, ahead)): &(usize, &(String, bool))| {
        *ahead || raw.is_empty() || n.is_multiple_of(17) || n.is_multiple_of(23)
    };
    let names = cases.iter().enumerate().filter(stays).map(|(n, (raw, _))| {
        let secret = secret(n, raw);
        format!("{}/{}", secret["metadata"]["namespace"], secret["metadata"]["name"]).replace('"', "")
    });
    names.collect()
}

#[tokio::test]
async fn the_same_survive_and_the_same_is_signed() -> Result<()> {
    let pair = pair().await?;
    let cases = cases()?;
    let secrets: Vec<Value> = cases.iter().enumerate().map(|(n, (raw, _))| secret(n, raw)).collect();
    let payload = json!({"kubeconfig": "clusters: []\n", "jws-kubeconfig-stale0": "old", "other": "stays"});
    for plane in [&pair.upstream, &pair.ours] {
        publish(plane, payload.clone()).await?;
        create(plane, &secrets[..CASES / 2]).await?;
    }
    // Half of it lies there at the start, half comes while it runs.
    let operator = operator("parity", &[]).await?;
    for plane in [&pair.upstream, &pair.ours] {
        create(plane, &secrets[CASES / 2..]).await?;
    }
    let (survive, signatures) = agree(pair).await?;
    ensure!(survive == expected(&cases), "both differ from Go's verdicts");
    ensure!(survive.len() > 100 && CASES - survive.len() > 100, "{} survive: the draw proves little", survive.len());
    ensure!(signatures.len() > 20 && signatures.contains_key("other"), "{} keys", signatures.len());
    ensure!(!signatures.contains_key("jws-kubeconfig-stale0"), "a stale signature");
    println!("{CASES} Secrets: {} survive, {} keys in cluster-info", survive.len(), signatures.len());
    edits_while_scheduled(pair).await?;
    signatures_follow(pair).await?;
    hidden_deletion(pair, &operator).await
}

async fn edits_while_scheduled(pair: &Pair) -> Result<()> {
    let later = add(pair, "later0", &ahead(5)).await?;
    let sooner = add(pair, "sooner", &ahead(3600)).await?;
    let garbled = add(pair, "garble", &ahead(3600)).await?;
    let on_time = add(pair, "ontime", &ahead(4)).await?;
    edit(pair, &later, json!({"expiration": ahead(3600)})).await?;
    edit(pair, &sooner, json!({"expiration": ahead(2)})).await?;
    edit(pair, &garbled, json!({"expiration": "tomorrow"})).await?;
    let gone = async || {
        for plane in [&pair.upstream, &pair.ours] {
            let left = survivors(plane).await?;
            let there: Vec<_> = [&sooner, &garbled, &on_time]
                .into_iter()
                .filter(|name| left.contains(&format!("{SYSTEM}/{name}")))
                .collect();
            ensure!(there.is_empty(), "{there:?}");
        }
        Ok(())
    };
    eventually(SOON, "what ends early is gone from both", gone).await?;
    let (survive, signatures) = agree(pair).await?;
    ensure!(survive.contains(&format!("{SYSTEM}/{later}")) && signatures.contains_key("jws-kubeconfig-later0"));
    Ok(())
}

/// A changed payload is signed again, a new token signs, a deleted one no longer does.
async fn signatures_follow(pair: &Pair) -> Result<()> {
    let before = signed(&pair.ours).await?;
    for plane in [&pair.upstream, &pair.ours] {
        publish(plane, json!({"kubeconfig": "payload", "other": "stays"})).await?;
    }
    let name = add(pair, "abc123", &ahead(3600)).await?;
    let vector = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiYzEyMyJ9..QSxpUG7Q542CirTI2ECPSZjvBOJURUW5a7XqFpNI958";
    let all_anew = async || {
        for plane in [&pair.upstream, &pair.ours] {
            let now = signed(plane).await?;
            ensure!(now.get("jws-kubeconfig-abc123").is_some_and(|it| it == vector), "no vector yet");
            ensure!(
                now.get("jws-kubeconfig-later0") != before.get("jws-kubeconfig-later0"),
                "signed for the old payload"
            );
        }
        Ok(())
    };
    eventually(SOON, "the new payload is signed", all_anew).await?;
    agree(pair).await?;
    for plane in [&pair.upstream, &pair.ours] {
        plane.kubectl_ok(["delete", "secret", "-n", SYSTEM, &name]).await?;
    }
    let unsigned = async || {
        ensure!(!signed(&pair.ours).await?.contains_key("jws-kubeconfig-abc123"), "still signed");
        Ok(())
    };
    eventually(SOON, "the signature goes with its token", unsigned).await?;
    agree(pair).await?;
    Ok(())
}

/// What upstream does not do: a deletion that nobody saw, and an end without a cleaner.
async fn hidden_deletion(pair: &Pair, operator: &Operator) -> Result<()> {
    let name = add(pair, "hidden", &ahead(3600)).await?;
    let has = async |key: &str, wanted: bool| {
        let check = async || {
            ensure!(signed(&pair.ours).await?.contains_key(key) == wanted, "{key} is not {wanted}");
            Ok(())
        };
        eventually(SOON, "the signature follows", check).await
    };
    has("jws-kubeconfig-hidden", true).await?;
    operator.kill9()?;
    pair.ours.kubectl_ok(["delete", "secret", "-n", SYSTEM, &name]).await?;
    let successor = self::operator("parity-off", &["--bootstrap-token-cleaner=off"]).await?;
    has("jws-kubeconfig-hidden", false).await?;
    add(pair, "ending", &ahead(6)).await?;
    has("jws-kubeconfig-ending", true).await?;
    has("jws-kubeconfig-ending", false).await?;
    ensure!(survivors(&pair.ours).await?.contains("kube-system/bootstrap-token-ending"), "the cleaner is not off");
    contested(pair, &successor).await
}

/// Somebody else signs with something else: the signer gives way, and says so.
async fn contested(pair: &Pair, operator: &Operator) -> Result<()> {
    let key = "jws-kubeconfig-later0";
    let rewrite = async |n: u32| {
        let patch = Patch::Merge(json!({"data": {key: format!("mine-{n}")}}));
        let params = PatchParams { field_manager: Some("another-signer".into()), ..PatchParams::default() };
        cluster_info(&pair.ours).await?.patch(CLUSTER_INFO, &params, &patch).await?;
        anyhow::Ok(())
    };
    for n in 0..3 {
        rewrite(n).await?;
        let back = async || {
            ensure!(!signed(&pair.ours).await?[key].starts_with("mine"), "not signed again");
            Ok(())
        };
        eventually(SOON, "it signs again", back).await?;
    }
    let metric = async || {
        ensure!(operator.metrics().await?.contains("tokenward_bootstrap_signer_contested 1"), "not contested");
        Ok(())
    };
    eventually(SOON, "the metric says so", metric).await?;
    rewrite(9).await?;
    let looked = async || {
        let text = operator.metrics().await?;
        ensure!(text.contains("tokenward_bootstrap_signings_total{outcome=\"contested\"}"), "it has not looked");
        Ok(())
    };
    eventually(SOON, "it sees that and leaves it", looked).await?;
    ensure!(signed(&pair.ours).await?[key] == "mine-9", "it wrote all the same");
    let told = async || {
        let events = pair.ours.kubectl_ok(["get", "events", "-n", "kube-public"]).await?;
        ensure!(events.contains("SignaturesContested") && events.contains("another-signer"), "{events}");
        Ok(())
    };
    eventually(SOON, "the event names who it is", told).await
}
