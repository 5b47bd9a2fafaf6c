//! Who issued the token that made a request? Every request in the audit log is joined to policy, account and
//! generation, from what the operator leaves behind: its log, its events, the annotations of its targets.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokenward_e2e::scene::{SOON, Scene, Target, claims, spec};
use tokenward_e2e::{AuditEvent, Options, eventually};

/// Who issued a token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    policy: String,
    account: String,
    generation: i64,
}

/// Origins by token id.
type Join = BTreeMap<String, Origin>;

/// The scene with what this test itself knows: who issued each token, and how often it was used.
struct Ledger {
    scene: Scene,
    truth: Join,
    tokens: Vec<(String, String)>,
    requests: usize,
}

impl Ledger {
    async fn start(namespace: &str) -> Result<Self> {
        let options = Options { args: vec!["--log-format=json".to_owned()], ..Options::default() };
        let scene = Scene::start_with(namespace, options).await?;
        Ok(Self { scene, truth: Join::new(), tokens: Vec::new(), requests: 0 })
    }

    /// Enters the token that the target holds now.
    async fn enter(&mut self, policy: &str, account: &str) -> Result<()> {
        let generation = self.scene.policies().get(policy).await?.metadata.generation.context("no generation")?;
        let target = self.scene.target(&format!("{policy}-{account}")).await?;
        let id = claims(target.token())?["jti"].as_str().context("no jti")?.to_owned();
        let origin = Origin { policy: policy.to_owned(), account: account.to_owned(), generation };
        ensure!(self.truth.insert(id.clone(), origin).is_none(), "{policy} for {account} still holds {id}");
        self.tokens.push((id, target.token().to_owned()));
        Ok(())
    }

    /// Makes a few requests with every token entered so far, allowed ones and refused ones.
    async fn use_all(&mut self) -> Result<()> {
        for (_, token) in &self.tokens {
            let bearer = self.scene.bearer(token).await?;
            for path in [self.scene.config_maps(), "/api/v1/nodes".to_owned(), "/version".to_owned()] {
                ensure!(bearer.get(&path).await? != 401, "401 for {path}");
                self.requests += 1;
            }
        }
        Ok(())
    }

    /// Requests in the audit log by accounts of the namespace, all of them.
    async fn requests(&self) -> Result<Vec<AuditEvent>> {
        let user = format!("system:serviceaccount:{}:", self.scene.namespace);
        let check = async || {
            let mut events = self.scene.plane.audit()?;
            events.retain(|event| event.is_complete() && event.user.starts_with(&user));
            ensure!(events.len() == self.requests, "{} of {} requests", events.len(), self.requests);
            Ok(events)
        };
        eventually(SOON, "the audit log is complete", check).await
    }
}

/// From the log: one JSON line per token.
fn from_log(scene: &Scene) -> Result<Join> {
    let log = scene.operator.log()?;
    let lines = log.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>().context("the log")?;
    let issued = lines.iter().filter(|line| line["message"] == "token issued");
    issued.map(|line| read_line(scene, line).with_context(|| line.to_string())).collect()
}

fn read_line(scene: &Scene, line: &Value) -> Result<(String, Origin)> {
    let text = |field: &str| line[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
    let policy = text("policy")?;
    let policy = policy.strip_prefix(&format!("{}/", scene.namespace)).context("of another namespace")?.to_owned();
    let generation = line["generation"].as_i64().context("no generation")?;
    Ok((text("token_id")?, Origin { policy, account: text("account")?, generation }))
}

/// From the events about these policies: the id is in the note, and so are account and generation.
async fn from_events(scene: &Scene, policies: &[&str], ids: &[&String]) -> Result<Join> {
    let mut join = Join::new();
    for policy in policies {
        let events = scene.events(policy).await?;
        let issued = events.iter().filter(|event| event.reason.starts_with("Token") && event.reason != "TokenRevoked");
        for event in issued {
            let id = ids.iter().find(|id| event.note.contains(id.as_str())).with_context(|| event.note.clone())?;
            let account = word_after(&event.note, "ServiceAccount").with_context(|| event.note.clone())?;
            let generation = word_after(&event.note, "generation").with_context(|| event.note.clone())?;
            let (policy, generation) = ((*policy).to_owned(), generation.parse()?);
            join.insert((*id).clone(), Origin { policy, account: account.to_owned(), generation });
        }
    }
    Ok(join)
}

/// The word behind this one, without punctuation.
fn word_after<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| !word.is_empty());
    words.find(|found| *found == word)?;
    words.next()
}

/// From the targets: the token they hold and those before it. They tell policy and account.
async fn from_targets(scene: &Scene) -> Result<BTreeMap<String, (String, String)>> {
    let mut join = BTreeMap::new();
    for target in scene.targets().await?.values() {
        let previous: Vec<Value> = serde_json::from_str(target.says("previous"))?;
        let previous = previous.iter().filter_map(|entry| entry["token-id"].as_str());
        for id in previous.chain([target.token_id()]) {
            join.insert(id.to_owned(), (target.says("policy").to_owned(), target.says("service-account").to_owned()));
        }
    }
    Ok(join)
}

/// Rotates a policy, and waits until each of its targets holds another token.
async fn rotate(ledger: &mut Ledger, policy: &str, accounts: &[&str], value: &str) -> Result<()> {
    let mut before: Vec<Target> = Vec::new();
    for account in accounts {
        before.push(ledger.scene.target(&format!("{policy}-{account}")).await?);
    }
    ledger.scene.rotate(policy, value).await?;
    for (account, before) in accounts.iter().zip(&before) {
        ledger.scene.next_target(&format!("{policy}-{account}"), before).await?;
        ledger.enter(policy, account).await?;
    }
    Ok(())
}

/// Three policies, two of them on one account, and tokens of two generations each; all of them used.
async fn history() -> Result<Ledger> {
    let mut ledger = Ledger::start("joined").await?;
    let grants = [("p", vec!["deployer"]), ("q", vec!["deployer", "builder"]), ("r", vec!["builder"])];
    for account in ["deployer", "builder"] {
        ledger.scene.reader(account).await?;
    }
    for (policy, accounts) in &grants {
        ledger.scene.policy(policy, &spec(accounts, json!({}))).await?;
        ledger.scene.ready(policy).await?;
        for account in accounts {
            ledger.enter(policy, account).await?;
        }
    }
    ledger.use_all().await?;
    for (policy, accounts) in &grants {
        rotate(&mut ledger, policy, accounts, "1").await?;
        // No new token comes of this, and the next one is of another generation.
        let edited = json!({"rotation": {"renewBeforePercentage": 30}});
        ledger.scene.policy(policy, &spec(accounts, edited)).await?;
        ledger.scene.ready(policy).await?;
        rotate(&mut ledger, policy, accounts, "2").await?;
    }
    ledger.use_all().await?;
    Ok(ledger)
}

#[tokio::test]
async fn every_request_is_joined_to_policy_account_and_generation() -> Result<()> {
    let ledger = history().await?;
    let scene = &ledger.scene;
    let ids: Vec<&String> = ledger.truth.keys().collect();
    let told = async || {
        let join = from_events(scene, &["p", "q", "r"], &ids).await?;
        ensure!(join.len() == ids.len(), "{} of {} tokens", join.len(), ids.len());
        Ok(join)
    };
    let (events, log) = (eventually(SOON, "an event per token", told).await?, from_log(scene)?);
    let targets = from_targets(scene).await?;
    for request in ledger.requests().await? {
        let id = request.credential_id().context("a request without a credential id")?;
        let truth = ledger.truth.get(id).with_context(|| format!("{id} is nobody's"))?;
        ensure!(log.get(id) == Some(truth), "by the log: {:?} for {truth:?}", log.get(id));
        ensure!(events.get(id) == Some(truth), "by the events: {:?} for {truth:?}", events.get(id));
        let named = (truth.policy.clone(), truth.account.clone());
        ensure!(targets.get(id) == Some(&named), "by the targets: {:?} for {truth:?}", targets.get(id));
    }
    assert_eq!((log.len(), targets.len()), (ids.len(), ids.len()));
    assert_eq!(ledger.truth.values().filter(|origin| origin.generation == 2).count(), 4);
    assert_eq!(scene.mints(), 12);
    Ok(())
}
