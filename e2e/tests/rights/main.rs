//! What the operator may do and what it does, for each shape of the installation: neither is more than the other.

mod granted;
mod namespaces;
mod shape;
mod shipped;
mod tour;
mod used;

use crate::shape::Shape;
use crate::tour::{cap, clean, grants, hand_over, quarantine, sign};
use anyhow::Result;
use tokenward_e2e::scene::overlay::with_component;
use tokenward_e2e::{target_dir, workspace_dir};

/// What is refused in every cluster install without its component: the operator looks once a minute whether an optional
/// kind is there, and the API server tells a stranger that it may not look before it tells that there is nothing.
const CAPS: &str = "watch bootstraptokenpolicies.tokenward.dev";
const LEGACY: &str = "watch legacytokenpolicies.tokenward.dev";

/// An overlay of this name with a component.
fn component(name: &str) -> Result<std::path::PathBuf> {
    with_component(target_dir().join("e2e/rights-overlays").join(name), name)
}

#[tokio::test]
async fn the_whole_cluster() -> Result<()> {
    let shape = Shape::start("cluster", &workspace_dir().join("config/install"), &["ci"]).await?;
    grants(&shape).await?;
    clean(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[CAPS, LEGACY]).await
}

#[tokio::test]
async fn some_namespaces() -> Result<()> {
    let overlay = workspace_dir().join("config/multi-namespace");
    let shape = Shape::start("multi", &overlay, &["team-a", "team-b"]).await?;
    grants(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[]).await
}

#[tokio::test]
async fn one_namespace() -> Result<()> {
    let shape = Shape::start("one", &workspace_dir().join("config/namespaced"), &["ci"]).await?;
    grants(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[]).await
}

#[tokio::test]
async fn the_whole_cluster_without_the_cleaner() -> Result<()> {
    let shape = Shape::start("no-cleaner", &component("no-bootstrap-token-cleaner")?, &["ci"]).await?;
    grants(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[CAPS, LEGACY]).await
}

#[tokio::test]
async fn the_whole_cluster_with_bootstrap_token_policies() -> Result<()> {
    let shape = Shape::start("caps", &component("bootstrap-token-policy")?, &["ci"]).await?;
    grants(&shape).await?;
    clean(&shape).await?;
    cap(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[LEGACY]).await
}

#[tokio::test]
async fn the_whole_cluster_with_legacy_token_policies() -> Result<()> {
    let shape = Shape::start("legacy", &component("legacy-token-policy")?, &["ci"]).await?;
    grants(&shape).await?;
    clean(&shape).await?;
    quarantine(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[CAPS]).await
}

#[tokio::test]
async fn the_whole_cluster_with_the_signer() -> Result<()> {
    let shape = Shape::start("signer", &component("bootstrap-signer")?, &["ci"]).await?;
    grants(&shape).await?;
    clean(&shape).await?;
    sign(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[CAPS, LEGACY]).await
}

/// The chart's rights are those of `config/` (`chart/rendered.rs`), and this is what they are used for, all parts at once.
#[tokio::test]
async fn the_whole_cluster_by_helm() -> Result<()> {
    let values = [
        "components.bootstrapTokenPolicy=true",
        "components.bootstrapSigner=true",
        "components.legacyTokenPolicy=true",
    ];
    let shape = Shape::start_chart("helm", &values, &["ci"]).await?;
    grants(&shape).await?;
    clean(&shape).await?;
    cap(&shape).await?;
    sign(&shape).await?;
    quarantine(&shape).await?;
    hand_over(&shape).await?;
    shape.verdict(&[]).await
}
