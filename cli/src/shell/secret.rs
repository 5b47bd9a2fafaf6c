//! Reading Secrets with their data.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::SecretString;
use tokenward::record::names::is_object_name;

use super::cluster::Cluster;
use crate::core::token;

pub async fn find(cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<Secret>> {
    let legal = is_object_name(name);
    ensure!(legal, "the argument is no name of a Secret: lower-case letters, digits, '-' and '.' are; correct it");
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    cluster.allowed("get", "secrets", Some(namespace), api.get_opt(name).await)
}

pub async fn get(cluster: &Cluster, namespace: &str, name: &str) -> Result<Secret> {
    let missing = || format!("there is no Secret {name} in namespace {namespace}; choose another --namespace");
    find(cluster, namespace, name).await?.with_context(missing)
}

/// The tokens in a Secret, each once.
pub async fn tokens(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<SecretString>> {
    Ok(tokens_of(&get(cluster, namespace, name).await?))
}

pub fn tokens_of(secret: &Secret) -> Vec<SecretString> {
    let texts = secret.data.iter().flatten().filter_map(|(_, value)| std::str::from_utf8(&value.0).ok());
    token::tokens(&texts.collect::<Vec<_>>().join("\n"))
}
