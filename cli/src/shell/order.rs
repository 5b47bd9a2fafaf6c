//! `rotate` and `revoke`: read, show, ask, send, and wait.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use secrecy::SecretString;
use tokenward::api::token_policy::TokenPolicy;

use super::{
    cluster::{Cluster, MissingRight},
    output, secret,
};
use crate::{
    args::Order,
    core::{
        order::{Choice, Concerned, Plan, Policy, Step, Verb, patch, plan},
        target::Target,
        token::Claims,
    },
};

/// Between two looks at what is still to come.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn run(cluster: &Cluster, verb: Verb, args: &Order) -> Result<ExitCode> {
    let plan = read(cluster, verb, args).await?;
    let deletes = plan.steps.iter().any(|step| matches!(step, Step::DeleteAnchor { .. }));
    ensure!(
        !deletes || args.reason.is_none(),
        "one token is revoked by deleting its anchor, which keeps no reason; leave out --reason"
    );
    output::note(plan.describe().trim_end());
    if !args.yes && !confirmed()? {
        output::note("Nothing was done.");
        return Ok(ExitCode::FAILURE);
    }
    // Read before they are replaced.
    let old = if args.wait { texts(cluster, &plan).await? } else { BTreeMap::new() };
    let patch = patch(verb, cluster.now().await?, args.reason.as_deref());
    for step in &plan.steps {
        output::print(&send(cluster, step, &patch).await?)?;
    }
    if args.wait {
        wait(cluster, &plan, &old, Duration::from_secs(args.timeout.as_secs())).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(cluster: &Cluster, verb: Verb, args: &Order) -> Result<Plan> {
    let scope = cluster.scope(args.all_namespaces);
    let policies = cluster.policies(scope.as_deref(), args.selector.as_deref()).await?;
    let policies: Vec<Policy> = policies.iter().map(Policy::read).collect();
    let choice = choice(args);
    let targets = cluster.targets(scope.as_deref()).await;
    let is_blind = targets.as_ref().is_err_and(anyhow::Error::is::<MissingRight>);
    let targets = match choice {
        // Policies can be annotated by people who may not see Secrets; but then nobody knows which tokens to wait for.
        Choice::Policies(_) | Choice::All if !args.wait => output::shown("Tokens", targets)?,
        _ => targets?,
    };
    let plan = plan(verb, &choice, &policies, &targets).map_err(|error| anyhow!(error))?;
    Ok(Plan { is_blind, ..plan })
}

/// Clap takes exactly one of these.
fn choice(args: &Order) -> Choice {
    let secret = args.secret.clone().map(Choice::Secret);
    let account = args.account.clone().map(Choice::Account);
    let named = secret.or(account).or(args.token_id.clone().map(Choice::TokenId));
    let policies = || if args.policies.is_empty() { Choice::All } else { Choice::Policies(args.policies.clone()) };
    named.unwrap_or_else(policies)
}

fn confirmed() -> Result<bool> {
    ensure!(io::stdin().is_terminal(), "standard input is no terminal to ask on; add --yes");
    write!(io::stderr(), "Continue? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Sends one request, and returns a line as kubectl prints it.
async fn send(cluster: &Cluster, step: &Step, body: &serde_json::Value) -> Result<String> {
    let (how, body) = (PatchParams::default(), Patch::Merge(body));
    match step {
        Step::AnnotatePolicy { namespace, name } => {
            let api = cluster.api::<TokenPolicy>(Some(namespace));
            cluster.allowed(
                "patch",
                "tokenpolicies.tokenward.dev",
                Some(namespace),
                api.patch(name, &how, &body).await,
            )?;
            Ok(format!("tokenpolicy.tokenward.dev/{name} annotated\n"))
        }
        Step::AnnotateSecret { namespace, name } => {
            let answer = secrets(cluster, namespace).patch_metadata(name, &how, &body).await;
            cluster.allowed("patch", "secrets", Some(namespace), answer)?;
            Ok(format!("secret/{name} annotated\n"))
        }
        Step::DeleteAnchor { namespace, name, uid } => {
            let exactly = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let answer =
                secrets(cluster, namespace).delete(name, &DeleteParams::default().preconditions(exactly)).await;
            match answer {
                // The operator has not yet written down that it is gone.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    Ok(format!("secret/{name} is gone: its token was revoked already\n"))
                }
                answer => {
                    cluster.allowed("delete", "secrets", Some(namespace), answer)?;
                    Ok(format!("secret/{name} deleted\n"))
                }
            }
        }
    }
}

fn secrets(cluster: &Cluster, namespace: &str) -> Api<Secret> {
    Api::namespaced(cluster.client.clone(), namespace)
}

/// The texts of the tokens that Secrets hold now, by their ids.
async fn texts(cluster: &Cluster, plan: &Plan) -> Result<BTreeMap<String, SecretString>> {
    let mut texts = BTreeMap::new();
    for token in plan.tokens.iter().filter(|token| token.current) {
        let found = secret::tokens(cluster, &token.target.namespace, &token.target.name).await?;
        texts.extend(found.into_iter().filter_map(|text| Some((Claims::read(&text)?.id, text))));
    }
    Ok(texts)
}

async fn wait(cluster: &Cluster, plan: &Plan, old: &BTreeMap<String, SecretString>, within: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = outstanding(cluster, plan, old).await?;
        match left.first() {
            None => return output::print(&format!("{}\n", plan.done())),
            Some(first) if start.elapsed() >= within => {
                let more = left.len() - 1;
                let why =
                    format!("after {}s, {first} ({more} more); `kubectl tokenward status` shows why", within.as_secs());
                bail!(match plan.verb {
                    Verb::Revoke => format!("{why}. If no operator runs, this revokes: {}", plan.by_hand()),
                    Verb::Rotate => why,
                })
            }
            Some(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What is still to come of an order.
async fn outstanding(cluster: &Cluster, plan: &Plan, old: &BTreeMap<String, SecretString>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for token in &plan.tokens {
        if plan.verb == Verb::Revoke && token.is_bound() && lives(cluster, token, old.get(&token.id)).await? {
            left.push(format!("token {} is still accepted", token.id));
        }
        if token.replaced && !is_replaced(cluster, token).await? {
            left.push(format!("Secret {} has no working successor of token {}", token.target.name, token.id));
        }
    }
    Ok(left)
}

/// Whether the API server accepts an old token. One that no Secret holds any more is dead with the Secret it is bound to.
async fn lives(cluster: &Cluster, token: &Concerned, text: Option<&SecretString>) -> Result<bool> {
    if let Some(text) = text {
        return Ok(cluster.review(text).await?.authenticated);
    }
    let (namespace, uid) = (&token.target.namespace, token.bond.uid.to_string());
    let answer = secrets(cluster, namespace).get_metadata_opt(&token.bond.name).await;
    let bound = cluster.allowed("get", "secrets", Some(namespace), answer)?;
    Ok(bound.is_some_and(|bound| bound.metadata.uid == Some(uid)))
}

/// Whether the Secret holds another token, which works.
async fn is_replaced(cluster: &Cluster, token: &Concerned) -> Result<bool> {
    let Target { namespace, name, .. } = &token.target;
    let found = match secret::find(cluster, namespace, name).await? {
        Some(secret) => secret::tokens_of(&secret),
        // With binding Target it is deleted, and written anew.
        None => return Ok(false),
    };
    let fresh = found.iter().find(|text| Claims::read(text).is_some_and(|claims| claims.id != token.id));
    match fresh {
        Some(text) => Ok(cluster.review(text).await?.authenticated),
        None => Ok(false),
    }
}
