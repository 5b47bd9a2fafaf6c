//! `verify`.

use std::{fs::File, io, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use secrecy::SecretString;
use serde::Deserialize;
use tokenward::record::{Time, names::is_object_name};

use super::{
    cluster::{Cluster, MissingRight},
    file::capped,
    output, secret,
};
use crate::{
    args::{ClusterArgs, Verify},
    core::{
        token::{Claims, tokens},
        verify::{Evidence, Learnt, Origin, Report, may_be_sent, origin, report},
    },
};

/// As `kubectl diff` has an exit code of its own for a difference, so this has one for a token that is not good.
const NOT_GOOD: u8 = 3;

pub async fn run(args: &ClusterArgs, verify: &Verify) -> Result<ExitCode> {
    let cluster = Cluster::connect(args).await;
    let found = read(cluster.as_ref(), &verify.source).await?;
    ensure!(!found.is_empty(), "{} holds no ServiceAccount token; name another Secret or file", verify.source);
    let (cluster, now) = reached(cluster).await;
    let mut reports = Vec::new();
    for token in &found {
        let claims = Claims::read(token).unwrap_or_default();
        let evidence = match &cluster {
            Ok(cluster) => gather(cluster, token, &claims, now).await,
            Err(why) => Evidence::none(why),
        };
        reports.push(report(token, &claims, &evidence, verify.audience.as_deref(), now));
    }
    let paint = output::paint();
    let text = || reports.iter().map(|report| report.draw(paint)).collect::<Vec<_>>().join("\n");
    output::show(verify.output, &reports, text)?;
    Ok(if reports.iter().all(Report::is_good) { ExitCode::SUCCESS } else { NOT_GOOD.into() })
}

/// The tokens of standard input, of a file, or of a Secret, whose name has no slash.
async fn read(cluster: Result<&Cluster, &anyhow::Error>, source: &str) -> Result<Vec<SecretString>> {
    let how = "pipe a token in, as others can read a command line: … | kubectl tokenward verify -";
    ensure!(tokens(source).is_empty(), "the argument is a token, not the name of a Secret or file; {how}");
    match source {
        "-" => Ok(tokens(&capped(io::stdin(), "standard input")?)),
        path if path.contains('/') => {
            Ok(tokens(&capped(File::open(path).with_context(|| format!("reading {path}"))?, path)?))
        }
        name => {
            let legal = is_object_name(name);
            ensure!(legal, "the argument is no name of a Secret; a file is named with a slash, as ./token; {how}");
            let cluster = cluster.map_err(|error| anyhow!("{error:#}; a file is named with a slash, as ./{name}"))?;
            secret::tokens(cluster, &cluster.namespace, name).await
        }
    }
}

/// The cluster, if it answers, with its time; else why not.
pub async fn reached(cluster: Result<Cluster>) -> (Learnt<Cluster>, Time) {
    match cluster {
        Ok(cluster) => match cluster.now().await {
            Ok(now) => (Ok(cluster), now),
            Err(error) if error.is::<MissingRight>() => (Ok(cluster), Utc::now()),
            Err(error) => (Err(format!("{error:#}")), Utc::now()),
        },
        Err(error) => (Err(format!("{error:#}")), Utc::now()),
    }
}

/// Asks everything that can be asked; no answer holds up another.
async fn gather(cluster: &Cluster, token: &SecretString, claims: &Claims, now: Time) -> Evidence {
    let keys = learnt(cluster.get("/openid/v1/jwks").await);
    let issuer =
        learnt(cluster.get::<Discovery>("/.well-known/openid-configuration").await).map(|answer| answer.issuer);
    let sendable = may_be_sent(token, claims, &keys);
    // The objects of this cluster say nothing about the token of another one.
    if let (Ok(_), Err(why)) = (&keys, &sendable) {
        return Evidence { keys, issuer, ..Evidence::none(why) };
    }
    let namespace = Some(claims.namespace.as_str());
    let bound = match &claims.bound {
        Some(("Pod", pod)) => cluster.uid::<Pod>("pods", namespace, &pod.name).await,
        Some(("Node", node)) => cluster.uid::<Node>("nodes", None, &node.name).await,
        Some((_, secret)) => cluster.uid::<Secret>("secrets", namespace, &secret.name).await,
        None => Ok(None),
    };
    let account = cluster.uid::<ServiceAccount>("serviceaccounts", namespace, &claims.account.name).await;
    Evidence {
        issuer,
        review: match &sendable {
            Ok(()) => learnt(cluster.review(token).await),
            Err(why) => Err(why.clone()),
        },
        rights: match sendable {
            Ok(()) => learnt(cluster.rights(token, &claims.namespace).await),
            Err(why) => Err(why),
        },
        account: learnt(account),
        bound: learnt(bound),
        origin: learnt(known(cluster, claims, now).await),
        keys,
    }
}

/// The part of the discovery document that is read.
#[derive(Deserialize)]
pub struct Discovery {
    pub issuer: String,
}

async fn known(cluster: &Cluster, claims: &Claims, now: Time) -> Result<Option<Origin>> {
    let targets = cluster.targets(Some(&claims.namespace)).await?;
    let policies = cluster.policies(Some(&claims.namespace), None).await?;
    Ok(origin(&claims.id, &targets, &policies, now))
}

pub fn learnt<T>(answer: Result<T>) -> Learnt<T> {
    answer.map_err(|error| format!("{error:#}"))
}
