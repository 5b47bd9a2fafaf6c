//! Somebody who sends a request exactly as it is written: a user of any name, or the holder of a token.

use super::SOON;
use crate::{ControlPlane, eventually, kubeconfig};
use anyhow::{Context, Result, bail, ensure};
use hyper::http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::fmt;

/// A caller of the API server.
pub struct Caller(kube::Client);

/// What the API server answered.
#[derive(Clone)]
pub struct Answer {
    pub code: u16,
    /// Of a refusal.
    pub message: String,
    /// Of a success.
    pub body: Value,
}

impl fmt::Debug for Answer {
    /// Without the body, which may hold a token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.code, self.message)
    }
}

/// What should come of a request.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    Accepted,
    /// 403, with these words.
    Refused(&'a str),
    /// 422 with these words: how the API server itself refuses.
    Unprocessable(&'a str),
}

impl Caller {
    /// The administrator that every control plane has.
    pub async fn admin(plane: &ControlPlane) -> Result<Self> {
        Ok(Self(plane.client().await?))
    }

    /// A user of this name, who may do what RBAC gives to that name.
    pub async fn user(plane: &ControlPlane, name: &str) -> Result<Self> {
        let admin = Kubeconfig::read_from(plane.kubeconfig())?;
        let mut config = kube::Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = Some(name.to_owned());
        Ok(Self(kube::Client::try_from(config)?))
    }

    /// Whoever has this token.
    pub async fn token(plane: &ControlPlane, token: &str) -> Result<Self> {
        let text = kubeconfig::with_token(&plane.url(), plane.ca_pem(), token);
        let config =
            kube::Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&text)?, &KubeConfigOptions::default()).await?;
        Ok(Self(kube::Client::try_from(config)?))
    }

    /// Sends a request. The verbs are those of HTTP, and the four kinds of PATCH: `MERGE`, `JSON`, `STRATEGIC`, `APPLY`.
    pub async fn send(&self, verb: &str, path: &str, body: &Value) -> Result<Answer> {
        let (method, content) = match verb {
            "GET" | "POST" | "PUT" | "DELETE" => (verb, "application/json"),
            "MERGE" => ("PATCH", "application/merge-patch+json"),
            "JSON" => ("PATCH", "application/json-patch+json"),
            "STRATEGIC" => ("PATCH", "application/strategic-merge-patch+json"),
            "APPLY" => ("PATCH", "application/apply-patch+yaml"),
            _ => bail!("no verb {verb}"),
        };
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder().method(method).uri(path).header("content-type", content).body(body)?;
        match self.0.request::<Value>(request).await {
            Ok(body) => Ok(Answer { code: 200, message: String::new(), body }),
            Err(kube::Error::Api(status)) => {
                Ok(Answer { code: status.code, message: status.message.clone(), body: Value::Null })
            }
            Err(error) => Err(error).with_context(|| format!("{verb} {path}")),
        }
    }

    /// Sends a request until it is answered as wanted: roles, limits and policies take effect a moment after they are
    /// written. For requests that may be repeated.
    pub async fn gets(&self, verb: &str, path: &str, body: &Value, wanted: Wanted<'_>) -> Result<()> {
        let check = async || wanted.check(&self.send(verb, path, body).await?);
        eventually(SOON, &format!("{wanted:?}: {verb} {path} {body}"), check).await
    }
}

impl Wanted<'_> {
    /// That this is the answer.
    pub fn check(self, answer: &Answer) -> Result<()> {
        match self {
            Self::Accepted => ensure!(answer.code < 300, "{answer:?}"),
            Self::Refused(words) => ensure!(answer.code == 403 && answer.message.contains(words), "{answer:?}"),
            Self::Unprocessable(words) => ensure!(answer.code == 422 && answer.message.contains(words), "{answer:?}"),
        }
        Ok(())
    }
}

/// The path of the policies of a namespace, or of one of them.
pub fn policy_path(namespace: &str, name: &str) -> String {
    let path = format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies/{name}");
    path.trim_end_matches('/').to_owned()
}

/// The path of the Secrets of a namespace, or of one of them.
pub fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}").trim_end_matches('/').to_owned()
}

/// The path of an account's tokens.
pub fn token_path(namespace: &str, account: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token")
}

/// A policy as it is sent.
pub fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": name}, "spec": spec})
}

/// Waits until each policy of `config/admission` judges: they take effect a moment after they were applied.
pub async fn in_force(plane: &ControlPlane, operator: &str) -> Result<()> {
    let asked = policy("in-force", &json!({"serviceAccounts": {"names": ["default"]}}));
    let create = format!("{}?dryRun=All", policy_path("kube-system", ""));
    Caller::admin(plane).await?.gets("POST", &create, &asked, Wanted::Refused("is reserved")).await?;
    let operator = Caller::user(plane, operator).await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "in-force"}});
    let create = format!("{}?dryRun=All", secret_path("default", ""));
    operator.gets("POST", &create, &secret, Wanted::Refused("is not one of Tokenward")).await?;
    let unbound = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let refused = Wanted::Refused("unbound tokens are not allowed");
    operator.gets("POST", &token_path("default", "default"), &unbound, refused).await?;
    // One that only the other policy refuses: which of two refusals is told is chance.
    let mut by_name = unbound;
    by_name["spec"]["boundObjectRef"] = json!({"kind": "Secret", "apiVersion": "v1", "name": "in-force"});
    let refused = Wanted::Refused("by name and UID");
    operator.gets("POST", &token_path("default", "default"), &by_name, refused).await
}

/// Makes a user an administrator of the cluster.
pub fn administrator(user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

/// Gives a user these rights in a namespace: a `Role` and a `RoleBinding` with the user's name.
pub async fn grant(plane: &ControlPlane, namespace: &str, user: &str, rules: &Value) -> Result<()> {
    let metadata = json!({"name": user, "namespace": namespace});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    plane.apply(&format!("{role}\n---\n{binding}")).await?;
    Ok(())
}
