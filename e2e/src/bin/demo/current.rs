//! The story on the cluster of the current kubeconfig: what it makes it takes away again, and all else it leaves alone.

use crate::screen::Screen;
use crate::shell::Shell;
use crate::story::{self, NAMESPACE};
use crate::{start_operator, stop};
use anyhow::{Result, anyhow, ensure};
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Instant;
use tokenward_e2e::{Cluster, target_dir, write_overlay};

/// The operator for the namespace of the samples alone, without pods: it runs here. Without the limits as well: when the last
/// policy that reads a `ConfigMap` goes, a kube-apiserver reads none any more, also none of an installation to come.
const OVERLAY: &str = "apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [CONFIG/crd, CONFIG/namespaced]
replicas: [{name: tokenward, count: 0}]
patches:
  - target: {kind: 'ValidatingAdmissionPolicy.*', name: 'tokenward-(token-)?limits'}
    patch: |-
      $patch: delete
      apiVersion: any
      kind: any
      metadata: {name: any}
";

/// Tells the story, and removes all of it, however it ended.
pub async fn run(screen: &Screen, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Result<()> {
    let start = Instant::now();
    let (cluster, context) = Cluster::current(target_dir().join("demo-current"))?;
    let demo = Demo {
        screen,
        shell: Shell::new(screen, &cluster)?,
        overlay: write_overlay(cluster.dir().join("overlay"), OVERLAY)?,
        cluster: &cluster,
    };
    demo.announce(&context);
    let free = demo.nothing_is_there().await;
    let done = match free {
        Ok(()) => {
            let played = tokio::select! {
                played = demo.play() => played,
                () = &mut stopped => Err(anyhow!("interrupted")),
            };
            let removed = demo.remove().await;
            played.and(removed)
        }
        refused => refused,
    };
    // The copy of the kubeconfig holds credentials.
    fs::remove_dir_all(cluster.dir())?;
    done?;
    screen.end(start.elapsed());
    Ok(())
}

struct Demo<'a> {
    screen: &'a Screen,
    shell: Shell,
    overlay: PathBuf,
    cluster: &'a Cluster,
}

impl Demo<'_> {
    fn announce(&self, context: &str) {
        self.screen.step(&format!("The cluster of your current context: {context}, {}", self.cluster.url()));
        for line in [
            "the CRD TokenPolicy, the namespaces tokenward-system and ci, roles and admission policies are made there,",
            "the operator runs here, for the namespace ci alone, and bootstrap tokens are left alone;",
            "in the end all of it is removed. Your kubeconfig is copied, and not changed.",
        ] {
            self.screen.wait(line);
        }
    }

    /// Nothing that the demo would make may be there: it would be changed, and removed in the end.
    async fn nothing_is_there(&self) -> Result<()> {
        let there = self.left().await?;
        ensure!(
            there.is_empty(),
            "the cluster has these already, and the demo would change and remove them: {}. Choose another context with \
             `kubectl config use-context`",
            there.join(", ")
        );
        Ok(())
    }

    /// What there is of all that the demo makes.
    async fn left(&self) -> Result<Vec<String>> {
        let get = ["get", "--ignore-not-found", "-o", "name"];
        let overlay = self.overlay.to_string_lossy();
        let mut names = self.cluster.kubectl_ok(get.iter().copied().chain(["-k", &*overlay])).await?;
        names += &self.cluster.kubectl_ok(get.iter().copied().chain(["namespace", NAMESPACE])).await?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    async fn play(&self) -> Result<()> {
        self.shell.run("kubectl version | grep Server").await?;
        self.shell.run(&format!("kubectl create namespace {NAMESPACE}")).await?;
        let apply = format!("kubectl apply -k {}", crate::shell::shown(&self.overlay));
        story::install(self.screen, &self.shell, &apply).await?;
        let args = ["--bootstrap-token-cleaner=off".to_owned(), format!("--namespace={NAMESPACE}")];
        let why = "the operator is a process here, with its own account's token";
        let operator = start_operator(self.screen, &self.shell, self.cluster, args.into(), why).await?;
        story::tell(self.screen, &self.shell, self.cluster).await?;
        stop(&operator).await
    }

    async fn remove(&self) -> Result<()> {
        self.screen.step("Remove all of it");
        let overlay = crate::shell::shown(&self.overlay);
        self.shell.run(&format!("kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=120s")).await?;
        let delete = format!("kubectl delete -k {overlay} --ignore-not-found --timeout=120s");
        self.shell.run_shortened(&delete, 3).await?;
        let left = self.left().await?;
        ensure!(left.is_empty(), "these are left: {}", left.join(", "));
        self.screen.check("nothing of it is left");
        Ok(())
    }
}
