//! `migrate`: its output is applied, and its commands are run as they are printed.

use super::verify::legacy;
use super::{error, ok, said};
use anyhow::{Context, Result, bail, ensure};
use chrono::Utc;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::plugin::search_path;
use tokenward_e2e::scene::caller::grant;
use tokenward_e2e::scene::follower::Follower;
use tokenward_e2e::scene::{SOON, Scene, spec};

/// The commands in the comments.
fn commands(printed: &str) -> Vec<&str> {
    printed
        .lines()
        .filter_map(|line| line.strip_prefix("#      "))
        .filter(|line| line.starts_with("kubectl "))
        .collect()
}

/// Runs a line as somebody types it.
async fn shell(scene: &Scene, line: &str) -> Result<String> {
    let kubectl = scene.plane.kubectl_path().parent().context("kubectl is in no folder")?;
    let path = format!("{}:{}", kubectl.display(), search_path().to_string_lossy());
    let mut sh = tokio::process::Command::new("sh");
    sh.args(["-c", line]).env("PATH", path).env("KUBECONFIG", scene.plane.kubeconfig());
    let output = sh.output().await?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The steps, while the consumer works.
async fn steps(scene: &Scene, old: &str, consumer: &Follower) -> Result<()> {
    let printed = ok(scene, "migrate legacy").await?;
    ensure!(scene.policies().list(&ListParams::default()).await?.items.is_empty(), "it has applied something");
    consumer.served().await?;
    let [apply, wait, watch, quarantine, lift, delete] = commands(&printed)[..] else {
        bail!("other commands: {printed}")
    };
    ensure!(shell(scene, apply).await?.contains("tokenpolicy.tokenward.dev/legacy created"), "not applied");
    shell(scene, wait).await?;
    consumer.served().await?;
    consumer.move_to("legacy-bound");
    consumer.served().await?;
    let used = shell(scene, watch).await?;
    ensure!(used.contains(&Utc::now().format("%Y-").to_string()), "no day of the last use: {used}");
    let old = scene.bearer(old).await?;
    old.lives().await?;
    shell(scene, quarantine).await?;
    old.dies().await?;
    let again = ok(scene, "migrate legacy").await?;
    ensure!(again.contains("refuses the old token since 20") && again.contains("; step 4 has been done."), "{again}");
    shell(scene, lift).await?;
    eventually(SOON, "the old token works again", async || old.lives().await).await?;
    shell(scene, quarantine).await?;
    old.dies().await?;
    consumer.served().await?;
    shell(scene, delete).await?;
    ensure!(scene.secrets().get_metadata_opt("legacy").await?.is_none(), "the old Secret is there");
    consumer.served().await
}

#[tokio::test]
async fn a_consumer_that_moves_by_the_output_is_never_refused() -> Result<()> {
    let scene = Scene::start("plugin-migrate").await?;
    scene.reader("deployer").await?;
    let old = legacy(&scene).await?;
    let (consumer, secrets, path) = (Follower::new("legacy"), scene.secrets(), scene.config_maps());
    tokio::select! {
        refused = consumer.run(&secrets, scene.plane, &path) => refused,
        moved = steps(&scene, &old, &consumer) => moved,
    }
}

#[tokio::test]
async fn everybody_who_refers_to_the_secret_is_named() -> Result<()> {
    let scene = Scene::start("plugin-migrate-pods").await?;
    scene.reader("deployer").await?;
    legacy(&scene).await?;
    let volume = json!([{"name": "token", "secret": {"secretName": "legacy"}}]);
    let part = json!([{"name": "token", "mountPath": "/token", "subPath": "token"}]);
    for (name, mounts) in [("idle", json!([])), ("part", part)] {
        let container = json!([{"name": "idle", "image": "idle", "volumeMounts": mounts}]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": scene.namespace},
            "spec": {"serviceAccountName": "deployer", "volumes": volume, "containers": container}});
        scene.plane.apply(&pod.to_string()).await?;
    }
    let patch = json!({"secrets": [{"name": "legacy"}], "imagePullSecrets": [{"name": "legacy"}]}).to_string();
    scene.plane.kubectl_ok(["-n", &scene.namespace, "patch", "serviceaccount", "deployer", "-p", &patch]).await?;
    let told = ok(&scene, "migrate legacy").await?;
    // The API server gives a Pod the pull secrets that its account has at that moment: none here.
    let found = "#   pod idle: volume, which changes about a minute after a rotation\n\
                 #   pod part: subPath of a volume, which never changes: restart it after each rotation\n\
                 #   serviceaccount deployer: imagePullSecrets; secrets\n";
    ensure!(told.contains(found) && !told.contains("You lack a right"), "{told}");
    let told = said(&scene, "migrate legacy --name Bad_Name").await?;
    ensure!(told.code == Some(1) && told.aside.contains("a policy's name has at most 253"), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn each_missing_right_is_named() -> Result<()> {
    let scene = Scene::start("plugin-migrate-rights").await?;
    scene.reader("deployer").await?;
    legacy(&scene).await?;
    let told = error(&scene, "migrate legacy --as nobody").await?;
    ensure!(told.contains("`kubectl auth can-i get secrets -n plugin-migrate-rights` says no"), "{told}");
    grant(
        scene.plane,
        &scene.namespace,
        "viewer",
        &json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]),
    )
    .await?;
    let partly = async || {
        let told = said(&scene, "migrate legacy --as viewer").await?;
        ensure!(told.code == Some(0), "{told:?}");
        for right in [
            "list pods",
            "list serviceaccounts",
            "create tokenpolicies.tokenward.dev",
            "create serviceaccounts --subresource=token",
            "create secrets",
            "patch secrets",
            "delete secrets",
        ] {
            let words = format!("`kubectl auth can-i {right} -n plugin-migrate-rights` says no");
            ensure!(told.out.contains(&words), "no {words} in {told:?}");
        }
        ensure!(!told.out.contains("can-i get secrets"), "{told:?}");
        Ok(())
    };
    eventually(SOON, "a policy without the rest", partly).await
}

#[tokio::test]
async fn a_policy_of_another_is_not_overwritten() -> Result<()> {
    let scene = Scene::start("plugin-migrate-taken").await?;
    scene.deployer(json!({})).await?;
    legacy(&scene).await?;
    scene.policy("legacy", &spec(&["deployer"], json!({"secret": {"name": "other"}}))).await?;
    let told = error(&scene, "migrate legacy").await?;
    ensure!(
        told.contains("there is another TokenPolicy plugin-migrate-taken/legacy; choose a name with --name"),
        "{told}"
    );
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken-bound", "namespace": scene.namespace}});
    scene.plane.apply(&foreign.to_string()).await?;
    let told = error(&scene, "migrate legacy --name taken").await?;
    ensure!(told.contains("there is another Secret plugin-migrate-taken/taken-bound, where"), "{told}");
    let printed = ok(&scene, "migrate legacy --name moved").await?;
    for _ in 0..2 {
        shell(&scene, commands(&printed)[0]).await?;
    }
    scene.ready("moved").await?;
    ensure!(ok(&scene, "migrate legacy --name moved").await? == printed, "its own Secret is in its way");
    for (secret, words) in [
        ("p-deployer", "Secret plugin-migrate-taken/p-deployer is that of policy p already"),
        ("none", "there is no Secret none in namespace plugin-migrate-taken"),
    ] {
        let told = error(&scene, &format!("migrate {secret}")).await?;
        ensure!(told.contains(words), "{told}");
    }
    Ok(())
}

/// Puts this data into a Secret, migrates it, and returns what the new Secret holds.
async fn moved(scene: &Scene, name: &str, labels: &Value, data: &Value) -> Result<tokenward_e2e::scene::Target> {
    let metadata = json!({"name": name, "namespace": scene.namespace, "labels": labels});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data});
    scene.plane.apply(&secret.to_string()).await?;
    let printed = ok(scene, &format!("migrate {name}")).await?;
    ensure!(printed.contains(&format!("It comes from Secret {}/legacy, which", scene.namespace)), "{printed}");
    shell(scene, commands(&printed)[0]).await?;
    scene.ready(name).await?;
    scene.target(&format!("{name}-bound")).await
}

#[tokio::test]
async fn a_kubeconfig_and_an_argo_cd_cluster_keep_their_shape() -> Result<()> {
    let scene = Scene::start("plugin-migrate-shapes").await?;
    scene.reader("deployer").await?;
    let token = legacy(&scene).await?;
    let config = tokenward_e2e::kubeconfig::with_token(&scene.plane.url(), scene.plane.ca_pem(), &token);
    let target = moved(&scene, "config", &json!({}), &json!({"value": config})).await?;
    let written = target.value("value");
    ensure!(!written.contains(&token) && scene.kubectl_with(written, &["get", "configmaps"]).await?.status.success());

    let config = json!({"bearerToken": token, "tlsClientConfig": {"insecure": true}}).to_string();
    let data =
        json!({"name": "spoke", "server": scene.plane.url(), "config": config, "namespaces": "a,b", "project": "x"});
    let target = moved(&scene, "spoke", &json!({"argocd.argoproj.io/secret-type": "cluster"}), &data).await?;
    ensure!(target.label("argocd.argoproj.io/secret-type") == Some("cluster"), "{:?}", target.secret.metadata);
    for (key, value) in [("name", "spoke"), ("namespaces", "a,b"), ("project", "x")] {
        ensure!(target.value(key) == value, "{key}: {}", target.value(key));
    }
    scene.delete_secret("legacy").await?;
    let told = error(&scene, "migrate spoke").await?;
    ensure!(told.contains("Secret plugin-migrate-shapes/legacy, where the token comes from, is gone"), "{told}");
    Ok(())
}
