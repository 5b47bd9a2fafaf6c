//! `migrate`: reads, and prints a policy with the steps. It changes nothing.

use std::{collections::BTreeMap, fmt::Debug, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource,
    api::ListParams,
    core::{DynamicObject, NamespaceResourceScope, PartialObjectMeta},
};
use serde::de::DeserializeOwned;
use tokenward::record::{AccountReferences, PodReferences};

use super::{
    cluster::{Cluster, MissingRight, Right},
    output, secret,
};
use crate::{
    args::{ClusterArgs, Migrate},
    core::{
        migrate::{Move, NEEDS, Old, Place, flags, referrers},
        target::Target,
        verify::Learnt,
    },
};

pub async fn run(of: &ClusterArgs, args: &Migrate) -> Result<ExitCode> {
    let cluster = &Cluster::connect(of).await?;
    let secret = secret::get(cluster, &cluster.namespace, &args.secret).await?;
    let old = Old::read(&secret).map_err(|error| anyhow!(error))?;
    let Place { namespace, name } = &old.place;
    let pods = list::<PodReferences>(cluster, "pods", namespace).await?;
    let accounts = list::<AccountReferences>(cluster, "serviceaccounts", namespace).await?;
    let plan = Move {
        name: args.name.clone().unwrap_or_else(|| name.clone()),
        labels: labels(cluster, &old.source).await?,
        missing: missing(cluster, &old.source.namespace).await?,
        referrers: [pods.map(|pods| referrers(&pods, name)), accounts.map(|accounts| referrers(&accounts, name))],
        flags: flags([
            ("context", of.context.as_deref()),
            ("kubeconfig", of.kubeconfig.as_ref().and_then(|path| path.to_str())),
            ("as", of.user.as_deref()),
        ]),
        old,
    };
    is_free(cluster, &plan).await?;
    output::print(&format!("{}{}", plan.comments(), serde_saphyr::to_string(&plan.policy())?))?;
    Ok(ExitCode::SUCCESS)
}

/// Objects of a namespace, or the right that the person lacks.
async fn list<K>(cluster: &Cluster, resource: &'static str, namespace: &str) -> Result<Learnt<Vec<K>>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.client.clone(), namespace);
    match cluster.allowed("list", resource, Some(namespace), api.list(&ListParams::default()).await) {
        Err(error) if error.is::<MissingRight>() => Ok(Err(error.to_string())),
        answer => Ok(Ok(answer?.items)),
    }
}

/// Labels of the Secret of the token itself.
async fn labels(cluster: &Cluster, Place { namespace, name }: &Place) -> Result<BTreeMap<String, String>> {
    let api = cluster.api::<Secret>(Some(namespace));
    let found = match cluster.allowed("get", "secrets", Some(namespace), api.get_metadata_opt(name).await) {
        // The steps name the right.
        Err(error) if error.is::<MissingRight>() => return Ok(BTreeMap::new()),
        answer => answer?,
    };
    let gone = || {
        format!(
            "Secret {namespace}/{name}, where the token comes from, is gone, and the token is dead; write a TokenPolicy"
        )
    };
    Ok(found.with_context(gone)?.metadata.labels.unwrap_or_default())
}

async fn missing(cluster: &Cluster, namespace: &str) -> Result<Vec<(u8, String)>> {
    let mut missing = Vec::new();
    for (step, verb, resource) in NEEDS {
        let right = Right { verb, resource, namespace: Some(namespace.to_owned()) };
        if !cluster.may(&right).await? {
            missing.push((step, right.to_string()));
        }
    }
    Ok(missing)
}

/// Nobody else has a policy or Secret of these names.
async fn is_free(cluster: &Cluster, plan: &Move) -> Result<()> {
    let (name, namespace) = (&plan.name, &plan.old.source.namespace);
    let policies = output::shown("TokenPolicies", cluster.policies(Some(namespace), None).await)?;
    let taken = policies.iter().any(|policy| policy.metadata.name.as_ref() == Some(name) && !plan.is_of(&policy.data));
    ensure!(!taken, "there is another TokenPolicy {namespace}/{name}; choose a name with --name");
    let (secret, api) = (plan.successor(), cluster.api::<Secret>(Some(namespace)));
    let found = cluster.allowed("get", "secrets", Some(namespace), api.get_metadata_opt(&secret).await);
    let found = output::shown("Secrets", found.map(|found| found.into_iter().collect()))?;
    let is_own = |found: &PartialObjectMeta<DynamicObject>| {
        Target::read(&found.metadata).is_some_and(|target| *target.record.policy == **name)
    };
    ensure!(
        found.iter().all(is_own),
        "there is another Secret {namespace}/{secret}, where the new token would be; choose a name with --name, which \
         names the policy, and with -bound its Secret"
    );
    Ok(())
}
