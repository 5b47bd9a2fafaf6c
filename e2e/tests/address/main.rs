//! Where consumers reach the API server: the address and the CA of one source, also when that changes while all goes on.

mod audience;
mod cluster_info;
mod rotation;

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{Scene, Target, metrics::Scrape};

/// The operator looks at its sources once a minute; this decides nothing but when to give up.
const FOLLOWED: Duration = Duration::from_mins(3);

/// Waits until a Secret carries this server and CA, with the token that it had.
async fn follows(scene: &Scene, before: &Target, server: &str, ca: &str) -> Result<Target> {
    let check = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.value("server") == server && target.value("ca.crt") == ca, "{}", target.value("server"));
        Ok(target)
    };
    let target = eventually(FOLLOWED, &format!("the Secret carries {server}"), check).await;
    let target = target.with_context(|| scene.log_end())?;
    ensure!(target.token() == before.token(), "another token");
    Ok(target)
}

/// What a scrape says of the address: its source, its server and what contests it.
async fn scraped(scene: &Scene) -> Result<(String, String, Vec<String>)> {
    let scrape = Scrape::parse(scene.operator.metrics().await?)?;
    let address = scrape.of("cluster_address_info").next().context("no address")?;
    let contested = scrape.of("cluster_address_contested").map(|sample| sample.label("reason").to_owned());
    Ok((address.label("source").to_owned(), address.label("server").to_owned(), contested.collect()))
}
