//! Bootstrap tokens that all expire in the same second: how long until the last of them is gone, beside the in-tree
//! token cleaner.

use crate::setting;
use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::stream::{StreamExt, TryStreamExt, iter};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokenward_e2e::operator::install;
use tokenward_e2e::poll::eventually_every;
use tokenward_e2e::{Act, Call, ControlPlane, Operator, Options, Profile, Proxy, Rule, target_dir};

const CREATORS: usize = 32;
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What kube-controller-manager has without flags; the control plane of the tests gives it more.
const DEFAULTS: [&str; 2] = ["--kube-api-qps=20", "--kube-api-burst=30"];
/// Longest wait: 10,000 deletes at upstream's 20 a second.
const PATIENCE: Duration = Duration::from_mins(15);

/// Prints all of it. `TOKENS` (10,000) is how many expire at once.
pub async fn run() -> Result<()> {
    let (many, few) = (setting("TOKENS", 10_000)?, setting("TOKENS", 10_000)? / 10);
    println!("\nbootstrap tokens that expire in the same second       seconds until all are gone");
    let ours = operator(many, false).await?;
    line("operator", many, ours);
    line("operator, 30 % of the deletes answered 500", many, operator(many, true).await?);
    line("kube-controller-manager, its defaults", few, upstream("defaults", &DEFAULTS, few).await?);
    let lifted = upstream("lifted", &["--kube-api-qps=10000", "--kube-api-burst=10000"], many).await?;
    line("kube-controller-manager, client limits lifted", many, lifted);
    println!("  operator to the latter            {:>6.2}   goal: at most 30 s, and never slower", ours / lifted);
    Ok(())
}

fn line(who: &str, tokens: usize, seconds: f64) {
    println!("  {who:<46}{tokens:>7}{seconds:>8.1} s");
}

async fn operator(tokens: usize, failing: bool) -> Result<f64> {
    let plane = plane("operator", &[]).await?;
    install(&plane).await?;
    let proxy = Proxy::start(&plane)?;
    let via = failing.then_some(&proxy);
    let options = Options { dir: plane.dir().join("operator"), via, ..Options::default() };
    let operator = Operator::start(&plane, options).await?;
    operator.ready().await?;
    let calls = AtomicU64::new(0);
    let unlucky = move |call: &Call| call.method == "DELETE" && calls.fetch_add(1, Ordering::Relaxed) % 10 < 3;
    let _rule = proxy.add(Rule::before(unlucky, Act::fail(500, "InternalError", "thirty of a hundred")));
    let took = race(&plane, tokens).await?;
    operator.terminate().await?;
    plane.stop().await?;
    Ok(took)
}

async fn upstream(name: &str, limits: &[&str], tokens: usize) -> Result<f64> {
    let plane = plane(name, &[&["--controllers=token-cleaner-controller"], limits].concat()).await?;
    let took = race(&plane, tokens).await?;
    plane.stop().await?;
    Ok(took)
}

async fn plane(name: &str, controller_manager: &[&str]) -> Result<ControlPlane> {
    let args = controller_manager.iter().map(|&arg| arg.to_owned()).collect();
    let profile = Profile { controller_manager: args, ..Profile::default() };
    ControlPlane::start(profile, target_dir().join("bench-bootstrap").join(name)).await
}

/// Creates the tokens, and returns the seconds from their end to the death of the last.
async fn race(plane: &ControlPlane, tokens: usize) -> Result<f64> {
    let secrets: Api<Secret> = Api::namespaced(plane.client().await?, "kube-system");
    // Three milliseconds each, measured with room: all must be there before the first ends.
    let room = TimeDelta::seconds(10 + i64::try_from(tokens)? / 300);
    let end = DateTime::from_timestamp((Utc::now() + room).timestamp(), 0).context("no such time")?;
    create(&secrets, tokens, end).await?;
    ensure!(Utc::now() < end, "creating took too long for a fair start");
    let all = ListParams::default().fields(&format!("type={TYPE}")).limit(1);
    tokio::time::sleep((end - Utc::now()).to_std()?).await;
    let none_left = async || {
        let left = secrets.list_metadata(&all).await?;
        ensure!(left.items.is_empty(), "{} left and more", left.items.len());
        Ok(Utc::now() - end)
    };
    let took = eventually_every(Duration::from_millis(100), PATIENCE, "all tokens are gone", none_left).await?;
    Ok(took.as_seconds_f64())
}

async fn create(secrets: &Api<Secret>, tokens: usize, end: DateTime<Utc>) -> Result<()> {
    let end = end.to_rfc3339_opts(SecondsFormat::Secs, true);
    let create = |n: usize| {
        let end = &end;
        async move {
            let id = format!("{n:06}");
            let data = json!({"token-id": id, "token-secret": "0123456789abcdef", "expiration": end});
            let secret = json!({
                "metadata": {"name": format!("bootstrap-token-{id}")}, "type": TYPE, "stringData": data,
            });
            secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
            anyhow::Ok(())
        }
    };
    iter((0..tokens).map(create)).buffer_unordered(CREATORS).try_collect().await
}
