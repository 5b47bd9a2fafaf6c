//! `hygiene`: asks for everything, and shows the report. It writes nothing.

mod elsewhere;
mod tokens;

use std::{fmt::Debug, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};
use http::Request;
use k8s_openapi::{
    api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{ConfigMap, Pod, Secret},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{ListParams, ObjectList},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokenward::record::{SECRET_TYPE, TRACKING};

use super::{
    cluster::Cluster,
    file::{self, unquoted},
    output,
    verify::{Discovery, learnt, reached},
};
use crate::{
    args::{ClusterArgs, Hygiene},
    core::hygiene::{
        Facts, anonymous, bootstrap, draw, flags,
        logins::{self, Logins},
        oidc,
        rbac::Rbac,
        report, unchecked, worst,
    },
};

/// As `verify` has for a token that is not good.
const FINDINGS: u8 = 3;
/// Bootstrap tokens, whose data says when they end and which groups they have.
const BOOTSTRAP: &str = "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
const SYSTEM: &str = "kube-system";
/// The `ConfigMap` where the API server publishes whom it believes.
const PUBLISHED: &str = "extension-apiserver-authentication";

pub async fn run(args: &ClusterArgs, hygiene: &Hygiene) -> Result<ExitCode> {
    let (cluster, now) = reached(Cluster::connect(args).await).await;
    let cluster = cluster.map_err(|why| anyhow!(why))?;
    let rows = report(&gather(&cluster, args, hygiene).await?, now);
    output::show(hygiene.output, &rows, || draw(&rows, output::paint()))?;
    unchecked(&rows).into_iter().for_each(output::note);
    let failed = hygiene.fail_on.is_some_and(|limit| worst(&rows) >= Some(limit));
    Ok(if failed { FINDINGS.into() } else { ExitCode::SUCCESS })
}

/// Asks everything; no answer holds up another.
async fn gather(cluster: &Cluster, args: &ClusterArgs, hygiene: &Hygiene) -> Result<Facts> {
    let authentication = hygiene.authentication_config.as_deref().map(authentication).transpose()?;
    let webhook = hygiene.webhook_config.as_deref().map(file::kubeconfig).transpose()?;
    let (servers, unseen) = match pods(cluster).await {
        Ok(pods) => flags::servers(&pods),
        Err(why) => (Err(format!("{why:#}")), Vec::new()),
    };
    let legacy = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
    let (providers, webhook) = elsewhere::asked(oidc::providers(&servers, authentication.as_ref()), webhook).await;
    Ok(Facts {
        granted: learnt(tokens::granted(cluster).await),
        // The flags say it without a token.
        pod_token: if servers.is_ok() { Ok(0) } else { learnt(tokens::of_pod(cluster).await) },
        issuer: learnt(cluster.get::<Discovery>("/.well-known/openid-configuration").await).map(|answer| answer.issuer),
        legacy: learnt(secrets(cluster, &legacy).await),
        targets: learnt(cluster.targets(None).await),
        bootstrap: learnt(bootstrap(cluster).await),
        requests: learnt(
            all::<CertificateSigningRequest>(cluster, "certificatesigningrequests.certificates.k8s.io").await,
        ),
        rbac: rbac(cluster).await,
        published: learnt(config_map(cluster, PUBLISHED).await),
        tracked: learnt(config_map(cluster, TRACKING).await),
        anonymous: learnt(elsewhere::anonymous(cluster, &anonymous::PATHS).await),
        logins: learnt(logins(args, &cluster.url())),
        providers,
        webhook,
        servers,
        unseen,
        authentication,
    })
}

fn authentication(file: &Path) -> Result<oidc::Authentication> {
    let read = serde_saphyr::from_str(&file::read(file)?).map_err(|why| unquoted(&why));
    let named = || format!("{} is no AuthenticationConfiguration of apiserver.config.k8s.io", file.display());
    let read: oidc::Authentication = read.with_context(named)?;
    ensure!(read.is_one(), "{}; name a copy of the file of kube-apiserver's --authentication-config", named());
    Ok(read)
}

fn logins(args: &ClusterArgs, url: &str) -> Result<Logins> {
    let config = file::chosen(args)?.unwrap_or_default();
    let context = args.context.as_deref().or(config.current_context.as_deref());
    Ok(logins::logins(&config, url, context, |path| learnt(file::read(Path::new(path)))))
}

async fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let list = ListParams::default().labels(flags::LABELS);
    Ok(cluster.allowed("list", "pods", Some(SYSTEM), api.list(&list).await)?.items)
}

/// The metadata of Secrets in all namespaces.
async fn secrets(cluster: &Cluster, list: &ListParams) -> Result<Vec<ObjectMeta>> {
    let found = cluster.allowed("list", "secrets", None, cluster.api::<Secret>(None).list_metadata(list).await)?;
    Ok(found.items.into_iter().map(|secret| secret.metadata).collect())
}

#[derive(Deserialize)]
struct Tokens {
    items: Vec<bootstrap::Token>,
}

async fn bootstrap(cluster: &Cluster) -> Result<Vec<bootstrap::Token>> {
    let answer = cluster.client.request::<Tokens>(Request::get(BOOTSTRAP).body(Vec::new())?).await;
    Ok(cluster.allowed("list", "secrets", Some(SYSTEM), answer)?.items)
}

/// All objects of a kind.
async fn all<K>(cluster: &Cluster, resource: &'static str) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let answer: kube::Result<ObjectList<K>> = Api::all(cluster.client.clone()).list(&ListParams::default()).await;
    Ok(cluster.allowed("list", resource, None, answer)?.items)
}

async fn rbac(cluster: &Cluster) -> Rbac {
    Rbac::new(
        learnt(all::<ClusterRole>(cluster, "clusterroles.rbac.authorization.k8s.io").await),
        learnt(all::<ClusterRoleBinding>(cluster, "clusterrolebindings.rbac.authorization.k8s.io").await),
        learnt(all::<Role>(cluster, "roles.rbac.authorization.k8s.io").await),
        learnt(all::<RoleBinding>(cluster, "rolebindings.rbac.authorization.k8s.io").await),
    )
}

async fn config_map(cluster: &Cluster, name: &str) -> Result<Option<ConfigMap>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), SYSTEM);
    cluster.allowed("get", "configmaps", Some(SYSTEM), api.get_opt(name).await)
}
