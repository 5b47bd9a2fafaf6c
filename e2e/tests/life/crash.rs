//! What a crash, a lost answer or a wrong one leaves behind, and how it is put right.

use anyhow::{Context, Result, ensure};
use chrono::{TimeDelta, Utc};
use futures::future::try_join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::token;
use tokenward_e2e::poll::eventually_every;
use tokenward_e2e::scene::grants::SWEEP;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};
use tokenward_e2e::{Act, Call, Rule, eventually};

const TARGET: &str = "p-deployer";

fn makes_anchor(call: &Call) -> bool {
    call.method == "POST" && call.path.ends_with("/secrets")
}

fn reads_target(call: &Call) -> bool {
    call.is("GET", &format!("/secrets/{TARGET}"))
}

fn writes_target(call: &Call) -> bool {
    call.is("PATCH", &format!("/secrets/{TARGET}"))
}

fn deletes_anchor(call: &Call) -> bool {
    call.is("DELETE", "/secrets/tw-")
}

/// Where the operator dies. After a call its answer is held, so that the operator never knows what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    BeforeTheFirstCall,
    AfterTheAnchor,
    AfterTheToken,
    AfterTheApply,
    BeforeTheOldAnchorGoes,
}

/// A point of a first issue, or of a rotation.
#[derive(Clone, Copy, Debug)]
struct Case {
    point: Point,
    rotation: bool,
}

impl Case {
    const fn issue(point: Point) -> Self {
        Self { point, rotation: false }
    }

    const fn rotation(point: Point) -> Self {
        Self { point, rotation: true }
    }

    fn name(self) -> String {
        format!("{:?}-{}", self.point, if self.rotation { "rotation" } else { "issue" }).to_lowercase()
    }

    fn hold(self) -> Rule {
        match self.point {
            Point::BeforeTheFirstCall if self.rotation => Rule::before(makes_anchor, Act::Hold),
            Point::BeforeTheFirstCall => Rule::before(reads_target, Act::Hold),
            Point::AfterTheAnchor => Rule::after(makes_anchor, Act::Hold),
            Point::AfterTheToken => Rule::after(Call::is_mint, Act::Hold),
            Point::AfterTheApply => Rule::after(writes_target, Act::Hold),
            Point::BeforeTheOldAnchorGoes => Rule::before(deletes_anchor, Act::Hold),
        }
    }

    /// Tokens minted in all. What was minted and not published is lost, nothing else is minted again.
    fn mints(self) -> usize {
        1 + usize::from(self.rotation) + usize::from(self.point == Point::AfterTheToken)
    }

    /// Anchors that no target names when the operator is dead.
    fn left_behind(self) -> usize {
        usize::from(matches!(self.point, Point::AfterTheAnchor | Point::AfterTheToken))
    }
}

/// A policy whose old tokens die 2 s after they were replaced.
fn policy() -> Value {
    spec(&["deployer"], json!({"rotation": {"overlap": "2s"}}))
}

/// Publishes a first token, and waits until the next one is younger.
async fn issued(scene: &Scene) -> Result<Target> {
    scene.policy("p", &policy()).await?;
    scene.ready("p").await?;
    let target = scene.target(TARGET).await?;
    scene.rest().await?;
    Ok(target)
}

/// Kills the operator at this point.
async fn crash(scene: &Scene, case: Case) -> Result<()> {
    let hold;
    if case.rotation {
        issued(scene).await?;
        hold = scene.proxy.add(case.hold());
        scene.rotate("p", "1").await?;
    } else {
        hold = scene.proxy.add(case.hold());
        scene.policy("p", &policy()).await?;
    }
    hold.reached_times(1, SOON).await?;
    scene.operator.kill9()?;
    hold.cut();
    Ok(())
}

/// The target, and what is wrong with the token in it. What is replaced while we look is looked at again.
async fn look(scene: &Scene) -> Result<(Target, Option<anyhow::Error>)> {
    loop {
        let target = scene.target(TARGET).await?;
        let wrong = scene.holds(&target).await.err();
        if wrong.is_none() || scene.target(TARGET).await?.version() == target.version() {
            return Ok((target, wrong));
        }
    }
}

/// Waits until the target's anchor is the only one. All that time the target holds a live token.
async fn settled(scene: &Scene) -> Result<Target> {
    let mut gap = None;
    let check = async || {
        let (target, wrong) = look(scene).await?;
        gap = gap.take().or(wrong);
        let anchors = scene.anchors().await?;
        ensure!(anchors == [target.anchor()], "{anchors:?}, and the target names {}", target.anchor());
        Ok(target)
    };
    let settled = eventually_every(Duration::from_millis(300), SWEEP, "one anchor is left", check).await?;
    gap.map_or(Ok(settled), |gap| Err(gap.context("a gap")))
}

async fn recovers(case: Case) -> Result<()> {
    let scene = Scene::start(&case.name()).await?;
    scene.account("deployer", &[]).await?;
    crash(&scene, case).await?;
    let unnamed = scene.unnamed().await?;
    ensure!(unnamed.len() == case.left_behind(), "left behind: {unnamed:?}");
    scene.operator.restart()?;
    scene.operator.ready().await?;
    let wanted = if case.rotation { "1" } else { "" };
    let published = async || {
        let target = scene.target(TARGET).await?;
        ensure!(target.says("rotate") == wanted, "issued under {:?}", target.says("rotate"));
        scene.holds(&target).await
    };
    eventually(SOON, "a live token is published", published).await?;
    let target = settled(&scene).await?;
    scene.only(&target).await?;
    scene.ready("p").await?;
    ensure!(scene.mints() == case.mints(), "{} tokens for {}", scene.mints(), case.mints());
    Ok(())
}

/// All at the same time, so that the minute before the sweep passes once.
#[tokio::test]
async fn a_crash_at_any_point_costs_at_most_one_token_and_leaves_nothing() -> Result<()> {
    use Point::{AfterTheAnchor, AfterTheApply, AfterTheToken, BeforeTheFirstCall, BeforeTheOldAnchorGoes};
    let issue = [BeforeTheFirstCall, AfterTheAnchor, AfterTheToken, AfterTheApply].map(Case::issue);
    let rotation = [BeforeTheFirstCall, AfterTheAnchor, AfterTheToken, AfterTheApply, BeforeTheOldAnchorGoes];
    let cases = issue.into_iter().chain(rotation.map(Case::rotation));
    let run = async |case: Case| recovers(case).await.with_context(|| case.name());
    try_join_all(cases.map(run)).await?;
    Ok(())
}

/// A rotation is asked for and not wanted any more when the operator comes back: nothing is published that could
/// tell that the anchor is left over, so it takes the sweep.
#[tokio::test]
async fn what_a_crash_left_of_an_unwanted_rotation_is_swept_after_a_minute() -> Result<()> {
    let scene = Scene::start("unwanted").await?;
    scene.account("deployer", &[]).await?;
    let case = Case::rotation(Point::AfterTheToken);
    crash(&scene, case).await?;
    let left = scene.unnamed().await?;
    assert_eq!(left.len(), case.left_behind());
    scene.annotate("p", "tokenward.dev/rotate", None).await?;
    let before = scene.target(TARGET).await?;
    let (mark, start) = (scene.proxy.mark(), Utc::now());
    scene.operator.restart()?;
    let target = settled(&scene).await?;
    assert_eq!(target.version(), before.version());
    assert_eq!(scene.mints(), 2);
    let deleted = scene.proxy.calls_since(mark, "DELETE", "/secrets/tw-");
    assert_eq!(deleted.len(), 1, "{deleted:#?}");
    assert!(left.iter().all(|anchor| deleted[0].path.ends_with(anchor)), "{deleted:#?}");
    // Another process may be in the middle of publishing.
    assert!(deleted[0].at - start >= TimeDelta::seconds(60), "too early: {}", deleted[0].at - start);
    scene.only(&target).await
}

#[tokio::test]
async fn a_lost_answer_to_the_apply_mints_nothing() -> Result<()> {
    let scene = Scene::start("apply-lost").await?;
    scene.account("deployer", &[]).await?;
    let lost = scene.proxy.add(Rule::after(writes_target, Act::Drop).nth(1));
    let first = issued(&scene).await?;
    assert_eq!((lost.acted(), scene.mints()), (1, 1));
    scene.holds(&first).await?;
    drop(lost);

    let lost = scene.proxy.add(Rule::after(writes_target, Act::Drop).nth(1));
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.gone(first.anchor()).await?;
    scene.ready("p").await?;
    scene.rest().await?;
    assert_eq!((lost.acted(), scene.mints()), (1, 2));
    assert_eq!(scene.target(TARGET).await?.version(), second.version());
    assert_eq!(scene.anchors().await?, [second.anchor()]);
    scene.holds(&second).await
}

/// A first TokenRequest that goes wrong in this way, and the tokens minted in all.
async fn request_fails(name: &str, rule: Rule, mints: usize) -> Result<()> {
    let scene = Scene::start(name).await?;
    scene.account("deployer", &[]).await?;
    let rule = scene.proxy.add(rule.nth(1));
    let mark = scene.proxy.mark();
    let target = issued(&scene).await?;
    let anchors = scene.proxy.calls_since(mark, "POST", "/secrets").len();
    let deleted = scene.proxy.calls_since(mark, "DELETE", "/secrets/tw-").len();
    ensure!((anchors, deleted) == (2, 1), "{anchors} anchors made, {deleted} deleted");
    ensure!(scene.anchors().await? == [target.anchor()], "{:?}", scene.anchors().await?);
    ensure!((rule.acted(), scene.mints()) == (1, mints), "{} tokens", scene.mints());
    scene.holds(&target).await?;
    scene.only(&target).await
}

#[tokio::test]
async fn a_failed_token_request_is_tried_again_with_a_fresh_anchor() -> Result<()> {
    let fail = |code, reason| Act::fail(code, reason, "made up");
    let before = |code, reason| Rule::before(Call::is_mint, fail(code, reason));
    let cases = [
        ("refused-500", before(500, "InternalError"), 1),
        ("refused-429", before(429, "TooManyRequests"), 1),
        ("refused-409", before(409, "Conflict"), 1),
        ("minted-and-500", Rule::after(Call::is_mint, fail(500, "InternalError")), 2),
        ("minted-and-409", Rule::after(Call::is_mint, fail(409, "Conflict")), 2),
        ("minted-and-lost", Rule::after(Call::is_mint, Act::Drop), 2),
        ("never-arrived", Rule::before(Call::is_mint, Act::Drop), 1),
    ];
    let run = async |(name, rule, mints)| request_fails(name, rule, mints).await.with_context(|| name.to_owned());
    try_join_all(cases.map(run)).await?;
    Ok(())
}

/// While TokenRequests are answered so, nothing is published; then everything is as ever.
async fn answer_is_rejected(name: &str, answer: impl Fn(&str) -> String, token_of: &str) -> Result<()> {
    let scene = Scene::start(name).await?;
    for account in ["deployer", "other"] {
        scene.account(account, &[]).await?;
    }
    let foreign = token(scene.plane, name, token_of, Duration::from_hours(1)).await?;
    let replace = Act::Replace(answer(foreign.expose_secret()));
    let rule = scene.proxy.add(Rule::after(Call::is_mint, replace.clone()));
    scene.policy("p", &policy()).await?;
    let message = scene.not_ready("p", "TokenRejected").await?;
    ensure!(message.contains("deployer") && !message.contains("eyJ"), "{message}");
    rule.reached_times(2, SOON).await?;
    ensure!(scene.targets().await?.is_empty(), "published all the same");
    rule.remove();
    let first = issued(&scene).await?;
    scene.holds(&first).await?;

    let rule = scene.proxy.add(Rule::after(Call::is_mint, replace));
    scene.rotate("p", "1").await?;
    rule.reached_times(2, SOON).await?;
    ensure!(scene.target(TARGET).await?.version() == first.version(), "the good token was overwritten");
    scene.holds(&first).await?;
    rule.remove();
    let second = scene.next_target(TARGET, &first).await?;
    scene.gone(first.anchor()).await?;
    scene.rest().await?;
    ensure!(scene.anchors().await? == [second.anchor()], "{:?}", scene.anchors().await?);
    scene.only(&second).await
}

#[tokio::test]
async fn an_answer_that_is_not_the_token_asked_for_is_never_published() -> Result<()> {
    fn status(value: &Value) -> String {
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": value}).to_string()
    }
    type Answer = fn(&str) -> String;
    let genuine: Answer = |token| status(&json!({"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}));
    let cases: [(&str, Answer, &str); 6] = [
        ("of-another-account", genuine, "other"),
        ("bound-to-nothing", genuine, "deployer"),
        ("garbage", |_| status(&json!({"token": "garbage"})), "deployer"),
        ("a-list-of-tokens", |token| status(&json!({"token": [token]})), "deployer"),
        ("no-status", |_| json!({"kind": "TokenRequest"}).to_string(), "deployer"),
        ("no-json", |token| format!("<html>{token}</html>"), "deployer"),
    ];
    let run = async |(name, answer, of): (&str, Answer, &str)| {
        answer_is_rejected(name, answer, of).await.with_context(|| name.to_owned())
    };
    try_join_all(cases.map(run)).await?;
    Ok(())
}

#[tokio::test]
async fn an_account_in_trouble_does_not_hold_up_another() -> Result<()> {
    let scene = Scene::start("trouble").await?;
    for account in ["stuck", "well"] {
        scene.account(account, &[]).await?;
    }
    let fail = || Act::fail(500, "InternalError", "made up");
    let stuck = scene.proxy.add(Rule::before(|call| call.is_mint() && call.path.contains("/stuck/"), fail()));
    scene.policy("first", &spec(&["stuck"], json!({}))).await?;
    scene.not_ready("first", "ApiUnavailable").await?;
    let once = scene.proxy.add(Rule::before(|call| call.is_mint() && call.path.contains("/well/"), fail()).nth(1));
    scene.policy("second", &spec(&["well"], json!({}))).await?;
    once.reached_times(1, SOON).await?;
    // The longest back-off is 60 s.
    let issued = async || scene.holds(&scene.target("second-well").await?).await;
    eventually(SWEEP, "the healthy account gets its token", issued).await?;
    ensure!(scene.targets().await?.len() == 1 && stuck.acted() > 1, "the other one is not in trouble");
    Ok(())
}
