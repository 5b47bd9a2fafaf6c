//! What Prometheus sees: every metric with its labels and a plausible value.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokenward_e2e::scene::metrics::Scrape;
use tokenward_e2e::scene::{SOON, Scene, spec};
use tokenward_e2e::{Act, Call, Options, Rule, eventually};

const LIFE_LEFT: &str = "remaining_life_at_publication_ratio";
const LATENESS: &str = "rotation_lateness_seconds";

#[tokio::test]
async fn every_scraper_gets_the_text_format_under_its_name() -> Result<()> {
    let scene = Scene::start("format-of-metrics").await?;
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    for accept in [None, Some("*/*"), Some("text/plain;version=0.0.4"), Some(prometheus)] {
        let (content_type, text) = scene.operator.metrics_as(accept).await?;
        assert!(content_type.starts_with("text/plain; version=0.0.4"), "{accept:?}: {content_type}");
        // The end mark of OpenMetrics, whose counters have other names.
        assert!(!text.contains("# EOF"), "{accept:?}\n{text}");
        assert!(text.contains("\n# TYPE tokenward_tokens_minted_total counter\n"), "{accept:?}\n{text}");
        assert!(text.contains("\ntokenward_tokens_minted_total 0\n"), "{accept:?}\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_story_is_counted() -> Result<()> {
    let scene = Scene::start("counted").await?;
    scene.story().await?;
    let version = env!("CARGO_PKG_VERSION");
    for (name, labels, value) in [
        ("build_info", &[("version", version)][..], 1.0),
        ("tokens_minted_total", &[], 3.0),
        ("tokens_published_total", &[("reason", "FirstIssue")], 1.0),
        ("tokens_published_total", &[("reason", "RotationRequested")], 1.0),
        ("tokens_published_total", &[("reason", "AnchorDeleted")], 1.0),
        ("tokens_retired_total", &[], 1.0),
        ("secrets_repaired_total", &[("reason", "MetadataChanged")], 1.0),
        ("failures_total", &[("reason", "AccountNotFound")], 1.0),
        ("events_dropped_total", &[], 0.0),
        ("anchors", &[], 1.0),
        ("tokens_held", &[], 0.0),
        ("anchors_swept_total", &[], 0.0),
    ] {
        scene.counts(name, labels, value).await?;
    }
    let skew = scene.scrape().await?.value("clock_skew_seconds", &[]).context("no clock_skew_seconds")?;
    assert!(skew.abs() < 5.0, "{skew}");
    // One token was replaced early in its life; the one without its anchor had no life left.
    scene.counts(&format!("{LIFE_LEFT}_count"), &[], 1.0).await?;
    let sum = scene.scrape().await?.value(&format!("{LIFE_LEFT}_sum"), &[]).context("no sum")?;
    assert!(sum > 0.9 && sum <= 1.0, "{sum}");
    Ok(())
}

#[tokio::test]
async fn each_policy_tells_its_accounts_conditions_and_times() -> Result<()> {
    let scene = Scene::start("by-policy").await?;
    scene.story().await?;
    let of = |policy: &'static str, more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
        [("namespace", "by-policy"), ("policy", policy)].iter().chain(more).copied().collect()
    };
    for (policy, state, value) in [
        ("p", "selected", 1.0),
        ("p", "ready", 1.0),
        ("p", "failing", 0.0),
        ("failing", "selected", 1.0),
        ("failing", "ready", 0.0),
        ("failing", "failing", 1.0),
    ] {
        scene.counts("policy_accounts", &of(policy, &[("state", state)]), value).await?;
    }
    for (policy, kind, value) in [("p", "Ready", 1.0), ("failing", "Ready", 0.0), ("failing", "Stalled", 1.0)] {
        scene.counts("policy_condition", &of(policy, &[("type", kind)]), value).await?;
    }
    scene.counts("policy_failing_accounts", &of("failing", &[("reason", "AccountNotFound")]), 1.0).await?;
    // A condition that is not there is not true.
    let stalled = scene.scrape().await?.value("policy_condition", &of("p", &[("type", "Stalled")]));
    assert!(stalled.is_none_or(|value| value == 0.0), "{stalled:?}");
    scene.counts("policy_granted_lifetime_seconds", &of("p", &[]), 86_400.0).await?;
    let status = scene.ready("p").await?.data["status"].clone();
    for (name, field) in [
        ("policy_earliest_expiration_timestamp_seconds", "earliestExpiration"),
        ("policy_next_rotation_timestamp_seconds", "nextRotation"),
    ] {
        scene.counts(name, &of("p", &[]), seconds(&status, field)?).await?;
        // Nothing was issued, so there is no such time.
        assert_eq!(scene.scrape().await?.value(name, &of("failing", &[])), None, "{name}");
    }
    Ok(())
}

/// A time of the status as a gauge shows it.
fn seconds(status: &Value, field: &str) -> Result<f64> {
    let time: DateTime<Utc> = status[field].as_str().with_context(|| format!("no {field}"))?.parse()?;
    Ok(f64::from(u32::try_from(time.timestamp())?))
}

#[tokio::test]
async fn tokens_are_counted_by_the_key_that_signed_them() -> Result<()> {
    let scene = Scene::start("by-key").await?;
    scene.many(3, "many").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    scene.ready("p").await?;
    let targets = scene.targets().await?;
    let keys: BTreeSet<&str> = targets.values().map(|target| target.says("key-id")).collect();
    let [key] = Vec::from_iter(keys)[..] else { anyhow::bail!("one key signs all") };
    scene.counts("tokens", &[("key_id", key)], 3.0).await?;
    scene.counts("anchors", &[], 3.0).await
}

#[tokio::test]
async fn a_token_that_cannot_be_published_is_counted_as_held() -> Result<()> {
    let scene = Scene::start("held").await?;
    let refusal = Act::fail(500, "InternalError", "no space left on device");
    let refused = scene.proxy.add(Rule::before(|call| call.is("PATCH", "/secrets/p-deployer"), refusal));
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.counts("tokens_held", &[], 1.0).await?;
    refused.remove();
    scene.ready("p").await?;
    scene.counts("tokens_held", &[], 0.0).await?;
    scene.counts("tokens_minted_total", &[], 1.0).await
}

#[tokio::test]
async fn those_that_wait_for_a_slot_are_counted() -> Result<()> {
    let options = Options { args: vec!["--concurrency=1".to_owned()], ..Options::default() };
    let scene = Scene::start_with("waiting", options).await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.many(3, "many").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    held.reached().await?;
    scene.counts("queue_length", &[("queue", "grants")], 2.0).await?;
    held.release();
    scene.ready("p").await?;
    scene.counts("queue_length", &[("queue", "grants")], 0.0).await
}

#[tokio::test]
async fn a_revocation_is_counted_under_its_reason() -> Result<()> {
    let scene = Scene::start("revoked").await?;
    let first = scene.deployer(json!({})).await?;
    scene.ages(&first).await?;
    scene.annotate("p", "tokenward.dev/revoke-reason", Some("Leaked")).await?;
    scene.annotate("p", "tokenward.dev/revoke-issued-before", Some(&Utc::now().to_rfc3339())).await?;
    scene.next_target("p-deployer", &first).await?;
    scene.gone(first.anchor()).await?;
    scene.counts("tokens_revoked_total", &[("reason", "Leaked")], 1.0).await?;
    scene.counts("tokens_published_total", &[("reason", "Revoked")], 1.0).await
}

/// What the operator knows by now.
trait Knowledge {
    /// Waits until the operator knows a token of `p` that expires otherwise than at `before`.
    async fn knows_another(&self, before: Option<f64>) -> Result<Option<f64>>;
}

impl Knowledge for Scene {
    async fn knows_another(&self, before: Option<f64>) -> Result<Option<f64>> {
        let labels = [("namespace", self.namespace.as_str()), ("policy", "p")];
        let check = async || {
            let expires = self.scrape().await?.value("policy_earliest_expiration_timestamp_seconds", &labels);
            ensure!(expires.is_some() && expires != before, "{expires:?}");
            Ok(expires)
        };
        eventually(SOON, "the watch tells of the new token", check).await
    }
}

#[tokio::test]
async fn a_planned_rotation_tells_how_late_it_was_also_when_the_watch_is_first() -> Result<()> {
    let scene = Scene::start("lateness").await?;
    let writes = |call: &Call| call.is("PATCH", "/secrets/p-deployer");
    let answer = scene.proxy.add(Rule::after(writes, Act::Hold));
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({"rotation": {"maxAge": "1m", "overlap": "1m"}}))).await?;
    answer.reached().await?;
    let expires = scene.knows_another(None).await?;
    answer.release();
    let status = scene.ready("p").await?.data["status"].clone();
    // Nothing was replaced.
    scene.counts(&format!("{LIFE_LEFT}_count"), &[], 0.0).await?;
    scene.counts(&format!("{LATENESS}_count"), &[], 0.0).await?;
    let (mint, answer) = (Rule::before(Call::is_mint, Act::Hold), Rule::after(writes, Act::Hold));
    let (mint, answer) = (scene.proxy.add(mint), scene.proxy.add(answer));
    mint.reached_times(1, 2 * SOON).await?;
    let late = seconds(&status, "nextRotation")? + 3.0;
    let passed = async || {
        ensure!(Utc::now().timestamp() > format!("{late:.0}").parse::<i64>()?, "not yet {late}");
        Ok(())
    };
    eventually(SOON, "three seconds after the due time", passed).await?;
    mint.release();
    answer.reached().await?;
    scene.knows_another(expires).await?;
    answer.release();
    scene.counts(&format!("{LATENESS}_count"), &[], 1.0).await?;
    scene.counts(&format!("{LIFE_LEFT}_count"), &[], 1.0).await?;
    let scrape = scene.scrape().await?;
    let buckets: Vec<f64> = scrape.of(&format!("{LATENESS}_bucket")).map(|bucket| bucket.value).collect();
    assert!(buckets.is_sorted() && buckets.last() == Some(&1.0), "{buckets:?}");
    let sum = scrape.value(&format!("{LATENESS}_sum"), &[]).context("no sum")?;
    // The clocks of the two agree by the second.
    assert!((2.0..20.0).contains(&sum), "{sum}");
    Ok(())
}

/// Calls at the proxy that were answered with this status.
fn answered(scene: &Scene, method: &str, status: u16) -> f64 {
    let calls = scene.proxy.calls_since(0, method, "/");
    let calls = calls.into_iter().filter(|call| call.status == Some(status) && !call.query.contains("watch=true"));
    f64::from(u32::try_from(calls.count()).unwrap_or(u32::MAX))
}

/// Calls that the operator says were answered with this status.
fn told(scrape: &Scrape, status: u16) -> f64 {
    let code = status.to_string();
    scrape.of("api_requests_total").filter(|sample| sample.label("code") == code).map(|sample| sample.value).sum()
}

#[tokio::test]
async fn calls_are_counted_by_verb_and_code() -> Result<()> {
    let scene = Scene::start("calls").await?;
    let start = Utc::now();
    let refusal = Act::fail(503, "ServiceUnavailable", "not now");
    let refused = scene.proxy.add(Rule::before(|call| call.is("PATCH", "/secrets/p-deployer"), refusal).nth(1));
    scene.story().await?;
    refused.remove();
    scene.rest().await?;
    let agree = async || {
        let scrape = scene.scrape().await?;
        for status in [201, 503] {
            let (told, seen) = (told(&scrape, status), answered(&scene, "", status));
            ensure!((told - seen).abs() < 0.5 && seen > 0.0, "{status}: {told} told, {seen} seen");
        }
        ensure!(scrape.of("api_requests_total").all(|sample| !sample.label("verb").is_empty()), "{}", scrape.text);
        let timed: f64 = scrape.of("api_request_duration_seconds_count").map(|sample| sample.value).sum();
        let counted: f64 = scrape.of("api_requests_total").map(|sample| sample.value).sum();
        ensure!((timed - counted).abs() < 0.5, "{timed} calls were timed, {counted} counted");
        Ok(())
    };
    eventually(SOON, "operator and proxy agree", agree).await?;
    let scrape = scene.scrape().await?;
    let kinds: Vec<_> = scrape.of("watch_last_event_timestamp_seconds").collect();
    // Policies, accounts, targets and anchors have all been heard of.
    assert!(kinds.len() >= 3, "{kinds:?}");
    for kind in kinds {
        let late = kind.value - f64::from(u32::try_from(start.timestamp())?);
        assert!(!kind.label("kind").is_empty() && late > -60.0 && late < 300.0, "{kind:?} {late}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_policy_loses_all_of_its_series() -> Result<()> {
    let scene = Scene::start("forgotten").await?;
    scene.story().await?;
    let series = async || Ok::<_, anyhow::Error>(scene.scrape().await?.samples);
    let of = |policy: &str, sample: &tokenward_e2e::scene::metrics::Sample| sample.label("policy") == policy;
    let kept = async || {
        let samples = series().await?;
        let names: BTreeSet<&str> =
            samples.iter().filter(|sample| of("p", sample)).map(|sample| sample.name.as_str()).collect();
        ensure!(names.len() == 5, "{names:?}");
        Ok(())
    };
    eventually(SOON, "five metrics of the policy", kept).await?;
    scene.delete_policy("p").await?;
    let gone = async || {
        let samples = series().await?;
        let left: Vec<_> = samples.iter().filter(|sample| of("p", sample)).collect();
        ensure!(left.is_empty(), "{left:?}");
        ensure!(samples.iter().any(|sample| of("failing", sample)), "the other policy is gone as well");
        Ok(())
    };
    eventually(SOON, "no series of a deleted policy", gone).await?;
    // Targets and anchors are heard of by watches of their own, in any order.
    let nothing = async || {
        let scrape = scene.scrape().await?;
        let held: f64 = ["tokens", "anchors"].iter().flat_map(|name| scrape.of(name)).map(|sample| sample.value).sum();
        ensure!(held == 0.0 && !scrape.text.contains("deployer"), "{}", scrape.text);
        Ok(())
    };
    eventually(SOON, "no token, no anchor, no account", nothing).await
}
