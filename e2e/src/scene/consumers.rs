//! Those who read a target: files as a kubelet mounts them, kubectl with a kubeconfig that was found.

use super::{Bearer, Scene, Target};
use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
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
        anyhow::ensure!(answer.status.success(), "curl: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(Some(String::from_utf8(answer.stdout)?))
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
        let audiences = audiences.iter().map(ToString::to_string).collect();
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(serde_json::to_value(answer.status)?)
    }

    /// Rotates the policy `p` and waits for the new token of `p-deployer`.
    pub async fn rotated(&self, value: &str, before: &Target) -> Result<Target> {
        self.rotate("p", value).await?;
        self.next_target("p-deployer", before).await
    }
}
