//! The real Helm, with all that it keeps in a folder of its own.

use crate::control_plane::binaries;
use crate::scene::overlay::manifests;
use crate::{Cluster, chart, operator::NAMESPACE};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// The name that releases have here.
pub const RELEASE: &str = "tokenward";

/// Helm, for one cluster or none.
pub struct Helm {
    program: PathBuf,
    home: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Helm without a cluster. Its first build takes minutes.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn new(home: PathBuf) -> Result<Self> {
        let program = tokio::task::spawn_blocking(binaries::helm).await??;
        let kubeconfig = home.join("no-kubeconfig");
        Ok(Self { program, home, kubeconfig })
    }

    /// Helm as administrator of this cluster.
    ///
    /// # Errors
    /// As [`Helm::new`].
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let helm = Self::new(cluster.dir().join("helm")).await?;
        Ok(Self { kubeconfig: cluster.kubeconfig(), ..helm })
    }

    /// Runs Helm, whatever its exit status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let mut helm = tokio::process::Command::new(&self.program);
        for folder in ["CACHE", "CONFIG", "DATA"] {
            helm.env(format!("HELM_{folder}_HOME"), self.home.join(folder));
        }
        helm.args(args).env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        helm.output().await.context("starting helm")
    }

    /// Runs Helm and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args).await?;
        ensure!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `install`, `upgrade` or `template` of this chart with these values, each as `key=<JSON>`.
    ///
    /// # Errors
    /// As [`Helm::run`].
    pub async fn with(&self, command: &[&str], chart: &Path, values: &[&str]) -> Result<Output> {
        let chart = chart.to_string_lossy();
        let mut args = command.to_vec();
        args.extend([RELEASE, &chart, "--namespace", NAMESPACE]);
        args.extend(values.iter().flat_map(|value| ["--set-json", value]));
        self.run(&args).await
    }

    /// Installs the chart of this repository with these values, and returns what is installed now.
    ///
    /// # Errors
    /// When Helm fails, with what it said.
    pub async fn install(&self, values: &[&str]) -> Result<Vec<Value>> {
        let output = self.with(&["install", "--create-namespace"], &chart::folder(), values).await?;
        ensure!(output.status.success(), "helm install: {}", String::from_utf8_lossy(&output.stderr));
        self.installed().await
    }

    /// The manifests of the release.
    ///
    /// # Errors
    /// When Helm fails, with what it said.
    pub async fn installed(&self) -> Result<Vec<Value>> {
        manifests(&self.ok(&["get", "manifest", RELEASE, "--namespace", NAMESPACE]).await?)
    }
}
