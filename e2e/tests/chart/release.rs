//! The life of a release on a real API server, while a policy lives: nothing that Helm does costs a token.

use crate::copy;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use tokenward_e2e::helm::{Helm, RELEASE};
use tokenward_e2e::operator::{NAMESPACE, kinds_are_known};
use tokenward_e2e::scene::overlay::arguments;
use tokenward_e2e::scene::{SOON, Scene, Target, apply_policy, spec};
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, Proxy, chart, eventually, target_dir};

/// What a release may take of the mebibyte that a Secret holds: a CRD of twice the size fits as well.
const ROOM: usize = 256 * 1024;
/// A text of the CRD.
const COLUMN: &str = "Whether every selected account has a valid token";
const FIRST: [&str; 1] = [r#"limits.maxDuration="30h""#];
const SECOND: [&str; 2] = [r#"limits.maxDuration="40h""#, "flags.concurrency=8"];

/// A release, and the operator that its Deployment would start.
struct Release {
    plane: &'static ControlPlane,
    helm: Helm,
    scene: Scene,
    first: Target,
}

async fn column(plane: &ControlPlane) -> Result<String> {
    let path = "jsonpath={.spec.versions[0].additionalPrinterColumns[0].description}";
    plane.kubectl_ok(["get", "crd", "tokenpolicies.tokenward.dev", "-o", path]).await
}

/// An operator as the release's Deployment starts it.
async fn operator(plane: &ControlPlane, helm: &Helm, proxy: &Proxy, name: &str) -> Result<Operator> {
    let (name, dir, args) = (name.to_owned(), plane.dir().join("operators"), arguments(&helm.installed().await?)?);
    let operator = Operator::start(plane, Options { name, dir, args, via: Some(proxy), ..Options::default() }).await?;
    operator.ready().await?;
    Ok(operator)
}

impl Release {
    /// Installs the older chart, and waits for the first token.
    async fn start() -> Result<Self> {
        let dir = target_dir().join("e2e/chart-release");
        // Scenes want one that lives as long as the test binary; `stop` ends its processes.
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(Profile::default(), dir).await?));
        let helm = Helm::of(plane).await?;
        // The chart as it was before: the CRD has another text.
        let older = plane.dir().join("older");
        copy(&older, |text| text.replace(COLUMN, "Older"))?;
        let output = helm.with(&["install", "--create-namespace"], &older, &FIRST).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(column(plane).await?, "Older");
        kinds_are_known(plane).await?;
        plane.create_namespace("ci").await?;
        let proxy = Proxy::start(plane)?;
        let operator = operator(plane, &helm, &proxy, "first").await?;
        let scene = Scene::around(plane, "ci", proxy, operator).await?;
        let first = scene.deployer(json!({})).await?;
        Ok(Self { plane, helm, scene, first })
    }

    async fn helm(&self, args: &[&str]) -> Result<()> {
        self.helm.ok(args).await.map(drop)
    }

    async fn upgrade(&self, values: &[&str]) -> Result<()> {
        let output = self.helm.with(&["upgrade", "--reset-then-reuse-values"], &chart::folder(), values).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// As the Deployment's rollout does: the next operator starts, then the one before ends.
    async fn roll_out(&mut self, name: &str) -> Result<()> {
        let next = operator(self.plane, &self.helm, &self.scene.proxy, name).await?;
        let before = std::mem::replace(&mut self.scene.operator, next);
        before.terminate().await?;
        self.scene.fence(name).await
    }

    /// That the Secret has not been written since the first token, which works.
    async fn lives(&self) -> Result<()> {
        let now = self.scene.target("p-deployer").await?;
        assert_eq!(now.token_id(), self.first.token_id());
        assert_eq!(now.version(), self.first.version());
        assert_eq!(self.scene.mints_of("deployer"), 1);
        self.scene.bearer(now.token()).await?.lives().await
    }

    /// Waits until the longest duration is this many hours.
    async fn limit(&self, hours: u32) -> Result<()> {
        let policies = self.scene.policies();
        let asked = async |hours: u32| {
            let token = json!({"token": {"duration": format!("{hours}h")}, "suspend": true});
            apply_policy(&policies, "limit", &spec(&["default"], token)).await
        };
        let check = async || {
            asked(hours).await?;
            let refusal = asked(hours + 1).await.err().context("an hour more is accepted")?;
            let says = format!("is over the limit {hours}h (ConfigMap {NAMESPACE}/tokenward-limits, key maxDuration)");
            ensure!(format!("{refusal:#}").contains(&says), "{refusal:#}");
            Ok(())
        };
        eventually(SOON, &format!("the limit is {hours}h"), check).await
    }

    /// The limits as they are in the cluster.
    async fn limits(&self) -> Result<Value> {
        let args = ["-n", NAMESPACE, "get", "configmap", "tokenward-limits", "-o", "jsonpath={.data}"];
        Ok(serde_json::from_str(&self.plane.kubectl_ok(args).await?)?)
    }

    async fn set_by_hand(&self, key: &str, value: &str) -> Result<()> {
        let patch = json!({"data": {key: value}}).to_string();
        let args = ["-n", NAMESPACE, "patch", "configmap", "tokenward-limits", "--type=merge", "-p", &patch];
        self.plane.kubectl_ok(args).await.map(drop)
    }

    /// Bytes of the last release's Secret.
    async fn size(&self) -> Result<usize> {
        let args = ["-n", NAMESPACE, "get", "secret", "-l", "owner=helm", "-o", "jsonpath={.items[-1:].data.release}"];
        // Base64: three bytes in four characters.
        Ok(self.plane.kubectl_ok(args).await?.len() / 4 * 3)
    }

    /// The operator ends, and then all that Helm does not keep.
    async fn uninstall(&self) -> Result<()> {
        self.scene.operator.terminate().await?;
        self.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE]).await?;
        let kinds = "all,sa,roles,rolebindings,clusterroles,clusterrolebindings,pdb,netpol,priorityclasses";
        let args = ["get", kinds, "-A", "-l", "app.kubernetes.io/part-of=tokenward", "-o", "name"];
        let gone = async || {
            let left = self.plane.kubectl_ok(args).await?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        };
        eventually(SOON, "nothing is left but what is kept", gone).await
    }

    async fn stop(self) -> Result<()> {
        drop(self.scene);
        self.plane.stop().await
    }
}

#[tokio::test]
async fn nothing_that_helm_does_costs_a_token() -> Result<()> {
    let mut release = Release::start().await?;
    release.limit(30).await?;
    let size = release.size().await?;
    println!("the release takes {size} bytes");
    assert!(size < ROOM);

    release.upgrade(&SECOND).await?;
    assert_eq!(column(release.plane).await?, COLUMN);
    release.roll_out("second").await?;
    release.limit(40).await?;
    release.lives().await?;

    release.set_by_hand("audiences", "vault").await?;
    release.upgrade(&[]).await?;
    assert_eq!(release.limits().await?, json!({"maxDuration": "40h", "audiences": "vault"}));
    release.helm(&["rollback", RELEASE, "1", "--namespace", NAMESPACE]).await?;
    assert_eq!(release.limits().await?, json!({"maxDuration": "30h", "audiences": "vault"}));
    release.roll_out("rolled-back").await?;
    release.limit(30).await?;
    release.lives().await?;

    release.uninstall().await?;
    release.limit(30).await?;
    release.lives().await?;
    release.helm.install(&FIRST).await?;
    assert_eq!(release.limits().await?, json!({"maxDuration": "30h", "audiences": "vault"}));
    release.scene.operator = operator(release.plane, &release.helm, &release.scene.proxy, "again").await?;
    release.scene.fence("again").await?;
    release.lives().await?;

    // It does its work with the chart's rights.
    release.scene.rotate("p", "1").await?;
    let next = release.scene.next_target("p-deployer", &release.first).await?;
    release.scene.bearer(next.token()).await?.lives().await?;
    release.stop().await
}

#[tokio::test]
async fn what_helm_refuses_has_its_cure_and_the_readme_removes_all() -> Result<()> {
    let plane = ControlPlane::start(Profile::default(), target_dir().join("e2e/chart-refused")).await?;
    let helm = Helm::of(&plane).await?;
    plane.create_namespace("ci").await?;
    helm.install(&[r#"scope="Namespace""#, r#"namespaces=["ci"]"#]).await?;
    let patch = ["patch", "configmap", "tokenward-limits", "-n", NAMESPACE, "--type=merge", "-p"];
    plane.kubectl_ok(patch.into_iter().chain([r#"{"data": {"maxDuration": "20h"}}"#])).await?;
    for (value, says) in [
        (r#"limits.maxDuration="10h""#, "conflict with \"kubectl-patch\" using v1: .data.maxDuration"),
        (r#"scope="Namespaces""#, "cannot change roleRef"),
    ] {
        let output = helm.with(&["upgrade", "--reset-then-reuse-values"], &chart::folder(), &[value]).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(says), "{value}: {error}");
    }
    helm.ok(&["rollback", RELEASE, "1", "--namespace", NAMESPACE]).await?;
    helm.ok(&["uninstall", RELEASE, "--namespace", NAMESPACE]).await?;
    helm.install(&[r#"scope="Namespaces""#, r#"namespaces=["ci"]"#]).await?;
    removed(&plane, &helm).await?;
    plane.stop().await
}

/// Uninstalls it, runs the commands of the README, and finds nothing left.
async fn removed(plane: &ControlPlane, helm: &Helm) -> Result<()> {
    helm.ok(&["uninstall", RELEASE, "--namespace", NAMESPACE]).await?;
    let kinds = "crd,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings,\
                 priorityclasses,cm,roles,rolebindings,deployments,sa,netpol,pdb";
    let left = ["get", kinds, "-A", "-l", "app.kubernetes.io/instance=tokenward", "-o", "name"];
    // A CRD, the limits, five policies and their bindings.
    let kept = plane.kubectl_ok(left).await?;
    assert_eq!(kept.lines().count(), 12, "{kept}");
    let readme = fs::read_to_string(chart::folder().join("README.md"))?;
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("kubectl delete ")).collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        plane.kubectl_ok(["delete"].into_iter().chain(command.split(' '))).await?;
    }
    assert_eq!(plane.kubectl_ok(left).await?, "");
    Ok(())
}
