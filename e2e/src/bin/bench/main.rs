//! What `make bench` runs: the operator beside a bare loop of the same calls on the same API server. It prints and
//! asserts nothing: times depend on the machine, only ratios tell something.

mod bare;
mod bootstrap;
mod connection;
mod figures;
mod growth;
mod seed;
mod watched;

use anyhow::{Context, Result};
use bare::Bare;
use bytes::Bytes;
use connection::{Call, Connection, Endpoint, METADATA_LIST};
use figures::{Race, megabytes};
use futures::stream::{StreamExt, TryStreamExt, iter};
use futures::try_join;
use hyper::Method;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, PostParams};
use secrecy::SecretString;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, install, program, token};
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, poll::eventually_every, target_dir};

/// Grants at a time: the operator's default, and the bare loop's connections.
const PARALLEL: usize = 32;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The lists that a start cannot do without.
const LISTS: [&str; 4] = [
    "/apis/tokenward.dev/v1alpha1/tokenpolicies",
    "/api/v1/serviceaccounts",
    "/api/v1/secrets?labelSelector=tokenward.dev%2Frole%3Dtarget",
    "/api/v1/secrets?fieldSelector=type%3Dtokenward.dev%2Fanchor",
];

/// `ONLY` names one of the parts; those that take long run only where their sizes are given.
async fn run() -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only == part;
    if wanted("grants") {
        grants().await?;
    }
    if wanted("bootstrap") {
        bootstrap::run().await?;
    }
    if let Some(sizes) = std::env::var("GROWTH").ok().filter(|_| wanted("growth")) {
        growth::run(&sizes).await?;
    }
    match setting("SEED", 0)? {
        many if many > 0 && wanted("seed") => seed::run(many).await,
        _ => Ok(()),
    }
}

async fn grants() -> Result<()> {
    let (accounts, rounds) = (setting("N", 500)?, setting("ROUNDS", 3)?);
    let plane = ControlPlane::start(Profile::default(), target_dir().join("bench")).await?;
    install(&plane).await?;
    let token = token(&plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    head(&plane, accounts, rounds).await?;
    let operator = start(&plane, &token).await?;
    operator.ready().await?;
    size(&operator)?;
    let endpoint = Endpoint::new(&plane, &token)?;
    let connections = (0..PARALLEL).map(|_| endpoint.connect()).collect();
    let bench = Bench { plane: &plane, operator: &operator, connections };
    bench.races(accounts, rounds).await?;
    bench.restart(accounts * rounds + PARALLEL).await?;
    operator.terminate().await?;
    plane.stop().await
}

fn setting(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: write a number")),
        Err(_) => Ok(default),
    }
}

async fn head(plane: &ControlPlane, accounts: usize, rounds: usize) -> Result<()> {
    let version = plane.client().await?.apiserver_version().await?.git_version;
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    println!(
        "kube-apiserver {version}, etcd without fsync, everything on one machine with {cores} cores (load {load})"
    );
    println!("{rounds} rounds of {accounts} accounts, {PARALLEL} at a time, both with the operator's own account");
    Ok(())
}

async fn start(plane: &ControlPlane, token: &SecretString) -> Result<Operator> {
    // As in config/manager.
    let env = vec![("MALLOC_ARENA_MAX".to_owned(), "1".to_owned())];
    let options = Options { dir: plane.dir().join("operator"), token: Some(token.clone()), env, ..Options::default() };
    Operator::start(plane, options).await
}

/// How big the program is, on disk and with nothing to do.
fn size(operator: &Operator) -> Result<()> {
    let bytes = program()?.metadata()?.len();
    println!("\nrelease binary                    {:>10}   goal: at most 12 MB", megabytes(bytes));
    let resident = megabytes(operator.rss_kib()? * 1024);
    println!("resident, empty, after /readyz    {resident:>10}   goal: at most 15 MB");
    Ok(())
}

struct Bench<'a> {
    plane: &'a ControlPlane,
    operator: &'a Operator,
    /// Of the bare loop; kept as the operator keeps its own.
    connections: Vec<Connection>,
}

impl Bench<'_> {
    /// Operator and bare loop in turns, each time in fresh namespaces.
    async fn races(&self, accounts: usize, rounds: usize) -> Result<()> {
        // Connections, caches and code paths of both are warm when it counts.
        self.round("warm", PARALLEL, &mut Race::default(), &mut Race::default()).await?;
        let (mut issue, mut rotation) = (Race::default(), Race::default());
        let mut memory = Vec::new();
        for round in 1..=rounds {
            self.round(&format!("r{round}"), accounts, &mut issue, &mut rotation).await?;
            memory.push((round * accounts + PARALLEL, self.operator.rss_kib()? * 1024));
        }
        issue.print("first issues per second, 4 calls");
        rotation.print("rotations per second, 4 calls");
        println!("\nresident memory of the operator");
        for (grants, bytes) in memory {
            println!("  with {grants:>6} grants               {:>8}", megabytes(bytes));
        }
        println!("  at most so far                  {:>8}", megabytes(self.operator.peak_rss_kib()? * 1024));
        Ok(())
    }

    async fn round(&self, name: &str, accounts: usize, issue: &mut Race, rotation: &mut Race) -> Result<()> {
        let (ours, theirs) = (format!("{name}-operator"), format!("{name}-bare"));
        self.populate(&ours, accounts).await?;
        let mut bare = self.bare(&theirs, accounts).await?;
        let operator_issue = self.issue(&ours, accounts).await?;
        let bare_issue = bare.round(&self.connections).await?;
        let operator_rotation = self.rotate(&ours, accounts).await?;
        let bare_rotation = bare.round(&self.connections).await?;
        issue.add(accounts, operator_issue, bare_issue);
        rotation.add(accounts, operator_rotation, bare_rotation);
        Ok(())
    }

    /// A namespace with so many accounts; their names and UIDs.
    async fn populate(&self, namespace: &str, accounts: usize) -> Result<Vec<(String, String)>> {
        self.plane.create_namespace(namespace).await?;
        let api: Api<ServiceAccount> = Api::namespaced(self.plane.client().await?, namespace);
        let create = async |number: usize| {
            let name = format!("account-{number:05}");
            let account = json!({"metadata": {"name": name, "labels": {"bench": "true"}}});
            let account = api.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
            Ok::<_, anyhow::Error>((name, account.metadata.uid.unwrap_or_default()))
        };
        iter((0..accounts).map(create)).buffer_unordered(PARALLEL).try_collect().await
    }

    async fn bare(&self, namespace: &str, accounts: usize) -> Result<Bare> {
        let accounts = self.populate(namespace, accounts).await?;
        let maps: Api<ConfigMap> = Api::namespaced(self.plane.client().await?, namespace);
        let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}}))?;
        let owner = maps.create(&PostParams::default(), &owner).await?.metadata.uid.unwrap_or_default();
        let site = (self.plane.url(), self.plane.ca_pem());
        Ok(Bare::new(namespace, &owner, site, &accounts))
    }

    /// The operator issues for all accounts of the namespace: from before the policy exists to the last publication.
    async fn issue(&self, namespace: &str, accounts: usize) -> Result<Duration> {
        let policy = json!({
            "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
            "metadata": {"name": "policy", "namespace": namespace},
            "spec": {
                "serviceAccounts": {"selector": {"matchLabels": {"bench": "true"}}},
                // So that a rotation deletes the old anchor at once and all of its calls are measured.
                "rotation": {"overlap": "0s"},
            },
        });
        let published = self.count("tokens_published").await? + accounts;
        let client = self.plane.client().await?;
        let path = format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies");
        let request = hyper::Request::post(path).body(serde_json::to_vec(&policy)?)?;
        let start = Instant::now();
        client.request_text(request).await?;
        self.reached("tokens_published", published).await?;
        Ok(start.elapsed())
    }

    /// The operator rotates them all: from before the annotation to the death of the last old token.
    async fn rotate(&self, namespace: &str, accounts: usize) -> Result<Duration> {
        let published = self.count("tokens_published").await? + accounts;
        let retired = self.count("tokens_retired").await? + accounts;
        let client = self.plane.client().await?;
        let policy = format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies/policy");
        let patch = json!({"metadata": {"annotations": {"tokenward.dev/rotate": "bench"}}});
        let request = hyper::Request::patch(policy).header("content-type", "application/merge-patch+json");
        let request = request.body(serde_json::to_vec(&patch)?)?;
        let start = Instant::now();
        client.request_text(request).await?;
        try_join!(self.reached("tokens_published", published), self.reached("tokens_retired", retired))?;
        Ok(start.elapsed())
    }

    /// A counter of the operator, over all reasons.
    async fn count(&self, name: &str) -> Result<usize> {
        let start = format!("tokenward_{name}_total");
        let text = self.operator.metrics().await?;
        let values = text.lines().filter(|line| line.starts_with(&start)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| Ok(value.parse::<usize>()?)).sum()
    }

    async fn reached(&self, name: &str, wanted: usize) -> Result<()> {
        let check = async || {
            let count = self.count(name).await?;
            anyhow::ensure!(count >= wanted, "{count} of {wanted}");
            Ok(())
        };
        eventually_every(Duration::from_millis(20), Duration::from_mins(10), name, check).await
    }

    /// A list's answer.
    async fn list(&self, path: &str, connection: &Connection) -> Result<Bytes> {
        let (_, body) = connection.call(Call { method: Method::GET, path, accept: METADATA_LIST, body: None }).await?;
        Ok(body)
    }

    /// A restart beside the lists that it cannot do without.
    async fn restart(&self, grants: usize) -> Result<()> {
        println!("\nrestart with {grants} grants");
        for _ in 0..3 {
            let (lists, took) = self.lists().await?;
            let bytes = lists.iter().map(Bytes::len).sum::<usize>();
            self.operator.restart()?;
            let ready = self.operator.ready().await?;
            println!(
                "  /readyz after {:>5} ms; the bare lists of the same objects, {}: {:>5} ms",
                ready.as_millis(),
                megabytes(bytes.try_into()?),
                took.as_millis()
            );
        }
        println!("  resident after it                {:>8}", megabytes(self.operator.rss_kib()? * 1024));
        Ok(())
    }
}
