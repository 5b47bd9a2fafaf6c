//! `status`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::Utc;

use super::{cluster::Cluster, output};
use crate::{
    args::{Output, Status},
    core::status::{Seen, draw, views},
};

pub async fn run(cluster: &Cluster, args: &Status) -> Result<ExitCode> {
    let scope = cluster.scope(args.all_namespaces);
    let mut policies = cluster.policies(scope.as_deref(), args.selector.as_deref()).await?;
    if let Some(name) = &args.policy {
        policies.retain(|policy| policy.metadata.name.as_ref() == Some(name));
    }
    let place = scope.as_ref().map_or_else(|| "any namespace".to_owned(), |scope| format!("namespace {scope}"));
    match (&args.policy, policies.is_empty()) {
        (Some(name), true) => {
            bail!("there is no TokenPolicy {name} in {place}; `kubectl get tokenpolicies -A` lists all")
        }
        (None, true) => output::note(format!("No TokenPolicies found in {place}.")),
        _ => {}
    }
    let targets = output::shown("Secrets", cluster.targets(scope.as_deref()).await)?;
    let events = output::shown("events", cluster.events(scope.as_deref()).await)?;
    let now = Utc::now();
    let views = views(Seen { policies, targets, events }, now);
    let wide = args.output == Some(Output::Wide);
    output::show(args.output.and_then(Output::format), &views, || draw(&views, now, output::paint(), wide))?;
    Ok(ExitCode::SUCCESS)
}
