//! `GROWTH=1000,4000,12000`: the same work at several sizes and in three shapes, each on a control plane of its own. A
//! cost per account that is level has a slope of 1.

use crate::figures::{megabytes, row};
use crate::watched::{Watched, object};
use crate::{ACCOUNT, Bench, Endpoint, NAMESPACE, PARALLEL, start, token};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt, iter};
use futures::{future::try_join_all, try_join};
use kube::api::{ApiResource, DynamicObject, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokenward_e2e::operator::install;
use tokenward_e2e::{ControlPlane, Profile, target_dir};

/// Most namespaces that the accounts are spread over.
const NAMESPACES: usize = 100;

#[derive(Clone, Copy)]
enum Shape {
    OnePolicy,
    PolicyPerAccount,
    Namespaces,
}

/// A policy: its namespace and name, and whom it selects.
struct Policy {
    namespace: String,
    name: String,
    accounts: Value,
}

/// Everything that is measured of one size.
struct Measures {
    size: usize,
    issue: Phase,
    rotation: Phase,
    /// From the last token to the last status that tells of it.
    statuses: Duration,
    empty: u64,
    resident: u64,
    peak: u64,
    ready: Duration,
    lists: Duration,
    restarted: u64,
}

/// What one round of work took: time, the operator's CPU and its calls.
struct Phase {
    took: Duration,
    cpu: Duration,
    calls: usize,
}

/// `sizes` as in `1000,4000,12000`.
pub async fn run(sizes: &str) -> Result<()> {
    let sizes = sizes.split(',').map(|size| size.trim().parse().with_context(|| format!("GROWTH={sizes}")));
    let sizes: Vec<usize> = sizes.collect::<Result<_>>()?;
    for (title, shape) in [
        ("one policy for all accounts", Shape::OnePolicy),
        ("one policy per account", Shape::PolicyPerAccount),
        ("one policy in each of 100 namespaces", Shape::Namespaces),
    ] {
        let mut measures = Vec::new();
        for size in &sizes {
            measures.push(measure(shape, *size).await.with_context(|| format!("{title}, {size} accounts"))?);
        }
        print(title, &measures);
    }
    Ok(())
}

fn print(title: &str, all: &[Measures]) {
    let line = |name: &str, value: fn(&Measures) -> f64, digits: usize| {
        let values: Vec<f64> = all.iter().map(value).collect();
        println!("{}", row(name, &values, digits));
    };
    let sizes = all.iter().map(|measures| format!("{:>10}", measures.size)).collect::<Vec<_>>().concat();
    println!("\n{title:<46}{sizes}     slope");
    line("  first issues per second", |m| count(m.size) / m.issue.took.as_secs_f64(), 0);
    line("  operator CPU per 1,000 first issues, s", |m| per_thousand(m.size, m.issue.cpu), 2);
    line("  calls per first issue", |m| count(m.issue.calls) / count(m.size), 2);
    line("  all statuses true after the last token, s", |m| m.statuses.as_secs_f64(), 2);
    line("  rotations per second", |m| count(m.size) / m.rotation.took.as_secs_f64(), 0);
    line("  operator CPU per 1,000 rotations, s", |m| per_thousand(m.size, m.rotation.cpu), 2);
    line("  calls per rotation", |m| count(m.rotation.calls) / count(m.size), 2);
    line("  resident, MB", |m| mega(m.resident), 1);
    line("  resident above an empty process, B per account", |m| each(m.resident, m), 0);
    line("  resident at most, MB", |m| mega(m.peak), 1);
    line("  resident after a restart, B per account", |m| each(m.restarted, m), 0);
    line("  ready after a restart, ms", |m| m.ready.as_secs_f64() * 1e3, 0);
    line("  the bare lists of the same objects, ms", |m| m.lists.as_secs_f64() * 1e3, 0);
}

#[expect(clippy::cast_precision_loss, reason = "thousands, and megabytes")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn per_thousand(size: usize, time: Duration) -> f64 {
    time.as_secs_f64() * 1e3 / count(size)
}

fn each(bytes: u64, measures: &Measures) -> f64 {
    mega(bytes.saturating_sub(measures.empty)) * 1e6 / count(measures.size)
}

async fn measure(shape: Shape, size: usize) -> Result<Measures> {
    let plane = ControlPlane::start(Profile::default(), target_dir().join("bench-growth")).await?;
    install(&plane).await?;
    let token = token(&plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    let operator = start(&plane, &token).await?;
    operator.ready().await?;
    let endpoint = Endpoint::new(&plane, &token)?;
    let connections = (0..PARALLEL).map(|_| endpoint.connect()).collect();
    let bench = Bench { plane: &plane, operator: &operator, connections };
    let empty = operator.rss_kib()? * 1024;
    let policies = bench.crowd(shape, size).await?;
    let (issue, statuses) = bench.first_issues(&policies, size).await?;
    let rotation = bench.rotations(&policies, size).await?;
    let (resident, peak) = (operator.rss_kib()? * 1024, operator.peak_rss_kib()? * 1024);
    let (_, lists) = bench.lists().await?;
    operator.restart()?;
    let ready = operator.ready().await?;
    let restarted = operator.rss_kib()? * 1024;
    eprintln!("{size} accounts: {} resident", megabytes(resident));
    operator.terminate().await?;
    plane.stop().await?;
    Ok(Measures { size, issue, rotation, statuses, empty, resident, peak, ready, lists, restarted })
}

impl Bench<'_> {
    /// Accounts, and the policies that select them, which do not exist yet.
    async fn crowd(&self, shape: Shape, size: usize) -> Result<Vec<Policy>> {
        let spread = if matches!(shape, Shape::Namespaces) { NAMESPACES.min(size) } else { 1 };
        let mut policies = Vec::new();
        for number in 0..spread {
            let namespace = format!("crowd-{number:03}");
            let share = size / spread + usize::from(number < size % spread);
            let accounts = self.populate(&namespace, share).await?;
            if matches!(shape, Shape::PolicyPerAccount) {
                policies.extend(accounts.into_iter().map(|(name, _)| {
                    let (namespace, accounts) = (namespace.clone(), json!({"names": [name]}));
                    Policy { namespace, name: format!("of-{name}"), accounts }
                }));
            } else {
                let accounts = json!({"selector": {"matchLabels": {"bench": "true"}}});
                policies.push(Policy { namespace, name: "policy".into(), accounts });
            }
        }
        Ok(policies)
    }

    /// From before the first policy exists to the last token, and from there to the last true status.
    async fn first_issues(&self, policies: &[Policy], size: usize) -> Result<(Phase, Duration)> {
        let mut targets = Watched::start(self.plane, &secrets(), targets()).await?;
        let mut statuses = Watched::start(self.plane, &token_policies(), WatchParams::default()).await?;
        let selected = |event: &WatchEvent<DynamicObject>| {
            let status = &object(event)?.data["status"];
            let ready = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")?;
            let counts = &status["accounts"];
            (ready["status"] == "True" && counts["ready"] == counts["selected"]).then(|| counts["selected"].as_u64())?
        };
        let expected = u64::try_from(size / policies.len())?.max(1);
        let tells = |event: &WatchEvent<DynamicObject>| selected(event).is_some_and(|count| count >= expected);
        let client = self.plane.client().await?;
        let (meter, start) = (self.meter().await?, Instant::now());
        let create = async |policy: &Policy| {
            let path = format!("/apis/tokenward.dev/v1alpha1/namespaces/{}/tokenpolicies", policy.namespace);
            let body = json!({
                "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": policy.name},
                // So that a rotation deletes the old anchor at once and all of its calls are measured.
                "spec": {"serviceAccounts": policy.accounts, "rotation": {"overlap": "0s"}},
            });
            send(&client, hyper::Request::post(path), &body).await
        };
        let created = iter(policies.iter().map(create)).buffer_unordered(PARALLEL).try_collect::<Vec<()>>();
        let last_token = targets.until(size, holds_a_token);
        let (_, last_token, told) = try_join!(created, last_token, statuses.until(policies.len(), tells))?;
        let phase = self.phase(&meter, last_token - start).await?;
        Ok((phase, told.saturating_duration_since(last_token)))
    }

    /// From before the first annotation to the death of the last old token.
    async fn rotations(&self, policies: &[Policy], size: usize) -> Result<Phase> {
        let mut targets = Watched::start(self.plane, &secrets(), targets()).await?;
        let anchors = WatchParams::default().fields("type=tokenward.dev/anchor");
        let mut anchors = Watched::start(self.plane, &secrets(), anchors).await?;
        let client = self.plane.client().await?;
        let (meter, start) = (self.meter().await?, Instant::now());
        let rotate = async |Policy { namespace, name, .. }: &Policy| {
            let path = format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies/{name}");
            let request = hyper::Request::patch(path).header("content-type", "application/merge-patch+json");
            send(&client, request, &json!({"metadata": {"annotations": {"tokenward.dev/rotate": "bench"}}})).await
        };
        let asked = iter(policies.iter().map(rotate)).buffer_unordered(PARALLEL).try_collect::<Vec<()>>();
        let dead = anchors.until(size, |event| matches!(event, WatchEvent::Deleted(_)));
        let (_, published, dead) = try_join!(asked, targets.until(size, holds_a_token), dead)?;
        self.phase(&meter, published.max(dead) - start).await
    }

    /// CPU and calls of the operator so far. The scrape itself is no part of what follows.
    async fn meter(&self) -> Result<(Duration, usize)> {
        let calls = self.count("api_requests").await?;
        Ok((self.operator.cpu()?, calls))
    }

    async fn phase(&self, (cpu, calls): &(Duration, usize), took: Duration) -> Result<Phase> {
        let cpu = self.operator.cpu()?.saturating_sub(*cpu);
        Ok(Phase { took, cpu, calls: self.count("api_requests").await? - calls })
    }

    /// The lists that a start cannot do without, and how long they took side by side.
    pub async fn lists(&self) -> Result<(Vec<Bytes>, Duration)> {
        let start = Instant::now();
        let list = async |(path, connection)| self.list(path, connection).await;
        let bodies = try_join_all(crate::LISTS.into_iter().zip(&self.connections).map(list)).await?;
        Ok((bodies, start.elapsed()))
    }
}

async fn send(client: &kube::Client, request: hyper::http::request::Builder, body: &Value) -> Result<()> {
    client.request_text(request.body(serde_json::to_vec(body)?)?).await?;
    Ok(())
}

fn secrets() -> ApiResource {
    ApiResource::erase::<k8s_openapi::api::core::v1::Secret>(&())
}

fn token_policies() -> ApiResource {
    ApiResource {
        group: "tokenward.dev".into(),
        version: "v1alpha1".into(),
        api_version: "tokenward.dev/v1alpha1".into(),
        kind: "TokenPolicy".into(),
        plural: "tokenpolicies".into(),
    }
}

fn targets() -> WatchParams {
    WatchParams::default().labels("tokenward.dev/role=target")
}

fn holds_a_token(event: &WatchEvent<DynamicObject>) -> bool {
    let annotations = object(event).and_then(|object| object.metadata.annotations.as_ref());
    annotations.is_some_and(|annotations| annotations.contains_key("tokenward.dev/token-id"))
}
