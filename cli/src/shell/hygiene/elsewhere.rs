//! Requests without the person's credentials: to the API server, to issuers and to a webhook.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::{join, join_all};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Limited};
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use tokio::time::timeout;

use crate::{
    core::{
        hygiene::{
            certificates::authorities,
            oidc::{Asked, Provider},
            webhook::Webhook,
        },
        verify::Learnt,
    },
    shell::{
        cluster::{Cluster, configured, through_proxy},
        verify::{Discovery, learnt},
    },
};

/// A discovery document has a few KiB.
const MAX_DOCUMENT: usize = 256 << 10;
/// The API server itself gives a webhook 30 s; somebody waits for the report.
const PATIENCE: Duration = Duration::from_secs(10);

/// The status of the answers to anonymous requests for these paths.
pub async fn anonymous(cluster: &Cluster, paths: &[&str]) -> Result<BTreeMap<String, u16>> {
    let client = cluster.anonymous()?;
    let mut answers = BTreeMap::new();
    for path in paths {
        let answer = client.send(Request::get(*path).body(Body::empty())?).await?;
        answers.insert((*path).to_owned(), answer.status().as_u16());
    }
    Ok(answers)
}

/// Asks all issuers and the webhook at the same time.
pub async fn asked(providers: Vec<Provider>, webhook: Option<Kubeconfig>) -> (Vec<Asked>, Option<Learnt<Webhook>>) {
    let webhook = async { Some(learnt(reached(webhook?).await)) };
    join(join_all(providers.into_iter().map(discovered)), webhook).await
}

/// What the document of a provider says. None is asked for where the CA is in a file: whoever may create Pods
/// could name any path of this machine.
async fn discovered(provider: Provider) -> Asked {
    let Provider { discovery, ca, ca_file, .. } = &provider;
    let answer = if ca_file.is_none() { Some(learnt(in_time(document(discovery, ca)).await)) } else { None };
    (provider, answer)
}

/// A server that sends byte after byte ends here, too.
async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, answer).await.context("no whole answer within 10 s")?
}

/// The issuer that a document names, or what is wrong with it.
async fn document(url: &str, ca: &str) -> Result<Learnt<String>> {
    let url: Uri = url.parse()?;
    let path = url.path().to_owned();
    let mut config =
        patient(Config::new(Uri::builder().scheme("https").authority(host(&url)?).path_and_query("/").build()?));
    if !ca.is_empty() {
        config.root_cert = Some(authorities(ca.as_bytes()));
    }
    let client = Client::try_from(through_proxy(config, None)?)?;
    Ok(learnt(issuer(client.send(Request::get(path).body(Body::empty())?).await?).await))
}

async fn issuer(answer: Response<Body>) -> Result<String> {
    ensure!(answer.status().is_success(), "it answers {}", answer.status());
    let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
    let body = body.map_err(|why| anyhow!("no whole answer of at most {} KiB: {why}", MAX_DOCUMENT >> 10))?.to_bytes();
    // The parser's own words would quote what somebody else wrote.
    Ok(serde_json::from_slice::<Discovery>(&body).map_err(|_| anyhow!("its answer names no issuer"))?.issuer)
}

fn host(url: &Uri) -> Result<&str> {
    Ok(url.authority().with_context(|| format!("{url} names no host"))?.as_str())
}

/// The webhook of a kubeconfig that the API server reads, and whether it answers anything.
async fn reached(mut kubeconfig: Kubeconfig) -> Result<Webhook> {
    for info in &mut kubeconfig.auth_infos {
        info.auth_info = Some(AuthInfo::default());
    }
    let config = configured(kubeconfig, &KubeConfigOptions::default()).await;
    let config = config.context("the file of --webhook-config leads to no service")?;
    let (server, insecure) = (config.cluster_url.to_string(), config.accept_invalid_certs);
    let request = Request::get("/").body(Body::empty())?;
    let client = Client::try_from(patient(config))?;
    let answer = in_time(async { Ok(client.send(request).await.map(drop)?) }).await;
    Ok(Webhook { server, insecure, reached: learnt(answer) })
}

fn patient(mut config: Config) -> Config {
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config
}
