//! An API server and its administrator: what needs no more than that works on every cluster.

use crate::plugin::search_path;
use crate::{eventually, kubeconfig};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Settings of a kubeconfig's cluster that an operator does not take over.
const UNSUPPORTED: [&str; 3] = ["insecure-skip-tls-verify", "proxy-url", "tls-server-name"];

/// A cluster.
pub struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) url: String,
    pub(crate) ca_pem: String,
}

impl Cluster {
    /// The cluster of the current kubeconfig's current context, and that context's name. A copy of the kubeconfig goes to
    /// `dir`, which is emptied before, so that the user's own stays as it is. kubectl is that of the `PATH`.
    ///
    /// # Errors
    /// When there is no kubectl or no current context, or it reaches the API server in a way that an operator does not take.
    pub fn current(dir: PathBuf) -> Result<(Self, String)> {
        let kubectl = PathBuf::from("kubectl");
        let view = ["config", "view", "--minify", "--flatten", "--raw", "-o", "json"];
        let output = std::process::Command::new(&kubectl).args(view).output().context("starting kubectl")?;
        let text = printed(&output).context("there is no current context")?;
        let config: Value = serde_json::from_str(&text)?;
        let cluster = &config["clusters"][0]["cluster"];
        for field in UNSUPPORTED {
            let set = !cluster[field].is_null() && cluster[field] != false;
            ensure!(!set, "the current context's cluster has {field}, with which this does not work");
        }
        let url = cluster["server"].as_str().context("the current context has no server")?.to_owned();
        let ca = cluster["certificate-authority-data"].as_str().unwrap_or_default();
        let ca_pem = String::from_utf8(BASE64_STANDARD.decode(ca)?)?;
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let cluster = Self { dir, kubectl, url, ca_pem };
        // It holds the user's credentials.
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(cluster.kubeconfig())?;
        file.write_all(text.as_bytes())?;
        let context = config["current-context"].as_str().context("there is no current context")?.to_owned();
        Ok((cluster, context))
    }

    /// The folder with the kubeconfig and all else that is about this cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The kubectl that is used.
    #[must_use]
    pub fn kubectl_path(&self) -> &Path {
        &self.kubectl
    }

    /// URL of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The certificates that the API server's is signed with; empty for those that everybody trusts.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// An administrator's client; make one per test, as it belongs to the runtime it was made in.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig()).await
    }

    /// Runs kubectl as administrator, whatever its exit status.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        self.kubectl_with(args, "").await
    }

    /// As [`Cluster::kubectl`], with `input` on its standard input (`-f -`).
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub async fn kubectl_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<Output> {
        let mut kubectl = tokio::process::Command::new(&self.kubectl);
        kubectl
            .args(args)
            .env("PATH", search_path())
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBERC", "off")
            .env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = kubectl.spawn().context("starting kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // kubectl may end without having read it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        Ok(child.wait_with_output().await?)
    }

    /// Runs kubectl as administrator and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn kubectl_ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        printed(&self.kubectl(args).await?)
    }

    /// `kubectl apply --server-side -f -` of a manifest.
    ///
    /// # Errors
    /// When it fails, with what kubectl said.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        printed(&self.kubectl_with(["apply", "--server-side", "-f", "-"], manifest).await?)
    }

    /// Creates a namespace and waits for its `default` account.
    ///
    /// # Errors
    /// When it exists already, or the account does not appear.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let client = self.client().await?;
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
        let check = async || {
            accounts.get("default").await?;
            Ok(())
        };
        eventually(Duration::from_secs(30), "the namespace's default account", check).await
    }
}

/// What a program printed, or an error with what it complained about.
pub(crate) fn printed(output: &Output) -> Result<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl: {}: {complaint}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
