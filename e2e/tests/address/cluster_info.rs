//! The address of `kube-public/cluster-info`: server and CA together, or neither.

use crate::{FOLLOWED, follows, scraped};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{Scene, condition};

/// Publishes this server and CA, as kubeadm does.
async fn publish(scene: &Scene, server: &str, ca: &str) -> Result<()> {
    let cluster = json!({"server": server, "certificate-authority-data": BASE64_STANDARD.encode(ca)});
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}]});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": kubeconfig.to_string()}});
    maps(scene).patch("cluster-info", &PatchParams::apply("e2e").force(), &Patch::Apply(map)).await?;
    Ok(())
}

fn maps(scene: &Scene) -> Api<ConfigMap> {
    Api::namespaced(scene.client.clone(), "kube-public")
}

/// Waits until the policy is, or is no more, told that its address is contested.
async fn contested(scene: &Scene, wanted: Option<&str>) -> Result<String> {
    let check = async || {
        let found = condition(&scene.policies().get("p").await?, "ClusterAddressContested");
        ensure!(found.as_ref().map(|found| &*found.reason) == wanted, "{found:?}");
        Ok(found.map(|found| found.message).unwrap_or_default())
    };
    eventually(FOLLOWED, &format!("contested: {wanted:?}"), check).await.with_context(|| scene.log_end())
}

#[tokio::test]
async fn server_and_ca_are_those_of_cluster_info_or_neither_is() -> Result<()> {
    let scene = Scene::start("cluster-info").await?;
    let first = scene.deployer(json!({})).await?;
    let (own, own_ca) = (first.value("server").to_owned(), first.value("ca.crt").to_owned());
    assert_eq!(scraped(&scene).await?, ("OwnConnection".into(), own.clone(), Vec::new()));
    scene.condition("p", "InternalServer", "True").await.context("loopback is internal")?;

    publish(&scene, "http://10.0.0.1:8080", scene.plane.ca_pem()).await?;
    let told = contested(&scene, Some("ClusterInfoServerInvalid")).await?;
    assert!(told.contains("http://10.0.0.1:8080") && told.contains(&own), "{told}");
    assert_eq!(scraped(&scene).await?.2, ["ClusterInfoServerInvalid"]);
    assert_eq!(scene.target("p-deployer").await?.version(), first.version());

    let url = scene.plane.url().replace("127.0.0.1", "localhost");
    publish(&scene, &url, scene.plane.ca_pem()).await?;
    let second = follows(&scene, &first, &url, scene.plane.ca_pem()).await?;
    assert_ne!(second.value("ca.crt"), own_ca, "the proxy's");
    contested(&scene, None).await?;
    assert_eq!(scraped(&scene).await?, ("ClusterInfo".into(), url.clone(), Vec::new()));

    publish(&scene, &url, "-----BEGIN CERTIFICATE-----\nQQ==").await?;
    contested(&scene, Some("ClusterInfoWithoutCa")).await?;
    assert_eq!(scene.target("p-deployer").await?.version(), second.version(), "the address last known stays");

    // There is none any more: that is an answer, and the next source is taken.
    maps(&scene).delete("cluster-info", &DeleteParams::default()).await?;
    follows(&scene, &second, &own, &own_ca).await?;
    let log = scene.operator.log()?;
    let changes = log.matches("the address or the CA of the cluster has changed").count();
    assert_eq!((changes, log.matches("is there but not usable").count()), (2, 2), "{log}");
    Ok(())
}
