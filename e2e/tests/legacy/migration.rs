//! The move of a consumer, as `docs/how-to/legacy-tokens.md` has it.

use super::lab::Lab;
use anyhow::{Context, Result};
use serde_json::json;
use tokenward_e2e::pages::{apply, manifests, read};
use tokenward_e2e::scene::follower::Follower;

const PAGE: &str = "docs/how-to/legacy-tokens.md";

/// Open to whoever logs in: the test is about the login alone.
const PATH: &str = "/api";

/// The steps of the page.
async fn steps(lab: &Lab, old: &str, consumer: &Follower) -> Result<()> {
    let page = read(PAGE)?;
    let plane = lab.plane;
    consumer.served().await?;
    apply(PAGE, manifests(&page).next().context("no TokenPolicy on the page")?, &[]).await?;
    plane.kubectl_ok(["-n", "ci", "wait", "tp/dashboard", "--for=condition=Ready", "--timeout=60s"]).await?;
    consumer.served().await?;
    consumer.move_to("dashboard-token");
    consumer.served().await?;
    let quarantine = |line: &&str| line.starts_with("kubectl -n ci label secret dashboard ") && line.contains("date");
    let command = page.lines().map(str::trim).find(quarantine);
    let day = chrono::Utc::now().date_naive().to_string();
    let command = command.context("no quarantine on the page")?.replace("$(date -u +%F)", &day);
    plane.kubectl_ok(command.split(' ').skip(1)).await?;
    lab.bearer(old).await?.dies().await?;
    lab.secrets.delete("dashboard", &kube::api::DeleteParams::default()).await?;
    consumer.served().await
}

#[tokio::test]
async fn a_consumer_that_moves_by_the_page_is_never_refused() -> Result<()> {
    let lab = Lab::start("ci").await?;
    lab.plane.kubectl_ok(["-n", "ci", "create", "serviceaccount", "dashboard"]).await?;
    let old = lab.token_of("dashboard", "dashboard", json!({})).await?;
    let consumer = Follower::new("dashboard");
    tokio::select! {
        refused = consumer.run(&lab.secrets, lab.plane, PATH) => refused,
        moved = steps(&lab, &old, &consumer) => moved,
    }
}
