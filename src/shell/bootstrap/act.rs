//! Executes one job: a delete, a cap, or a pass of the signer.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    core::{
        bootstrap::{
            Act, Cap, NAMESPACE, SECRET_TYPE, Why,
            index::Outcome,
            signer::{self, Pass, Plan, SigningToken},
            token::{BootstrapSecret, Token},
        },
        facts::{text, version},
        keys,
        table::Key,
    },
    shell::api::{Api, Call, CallError, JSON, MERGE_PATCH, METADATA, parse},
};

/// Tokens per page: a Secret is far smaller than a hundredth of what an answer may hold.
const PAGE: usize = 500;

/// Deletes or caps one token as it was seen; a token that has changed since is read again.
pub async fn perform(api: &Api, key: &Key, token: &Token, act: Act) -> Outcome {
    let done = match act {
        Act::Delete(why) => delete(api, key, token, why).await,
        Act::Cap(cap) => self::cap(api, key, token, cap).await,
        Act::Keep | Act::Tell(_) => Ok(Outcome::Gone),
    };
    match done {
        Ok(outcome) => outcome,
        Err(error) if error.code == Some(404) => Outcome::Gone,
        Err(error) if error.code == Some(409) => match look(api, key).await {
            Ok(found) => Outcome::Changed(found),
            Err(error) => Outcome::Failed(error.failure),
        },
        Err(error) => Outcome::Failed(error.failure),
    }
}

fn path(key: &Key) -> String {
    format!("/api/v1/namespaces/{}/secrets/{}", key.namespace, key.name)
}

/// The UID saves another Secret of this name, the resourceVersion one that was extended a moment ago.
async fn delete(api: &Api, key: &Key, token: &Token, why: Why) -> Result<Outcome, Box<CallError>> {
    let what = format!("delete bootstrap token Secret {key}");
    let preconditions = json!({"uid": token.uid, "resourceVersion": token.resource_version});
    let body = json!({ "preconditions": preconditions }).to_string().into();
    let path = path(key);
    let call = Call { what: &what, method: &Method::DELETE, path: &path, accept: METADATA, content: JSON, body: &body };
    api.call(call).await.map(|_| Outcome::Deleted(why))
}

async fn cap(api: &Api, key: &Key, token: &Token, cap: Cap) -> Result<Outcome, Box<CallError>> {
    let what = format!("patch the expiration of bootstrap token Secret {key}");
    let body = json!({
        "metadata": {"uid": token.uid, "resourceVersion": token.resource_version},
        "data": {"expiration": STANDARD.encode(text(cap.until))},
    });
    let path = format!("{}?fieldManager={}", path(key), keys::MANAGER);
    let body = body.to_string().into();
    let call =
        Call { what: &what, method: &Method::PATCH, path: &path, accept: METADATA, content: MERGE_PATCH, body: &body };
    let meta = parse::<PartialObjectMeta<Secret>>(&what, &api.call(call).await?)?.metadata;
    Ok(Outcome::Capped(cap, meta.resource_version.unwrap_or_default().into()))
}

/// A list of one: the Role has no `get`, as a name could be that of any Secret.
async fn look(api: &Api, key: &Key) -> Result<Option<(u64, Token)>, Box<CallError>> {
    let what = format!("list bootstrap token Secret {key}");
    let query = format!("fieldSelector=type%3D{SECRET_TYPE}%2Cmetadata.name%3D{}", key.name);
    let found: List<BootstrapSecret> = list(api, &what, &query).await?;
    Ok(found.items.into_iter().next().map(|secret| (version(&secret.metadata), Token::read(secret))))
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMeta,
    items: Vec<T>,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    more: String,
}

async fn list<T: DeserializeOwned>(api: &Api, what: &str, query: &str) -> Result<List<T>, Box<CallError>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets?{query}");
    parse(what, &get(api, what, &path).await?)
}

async fn get(api: &Api, what: &str, path: &str) -> Result<SecretString, Box<CallError>> {
    let body = SecretString::default();
    api.call(Call { what, method: &Method::GET, path, accept: JSON, content: JSON, body: &body }).await
}

/// Reads the ConfigMap and the tokens, and writes the signatures that differ if `write` says so. The secrets are held
/// for the length of this pass.
pub async fn sign(api: &Api, write: bool) -> Pass {
    match try_sign(api, write).await {
        Ok(pass) => pass,
        Err(error) if error.code == Some(409) => Pass::Conflict,
        Err(error) if error.code == Some(404) => Pass::Unchanged(Plan::default()),
        Err(error) => Pass::Failed(error.failure),
    }
}

async fn try_sign(api: &Api, write: bool) -> Result<Pass, Box<CallError>> {
    let path = format!("/api/v1/namespaces/{}/configmaps/{}", signer::NAMESPACE, signer::NAME);
    let what = format!("get ConfigMap {}/{}", signer::NAMESPACE, signer::NAME);
    let config_map: ConfigMap = parse(&what, &get(api, &what, &path).await?)?;
    let plan = signer::plan(api.clock().now(), &config_map, &signing_tokens(api).await?);
    if plan.changes.is_empty() {
        return Ok(Pass::Unchanged(plan));
    }
    if !write {
        return Ok(Pass::Contested(plan));
    }
    let what = format!("patch the signatures of ConfigMap {}/{}", signer::NAMESPACE, signer::NAME);
    let version = config_map.metadata.resource_version;
    let body = json!({"metadata": {"resourceVersion": version}, "data": plan.changes}).to_string().into();
    let path = format!("{path}?fieldManager={}", keys::MANAGER);
    let call =
        Call { what: &what, method: &Method::PATCH, path: &path, accept: METADATA, content: MERGE_PATCH, body: &body };
    api.call(call).await.map(|_| Pass::Written(plan))
}

/// Every bootstrap token, page by page.
async fn signing_tokens(api: &Api) -> Result<Vec<SigningToken>, Box<CallError>> {
    let what = format!("list bootstrap token Secrets in {NAMESPACE}");
    let (mut tokens, mut more) = (Vec::new(), String::new());
    loop {
        let query = format!("fieldSelector=type%3D{SECRET_TYPE}&limit={PAGE}&continue={more}");
        let page: List<SigningToken> = list(api, &what, &query).await?;
        tokens.extend(page.items);
        more = page.metadata.more;
        if more.is_empty() {
            return Ok(tokens);
        }
    }
}
