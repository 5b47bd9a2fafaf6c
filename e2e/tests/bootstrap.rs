//! Bootstrap tokens on a real API server: what is deleted, what stays, what is capped, and what people see of it.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokenward_e2e::operator::apply_overlay;
use tokenward_e2e::proxy::{Act, Call, Rule};
use tokenward_e2e::scene::metrics::Scrape;
use tokenward_e2e::scene::overlay::with_component;
use tokenward_e2e::scene::{SOON, plane};
use tokenward_e2e::{ControlPlane, Operator, Options, Proxy, eventually};
use tokio::sync::{Mutex, MutexGuard};

const SYSTEM: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// An operator with these flags, alone with the bootstrap tokens: all live in one namespace.
struct Lab {
    plane: &'static ControlPlane,
    proxy: Proxy,
    operator: Operator,
    secrets: Api<Secret>,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::const_new(());

impl Lab {
    async fn start(name: &str, args: &[&str]) -> Result<Self> {
        let lab = Self::start_with(name, args, &[]).await?;
        lab.operator.ready().await?;
        Ok(lab)
    }

    async fn start_with(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let turn = TURN.lock().await;
        let plane = plane().await?;
        component(plane, "bootstrap-token-policy").await?;
        let secrets: Api<Secret> = Api::namespaced(plane.client().await?, SYSTEM);
        let all = ListParams::default().fields(&format!("type={TYPE}"));
        secrets.delete_collection(&DeleteParams::default(), &all).await?;
        let proxy = Proxy::start(plane)?;
        let options = Options {
            name: name.to_owned(),
            dir: plane.dir().join("bootstrap"),
            via: Some(&proxy),
            namespaces: vec!["default".to_owned()],
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..Options::default()
        };
        let operator = Operator::start(plane, options).await?;
        Ok(Self { plane, proxy, operator, secrets, _turn: turn })
    }

    /// A token of this id that ends so, with more data.
    async fn token(&self, id: &str, expiration: &str, more: Value) -> Result<String> {
        let name = format!("bootstrap-token-{id}");
        let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef"});
        if !expiration.is_empty() {
            data["expiration"] = expiration.into();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            data[key] = value.clone();
        }
        self.create(json!({"metadata": {"name": name}, "type": TYPE, "stringData": data})).await?;
        Ok(name)
    }

    async fn create(&self, secret: Value) -> Result<()> {
        self.secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        Ok(())
    }

    async fn edit(&self, name: &str, patch: Value) -> Result<()> {
        self.secrets.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn expires(&self, name: &str, expiration: &str) -> Result<()> {
        self.edit(name, json!({"stringData": {"expiration": expiration}})).await
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.secrets.get_opt(name).await?.is_some())
    }

    async fn gone(&self, name: &str) -> Result<()> {
        let check = async || {
            ensure!(!self.exists(name).await?, "{name} is still there: {}", self.last_words());
            Ok(())
        };
        eventually(SOON, "the token is gone", check).await
    }

    fn last_words(&self) -> String {
        let log = self.operator.log().unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join("\n")
    }

    /// Everything before this has been seen and judged: what comes later is done.
    async fn fence(&self, id: &str) -> Result<()> {
        let name = self.token(id, &ago(1), json!({})).await?;
        self.gone(&name).await
    }

    async fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let events: Api<Event> = Api::namespaced(self.plane.client().await?, SYSTEM);
        let told = events.list(&ListParams::default()).await?.items.into_iter();
        let about = told.filter(|event| event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some(name));
        Ok(about.map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect())
    }

    async fn told(&self, name: &str, reason: &str, words: &str) -> Result<()> {
        let check = async || {
            let events = self.events(name).await?;
            let told = events.iter().any(|(told, note)| told == reason && note.contains(words));
            ensure!(told, "{reason} with {words:?} is not among {events:?}");
            Ok(())
        };
        eventually(SOON, "the event", check).await
    }

    async fn metric(&self, series: &str) -> Result<f64> {
        let text = self.operator.metrics().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("tokenward_{series} ")));
        Ok(line.unwrap_or("0").parse()?)
    }

    /// The DELETEs of this Secret that reached the proxy.
    fn deletes(&self, name: &str) -> usize {
        self.proxy.calls_since(0, "DELETE", &format!("/secrets/{name}")).len()
    }

    async fn policy(&self, name: &str, spec: Value) -> Result<()> {
        self.plane.apply(&policy(name, &spec).to_string()).await?;
        Ok(())
    }

    /// Waits until the status of a policy satisfies `test`.
    async fn status(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) -> Result<Value> {
        let check = async || {
            let text = self.plane.kubectl_ok(["get", "btpol", name, "-o", "json"]).await?;
            let policy: Value = serde_json::from_str(&text)?;
            let current = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            ensure!(current && test(&policy["status"]), "{}\n{}", policy["status"], self.last_words());
            Ok(policy["status"].clone())
        };
        // The kind may have been installed a moment ago.
        eventually(Duration::from_secs(90), what, check).await
    }
}

fn policy(name: &str, spec: &Value) -> Value {
    let kind = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "BootstrapTokenPolicy"});
    json!({"apiVersion": kind["apiVersion"], "kind": kind["kind"], "metadata": {"name": name}, "spec": spec})
}

/// Applies a component of `config/` the way its comment says: from an overlay that names it.
async fn component(plane: &ControlPlane, name: &str) -> Result<()> {
    let overlay = with_component(plane.dir().join(format!("overlay-{name}")), name)?;
    apply_overlay(plane, overlay).await?;
    plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
    Ok(())
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn ago(seconds: i64) -> String {
    text(Utc::now() - TimeDelta::seconds(seconds))
}

fn ahead(seconds: i64) -> String {
    text(Utc::now() + TimeDelta::seconds(seconds))
}

fn deletes_secrets(call: &Call) -> bool {
    call.is("DELETE", "/namespaces/kube-system/secrets/")
}

#[tokio::test]
async fn expired_and_unparsable_go_and_all_else_stays() -> Result<()> {
    let lab = Lab::start("cleans", &[]).await?;
    let kept = [lab.token("keep00", "", json!({})).await?, lab.token("keep01", &ahead(3600), json!({})).await?];
    let far = lab.token("keep02", "9999-12-31T23:59:59Z", json!({})).await?;
    let expired = lab.token("gone00", "2020-01-01T0:00:00Z", json!({})).await?;
    let garbled = lab.token("gone01", "2099-01-01T00:00:00Z\n", json!({})).await?;
    lab.create(json!({"metadata": {"name": "any-name"}, "type": TYPE, "stringData": {"expiration": "x"}})).await?;
    for name in [&expired, &garbled, "any-name"] {
        lab.gone(name).await?;
    }
    lab.fence("fence0").await?;
    for name in kept.iter().chain([&far]) {
        ensure!(lab.exists(name).await?, "{name} was deleted");
    }
    lab.told(&expired, "BootstrapTokenDeleted", "expired at 2020-01-01T00:00:00Z").await?;
    lab.told(&garbled, "BootstrapTokenDeleted", "its expiration is not an RFC 3339 time").await?;
    let log = lab.operator.log()?;
    ensure!(log.lines().any(|line| line.contains("bootstrap token deleted") && line.contains(&expired)), "{log}");
    ensure!(lab.metric("bootstrap_token_deletions_total{outcome=\"deleted\"}").await? >= 4.0);
    Ok(())
}

#[tokio::test]
async fn other_types_and_namespaces_are_left_alone() -> Result<()> {
    let lab = Lab::start("foreign", &[]).await?;
    let data = json!({"expiration": "2020-01-01T00:00:00Z"});
    lab.create(json!({"metadata": {"name": "bootstrap-token-opaque"}, "type": "Opaque", "stringData": data})).await?;
    let elsewhere: Api<Secret> = Api::namespaced(lab.plane.client().await?, "default");
    let secret = json!({"metadata": {"name": "bootstrap-token-other0"}, "type": TYPE, "stringData": data});
    elsewhere.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    lab.fence("fence1").await?;
    ensure!(lab.exists("bootstrap-token-opaque").await?, "another type was deleted");
    ensure!(elsewhere.get_opt("bootstrap-token-other0").await?.is_some(), "another namespace was touched");
    ensure!(lab.deletes("bootstrap-token-o") == 0);
    Ok(())
}

#[tokio::test]
async fn a_deadline_is_kept_and_follows_edits() -> Result<()> {
    let lab = Lab::start("edits", &[]).await?;
    let short = lab.token("short0", &ahead(3), json!({})).await?;
    let longer = lab.token("longer", &ahead(3), json!({})).await?;
    let shorter = lab.token("earlie", &ahead(3600), json!({})).await?;
    let freed = lab.token("freed0", &ahead(3), json!({})).await?;
    lab.expires(&longer, &ahead(3600)).await?;
    lab.expires(&shorter, &ahead(1)).await?;
    lab.edit(&freed, json!({"data": {"expiration": null}})).await?;
    lab.gone(&short).await?;
    lab.gone(&shorter).await?;
    lab.fence("fence2").await?;
    ensure!(lab.exists(&longer).await? && lab.exists(&freed).await?, "an extended token was deleted");
    ensure!(lab.deletes(&longer) + lab.deletes(&freed) == 0, "it was tried");
    Ok(())
}

/// The one difference to the in-tree cleaner, which deletes this token.
#[tokio::test]
async fn a_token_that_is_extended_between_read_and_delete_survives() -> Result<()> {
    let lab = Lab::start("race", &[]).await?;
    let held = lab.proxy.add(Rule::before(deletes_secrets, Act::Hold));
    let name = lab.token("racer0", &ago(1), json!({})).await?;
    held.reached().await?;
    lab.expires(&name, &ahead(3600)).await?;
    held.release();
    let conflict = async || {
        ensure!(lab.metric("bootstrap_token_deletions_total{outcome=\"conflict\"}").await? >= 1.0, "no conflict yet");
        Ok(())
    };
    eventually(SOON, "the delete is refused", conflict).await?;
    lab.fence("fence3").await?;
    ensure!(lab.exists(&name).await?, "the extended token was deleted");
    Ok(())
}

#[tokio::test]
async fn deletes_name_what_was_seen_and_spare_the_terminating() -> Result<()> {
    let lab = Lab::start("preconditions", &[]).await?;
    let blind =
        |call: &Call| deletes_secrets(call) && !(call.says("\"uid\":\"") && call.says("\"resourceVersion\":\""));
    let unfenced = lab.proxy.add(Rule::before(blind, Act::Drop));
    let data = json!({"expiration": "2020-01-01T00:00:00Z"});
    let metadata = json!({"name": "bootstrap-token-finals", "finalizers": ["example.com/wait"]});
    lab.create(json!({"metadata": metadata, "type": TYPE, "stringData": data})).await?;
    lab.fence("fence4").await?;
    lab.edit("bootstrap-token-finals", json!({"metadata": {"labels": {"touched": "1"}}})).await?;
    lab.fence("fence5").await?;
    ensure!(lab.deletes("bootstrap-token-finals") == 1, "a terminating Secret was deleted again");
    ensure!(unfenced.hits() == 0, "a delete without preconditions");
    lab.edit("bootstrap-token-finals", json!({"metadata": {"finalizers": null}})).await?;
    lab.gone("bootstrap-token-finals").await
}

/// Twenty expired tokens, deletes refused for 6 s: how long until all are gone once they are answered again.
async fn outlasts(code: u16, reason: &str) -> Result<()> {
    let lab = Lab::start(&format!("refused-{code}"), &[]).await?;
    let refusal = lab.proxy.add(Rule::before(deletes_secrets, Act::fail(code, reason, "not now")));
    let mut names = Vec::new();
    for n in 0..20 {
        names.push(lab.token(&format!("f{n:05}"), &ago(1), json!({})).await?);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    for name in &names {
        ensure!(lab.exists(name).await? && lab.deletes(name) > 1, "{name} was not tried again");
    }
    refusal.remove();
    let again = Instant::now();
    for name in &names {
        lab.gone(name).await?;
    }
    let took = again.elapsed();
    println!("{code}: all gone {took:.1?} after deletes are answered again");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn outlasts_500() -> Result<()> {
    outlasts(500, "InternalError").await
}

#[tokio::test]
async fn outlasts_503() -> Result<()> {
    outlasts(503, "ServiceUnavailable").await
}

#[tokio::test]
async fn outlasts_429() -> Result<()> {
    outlasts(429, "TooManyRequests").await
}

#[tokio::test]
async fn outlasts_403() -> Result<()> {
    outlasts(403, "Forbidden").await
}

#[tokio::test]
async fn a_lost_watch_or_process_loses_no_deadline() -> Result<()> {
    let lab = Lab::start("gaps", &[]).await?;
    let first = lab.token("gap000", &ahead(2), json!({})).await?;
    lab.proxy.cut_connections();
    lab.gone(&first).await?;
    let second = lab.token("gap001", &ahead(2), json!({})).await?;
    lab.operator.kill9()?;
    let third = lab.token("gap002", &ago(5), json!({})).await?;
    lab.operator.restart()?;
    lab.gone(&second).await?;
    lab.gone(&third).await
}

#[tokio::test]
async fn report_deletes_nothing_and_tells_once() -> Result<()> {
    let lab = Lab::start("reports", &["--bootstrap-token-cleaner=report"]).await?;
    let name = lab.token("report", &ago(60), json!({})).await?;
    lab.told(&name, "BootstrapTokenExpired", "would be deleted: expired at").await?;
    for n in 0..3 {
        lab.edit(&name, json!({"metadata": {"labels": {"touched": n.to_string()}}})).await?;
    }
    let later = lab.token("report1".get(1..).context("an id")?, "x", json!({})).await?;
    lab.told(&later, "BootstrapTokenExpired", "not an RFC 3339 time").await?;
    ensure!(lab.events(&name).await?.len() == 1, "{:?}", lab.events(&name).await?);
    ensure!(lab.exists(&name).await? && lab.deletes("bootstrap-token-") == 0, "something was deleted");
    ensure!(lab.metric("bootstrap_token_deletions_total{outcome=\"reported\"}").await? >= 2.0);
    Ok(())
}

#[tokio::test]
async fn off_is_off() -> Result<()> {
    let lab = Lab::start("off", &["--bootstrap-token-cleaner=off"]).await?;
    let name = lab.token("offoff", &ago(60), json!({})).await?;
    let since = lab.proxy.mark();
    lab.proxy.cut_connections();
    let again = async || {
        let lists = lab.proxy.calls_since(since, "GET", "/namespaces/default/secrets");
        ensure!(!lists.is_empty(), "its watches are not back");
        Ok(())
    };
    eventually(SOON, "the other watches are back", again).await?;
    ensure!(lab.exists(&name).await?);
    ensure!(lab.proxy.calls_since(0, "", SYSTEM).is_empty(), "it looked into kube-system");
    Ok(())
}

#[tokio::test]
async fn without_its_right_the_rest_works_and_says_what_is_missing() -> Result<()> {
    let turn = TURN.lock().await;
    let plane = plane().await?;
    plane.create_namespace("rightless").await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op", "namespace": "rightless"}});
    plane.apply(&account.to_string()).await?;
    let role = ["--clusterrole=tokenward", "--serviceaccount=rightless:op", "-n", "rightless"];
    plane.kubectl_ok(["create", "rolebinding", "op"].iter().chain(&role)).await?;
    let token = tokenward_e2e::operator::token(plane, "rightless", "op", Duration::from_hours(1)).await?;
    let options = Options {
        name: "rightless".into(),
        dir: plane.dir().join("bootstrap"),
        namespaces: vec!["rightless".into()],
        token: Some(token),
        ..Options::default()
    };
    let operator = Operator::start(plane, options).await?;
    operator.ready().await?;
    let missing = async || {
        let log = operator.log()?;
        let told = log.lines().any(|line| line.contains("cannot watch resource") && line.contains("\"kube-system"));
        ensure!(told && log.contains("secrets (bootstrap tokens)"), "{log}");
        let scrape = Scrape::parse(operator.metrics().await?)?;
        let failing: Vec<(&str, &str)> =
            scrape.of("watch_failing").map(|watch| (watch.label("kind"), watch.label("namespace"))).collect();
        ensure!(failing == [("secrets (bootstrap tokens)", SYSTEM)], "{failing:?}");
        Ok(())
    };
    eventually(SOON, "log and metric say what is missing", missing).await?;
    drop(turn);
    Ok(())
}

fn finds(status: &Value, secret: &str, reason: &str) -> bool {
    let findings = status["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().any(|finding| finding["secret"] == secret && finding["reason"] == reason)
}

async fn expiration(lab: &Lab, name: &str) -> Result<Option<DateTime<Utc>>> {
    let data = lab.secrets.get(name).await?.data.unwrap_or_default();
    let Some(value) = data.get("expiration") else { return Ok(None) };
    Ok(Some(std::str::from_utf8(&value.0)?.parse()?))
}

/// Report, then Enforce, over one token of each kind.
#[tokio::test]
async fn a_policy_reports_and_then_caps() -> Result<()> {
    let lab = Lab::start("caps", &["--bootstrap-token-cleaner=report"]).await?;
    let expired = lab.token("aexpir", &ago(600), json!({})).await?;
    let never = lab.token("bnever", "", json!({"auth-extra-groups": "system:bootstrappers:x"})).await?;
    lab.token("within", &ahead(3600), json!({"usage-bootstrap-api-worker-calls": "true"})).await?;
    let beyond = lab.token("beyond", &ahead(7 * 86_400), json!({})).await?;
    let garbled = lab.token("dgarbl", "never", json!({})).await?;
    lab.create(json!({"metadata": {"name": "odd"}, "type": TYPE, "stringData": {"token-id": "zzzzzz", "expiration": ahead(3600)}})).await?;
    let spec = |mode| json!({"mode": mode, "maxAge": "24h", "allowedGroups": ["system:bootstrappers:y"]});
    lab.policy("caps", spec("Report")).await?;
    let wanted = [
        (&*expired, "Expired"),
        (&never, "NeverExpires"),
        (&never, "GroupNotAllowed"),
        (&beyond, "BeyondMaxAge"),
        (&garbled, "Unparsable"),
        ("odd", "NameMismatch"),
    ];
    let status = lab.status("caps", "all findings", |status| wanted.iter().all(|(s, r)| finds(status, s, r))).await?;
    ensure!(status["tokens"]["total"] == 6 && status["tokens"]["neverExpires"] == 1, "{status}");
    ensure!(!status.to_string().contains("worker-calls"), "usages that others know are no finding: {status}");
    ensure!(lab.proxy.calls_since(0, "PATCH", "/namespaces/kube-system/secrets/").is_empty(), "Report wrote");
    lab.policy("caps", spec("Enforce")).await?;
    lab.told(&never, "BootstrapTokenCapped", "by maxAge of BootstrapTokenPolicy caps").await?;
    lab.told(&beyond, "BootstrapTokenCapped", "now expires at").await?;
    for name in [&never, &beyond] {
        let left = expiration(&lab, name).await?.context("no expiration")? - Utc::now();
        ensure!(left > TimeDelta::hours(23) && left <= TimeDelta::hours(24), "{name}: {left}");
    }
    let patched = lab.proxy.calls_since(0, "PATCH", "/namespaces/kube-system/secrets/");
    ensure!(patched.len() == 2, "one write each: {patched:?}");
    lab.plane.kubectl_ok(["delete", "btpol", "caps"]).await?;
    Ok(())
}

/// Another controller extends a token again and again: within the cap nobody interferes.
#[tokio::test]
async fn what_is_extended_within_the_cap_is_left_alone() -> Result<()> {
    let lab = Lab::start("extended", &[]).await?;
    lab.policy("extended", json!({"mode": "Enforce", "maxAge": "10m"})).await?;
    lab.status("extended", "the policy is seen", |status| status["conditions"][0]["status"] == "True").await?;
    let name = lab.token("extend", &ahead(300), json!({})).await?;
    for _ in 0..10 {
        lab.expires(&name, &ahead(600)).await?;
        lab.edit(&name, json!({"metadata": {"labels": {"at": Utc::now().timestamp_micros().to_string()}}})).await?;
    }
    lab.fence("fence6").await?;
    ensure!(lab.proxy.calls_since(0, "PATCH", &format!("/secrets/{name}")).is_empty(), "it was written");
    lab.plane.kubectl_ok(["delete", "btpol", "extended"]).await?;
    Ok(())
}

#[tokio::test]
async fn of_two_policies_the_strictest_counts_and_both_say_so() -> Result<()> {
    let lab = Lab::start("two", &[]).await?;
    let keep = json!({"matchLabels": {"keep": "me"}});
    lab.policy("loose", json!({"mode": "Enforce", "maxAge": "48h"})).await?;
    lab.policy("strict", json!({"mode": "Enforce", "maxAge": "1h", "keep": keep})).await?;
    for name in ["loose", "strict"] {
        let overlaps = |status: &Value| {
            let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let words = |it: &Value| it["message"].as_str().is_some_and(|text| text.contains("that of strict"));
            conditions.iter().any(|it| it["type"] == "Overlapping" && it["status"] == "True" && words(it))
        };
        lab.status(name, "both say so", overlaps).await?;
    }
    let kept = json!({"name": "bootstrap-token-kept00", "labels": {"keep": "me"}});
    lab.create(json!({"metadata": kept, "type": TYPE, "stringData": {"token-id": "kept00"}})).await?;
    let plain = lab.token("plain0", "", json!({})).await?;
    lab.told(&plain, "BootstrapTokenCapped", "BootstrapTokenPolicy strict").await?;
    lab.told("bootstrap-token-kept00", "BootstrapTokenCapped", "BootstrapTokenPolicy loose").await?;
    lab.plane.kubectl_ok(["delete", "btpol", "loose", "strict"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_cap_that_would_not_let_a_node_join_is_refused() -> Result<()> {
    let _turn = TURN.lock().await;
    let plane = plane().await?;
    component(plane, "bootstrap-token-policy").await?;
    for (spec, words) in [
        (json!({"maxAge": "5m"}), "write 10m or more"),
        (json!({"maxAge": "1d"}), "write a duration"),
        (json!({"mode": "Delete"}), "supported values"),
    ] {
        let args = ["apply", "--server-side", "-f", "-"];
        let answer = plane.kubectl_with(args, &policy("bad", &spec).to_string()).await?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(!answer.status.success() && said.to_lowercase().contains(&words.to_lowercase()), "{said}");
    }
    Ok(())
}

/// Secrets planted everywhere; also in a list that is cut off in the middle, which a client library would log.
#[tokio::test]
async fn token_secrets_are_seen_nowhere() -> Result<()> {
    const PLANTED: [&str; 3] = ["plantedsecret001", "cGxhbnRlZHNlY3Jl", "secret002planted"];
    let lab = Lab::start_with("leaks", &["--bootstrap-signer"], &[("RUST_LOG", "trace")]).await?;
    let streamed = |call: &Call| call.query.contains("sendInitialEvents=true");
    let lists = move |call: &Call| call.is("GET", "/namespaces/kube-system/secrets") && streamed(call);
    let cut = format!(r#"{{"type":"ADDED","object":{{"data":{{"token-secret":"{}""#, PLANTED[1]);
    let cut = lab.proxy.add(Rule::after(lists, Act::Replace(cut)).nth(1));
    lab.policy("leaks", json!({"mode": "Enforce", "maxAge": "1h", "allowedGroups": []})).await?;
    for (n, secret) in [PLANTED[0], PLANTED[2]].iter().enumerate() {
        let groups = "system:bootstrappers:elsewhere";
        let more = json!({"token-secret": secret, "usage-bootstrap-signing": "true", "usage-bootstrap-odd": secret, "auth-extra-groups": groups});
        lab.token(&format!("leak0{n}"), if n == 0 { "" } else { "x" }, more).await?;
    }
    lab.operator.ready().await?;
    lab.gone("bootstrap-token-leak01").await?;
    lab.told("bootstrap-token-leak00", "BootstrapTokenCapped", "").await?;
    let status = lab.status("leaks", "a finding", |status| status["tokens"]["withFindings"] == 1).await?;
    ensure!(cut.acted() == 1, "no list was cut off");
    let events = lab.plane.kubectl_ok(["get", "events", "-A", "-o", "json"]).await?;
    let texts = [lab.operator.log()?, events, status.to_string(), lab.operator.metrics().await?];
    ensure!(texts[0].contains("TRACE") && texts[0].len() > 1000, "the log is not a trace");
    for planted in PLANTED {
        let leaks = texts.iter().filter(|text| text.contains(planted)).count();
        ensure!(leaks == 0, "a planted secret is in {leaks} places");
    }
    lab.plane.kubectl_ok(["delete", "btpol", "leaks"]).await?;
    Ok(())
}
