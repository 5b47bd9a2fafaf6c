//! Requests without the person's credentials: to the API server, to issuers and to a webhook.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use http::{Request, Uri};
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    core::{
        hygiene::{certificates::authorities, oidc::Provider, webhook::Webhook},
        verify::Learnt,
    },
    shell::{
        cluster::{Cluster, concealed},
        verify::{Discovery, learnt},
    },
};

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

/// The issuer that the document of each provider names. There is none for a provider whose CA is in a file: whoever may
/// create Pods could name any path of this machine.
pub async fn discovered(providers: &[Provider]) -> BTreeMap<String, Learnt<String>> {
    let mut asked = JoinSet::new();
    for Provider { issuer, discovery, ca, .. } in providers.iter().filter(|provider| provider.ca_file.is_none()) {
        let (issuer, discovery, ca) = (issuer.clone(), discovery.clone(), ca.clone());
        asked.spawn(async move { (issuer, learnt(in_time(document(&discovery, &ca)).await)) });
    }
    asked.join_all().await.into_iter().collect()
}

/// A server that sends byte after byte ends here, too.
async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, answer).await.context("no whole answer within 10 s")?
}

async fn document(url: &str, ca: &str) -> Result<String> {
    let url: Uri = url.parse()?;
    let path = url.path().to_owned();
    let mut config =
        patient(Config::new(Uri::builder().scheme("https").authority(host(&url)?).path_and_query("/").build()?));
    if !ca.is_empty() {
        config.root_cert = Some(authorities(ca.as_bytes()));
    }
    let request = Request::get(path).body(Vec::new())?;
    Ok(Client::try_from(config)?.request::<Discovery>(request).await?.issuer)
}

fn host(url: &Uri) -> Result<&str> {
    Ok(url.authority().with_context(|| format!("{url} names no host"))?.as_str())
}

/// The webhook of a kubeconfig that the API server reads, and whether it answers anything.
pub async fn webhook(file: &Path) -> Result<Webhook> {
    let named = || format!("reading the webhook's configuration {}", file.display());
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(concealed).with_context(named)?;
    for info in &mut kubeconfig.auth_infos {
        info.auth_info = Some(AuthInfo::default());
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(named)?;
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
