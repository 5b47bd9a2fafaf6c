//! Each format, read by what it is made for, or by the strictest reader of its documented shape.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokenward_e2e::scene::consumers::{ArgoCdCluster, Mount};
use tokenward_e2e::scene::{Scene, Target, claims, spec};

/// The field `secret` of a policy with this format.
fn format(format: &Value) -> Value {
    json!({"secret": {"format": format}})
}

fn keys(target: &Target) -> Vec<&str> {
    target.data.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_files_of_a_token_are_all_that_curl_needs() -> Result<()> {
    let scene = Scene::start("curl").await?;
    let first = scene.deployer(json!({})).await?;
    let mount = Mount::new(&scene)?;
    mount.write(&first)?;
    let secrets = "/api/v1/namespaces/curl/secrets";
    let Some(status) = mount.curl(&scene.config_maps()).await? else {
        eprintln!("curl is not installed, so it was not tried");
        return Ok(());
    };
    assert_eq!((status.as_str(), mount.curl(secrets).await?.as_deref()), ("200", Some("403")));
    scene.delete_secret(first.anchor()).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(first.token()).await?.dies().await?;
    assert_eq!(mount.curl(&scene.config_maps()).await?.as_deref(), Some("401"));
    mount.write(&second)?;
    assert_eq!(mount.curl(&scene.config_maps()).await?.as_deref(), Some("200"));
    Ok(())
}

/// As Prometheus with `credentials_file`: reads the files before each request, until it has used the `last` token.
/// Returns the ids of all that it used.
async fn scrape(scene: &Scene, mount: &Mount, last: &OnceCell<String>) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    while last.get().is_none_or(|id| !used.contains(id)) {
        let id = claims(&mount.read("token")?)?["jti"].as_str().context("no jti")?.to_owned();
        let status = mount.bearer().await?.get(&scene.config_maps()).await?;
        ensure!(status == 200, "{status} with token {id} after {used:?}");
        used.insert(id);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(used)
}

#[tokio::test]
async fn a_reader_of_the_token_file_never_meets_401() -> Result<()> {
    let scene = Scene::start("credentials-file").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "12s"}})).await?;
    let (mount, last) = (Mount::new(&scene)?, OnceCell::new());
    mount.write(&first)?;
    let rotate = async {
        let mut target = first.clone();
        for value in ["1", "2", "3"] {
            target = scene.rotated(value, &target).await?;
            // A kubelet is late as well; the overlap must be longer than that.
            tokio::time::sleep(Duration::from_secs(3)).await;
            mount.write(&target)?;
        }
        scene.bearer(first.token()).await?.dies().await?;
        last.get_or_init(|| target.token_id().to_owned());
        Ok(())
    };
    let (used, ()) = tokio::try_join!(scrape(&scene, &mount, &last), rotate)?;
    assert_eq!(used.len(), 4, "{used:?}");
    Ok(())
}

#[tokio::test]
async fn kubectl_works_with_a_kubeconfig_before_and_after_a_rotation() -> Result<()> {
    let scene = Scene::start("kubeconfig").await?;
    let first = scene.deployer(format(&json!({"type": "Kubeconfig"}))).await?;
    assert_eq!(keys(&first), ["config"]);
    let second = scene.rotated("1", &first).await?;
    for config in [first.value("config"), second.value("config")] {
        let listed = scene.kubectl_with(config, &["get", "configmaps", "-o", "name"]).await?;
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        assert!(String::from_utf8_lossy(&listed.stdout).contains("configmap/kube-root-ca.crt"));
    }
    scene.delete_secret(first.anchor()).await?;
    let dead = async || {
        let answer = scene.kubectl_with(first.value("config"), &["get", "configmaps"]).await?;
        let complaint = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(complaint.contains("must be logged in"), "{complaint}");
        Ok(())
    };
    tokenward_e2e::eventually(tokenward_e2e::scene::SOON, "the old kubeconfig is refused", dead).await
}

#[tokio::test]
async fn a_kubeconfig_can_have_another_key() -> Result<()> {
    let scene = Scene::start("kubeconfig-key").await?;
    let first = scene.deployer(format(&json!({"type": "Kubeconfig"}))).await?;
    let options = json!({"key": "value", "clusterName": "prod", "namespace": "default"});
    let flux = format(&json!({"type": "Kubeconfig", "kubeconfig": options}));
    scene.policy("p", &spec(&["deployer"], flux)).await?;
    scene.ready("p").await?;
    let second = scene.target("p-deployer").await?;
    assert_eq!((keys(&second), second.token_id()), (vec!["value"], first.token_id()));
    let config = second.value("value");
    let shown = scene.kubectl_with(config, &["config", "view", "--minify", "-o", "json"]).await?;
    let shown: Value = serde_json::from_slice(&shown.stdout)?;
    assert_eq!((&shown["current-context"], &shown["clusters"][0]["name"]), (&json!("prod"), &json!("prod")));
    assert_eq!(shown["contexts"][0]["context"]["namespace"], "default");
    let listed = scene.kubectl_with(config, &["get", "configmaps", "-n", "kubeconfig-key"]).await?;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert_eq!(scene.mints(), 1);
    Ok(())
}

const ARGO_CD: &str = "argocd.argoproj.io/secret-type";

#[tokio::test]
async fn an_argo_cd_cluster_is_what_argo_cd_documents() -> Result<()> {
    let scene = Scene::start("argo-cd").await?;
    let target = scene.deployer(format(&json!({"type": "ArgoCDCluster"}))).await?;
    assert_eq!(target.label(ARGO_CD), Some("cluster"));
    assert_eq!(target.secret.type_.as_deref(), Some("Opaque"));
    let cluster = ArgoCdCluster::read(&target)?;
    assert_eq!((cluster.name.as_str(), cluster.server.as_str()), ("p", scene.proxy.url()));
    assert_eq!((&cluster.namespaces, &cluster.project), (&None, &None));
    assert!(!cluster.config.tls_client_config.insecure);
    assert_eq!(claims(&cluster.config.bearer_token)?["jti"], target.token_id());
    assert_eq!(cluster.bearer().await?.get(&scene.config_maps()).await?, 200);

    // Who may label the Secret cannot make it another kind of Argo CD's Secrets.
    let mut options = json!({"clusterName": "prod-eu", "namespaces": ["argo-cd", "default"], "project": "web"});
    options["clusterResources"] = true.into();
    options["shard"] = 3.into();
    let mut more = format(&json!({"type": "ArgoCDCluster", "argoCDCluster": options}));
    more["secret"]["labels"] = json!({(ARGO_CD): "repository", "argocd.argoproj.io/skip-reconcile": "1"});
    scene.policy("p", &spec(&["deployer"], more)).await?;
    scene.ready("p").await?;
    let named = scene.target("p-deployer").await?;
    assert_eq!((named.label(ARGO_CD), named.label("argocd.argoproj.io/skip-reconcile")), (Some("cluster"), Some("1")));
    let namespaces = Some(vec!["argo-cd".to_owned(), "default".to_owned()]);
    let (name, project) = ("prod-eu".into(), Some("web".into()));
    let (resources, shard) = (Some("true".into()), Some("3".into()));
    let wanted = ArgoCdCluster { name, namespaces, resources, project, shard, ..cluster };
    assert_eq!((ArgoCdCluster::read(&named)?, scene.mints()), (wanted, 1));
    Ok(())
}

/// The data without what a rotation of an Argo CD cluster changes.
fn but_config(target: &Target) -> BTreeMap<&str, &str> {
    let data = target.data.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    data.filter(|(key, _)| *key != "config").collect()
}

#[tokio::test]
async fn ten_rotations_change_the_config_of_an_argo_cd_cluster_and_nothing_else() -> Result<()> {
    let scene = Scene::start("argo-cd-rotates").await?;
    let mut more = format(&json!({"type": "ArgoCDCluster", "argoCDCluster": {"project": "web"}}));
    more["rotation"] = json!({"overlap": "20s"});
    let first = scene.deployer(more).await?;
    // Argo CD writes the annotation, people write the label.
    let theirs = json!({"labels": {"env": "prod"}, "annotations": {"managed-by": "argocd.argoproj.io"}});
    scene.patch_secret("p-deployer", json!({"metadata": theirs})).await?;
    let mut target = first.clone();
    for round in 0..10 {
        let next = scene.rotated(&format!("round-{round}"), &target).await?;
        assert_eq!(but_config(&next), but_config(&first));
        assert_ne!(next.value("config"), target.value("config"));
        assert_eq!((next.label("env"), next.label(ARGO_CD)), (Some("prod"), Some("cluster")));
        assert_eq!(next.annotation("managed-by"), Some("argocd.argoproj.io"));
        target = next;
    }
    assert_eq!(ArgoCdCluster::read(&target)?.bearer().await?.get(&scene.config_maps()).await?, 200);
    assert_eq!((scene.mints(), target.version().0), (11, first.version().0));
    Ok(())
}

const ISTIO: &str = "istio/multiCluster";
const ISTIO_CLUSTER: &str = "networking.istio.io/cluster";

#[tokio::test]
async fn an_istio_remote_secret_is_what_istioctl_makes_and_does_not_change_by_itself() -> Result<()> {
    let scene = Scene::start("istio").await?;
    let options = json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "cluster-2"}});
    let first = scene.deployer(format(&options)).await?;
    assert_eq!((first.label(ISTIO), first.annotation(ISTIO_CLUSTER)), (Some("true"), Some("cluster-2")));
    assert_eq!((keys(&first), first.secret.type_.as_deref()), (vec!["cluster-2"], Some("Opaque")));
    for _ in 0..2 {
        scene.operator.restart()?;
        scene.operator.ready().await?;
    }
    scene.fence("after").await?;
    let after = scene.target("p-deployer").await?;
    assert_eq!((after.version(), &after.data), (first.version(), &first.data));
    let second = scene.rotated("1", &first).await?;
    for target in [&first, &second] {
        let listed = scene.kubectl_with(target.value("cluster-2"), &["get", "configmaps", "-n", "istio"]).await?;
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    }
    assert_eq!((keys(&second), second.label(ISTIO)), (vec!["cluster-2"], Some("true")));
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
}

const DOCKER_TYPE: &str = "kubernetes.io/dockerconfigjson";
const DOCKER_KEY: &str = ".dockerconfigjson";

/// A policy's fields for credentials of two registries that check their own audience.
fn registries() -> Value {
    let options = json!({"registries": ["registry.example.com", "registry.example.com:5000"]});
    let mut more = format(&json!({"type": "DockerConfigJson", "dockerConfigJson": options}));
    more["token"] = json!({"audiences": ["registry.example.com"]});
    more
}

#[tokio::test]
async fn docker_credentials_hold_a_token_that_a_registry_can_check() -> Result<()> {
    let scene = Scene::start("docker").await?;
    let first = scene.deployer(registries()).await?;
    assert_eq!((keys(&first), first.secret.type_.as_deref()), (vec![DOCKER_KEY], Some(DOCKER_TYPE)));
    let second = scene.rotated("1", &first).await?;
    for target in [&first, &second] {
        let config: DockerConfig = serde_json::from_str(target.value(DOCKER_KEY))?;
        let hosts: Vec<&str> = config.auths.keys().map(String::as_str).collect();
        assert_eq!(hosts, ["registry.example.com", "registry.example.com:5000"]);
        for DockerAuth { username, password, auth } in config.auths.values() {
            assert_eq!(
                (username.as_str(), claims(password)?["jti"].as_str()),
                ("serviceaccount", Some(target.token_id()))
            );
            assert_eq!(auth, &BASE64_STANDARD.encode(format!("{username}:{password}")));
            // What a registry asks, and what the API server says to such a token itself.
            let answer = scene.review(password, &["registry.example.com"]).await?;
            assert_eq!(answer["authenticated"], true, "{answer}");
            assert_eq!(scene.bearer(password).await?.whoami().await?, None);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_itself_checks_docker_credentials() -> Result<()> {
    let scene = Scene::start("docker-checked").await?;
    let target = scene.deployer(registries()).await?;
    let copy = async |name: &str, value: &str| {
        let secret = json!({"metadata": {"name": name}, "type": DOCKER_TYPE, "stringData": {(DOCKER_KEY): value}});
        let secret: Secret = serde_json::from_value(secret)?;
        Ok::<_, anyhow::Error>(scene.secrets().create(&PostParams::default(), &secret).await?)
    };
    copy("same", target.value(DOCKER_KEY)).await?;
    let refusal = copy("broken", "not JSON").await.err().context("the API server accepts anything")?;
    assert!(refusal.to_string().contains("dockerconfigjson"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn another_type_comes_with_another_secret_and_the_old_one_goes() -> Result<()> {
    let scene = Scene::start("another-type").await?;
    let first = scene.deployer(json!({})).await?;
    let message = scene.refusal("p", &spec(&["deployer"], registries())).await?;
    assert!(message.contains("choose another secret.name"), "{message}");
    // The same name in other words.
    let mut same = registries();
    same["secret"]["name"] = "p-deployer".into();
    scene.policy("p", &spec(&["deployer"], same)).await?;
    let message = scene.not_ready("p", "TargetImmutable").await?;
    let types = format!(r#"has the type "Opaque", which cannot change, and spec.secret.format needs "{DOCKER_TYPE}""#);
    assert!(message.contains(&types) && message.contains("choose another secret.name"), "{message}");
    let mut renamed = registries();
    renamed["secret"]["name"] = "pull".into();
    scene.policy("p", &spec(&["deployer"], renamed.clone())).await?;
    scene.ready("p").await?;
    scene.gone("p-deployer").await?;
    let pull = scene.target("pull").await?;
    assert_eq!((keys(&pull), pull.secret.type_.as_deref()), (vec![DOCKER_KEY], Some(DOCKER_TYPE)));
    renamed["secret"]["format"] = json!({"type": "Token"});
    let message = scene.refusal("p", &spec(&["deployer"], renamed.clone())).await?;
    assert!(message.contains("choose another secret.name"), "{message}");
    // All other formats share a type, so the Secret stays.
    let back = json!({"secret": {"name": "back", "format": {"type": "Token"}}});
    scene.policy("p", &spec(&["deployer"], back)).await?;
    scene.ready("p").await?;
    let back = scene.target("back").await?;
    let kubeconfig = json!({"secret": {"name": "back", "format": {"type": "Kubeconfig"}}});
    scene.policy("p", &spec(&["deployer"], kubeconfig)).await?;
    scene.ready("p").await?;
    let after = scene.target("back").await?;
    assert_eq!((keys(&after), after.version().0), (vec!["config"], back.version().0));
    assert_ne!(first.version().0, after.version().0);
    Ok(())
}
