//! `SEED=100000`: what so many grants need in memory, and how long a start with them takes. The operator issues one token;
//! its Secrets, written again under other names, are those of all other accounts.

use crate::connection::{Call, Connection, JSON};
use crate::figures::megabytes;
use crate::{ACCOUNT, Bench, Endpoint, NAMESPACE, PARALLEL, start, token};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt, iter};
use hyper::Method;
use kube::{api::ObjectList, core::PartialObjectMeta};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokenward_e2e::operator::install;
use tokenward_e2e::poll::eventually_every;
use tokenward_e2e::{ControlPlane, Operator, Profile, target_dir};

const CROWD: &str = "seed";
const FIRST: &str = "account-00000";
const APPLY: &str = "application/apply-patch+yaml";

pub async fn run(many: usize) -> Result<()> {
    let etcd = vec!["--quota-backend-bytes=8589934592".to_owned()];
    let profile = Profile { etcd, ..Profile::default() };
    let plane = ControlPlane::start(profile, target_dir().join("bench-seed")).await?;
    install(&plane).await?;
    let token = token(&plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    let operator = start(&plane, &token).await?;
    operator.ready().await?;
    let empty = operator.rss_kib()? * 1024;
    let endpoint = Endpoint::new(&plane, &token)?;
    let connections = (0..PARALLEL).map(|_| endpoint.connect()).collect();
    let bench = Bench { plane: &plane, operator: &operator, connections };
    bench.populate(CROWD, 1).await?;
    bench.issue(CROWD, 1).await?;
    let template = Template::read(&bench).await?;
    operator.kill9()?;
    let admin = Endpoint::new(&plane, &administrator(&plane).await?)?;
    let admins: Vec<Connection> = (0..PARALLEL).map(|_| admin.connect()).collect();
    let write = async |number: usize| template.write(&admins[number % PARALLEL], number).await;
    iter((1..many).map(write)).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    let (lists, took) = bench.lists().await?;
    let (bytes, start) = (lists.iter().map(Bytes::len).sum::<usize>(), Instant::now());
    for list in lists {
        serde_json::from_slice::<ObjectList<PartialObjectMeta>>(&list)?;
    }
    let parsed = start.elapsed();
    operator.restart()?;
    let (ready, cpu) = (operator.ready().await?, operator.cpu()?);
    println!("\n{many} seeded grants, of {} in lists", megabytes(bytes.try_into()?));
    println!("  ready after a start, and its CPU time     {:>7} ms{:>10} ms", ready.as_millis(), cpu.as_millis());
    println!("  the bare lists, and kube's parsing alone  {:>7} ms{:>10} ms", took.as_millis(), parsed.as_millis());
    figures("after the start", &operator, empty, many)?;
    let minted = bench.count("tokens_minted").await?;
    ensure!(minted == 0, "{minted} tokens were issued: the seed is not what the operator writes");
    relist(&plane, &operator).await?;
    figures("after the API server's restart", &operator, empty, many)?;
    operator.terminate().await?;
    plane.stop().await
}

fn figures(when: &str, operator: &Operator, empty: u64, many: usize) -> Result<()> {
    let (resident, peak) = (operator.rss_kib()? * 1024, operator.peak_rss_kib()? * 1024);
    let each = resident.saturating_sub(empty) / u64::try_from(many)?;
    let (resident, peak) = (megabytes(resident), megabytes(peak));
    println!("  resident {when:<33}{resident:>10}{each:>8} B each, at most {peak}");
    Ok(())
}

/// The API server forgets its watches when it starts anew, and everything is listed again.
async fn relist(plane: &ControlPlane, operator: &Operator) -> Result<()> {
    plane.apiserver_stop().await?;
    plane.apiserver_start().await?;
    let works = async || {
        let text = operator.metrics().await?;
        let failing = text.lines().any(|line| line.starts_with("tokenward_watch_failing{") && line.ends_with(" 1"));
        ensure!(!failing, "a watch fails");
        Ok(())
    };
    eventually_every(Duration::from_millis(500), Duration::from_mins(3), "all is listed again", works).await
}

/// A token of somebody who may do everything; nobody else writes Secrets of the anchors' type.
async fn administrator(plane: &ControlPlane) -> Result<secrecy::SecretString> {
    plane.kubectl_ok(["create", "serviceaccount", "seeder", "--namespace=default"]).await?;
    let role = ["create", "clusterrolebinding", "seeder", "--clusterrole=cluster-admin"];
    plane.kubectl_ok(role.into_iter().chain(["--serviceaccount=default:seeder"])).await?;
    token(plane, "default", "seeder", Duration::from_hours(24)).await
}

/// The objects of the first grant.
struct Template {
    target: Value,
    anchor: Value,
    account_uid: String,
}

impl Template {
    async fn read(bench: &Bench<'_>) -> Result<Self> {
        let client = bench.plane.client().await?;
        let read = async |path: String| {
            let text = client.request_text(hyper::Request::get(path).body(Vec::new())?).await?;
            Ok::<Value, anyhow::Error>(serde_json::from_str(&text)?)
        };
        let core = format!("/api/v1/namespaces/{CROWD}");
        let target = stripped(read(format!("{core}/secrets/policy-{FIRST}")).await?);
        let anchor = target["metadata"]["annotations"]["tokenward.dev/anchor"].as_str().context("no anchor")?;
        let anchor = stripped(read(format!("{core}/secrets/{anchor}")).await?);
        let account = read(format!("{core}/serviceaccounts/{FIRST}")).await?;
        let account_uid = account["metadata"]["uid"].as_str().context("no UID")?.to_owned();
        Ok(Self { target, anchor, account_uid })
    }

    /// Account, anchor and target of this number.
    async fn write(&self, connection: &Connection, number: usize) -> Result<()> {
        let (core, name) = (format!("/api/v1/namespaces/{CROWD}"), format!("account-{number:05}"));
        let account = json!({"metadata": {"name": name, "labels": {"bench": "true"}}});
        let account = create(connection, &format!("{core}/serviceaccounts"), &account).await?;
        let renamed = |object: &Value| {
            let text = object.to_string().replace(FIRST, &name).replace(&self.account_uid, &account);
            serde_json::from_str::<Value>(&text)
        };
        let anchor_name = format!("tw-{number:010}");
        let mut anchor = renamed(&self.anchor)?;
        anchor["metadata"]["name"] = anchor_name.as_str().into();
        let anchor_uid = create(connection, &format!("{core}/secrets?fieldManager=tokenward"), &anchor).await?;
        let mut target = renamed(&self.target)?;
        let annotations = &mut target["metadata"]["annotations"];
        annotations["tokenward.dev/anchor"] = anchor_name.into();
        annotations["tokenward.dev/anchor-uid"] = anchor_uid.into();
        let path = format!("{core}/secrets/policy-{name}?fieldManager=tokenward&force=true");
        let call = Call { method: Method::PATCH, path: &path, accept: JSON, body: Some((APPLY, &target)) };
        connection.json(call).await?;
        Ok(())
    }
}

/// As it is sent, without what the API server adds.
fn stripped(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
    }
    object
}

/// Creates an object, and returns its UID.
async fn create(connection: &Connection, path: &str, body: &Value) -> Result<String> {
    let call = Call { method: Method::POST, path, accept: JSON, body: Some((JSON, body)) };
    let created = connection.json(call).await?;
    Ok(created["metadata"]["uid"].as_str().context("an answer without a UID")?.to_owned())
}
