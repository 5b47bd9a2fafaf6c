//! Windows on a real API server: a rotation waits for one, comes early for one, and goes ahead where there is none.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, DurationRound, TimeDelta, Timelike, Utc};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, condition, spec};

/// A token of ten minutes is due after half of its life, with a reserve of five: nothing here lasts as long.
fn windowed(windows: &Value) -> Value {
    let rotation = json!({"renewBeforePercentage": 50, "windows": windows});
    json!({"token": {"duration": "10m"}, "rotation": rotation})
}

/// The schedule of every day at this minute, by UTC.
fn daily(at: DateTime<Utc>) -> String {
    at.format("%-M %-H * * *").to_string()
}

fn time(policy: &DynamicObject, field: &str) -> Result<DateTime<Utc>> {
    Ok(policy.data["status"][field].as_str().with_context(|| format!("no {field}"))?.parse()?)
}

/// The beginning of the second minute from now: the first may be too near.
fn soon() -> Result<DateTime<Utc>> {
    Ok(Utc::now().duration_trunc(TimeDelta::minutes(1))? + TimeDelta::minutes(2))
}

/// Waits until policy `p` has a window in time.
async fn satisfied(scene: &Scene) -> Result<()> {
    let gone = async || {
        let policy = scene.policies().get("p").await?;
        ensure!(condition(&policy, "WindowsUnsatisfiable").is_none(), "{}", policy.data["status"]);
        Ok(())
    };
    eventually(SOON, "the condition goes", gone).await
}

#[tokio::test]
async fn a_token_is_replaced_early_in_a_window_and_not_before() -> Result<()> {
    let scene = Scene::start("window").await?;
    let opens = soon()?;
    let first = scene.deployer(windowed(&json!([{"schedule": daily(opens), "duration": "1m"}]))).await?;
    let next = time(&scene.ready("p").await?, "nextRotation")?;
    ensure!(next >= opens && next <= opens + TimeDelta::seconds(30), "{next}, and the window opens at {opens}");
    let second = eventually(Duration::from_mins(4), "the rotation in the window", async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.token_id() != first.token_id(), "not yet");
        Ok(target)
    });
    let second = second.await?;
    let issued: DateTime<Utc> = second.says("issued-at").parse()?;
    ensure!(issued >= opens, "issued at {issued}, before the window opens at {opens}");
    scene.told("p", "TokenRotated", "(Due)").await?;
    // The window that it was issued in is over for the new token: the next one opens tomorrow.
    let (_, told) = scene.condition("p", "WindowsUnsatisfiable", "True").await?;
    ensure!(told.reason == "NoWindowInTime" && told.message.contains("deployer"), "{told:?}");
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn without_a_window_in_time_a_token_is_replaced_at_half_of_its_reserve() -> Result<()> {
    let scene = Scene::start("no-window").await?;
    let tomorrow = Utc::now() + TimeDelta::hours(12);
    let target = scene.deployer(windowed(&json!([{"schedule": daily(tomorrow), "duration": "1h"}]))).await?;
    let (policy, told) = scene.condition("p", "WindowsUnsatisfiable", "True").await?;
    ensure!(told.message.contains("token.duration"), "{told:?}");
    let issued: DateTime<Utc> = target.says("issued-at").parse()?;
    let expires: DateTime<Utc> = target.says("expires-at").parse()?;
    let next = time(&policy, "nextRotation")?;
    ensure!(
        next > issued + (expires - issued) / 2 && next < expires - TimeDelta::seconds(60),
        "{issued} {next} {expires}"
    );
    // A longer window is an edit of the schedule alone: the condition goes, and nothing is minted.
    scene.policy("p", &spec(&["deployer"], windowed(&json!([{"schedule": "* * * * *", "duration": "1m"}])))).await?;
    satisfied(&scene).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_rotation_by_hand_waits_for_no_window() -> Result<()> {
    let scene = Scene::start("window-by-hand").await?;
    let tomorrow = Utc::now() + TimeDelta::hours(12);
    let first = scene.deployer(windowed(&json!([{"schedule": daily(tomorrow), "duration": "1h"}]))).await?;
    scene.rotate("p", "1").await?;
    scene.next_target("p-deployer", &first).await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn the_schedules_of_cron_jobs_are_followed() -> Result<()> {
    let scene = Scene::start("window-grammar").await?;
    let minute = |minutes| json!([{"schedule": minutes, "duration": "1m"}]);
    // A token of ten minutes reaches one of these in any case.
    scene.deployer(windowed(&minute("0/2 * * * *"))).await?;
    let next = time(&scene.ready("p").await?, "nextRotation")?;
    ensure!(next.minute() % 2 == 0 && next.second() < 30, "{next}");
    let windows = ["@midnight", "0/30 2 * * *", "5/15 * * * *"].map(|schedule| minute(schedule)[0].clone());
    scene.policy("p", &spec(&["deployer"], windowed(&json!(windows)))).await?;
    let read = async || {
        let policy = scene.policies().get("p").await?;
        ensure!(policy.data["status"]["observedGeneration"] == 2, "{}", policy.data["status"]);
        ensure!(condition(&policy, "Stalled").is_none(), "{}", policy.data["status"]);
        Ok(())
    };
    eventually(SOON, "the schedules are read", read).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_schedule_that_never_happens_holds_up_no_token_and_no_other_window() -> Result<()> {
    let scene = Scene::start("window-never").await?;
    let never = json!({"schedule": "0 2 30 2 *", "duration": "1h"});
    scene.deployer(windowed(&json!([never]))).await?;
    let (policy, told) = scene.condition("p", "WindowsUnsatisfiable", "True").await?;
    ensure!(told.reason == "NoWindowInTime" && told.message.contains("deployer"), "{told:?}");
    ensure!(condition(&policy, "Stalled").is_none(), "{}", policy.data["status"]);
    let both = json!([never, {"schedule": "* * * * *", "duration": "1m"}]);
    scene.policy("p", &spec(&["deployer"], windowed(&both))).await?;
    satisfied(&scene).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

/// Admission cannot compare the ends of a range, and knows no time zones.
#[tokio::test]
async fn a_window_that_cannot_be_read_is_named_with_what_to_write() -> Result<()> {
    let scene = Scene::start("window-unreadable").await?;
    scene.account("deployer", &[]).await?;
    for (name, window, told) in [
        (
            "range",
            json!({"schedule": "45-15 2 * * *", "duration": "1h"}),
            r#"windows[0].schedule "45-15 2 * * *": minute "45-15": this range ends before it begins; write"#,
        ),
        (
            "zone",
            json!({"schedule": "@daily", "duration": "1h", "timeZone": "Europe/Nowhere"}),
            r#"windows[0].timeZone "Europe/Nowhere": must be a name"#,
        ),
    ] {
        scene.policy(name, &spec(&["deployer"], windowed(&json!([window])))).await?;
        let (_, stalled) = scene.condition(name, "Stalled", "True").await?;
        ensure!(stalled.reason == "PolicyUnreadable" && stalled.message.contains(told), "{stalled:?}");
    }
    assert_eq!(scene.mints(), 0);
    Ok(())
}
