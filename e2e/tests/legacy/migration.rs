//! The move of a consumer, as `docs/how-to/legacy-tokens.md` has it.

use super::lab::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokenward_e2e::eventually;
use tokenward_e2e::pages::{apply, manifests, read};
use tokenward_e2e::scene::SOON;
use tokio::sync::watch;

const PAGE: &str = "docs/how-to/legacy-tokens.md";

/// A consumer that reads its Secret for each request, until one is refused.
async fn consume(lab: &Lab, secret: watch::Receiver<&str>, requests: &AtomicUsize) -> Result<()> {
    loop {
        let name = *secret.borrow();
        let user = lab.bearer(&lab.read(name).await?).await?.whoami().await?;
        ensure!(user.as_deref() == Some("system:serviceaccount:ci:dashboard"), "with the token in {name}: {user:?}");
        requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until the consumer has made two more requests: one of them began after this.
async fn served(requests: &AtomicUsize) -> Result<()> {
    let before = requests.load(Ordering::Relaxed);
    let check = async || {
        ensure!(requests.load(Ordering::Relaxed) >= before + 2, "no request");
        Ok(())
    };
    eventually(SOON, "the consumer goes on", check).await
}

/// The steps of the page.
async fn steps(lab: &Lab, old: &str, secret: &watch::Sender<&str>, requests: &AtomicUsize) -> Result<()> {
    let page = read(PAGE)?;
    let plane = lab.plane;
    served(requests).await?;
    apply(PAGE, manifests(&page).next().context("no TokenPolicy on the page")?, &[]).await?;
    plane.kubectl_ok(["-n", "ci", "wait", "tp/dashboard", "--for=condition=Ready", "--timeout=60s"]).await?;
    served(requests).await?;
    secret.send_replace("dashboard-token");
    served(requests).await?;
    let quarantine = |line: &&str| line.starts_with("kubectl -n ci label secret dashboard ") && line.contains("date");
    let command = page.lines().map(str::trim).find(quarantine);
    let day = chrono::Utc::now().date_naive().to_string();
    let command = command.context("no quarantine on the page")?.replace("$(date -u +%F)", &day);
    plane.kubectl_ok(command.split(' ').skip(1)).await?;
    lab.bearer(old).await?.dies().await?;
    lab.secrets.delete("dashboard", &kube::api::DeleteParams::default()).await?;
    served(requests).await
}

#[tokio::test]
async fn a_consumer_that_moves_by_the_page_is_never_refused() -> Result<()> {
    let lab = Lab::start("ci").await?;
    lab.plane.kubectl_ok(["-n", "ci", "create", "serviceaccount", "dashboard"]).await?;
    let old = lab.token_of("dashboard", "dashboard", json!({})).await?;
    let (secret, reads) = watch::channel("dashboard");
    let requests = AtomicUsize::new(0);
    tokio::select! {
        refused = consume(&lab, reads, &requests) => refused,
        moved = steps(&lab, &old, &secret, &requests) => moved,
    }
}
