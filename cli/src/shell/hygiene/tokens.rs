//! TokenRequests as dry runs. The API server signs a token even then: each one dies in the function that asked for it.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use secrecy::SecretString;
use serde::Deserialize;

use crate::{
    core::{
        hygiene::bound::{EXTENDABLE, LONGEST},
        token::Claims,
    },
    shell::cluster::{Cluster, post},
};

/// Nobody accepts a token for this audience.
const NOBODY: &str = "tokenward.dev/hygiene";
/// The account that each namespace has.
const ACCOUNT: &str = "default";

/// A `TokenRequest` that was answered. That of `k8s_openapi` has the token in an ordinary text.
#[derive(Deserialize)]
struct Answer {
    spec: Granted,
    status: Issued,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    expiration_seconds: i64,
}

#[derive(Deserialize)]
struct Issued {
    token: SecretString,
}

/// How long a token may live, in seconds.
pub async fn granted(cluster: &Cluster) -> Result<i64> {
    let spec = TokenRequestSpec {
        audiences: vec![NOBODY.to_owned()],
        expiration_seconds: Some(LONGEST),
        ..TokenRequestSpec::default()
    };
    Ok(request(cluster, ACCOUNT, spec).await?.spec.expiration_seconds)
}

/// How long a token lives that a pod asks for as the kubelet does, in seconds.
pub async fn of_pod(cluster: &Cluster) -> Result<i64> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Of the account for which the manual gives the right.
    let list = ListParams::default().fields(&format!("spec.serviceAccountName={ACCOUNT}")).limit(1);
    let pods = cluster.allowed("list", "pods", Some(&cluster.namespace), api.list(&list).await)?.items;
    let missing = || {
        format!(
            "extended expiry: namespace {} has no Pod of ServiceAccount {ACCOUNT} to ask for; choose another --namespace",
            cluster.namespace
        )
    };
    let pod = pods.into_iter().next().with_context(missing)?;
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name,
        uid: pod.metadata.uid,
    };
    let spec =
        TokenRequestSpec { audiences: Vec::new(), expiration_seconds: Some(EXTENDABLE), bound_object_ref: Some(bound) };
    let Issued { token } = request(cluster, ACCOUNT, spec).await?.status;
    let claims = Claims::read(&token).context("the answer holds no token")?;
    let (start, end) = claims.issued_at.zip(claims.expires_at).context("the token names no lifetime")?;
    Ok((end - start).num_seconds())
}

async fn request(cluster: &Cluster, account: &str, spec: TokenRequestSpec) -> Result<Answer> {
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token?dryRun=All", cluster.namespace);
    let body = serde_json::to_value(TokenRequest { spec, ..TokenRequest::default() })?;
    let answer = cluster.client.request(post(&path, &body)?).await;
    cluster.allowed("create", "serviceaccounts/token", Some(&cluster.namespace), answer)
}
