//! A server that grants less than what is asked: one token, its real life told, and no second try.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use kube::api::DynamicObject;
use serde_json::json;
use std::time::Duration;
use tokenward_e2e::operator::install;
use tokenward_e2e::scene::{Scene, claims, spec};
use tokenward_e2e::{ControlPlane, Options, Profile, target_dir};
use tokio::sync::OnceCell;

async fn clamping() -> Result<&'static ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || {
        let limit = "--service-account-max-token-expiration=1h".to_owned();
        let profile = Profile { apiserver: vec![limit], ..Profile::default() };
        let plane = ControlPlane::start(profile, target_dir().join("e2e/clamp-1h")).await?;
        install(&plane).await?;
        anyhow::Ok(plane)
    };
    PLANE.get_or_try_init(start).await
}

fn time(policy: &DynamicObject, field: &str) -> Result<DateTime<Utc>> {
    let text = policy.data["status"][field].as_str().with_context(|| format!("no {field}"))?;
    Ok(text.parse()?)
}

/// That the status and its schedule follow what was granted.
async fn follows_the_grant(scene: &Scene) -> Result<()> {
    let policy = scene.ready("p").await?;
    let (_, shortened) = scene.condition("p", "LifetimeShortened", "True").await?;
    let words: Vec<&str> = shortened.message.split([' ', ',']).collect();
    ensure!(words.contains(&"168h") && words.contains(&"1h"), "{}", shortened.message);
    ensure!(policy.data["status"]["grantedDuration"] == "1h", "{}", policy.data["status"]);
    let target = scene.target("p-deployer").await?;
    let claims = claims(target.token())?;
    let (issued, expires) = (claims["iat"].as_i64().context("no iat")?, claims["exp"].as_i64().context("no exp")?);
    ensure!(expires - issued == 3600, "granted {} s", expires - issued);
    ensure!(time(&policy, "earliestExpiration")?.timestamp() == expires, "{}", policy.data["status"]);
    // Renewal when 20 % are left, up to a tenth earlier.
    let next = time(&policy, "nextRotation")? - DateTime::from_timestamp(issued, 0).context("iat")?;
    let earliest = TimeDelta::seconds(3600 * 8 / 10 * 9 / 10);
    ensure!(next >= earliest && next <= TimeDelta::seconds(3600 * 8 / 10), "due after {next}");
    scene.holds(&target).await
}

#[tokio::test]
async fn a_shortened_token_is_issued_once_and_scheduled_by_its_real_life() -> Result<()> {
    let scene = Scene::on(clamping().await?, "clamped", Options::default()).await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({"token": {"duration": "168h"}}))).await?;
    follows_the_grant(&scene).await?;
    scene.rest().await?;
    let versions = scene.versions().await?;
    // Long enough for a retry of any back-off that starts at a second to show.
    tokio::time::sleep(Duration::from_secs(20)).await;
    scene.operator.restart()?;
    scene.operator.ready().await?;
    scene.rest().await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    follows_the_grant(&scene).await?;
    assert_eq!(scene.versions().await?, versions);
    assert_eq!(scene.mints(), 1);
    Ok(())
}
