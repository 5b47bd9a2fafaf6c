//! The acceptance of rotation: clients that read their Secret once a minute see no 401 while tokens are rotated every
//! minute and the operator is killed again and again. The only test of its file, as it needs the time to itself.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokenward_e2e::poll::eventually_every;
use tokenward_e2e::scene::{Bearer, Scene, Target, spec};
use tokio::time::{Instant, interval, sleep};

const ACCOUNTS: u64 = 10;
const ROTATIONS: usize = 3;
/// Three rotations within 60 s each, the overlap of the first token, and the time of a busy machine.
const LONG: Duration = Duration::from_mins(8);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

fn name(account: u64) -> String {
    format!("client-{account}")
}

/// Numbers that are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    /// A seed from the environment, to repeat a run, or else from the clock.
    fn new() -> Result<Self> {
        let seed = match std::env::var("TOKENWARD_E2E_SEED") {
            Ok(seed) => seed.parse()?,
            Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
        };
        println!("TOKENWARD_E2E_SEED={seed}");
        Ok(Self(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// What was seen in one target: how often it was written, and which tokens it held.
#[derive(Default)]
struct Story {
    versions: Vec<String>,
    tokens: Vec<Target>,
}

/// What happens in the scene.
#[derive(Default)]
struct World {
    stories: RefCell<BTreeMap<String, Story>>,
    /// All is seen that was waited for.
    over: Cell<bool>,
    calls: Cell<usize>,
    kills: Cell<usize>,
}

impl World {
    fn enter(&self, secret: Secret) -> Result<()> {
        let target = Target::read(secret)?;
        let name = target.secret.metadata.name.clone().context("no name")?;
        let version = target.version().1.context("no version")?.to_owned();
        let mut stories = self.stories.borrow_mut();
        let story = stories.entry(name).or_default();
        if !story.versions.contains(&version) {
            story.versions.push(version);
        }
        if story.tokens.iter().all(|known| known.token() != target.token()) {
            story.tokens.push(target);
        }
        Ok(())
    }

    /// The fewest rotations that a target has had.
    fn rotations(&self) -> usize {
        let stories = self.stories.borrow();
        let fewest = stories.values().map(|story| story.tokens.len()).min().unwrap_or_default();
        if stories.len() as u64 == ACCOUNTS { fewest.saturating_sub(1) } else { 0 }
    }

    /// The first token of a target, once it has been replaced, and when its overlap ends.
    fn first_replaced(&self, target: &str) -> Option<(String, DateTime<Utc>)> {
        let stories = self.stories.borrow();
        let [first, second, ..] = stories.get(target)?.tokens.as_slice() else { return None };
        let previous: Vec<Value> = serde_json::from_str(second.says("previous")).ok()?;
        let entry = previous.iter().find(|entry| entry["anchor"] == first.anchor())?;
        Some((first.token().to_owned(), entry["retires-at"].as_str()?.parse().ok()?))
    }
}

/// Follows all targets until everything is over.
async fn follow(scene: &Scene, world: &World) -> Result<()> {
    let api: Api<Secret> = scene.secrets();
    let mut events = pin!(watcher::watcher(api, watcher::Config::default().labels("tokenward.dev/role=target")));
    let mut tick = interval(SECOND);
    while !world.over.get() {
        tokio::select! {
            event = events.try_next() => match event?.context("the watch ended")? {
                Event::Apply(secret) | Event::InitApply(secret) => world.enter(secret)?,
                Event::Delete(secret) => anyhow::bail!("target {:?} was deleted", secret.metadata.name),
                Event::Init | Event::InitDone => {}
            },
            _ = tick.tick() => {}
        }
    }
    Ok(())
}

/// One client: reads its Secret once a minute, and calls the API with what it read once a second.
async fn client(scene: &Scene, world: &World, account: u64, phase: Duration) -> Result<()> {
    let (secret, path) = (format!("p-{}", name(account)), scene.config_maps());
    let read = async || {
        let token = scene.target(&secret).await?.token().to_owned();
        scene.bearer(&token).await
    };
    let mut bearer = read().await?;
    let mut reads_at = Instant::now() + phase;
    let mut seconds = interval(SECOND);
    while !world.over.get() {
        seconds.tick().await;
        if Instant::now() >= reads_at {
            bearer = read().await?;
            reads_at += MINUTE;
        }
        let status = bearer.get(&path).await?;
        ensure!(status == 200, "{secret}: {status} at {} with the token read last", Utc::now());
        world.calls.set(world.calls.get() + 1);
    }
    Ok(())
}

/// Kills the operator at random instants and starts it again a moment later.
async fn kill(scene: &Scene, world: &World, mut dice: Dice) -> Result<()> {
    while !world.over.get() {
        sleep(3 * SECOND + dice.millis(17_000)).await;
        scene.operator.kill9()?;
        sleep(dice.millis(3_000)).await;
        scene.operator.restart()?;
        world.kills.set(world.kills.get() + 1);
    }
    Ok(())
}

/// Calls with the first token of an account: 200 until its overlap ends, 401 after.
async fn first_token(scene: &Scene, world: &World) -> Result<()> {
    let target = format!("p-{}", name(0));
    let replaced = async || world.first_replaced(&target).context("not replaced yet");
    let (token, retires) = eventually_every(SECOND, LONG, "the first rotation", replaced).await?;
    let bearer: Bearer = scene.bearer(&token).await?;
    let (mut early, mut dead) = (true, false);
    while early {
        (dead, early) = (bearer.get(&scene.config_maps()).await? == 401, Utc::now() < retires);
        ensure!(!(dead && early), "401 before {retires}");
        sleep(SECOND).await;
    }
    let dies = async || {
        ensure!(dead || bearer.get(&scene.config_maps()).await? == 401, "it is alive after {retires}");
        Ok(())
    };
    eventually_every(SECOND, MINUTE, "the first token dies after its overlap", dies).await
}

/// Waits until every account has been through its rotations and the first token has died, and ends it all.
async fn end(scene: &Scene, world: &World) -> Result<()> {
    let rotated = async || {
        ensure!(world.rotations() >= ROTATIONS, "{} rotations", world.rotations());
        Ok(())
    };
    let both =
        tokio::try_join!(eventually_every(SECOND, LONG, "three rotations each", rotated), first_token(scene, world));
    world.over.set(true);
    both.map(|_| ())
}

#[tokio::test]
async fn clients_see_no_401_through_three_rotations_and_many_crashes() -> Result<()> {
    let scene = Scene::start("clients").await?;
    let names: Vec<String> = (0..ACCOUNTS).map(name).collect();
    for name in &names {
        scene.reader(name).await?;
    }
    let more = json!({"token": {"duration": "10m"}, "rotation": {"maxAge": "1m", "overlap": "3m"}});
    let accounts: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.policy("p", &spec(&accounts, more)).await?;
    scene.ready("p").await?;
    let (world, mut dice) = (World::default(), Dice::new()?);
    let phases: Vec<Duration> = names.iter().map(|_| dice.millis(60_000)).collect();
    let clients = (0..ACCOUNTS).zip(phases).map(|(account, phase)| client(&scene, &world, account, phase));
    tokio::try_join!(follow(&scene, &world), try_join_all(clients), kill(&scene, &world, dice), end(&scene, &world))?;
    for (target, story) in world.stories.borrow().iter() {
        let (writes, tokens) = (story.versions.len(), story.tokens.len());
        ensure!(writes == tokens, "{target} was written {writes} times for {tokens} tokens");
    }
    println!("{} calls, no 401; {} kills; {} tokens", world.calls.get(), world.kills.get(), scene.mints());
    ensure!(world.kills.get() >= ROTATIONS, "{} kills", world.kills.get());
    Ok(())
}
