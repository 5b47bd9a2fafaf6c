//! Executes one decision. The only file that mints tokens and writes Secrets.

use http::Method;
use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::PartialObjectMeta;
use rand::Rng as _;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{APPLY, Api, Call, CallError, JSON, JSON_PATCH, MERGE_PATCH, METADATA, METADATA_LIST, parse},
    watch,
};
use crate::core::{
    claims,
    facts::{Account, Site, version},
    failure::{Failure, Reason},
    grant::{GrantKey, Minted},
    index::{Found, Job, Outcome, Step},
    keys,
    plan::{Act, Look, Retirement},
    render::read_back,
};

type Meta = PartialObjectMeta<ServiceAccount>;

/// Executes a job's calls, one after the other, and reports what they have shown.
pub async fn perform(api: &Api, site: &Site, job: Job) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for retirement in job.decision.retire {
        let result = retire(api, &job.grant, &retirement).await;
        outcomes.push(Outcome::Retired(retirement, result));
    }
    let worker = Worker { api, site, grant: &job.grant };
    outcomes.extend(worker.act(job.decision.act).await);
    outcomes
}

/// A Secret that is gone, or another one by now, is as good as deleted.
async fn retire(api: &Api, grant: &GrantKey, retirement: &Retirement) -> Result<(), Failure> {
    let body = json!({"preconditions": {"uid": retirement.uid}}).to_string().into();
    match delete(api, grant, &retirement.secret, &body).await {
        Err(error) if !matches!(error.code, Some(404 | 409)) => Err(error.failure),
        _ => Ok(()),
    }
}

async fn delete(api: &Api, grant: &GrantKey, name: &str, body: &SecretString) -> Result<SecretString, Box<CallError>> {
    let what = format!("delete Secret {}/{name}", grant.namespace);
    let path = secret_path(grant, name);
    api.call(Call { what: &what, method: &Method::DELETE, path: &path, accept: METADATA, content: JSON, body }).await
}

fn secret_path(grant: &GrantKey, name: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets/{name}", grant.namespace)
}

struct Worker<'a> {
    api: &'a Api,
    site: &'a Site,
    grant: &'a GrantKey,
}

impl Worker<'_> {
    async fn act(&self, act: Act) -> Option<Outcome> {
        let (step, result) = match act {
            Act::Idle(_) => return None,
            Act::Look(look) => (Step::Harmless, self.look(look).await),
            Act::CreateAnchor { body, .. } => {
                (Step::Harmless, self.create_anchor(body).await.map(Outcome::AnchorCreated))
            }
            Act::CreateTarget { name, body, .. } => {
                (Step::Write, self.apply(&name, &body).await.map(Outcome::TargetCreated))
            }
            Act::Mint { body, .. } => (Step::Mint, self.mint(&body).await.map(Outcome::Minted)),
            Act::Publish { name, why, body } => {
                (Step::Write, self.apply(&name, &body).await.map(|meta| Outcome::Published(why, meta)))
            }
            Act::ReadBack { name, why } => {
                let read = self.read_back(&name).await;
                (Step::Write, read.map(|read| Outcome::ReadBack(why, read.meta, read.token)))
            }
            Act::Patch { name, body, why } => {
                (Step::Write, self.patch(&name, &body).await.map(|meta| Outcome::Patched(why, meta)))
            }
            Act::Remove { name, uid, resource_version } => {
                (Step::Write, self.remove(name, &uid, &resource_version).await)
            }
        };
        Some(result.unwrap_or_else(|error| Outcome::Failed(step, error.failure)))
    }

    async fn send(
        &self,
        what: &str,
        method: Method,
        path: &str,
        content: &'static str,
        body: &SecretString,
    ) -> Result<ObjectMeta, Box<CallError>> {
        let answer = self.api.call(Call { what, method: &method, path, accept: METADATA, content, body }).await?;
        Ok(parse::<Meta>(what, &answer)?.metadata)
    }

    async fn create_anchor(&self, mut body: Value) -> Result<ObjectMeta, Box<CallError>> {
        let name = format!("{}{}", keys::ANCHOR_PREFIX, random_suffix());
        body["metadata"]["name"] = name.as_str().into();
        let what = format!("create Secret {}/{name} (anchor)", self.grant.namespace);
        let path = format!("/api/v1/namespaces/{}/secrets?fieldManager={}", self.grant.namespace, keys::MANAGER);
        self.send(&what, Method::POST, &path, JSON, &body.to_string().into()).await
    }

    async fn mint(&self, body: &Value) -> Result<Minted, Box<CallError>> {
        let GrantKey { namespace, account, .. } = self.grant;
        let what = format!("request a token for ServiceAccount {namespace}/{account}");
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = body.to_string().into();
        let call = Call { what: &what, method: &Method::POST, path: &path, accept: JSON, content: JSON, body: &body };
        let answer = parse::<TokenAnswer>(&what, &self.api.call(call).await?);
        let secret = answer.map_err(|_| rejected(&what, "the answer holds no token"))?.status.token;
        let claims = claims::read(&secret).map_err(|error| rejected(&what, &error.to_string()))?;
        Ok(Minted { secret, claims })
    }

    async fn apply(&self, name: &str, body: &SecretString) -> Result<ObjectMeta, Box<CallError>> {
        let what = format!("apply Secret {}/{name}", self.grant.namespace);
        let path = format!("{}?fieldManager={}&force=true", secret_path(self.grant, name), keys::MANAGER);
        self.send(&what, Method::PATCH, &path, APPLY, body).await
    }

    async fn patch(&self, name: &str, body: &Value) -> Result<ObjectMeta, Box<CallError>> {
        let what = format!("patch the metadata of Secret {}/{name}", self.grant.namespace);
        let path = format!("{}?fieldManager={}", secret_path(self.grant, name), keys::MANAGER);
        let content = if body.is_array() { JSON_PATCH } else { MERGE_PATCH };
        self.send(&what, Method::PATCH, &path, content, &body.to_string().into()).await
    }

    async fn read_back(&self, name: &str) -> Result<read_back::ReadBack, Box<CallError>> {
        let what = format!("read Secret {}/{name} to mend it", self.grant.namespace);
        let path = secret_path(self.grant, name);
        let call = Call {
            what: &what,
            method: &Method::GET,
            path: &path,
            accept: JSON,
            content: JSON,
            body: &SecretString::default(),
        };
        let answer = self.api.call(call).await?;
        read_back::read(&answer).map_err(|error| rejected(&what, error))
    }

    async fn remove(&self, name: String, uid: &str, resource_version: &str) -> Result<Outcome, Box<CallError>> {
        let preconditions = json!({"preconditions": {"uid": uid, "resourceVersion": resource_version}});
        match delete(self.api, self.grant, &name, &preconditions.to_string().into()).await {
            Err(error) if error.code != Some(404) => Err(error),
            _ => Ok(Outcome::Removed(name)),
        }
    }

    async fn look(&self, look: Look) -> Result<Outcome, Box<CallError>> {
        let GrantKey { namespace, policy, account } = self.grant;
        let found = match &look {
            Look::Target(name) => {
                self.look_at(&secret_path(self.grant, name), name, "Secret").await?.map_or(Found::Absent, Found::Secret)
            }
            Look::Anchor(name) => self.look_at_anchor(name).await?,
            Look::Policy => self.look_at_policy(namespace, policy).await?,
            Look::Account => {
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}");
                let meta = self.look_at(&path, account, "ServiceAccount").await?;
                meta.map_or(Found::Absent, |meta| Found::Account(version(&meta), Account::read(&meta)))
            }
        };
        Ok(Outcome::Looked(look, found))
    }

    async fn get(&self, what: &str, path: &str, accept: &'static str) -> Result<SecretString, Box<CallError>> {
        self.api
            .call(Call { what, method: &Method::GET, path, accept, content: JSON, body: &SecretString::default() })
            .await
    }

    async fn look_at(&self, path: &str, name: &str, kind: &str) -> Result<Option<ObjectMeta>, Box<CallError>> {
        let what = format!("get {kind} {}/{name}", self.grant.namespace);
        match self.get(&what, path, METADATA).await {
            Ok(answer) => Ok(Some(parse::<Meta>(&what, &answer)?.metadata)),
            Err(error) if is_absent(&error, name) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Metadata does not tell the type, so the server is asked for an anchor of this name: a Secret that merely
    /// has such a name is not one.
    async fn look_at_anchor(&self, name: &str) -> Result<Found, Box<CallError>> {
        let what = format!("get anchor {}/{name}", self.grant.namespace);
        let path = format!(
            "/api/v1/namespaces/{}/secrets?fieldSelector=metadata.name%3D{name}%2Ctype%3D{}",
            self.grant.namespace,
            keys::ANCHOR_TYPE
        );
        let list: MetaList = parse(&what, &self.get(&what, &path, METADATA_LIST).await?)?;
        let mut items = list.items.into_iter().flatten();
        let named = items.find(|item| item.metadata.name.as_deref() == Some(name));
        Ok(named.map_or(Found::Absent, |item| Found::Secret(item.metadata)))
    }

    async fn look_at_policy(&self, namespace: &str, name: &str) -> Result<Found, Box<CallError>> {
        let what = format!("get TokenPolicy {namespace}/{name}");
        let path = format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies/{name}");
        match self.get(&what, &path, JSON).await {
            Ok(answer) => {
                let policy: watch::GuardedPolicy = parse(&what, &answer)?;
                let (version, state) = watch::policy(policy, self.site);
                Ok(Found::Policy(version, state))
            }
            Err(error) if is_absent(&error, name) => Ok(Found::Absent),
            Err(error) => Err(error),
        }
    }
}

/// A 404 that names the object. The 404 of an API that is not served names nothing and proves nothing.
fn is_absent(error: &CallError, name: &str) -> bool {
    error.code == Some(404) && error.object.as_ref().is_some_and(|(_, named)| named == name)
}

#[expect(clippy::unnecessary_box_returns, reason = "errors travel boxed")]
fn rejected(what: &str, error: &str) -> Box<CallError> {
    Box::new(CallError {
        code: None,
        object: None,
        failure: Failure::new(Reason::TokenRejected, &format!("{what}: {error}")),
    })
}

#[derive(Deserialize)]
struct TokenAnswer {
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: SecretString,
}

/// An empty metadata list has `items: null`.
#[derive(Deserialize)]
struct MetaList {
    items: Option<Vec<Meta>>,
}

/// Ten characters of base 36: names must not collide in a namespace, nothing more.
pub(super) fn random_suffix() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    (0..10).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())])).collect()
}
