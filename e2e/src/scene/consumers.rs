//! Those who read a target: files as a kubelet mounts them, kubectl with a kubeconfig that was found.

use super::{Bearer, Scene, Target};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

/// A folder that holds a target as files, one per key.
pub struct Mount(PathBuf);

impl Mount {
    /// A folder for this scene.
    pub fn new(scene: &Scene) -> Result<Self> {
        let dir = scene.plane.dir().join(format!("{}.mount", scene.namespace));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces the files. A reader sees each of them old or new, never half of it.
    pub fn write(&self, target: &Target) -> Result<()> {
        for (key, value) in &target.data {
            let new = self.0.join(format!("{key}.new"));
            fs::write(&new, value)?;
            fs::rename(new, self.0.join(key))?;
        }
        Ok(())
    }

    /// What a file holds now.
    pub fn read(&self, key: &str) -> Result<String> {
        fs::read_to_string(self.0.join(key)).with_context(|| format!("reading {key}"))
    }

    /// Somebody who has nothing but these files, as they are now.
    pub async fn bearer(&self) -> Result<Bearer> {
        Bearer::at(&self.read("server")?, &self.read("ca.crt")?, &self.read("token")?).await
    }

    /// The HTTP status that curl gets for a path, with these files alone; `None` where there is no curl.
    pub async fn curl(&self, path: &str) -> Result<Option<String>> {
        fs::write(self.0.join("header"), format!("Authorization: Bearer {}", self.read("token")?))?;
        let url = format!("{}{path}", self.read("server")?);
        let args = ["--silent", "--show-error", "--cacert", "ca.crt", "--header", "@header"];
        let print = ["--output", "body", "--write-out", "%{http_code}", &url];
        let answer = match Command::new("curl").args(args).args(print).current_dir(&self.0).output().await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            answer => answer?,
        };
        ensure!(answer.status.success(), "curl: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(Some(String::from_utf8(answer.stdout)?))
    }
}

/// A cluster as Argo CD documents it.
#[derive(Debug, PartialEq)]
pub struct ArgoCdCluster {
    pub name: String,
    pub server: String,
    pub config: ClusterConfig,
    pub namespaces: Option<Vec<String>>,
    pub resources: Option<String>,
    pub project: Option<String>,
    pub shard: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterConfig {
    pub bearer_token: String,
    pub tls_client_config: TlsClientConfig,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsClientConfig {
    pub ca_data: String,
    #[serde(default)]
    pub insecure: bool,
}

impl ArgoCdCluster {
    /// Reads a target as Argo CD does, which knows no other keys.
    pub fn read(target: &Target) -> Result<Self> {
        let mut data = target.data.clone();
        let mut must = |key: &str| data.remove(key).with_context(|| format!("no key {key}"));
        let (name, server, config) = (must("name")?, must("server")?, must("config")?);
        let namespaces = data.remove("namespaces").map(|list| list.split(',').map(str::to_owned).collect());
        let (resources, project) = (data.remove("clusterResources"), data.remove("project"));
        let shard = data.remove("shard");
        ensure!(data.is_empty(), "Argo CD knows no key {:?}", data.keys());
        let config = serde_json::from_str(&config)?;
        Ok(Self { name, server, config, namespaces, resources, project, shard })
    }

    /// Argo CD's client for the cluster.
    pub async fn bearer(&self) -> Result<Bearer> {
        let ca = String::from_utf8(BASE64_STANDARD.decode(&self.config.tls_client_config.ca_data)?)?;
        Bearer::at(&self.server, &ca, &self.config.bearer_token).await
    }
}

impl Scene {
    /// Writes a kubeconfig that was found in a Secret to a file, and runs kubectl with it.
    pub async fn kubectl_with(&self, config: &str, args: &[&str]) -> Result<Output> {
        let path = self.plane.dir().join(format!("{}.found.kubeconfig", self.namespace));
        fs::write(&path, config)?;
        let path = path.to_string_lossy();
        self.plane.kubectl(["--kubeconfig", &path].iter().chain(args)).await
    }

    /// What the API server says about a token, asked for these audiences.
    pub async fn review(&self, token: &str, audiences: &[&str]) -> Result<Value> {
        Bearer(self.client.clone()).review(token, audiences).await
    }

    /// Rotates the policy `p` and waits for the new token of `p-deployer`.
    pub async fn rotated(&self, value: &str, before: &Target) -> Result<Target> {
        self.rotate("p", value).await?;
        self.next_target("p-deployer", before).await
    }
}

impl Bearer {
    /// What the API server says about a token to this bearer, asked for these audiences.
    pub async fn review(&self, token: &str, audiences: &[&str]) -> Result<Value> {
        let audiences = audiences.iter().map(ToString::to_string).collect();
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.0.clone()).create(&PostParams::default(), &review).await?;
        Ok(serde_json::to_value(answer.status)?)
    }
}
