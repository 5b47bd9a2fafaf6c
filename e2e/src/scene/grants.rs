//! Looking at all the grants of a scene at once.

use super::{SOON, Scene, Target, claims};
use crate::eventually;
use anyhow::{Context, Result, ensure};
use chrono::{TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::TokenReview;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What leaves no trace in a target is swept within this, counted from a start of the operator.
pub const SWEEP: Duration = Duration::from_secs(100);

impl Scene {
    /// Creates so many accounts, called `<prefix>-0` and so on, with the label `e2e=many`.
    pub async fn many(&self, count: usize, prefix: &str) -> Result<()> {
        let create = async |n: usize| self.account(&format!("{prefix}-{n}"), &[("e2e", "many")]).await.map(drop);
        futures::stream::iter(0..count).map(create).buffer_unordered(8).try_collect().await
    }

    /// Every target of the namespace, by name.
    pub async fn targets(&self) -> Result<BTreeMap<String, Target>> {
        let secrets = self.secrets().list(&ListParams::default().labels("tokenward.dev/role=target")).await?;
        let named = |target: Target| Some((target.secret.metadata.name.clone()?, target));
        secrets.items.into_iter().filter_map(|secret| Target::read(secret).map(named).transpose()).collect()
    }

    /// Anchors that no target names.
    pub async fn unnamed(&self) -> Result<BTreeSet<String>> {
        let mut anchors: BTreeSet<String> = self.anchors().await?.into_iter().collect();
        for target in self.targets().await?.values() {
            anchors.remove(target.anchor());
            for previous in target.previous()? {
                anchors.remove(&previous);
            }
        }
        Ok(anchors)
    }

    /// Waits until a target names each anchor.
    pub async fn swept(&self) -> Result<()> {
        let check = async || {
            let unnamed = self.unnamed().await?;
            ensure!(unnamed.is_empty(), "{unnamed:?}");
            Ok(())
        };
        let swept = eventually(SWEEP, "every anchor is named by a target", check).await;
        swept.with_context(|| self.log_end())
    }

    /// Waits until the operator has called nothing but watches for 3 s.
    pub async fn rest(&self) -> Result<()> {
        let check = async || {
            let calls = self.proxy.requests();
            let last = calls.iter().rfind(|call| !call.query.contains("watch=true")).context("no call yet")?;
            ensure!(Utc::now() - last.at > TimeDelta::seconds(3), "just now {} {}", last.method, last.path);
            Ok(())
        };
        eventually(SOON, "the operator comes to rest", check).await
    }

    /// Waits until a token minted now is younger than that of the target: `iat` counts whole seconds.
    pub async fn ages(&self, target: &Target) -> Result<()> {
        let issued = claims(target.token())?["iat"].as_i64().context("no iat")?;
        let check = async || {
            ensure!(Utc::now().timestamp() > issued, "it is as young as can be");
            Ok(())
        };
        eventually(SOON, "the next second", check).await
    }

    /// Waits until all of these tokens are dead but the one of the target.
    pub async fn only(&self, target: &Target) -> Result<()> {
        for minted in self.proxy.minted().iter().filter(|minted| minted.token() != target.token()) {
            let check = async || {
                let user = self.user(minted.token()).await?;
                ensure!(user.is_none(), "a token bound to {} is still {user:?}'s", minted.bound_name);
                Ok(())
            };
            eventually(SOON, "an unpublished or replaced token dies", check).await?;
        }
        Ok(())
    }

    /// The user name that the API server knows this token by; `None` when it is dead.
    pub async fn user(&self, token: &str) -> Result<Option<String>> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}}))?;
        let status =
            reviews.create(&PostParams::default(), &review).await?.status.context("a review without status")?;
        let alive = status.authenticated.unwrap_or_default();
        Ok(status.user.and_then(|user| user.username).filter(|_| alive))
    }

    /// That the target holds a live token of its account, and tells the truth about it.
    pub async fn holds(&self, target: &Target) -> Result<()> {
        let claims = claims(target.token())?;
        ensure!(claims["jti"] == target.token_id(), "the annotations are about another token");
        ensure!(claims["kubernetes.io"]["secret"]["name"] == target.anchor(), "it is bound to another anchor");
        let (user, account) = (self.user(target.token()).await?, target.says("service-account"));
        let wanted = format!("system:serviceaccount:{}:{account}", self.namespace);
        ensure!(user.as_deref() == Some(wanted.as_str()), "token {} is {user:?}'s", target.token_id());
        Ok(())
    }
}
