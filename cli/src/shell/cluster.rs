//! Calls to the API server, with the rights that the person has.

use std::{env, fmt};

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::DateTime;
use http::{
    HeaderValue, Request,
    header::{CONTENT_TYPE, DATE, USER_AGENT},
};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client, Config, Error, Resource,
    api::{ApiResource, DynamicObject, ListParams},
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokenward::{
    api::token_policy::TokenPolicy,
    record::{Time, names},
};

use super::file;
use crate::{
    args::ClusterArgs,
    core::{
        proxy::proxy,
        target::Target,
        token::Claims,
        verify::{Review, Rights},
    },
};

/// The kinds that are in namespaces, of those that are asked for: a right in all of them is one with `-A`.
const NAMESPACED: [&str; 8] =
    ["configmaps", "events.", "pods", "rolebindings.", "roles.", "secrets", "serviceaccounts", "tokenpolicies."];

/// What a call needs: a verb on a resource in a namespace, or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub resource: &'static str,
    pub namespace: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resource.split_once('/') {
            // Behind a slash, kubectl expects the name of an object.
            Some((resource, part)) if !resource.is_empty() => {
                write!(f, "{} {resource} --subresource={part}", self.verb)?;
            }
            _ => write!(f, "{} {}", self.verb, self.resource)?,
        }
        match &self.namespace {
            Some(namespace) => write!(f, " -n {namespace}"),
            None if NAMESPACED.iter().any(|kind| self.resource.starts_with(kind)) => write!(f, " -A"),
            None => Ok(()),
        }
    }
}

/// The person lacks a right.
#[derive(Debug, thiserror::Error)]
#[error("you lack a right: `kubectl auth can-i {0}` says no; ask an administrator for it")]
pub struct MissingRight(pub Right);

/// An API server, and the namespace that is meant.
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    config: Config,
}

impl Cluster {
    /// The cluster that kubectl would talk to with these flags.
    pub async fn connect(args: &ClusterArgs) -> Result<Self> {
        let mut config = config(args).await.context("reading the kubeconfig; check --kubeconfig and --context")?;
        if args.user.is_some() {
            config.auth_info.impersonate.clone_from(&args.user);
        }
        // The audit log names the program.
        let agent = concat!("kubectl-tokenward/", env!("CARGO_PKG_VERSION"));
        config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config.clone())?, namespace, config })
    }

    /// The address of the API server.
    pub fn url(&self) -> String {
        self.config.cluster_url.to_string()
    }

    /// A client that shows no credentials.
    pub fn anonymous(&self) -> Result<Client> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo::default();
        Ok(Client::try_from(config)?)
    }

    /// The namespace that is meant, or all.
    pub fn scope(&self, all: bool) -> Option<String> {
        (!all).then(|| self.namespace.clone())
    }

    /// Objects of a kind in a namespace, or in all, as they are stored.
    pub fn api<K: Resource<DynamicType = ()>>(&self, scope: Option<&str>) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        match scope {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        }
    }

    /// Policies with these labels.
    pub async fn policies(&self, scope: Option<&str>, labels: Option<&str>) -> Result<Vec<DynamicObject>> {
        let api = self.api::<TokenPolicy>(scope);
        let list = ListParams { label_selector: labels.map(str::to_owned), ..ListParams::default() };
        Ok(self.allowed("list", "tokenpolicies.tokenward.dev", scope, api.list(&list).await)?.items)
    }

    /// The Secrets that the operator wrote, without their data.
    pub async fn targets(&self, scope: Option<&str>) -> Result<Vec<Target>> {
        let list = ListParams::default().labels(&format!("{}={}", names::ROLE, names::TARGET_ROLE));
        let secrets = self.allowed("list", "secrets", scope, self.api::<Secret>(scope).list_metadata(&list).await)?;
        Ok(secrets.items.iter().filter_map(|secret| Target::read(&secret.metadata)).collect())
    }

    /// Events about policies.
    pub async fn events(&self, scope: Option<&str>) -> Result<Vec<Event>> {
        let list = ListParams::default().fields("regarding.kind=TokenPolicy");
        let api: Api<Event> = scope
            .map_or_else(|| Api::all(self.client.clone()), |namespace| Api::namespaced(self.client.clone(), namespace));
        Ok(self.allowed("list", "events.events.k8s.io", scope, api.list(&list).await)?.items)
    }

    /// Now, by the API server's clock, in whole seconds, rounded down.
    pub async fn now(&self) -> Result<Time> {
        let answer = self.client.send(Request::get("/version").body(Body::empty())?).await;
        let answer = self.allowed("get", "/version", None, answer)?;
        let date = answer.headers().get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
        Ok(date.context("the API server does not tell the time; use kubectl annotate")?.to_utc())
    }

    /// Whether the API server accepts a token for any of the audiences that it names.
    pub async fn review(&self, token: &SecretString) -> Result<Review> {
        let audiences = Claims::read(token).map(|claims| claims.audiences).unwrap_or_default();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.expose_secret(), "audiences": audiences},
        });
        let request = post("/apis/authentication.k8s.io/v1/tokenreviews", &body)?;
        let answer = self.client.request::<Answer<Review>>(request).await;
        Ok(self.allowed("create", "tokenreviews.authentication.k8s.io", None, answer)?.status)
    }

    /// UID of an object, if there is one of this name.
    pub async fn uid<K: Resource<DynamicType = ()>>(
        &self,
        resource: &'static str,
        scope: Option<&str>,
        name: &str,
    ) -> Result<Option<String>> {
        let api = self.api::<K>(scope);
        let found = self.allowed("get", resource, scope, api.get_metadata_opt(name).await)?;
        Ok(found.and_then(|object| object.metadata.uid))
    }

    /// A document that is no resource.
    pub async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T> {
        self.allowed("get", path, None, self.client.request(Request::get(path).body(Vec::new())?).await)
    }

    /// What the holder of a token may do in a namespace. The token is sent to the API server, and to nobody else.
    pub async fn rights(&self, token: &SecretString, namespace: &str) -> Result<Rights> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token: Some(token.clone()), ..AuthInfo::default() };
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
        });
        let request = post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &body)?;
        match Client::try_from(config)?.request::<Answer<Rights>>(request).await {
            Err(Error::Api(status)) if status.code == 401 => bail!("the API server takes it for no login"),
            answer => Ok(self.allowed("create", "selfsubjectrulesreviews.authorization.k8s.io", None, answer)?.status),
        }
    }

    /// Whether the person has a right.
    pub async fn may(&self, right: &Right) -> Result<bool> {
        let (resource, group) = right.resource.split_once('.').unwrap_or((right.resource, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = json!({"verb": right.verb, "group": group, "resource": resource, "subresource": subresource,
            "namespace": right.namespace});
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let request = post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &body)?;
        let answer = self.client.request::<Answer<Access>>(request).await;
        Ok(self.allowed("create", "selfsubjectaccessreviews.authorization.k8s.io", None, answer)?.status.allowed)
    }

    /// An answer, or an error that says what to do about it.
    pub fn allowed<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        scope: Option<&str>,
        answer: kube::Result<T>,
    ) -> Result<T> {
        let right = Right { verb, resource, namespace: scope.map(str::to_owned) };
        answer.map_err(|error| explained(error, right, &self.config.cluster_url.to_string()))
    }
}

/// The part of a review that does not repeat what was asked.
#[derive(Deserialize)]
struct Answer<T> {
    status: T,
}

#[derive(Deserialize)]
struct Access {
    allowed: bool,
}

pub fn post(path: &str, body: &Value) -> Result<Request<Vec<u8>>> {
    Ok(Request::post(path).header(CONTENT_TYPE, "application/json").body(serde_json::to_vec(body)?)?)
}

/// That of the kubeconfig, else that of the account of a Pod.
async fn config(args: &ClusterArgs) -> Result<Config> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    match file::chosen(args)? {
        None if args.context.is_none() => {
            let config = Config::incluster().context("there is no kubeconfig, and this is no Pod")?;
            through_proxy(config, None)
        }
        found => configured(found.unwrap_or_default(), &options).await,
    }
}

/// The server of a kubeconfig, and the way there.
pub async fn configured(kubeconfig: Kubeconfig, options: &KubeConfigOptions) -> Result<Config> {
    let proxy = proxy_url(&kubeconfig, options.context.as_deref());
    through_proxy(Config::from_custom_kubeconfig(kubeconfig, options).await?, proxy)
}

fn proxy_url(config: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(config.current_context.as_deref())?;
    let context = config.contexts.iter().find(|one| one.name == context)?.context.as_ref()?;
    let cluster = config.clusters.iter().find(|one| one.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// As kubectl: `proxy-url` of the kubeconfig counts for every address, and the environment else. The library would compare
/// `NO_PROXY` with the address of the proxy itself.
pub fn through_proxy(mut config: Config, named: Option<String>) -> Result<Config> {
    let proxy = named.or_else(|| proxy(&config.cluster_url, |name| env::var(name).ok()));
    // It may hold a password.
    let parsed = proxy.map(|proxy| proxy.parse()).transpose();
    config.proxy_url = parsed.map_err(|_| anyhow!("the proxy is no URL; correct proxy-url or HTTPS_PROXY"))?;
    Ok(config)
}

/// How an API server says that it does not know a kind, or not even its group.
const UNKNOWN_KIND: [&str; 2] = ["could not find the requested resource", "404 page not found"];

fn explained(error: Error, right: Right, url: &str) -> anyhow::Error {
    match error {
        // Admission refuses with the same code, and in words of its own.
        Error::Api(status) if status.code == 403 && status.message.contains(&format!("cannot {}", right.verb)) => {
            MissingRight(right).into()
        }
        Error::Api(status) if status.code == 401 => {
            anyhow!("the API server at {url} does not accept your credentials; log in again")
        }
        Error::Api(status) if status.code == 404 && UNKNOWN_KIND.iter().any(|words| status.message.contains(words)) => {
            anyhow!(
                "the API server at {url} has no {}; install Tokenward there, or choose another --context",
                right.resource
            )
        }
        Error::Api(status) => anyhow!("{right}: {}", status.message),
        error => anyhow::Error::new(error).context(format!("the API server at {url} does not answer; check --context")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, message: &str) -> String {
        let status = serde_json::from_value(serde_json::json!({"code": code, "message": message})).unwrap();
        let right = Right { verb: "list", resource: "secrets", namespace: Some("ci".into()) };
        explained(Error::Api(Box::new(status)), right, "https://api").to_string()
    }

    #[test]
    fn a_right_in_all_namespaces_is_told_from_one_on_the_cluster() {
        for (resource, text) in [
            ("secrets", "list secrets -A"),
            ("rolebindings.rbac.authorization.k8s.io", "list rolebindings.rbac.authorization.k8s.io -A"),
            ("clusterroles.rbac.authorization.k8s.io", "list clusterroles.rbac.authorization.k8s.io"),
            ("/version", "list /version"),
            ("serviceaccounts/token", "list serviceaccounts --subresource=token -A"),
        ] {
            assert_eq!(Right { verb: "list", resource, namespace: None }.to_string(), text);
        }
    }

    #[test]
    fn a_missing_right_is_named_and_a_refusal_of_admission_repeated() {
        let rbac =
            r#"secrets is forbidden: User "me" cannot list resource "secrets" in API group "" in the namespace "ci""#;
        let missing = "you lack a right: `kubectl auth can-i list secrets -n ci` says no; ask an administrator for it";
        assert_eq!(refusal(403, rbac), missing);
        assert_eq!(refusal(403, "denied by policy x"), "list secrets -n ci: denied by policy x");
        assert!(refusal(401, "Unauthorized").contains("log in again"));
        for message in ["the server could not find the requested resource", "404 page not found\n"] {
            assert!(refusal(404, message).contains("install Tokenward"), "{message}");
        }
        assert_eq!(refusal(404, "secrets \"x\" not found"), "list secrets -n ci: secrets \"x\" not found");
    }
}
