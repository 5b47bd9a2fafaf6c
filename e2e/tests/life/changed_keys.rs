//! The cluster changes its signing keys or its issuer: nothing happens while the old one still counts, and when it is
//! gone every token is replaced once, the most urgent first.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokenward_e2e::control_plane::ISSUER;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, install, token};
use tokenward_e2e::scene::{SOON, Scene, Target, claims, condition, spec};
use tokenward_e2e::{Act, Call, ControlPlane, Options, Profile, Rule, Signing, eventually, target_dir};

/// Keys are looked at once a minute, and are gone after three looks; it decides nothing but when to give up.
const LONG: Duration = Duration::from_mins(10);

/// Policies of one account, with the hours that their tokens live; issued in this order.
const SINGLES: [(&str, u64); 4] = [("fourth", 4), ("first", 1), ("third", 3), ("second", 2)];
/// The accounts of the policy `group`, whose tokens live longest.
const GROUP: [&str; 2] = ["left", "right"];
const GRANTS: usize = SINGLES.len() + GROUP.len();

/// A control plane of its own, which ends with this process, and an operator that does one thing at a time.
async fn scene(name: &str) -> Result<Scene> {
    let plane = ControlPlane::start(Profile::default(), target_dir().join("e2e").join(format!("keys-{name}"))).await?;
    install(&plane).await?;
    let args = vec!["--concurrency=1".to_owned()];
    let scene = Scene::on(Box::leak(Box::new(plane)), name, Options { args, ..Options::default() }).await?;
    scene.operator.ready().await?;
    Ok(scene)
}

/// What a token is known by: the key that signed it, and its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seal {
    key: String,
    issuer: String,
}

impl Seal {
    fn of(target: &Target) -> Result<Self> {
        let header = target.token().split('.').next().unwrap_or_default();
        let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header)?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let seal = Self { key: text(&header["kid"]), issuer: text(&claims(target.token())?["iss"]) };
        let told = Self { key: target.says("key-id").to_owned(), issuer: target.says("issuer").to_owned() };
        ensure!(seal == told, "the token has {seal:?}, its annotations {told:?}");
        Ok(seal)
    }
}

/// Tokens by the key that signed them.
trait Keys {
    /// Waits for so many answers to the question which keys there are, counted from `mark`.
    async fn polls(&self, mark: usize, times: usize) -> Result<()>;
    /// Waits until the tokens of all targets differ from `old`, and returns the targets.
    async fn all_but(&self, old: &Seal) -> Result<BTreeMap<String, Target>>;
    /// Waits until the policy has no tokens of different keys or issuers.
    async fn agrees(&self, policy: &str) -> Result<()>;
    /// Waits until so many published tokens are counted for a key; no series is none.
    async fn signed(&self, key: &str, tokens: usize) -> Result<()>;
    /// The seal that all targets have.
    async fn seal(&self) -> Result<Seal>;
}

impl Keys for Scene {
    async fn polls(&self, mark: usize, times: usize) -> Result<()> {
        let check = async || {
            let polls = self.proxy.calls_since(mark, "GET", "/openid/v1/jwks");
            let answered = polls.iter().filter(|poll| poll.status == Some(200)).count();
            ensure!(answered >= times, "{answered} of {} polls were answered", polls.len());
            Ok(())
        };
        let polled = eventually(LONG, &format!("{times} polls of the keys"), check).await;
        polled.with_context(|| self.log_end())
    }

    async fn all_but(&self, old: &Seal) -> Result<BTreeMap<String, Target>> {
        let check = async || {
            let targets = self.targets().await?;
            for (name, target) in &targets {
                ensure!(Seal::of(target)? != *old, "{name} still has {old:?}");
            }
            Ok(targets)
        };
        eventually(SOON, "every token is new", check).await.with_context(|| self.log_end())
    }

    async fn agrees(&self, policy: &str) -> Result<()> {
        let check = async || {
            let policy = self.policies().get(policy).await?;
            let rotating = condition(&policy, "SigningKeysRotating");
            ensure!(rotating.as_ref().is_none_or(|rotating| rotating.status != "True"), "{rotating:?}");
            Ok(())
        };
        eventually(SOON, &format!("{policy} has tokens of one key"), check).await
    }

    async fn signed(&self, key: &str, tokens: usize) -> Result<()> {
        let wanted = f64::from(u32::try_from(tokens)?);
        let check = async || {
            let found = self.scrape().await?.value("tokens", &[("key_id", key)]).unwrap_or_default();
            ensure!((found - wanted).abs() < 0.5, "{found}");
            Ok(())
        };
        eventually(SOON, &format!("{tokens} tokens of key {key}"), check).await
    }

    async fn seal(&self) -> Result<Seal> {
        let mut seals = Vec::new();
        for target in self.targets().await?.values() {
            seals.push(Seal::of(target)?);
        }
        seals.dedup();
        ensure!(seals.len() == 1, "{seals:?}");
        Ok(seals.remove(0))
    }
}

async fn a_new_key_beside_the_old_one_replaces_nothing() -> Result<()> {
    let scene = scene("beside").await?;
    scene.many(3, "many").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    scene.ready("p").await?;
    let (old, before) = (scene.seal().await?, scene.targets().await?);
    scene.plane.write_key("second")?;
    let keys = ["second", "sa"].map(str::to_owned).to_vec();
    scene.plane.sign_with(Signing { keys, ..Signing::default() }).await?;
    scene.polls(scene.proxy.mark(), 4).await?;
    ensure!(scene.mints() == 3, "{} mints", scene.mints());
    scene.agrees("p").await?;
    scene.signed(&old.key, 3).await?;
    // One account gets its next token.
    let first = before.get("p-many-0").context("no target")?;
    scene.delete_secret(first.anchor()).await?;
    let new = Seal::of(&scene.next_target("p-many-0", first).await?)?;
    ensure!(new.key != old.key && new.issuer == old.issuer, "{new:?}");
    scene.condition("p", "SigningKeysRotating", "True").await?;
    scene.signed(&old.key, 2).await?;
    scene.signed(&new.key, 1).await?;
    ensure!(scene.mints() == 4, "{} mints", scene.mints());
    // And then the others.
    scene.rotate("p", "1").await?;
    scene.all_but(&old).await?;
    scene.agrees("p").await?;
    scene.signed(&old.key, 0).await?;
    scene.signed(&new.key, 3).await?;
    ensure!(scene.mints() == 7, "{} mints", scene.mints());
    Ok(())
}

/// Issues for all accounts, in an order that is not that of their urgency.
async fn issue(scene: &Scene) -> Result<()> {
    for account in GROUP {
        scene.account(account, &[]).await?;
    }
    scene.policy("group", &spec(&GROUP, json!({"token": {"duration": "24h"}}))).await?;
    for (name, hours) in SINGLES {
        scene.account(name, &[]).await?;
        scene.policy(name, &spec(&[name], json!({"token": {"duration": format!("{hours}h")}}))).await?;
    }
    for policy in SINGLES.map(|(name, _)| name).iter().chain(&["group"]) {
        scene.ready(policy).await?;
    }
    ensure!(scene.mints() == GRANTS, "{} mints", scene.mints());
    // What is to be missed must have been seen with the tokens there.
    scene.polls(scene.proxy.mark(), 1).await
}

/// When the published token of each account expires.
async fn expiries(scene: &Scene) -> Result<BTreeMap<String, i64>> {
    let targets = scene.targets().await?;
    let expiry = |target: &Target| -> Result<(String, i64)> {
        let expires = claims(target.token())?["exp"].as_i64().context("no exp")?;
        Ok((target.says("service-account").to_owned(), expires))
    };
    targets.values().map(expiry).collect()
}

/// That each account got one token, the most urgent first.
fn in_order(scene: &Scene, expiries: &BTreeMap<String, i64>) -> Result<()> {
    let minted: Vec<String> = scene.proxy.minted().into_iter().skip(GRANTS).map(|minted| minted.account).collect();
    let mut accounts = minted.clone();
    accounts.sort();
    accounts.dedup();
    ensure!(minted.len() == GRANTS && accounts.len() == GRANTS, "one mint each: {minted:?}");
    let urgency: Vec<i64> = minted.iter().filter_map(|account| expiries.get(account).copied()).collect();
    ensure!(urgency.is_sorted(), "{minted:?}, which expire at {urgency:?}");
    Ok(())
}

/// Everything is signed otherwise from now on, and what was signed before is dead, also the operator's own token.
async fn replaces_everything(scene: &Scene, signing: Signing, cause: &str) -> Result<()> {
    issue(scene).await?;
    let (old, expiries) = (scene.seal().await?, expiries(scene).await?);
    // The last one waits, so that the policy of the last two is seen half-way.
    let last = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold).nth(GRANTS.try_into()?));
    scene.plane.sign_with(signing).await?;
    scene.operator.refresh_token(&token(scene.plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?)?;
    last.reached_times(1, LONG).await.with_context(|| scene.log_end())?;
    scene.condition("group", "SigningKeysRotating", "True").await?;
    last.release();
    let targets = scene.all_but(&old).await?;
    ensure!(targets.len() == GRANTS, "{:?}", targets.keys());
    in_order(scene, &expiries)?;
    scene.agrees("group").await?;
    for (name, target) in &targets {
        scene.holds(target).await.with_context(|| name.clone())?;
        let policy = target.says("policy");
        scene.told(policy, "TokenReissued", cause).await?;
        scene.ready(policy).await?;
    }
    let new = scene.seal().await?;
    scene.signed(&new.key, GRANTS).await?;
    if new.key != old.key {
        scene.signed(&old.key, 0).await?;
    }
    // Once is enough.
    scene.polls(scene.proxy.mark(), 1).await?;
    ensure!(scene.mints() == 2 * GRANTS, "{} mints", scene.mints());
    Ok(())
}

async fn a_key_that_is_gone_replaces_every_token_once() -> Result<()> {
    let scene = scene("gone").await?;
    scene.plane.write_key("second")?;
    let keys = vec!["second".to_owned()];
    replaces_everything(&scene, Signing { keys, ..Signing::default() }, "SigningKeyGone").await
}

async fn an_issuer_that_is_gone_replaces_every_token_once() -> Result<()> {
    let scene = scene("issuer").await?;
    let issuers = vec!["https://second.example".to_owned()];
    ensure!(issuers[0] != ISSUER, "the same");
    replaces_everything(&scene, Signing { issuers, ..Signing::default() }, "IssuerChanged").await
}

/// At the same time, as each of them waits for minutes.
#[tokio::test]
async fn keys_and_issuers_change_under_the_operator() -> Result<()> {
    let (beside, gone, issuer) = tokio::join!(
        a_new_key_beside_the_old_one_replaces_nothing(),
        a_key_that_is_gone_replaces_every_token_once(),
        an_issuer_that_is_gone_replaces_every_token_once(),
    );
    beside.context("a new key beside the old one")?;
    gone.context("a key that is gone")?;
    issuer.context("an issuer that is gone")
}
