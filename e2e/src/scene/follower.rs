//! A consumer that follows its Secret under load.

use super::{Bearer, SOON, Target};
use crate::{Cluster, eventually};
use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// It reads its Secret before each request, and never waits between two.
pub struct Follower {
    requests: AtomicUsize,
    secret: watch::Sender<String>,
}

impl Follower {
    /// Somebody who reads this Secret.
    pub fn new(secret: &str) -> Self {
        Self { requests: AtomicUsize::new(0), secret: watch::Sender::new(secret.to_owned()) }
    }

    /// Calls a path at a server that takes the token, until the first request that is refused.
    pub async fn run(&self, secrets: &Api<Secret>, server: &Cluster, path: &str) -> Result<()> {
        loop {
            let secret = self.secret.borrow().clone();
            // The cluster of the Secret may be away for a moment; the server with the token must not refuse.
            let read = async || Target::read(secrets.get(&secret).await?);
            let target = eventually(SOON, "the Secret can be read", read).await?;
            let code = Bearer::at(&server.url(), server.ca_pem(), target.token()).await?.get(path).await?;
            ensure!(code == 200, "{code} with token {} of Secret {secret}", target.token_id());
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on it reads this Secret.
    pub fn move_to(&self, secret: &str) {
        self.secret.send_replace(secret.to_owned());
    }

    /// Waits until two more requests have ended: one of them began after this.
    pub async fn served(&self) -> Result<()> {
        let before = self.requests.load(Ordering::Relaxed);
        let check = async || {
            ensure!(self.requests.load(Ordering::Relaxed) >= before + 2, "no request");
            Ok(())
        };
        eventually(SOON, "the consumer goes on", check).await
    }
}
