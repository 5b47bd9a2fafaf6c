//! A small API server in memory, and the index run against it: every order of crash, refusal, lost answer and
//! conflict that fits into a few calls, with the promises checked after each of them.

use std::collections::{BTreeMap, VecDeque};

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    Time, claims,
    facts::{self, Account, Anchor, PolicyState, Site, Target, TokenFacts},
    failure::{Failure, Reason},
    grant::Minted,
    index::{Change, Found, Index, Job, Outcome, Step},
    keys,
    plan::{Act, Look, Retirement},
    render::read_back,
    table::{Event, Key},
};
use crate::crd::token_policy::{Binding, TokenPolicy};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Answered 503 and not done.
    Refused,
    /// Done, and the answer lost.
    Lost,
    /// The process dies before the call.
    CrashBefore,
    /// The process dies after the call.
    CrashAfter,
}

const FAULTS: [Fault; 4] = [Fault::Refused, Fault::Lost, Fault::CrashBefore, Fault::CrashAfter];

/// What somebody else does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Rotate,
    DeleteTarget,
    DeleteAnchors,
    StripLabel,
    EditToken,
    AddOwner,
    RecreateAccount,
    Relabel,
    /// Revoke every token issued before now.
    Revoke,
}

struct Stored {
    meta: ObjectMeta,
    is_anchor: bool,
    data: BTreeMap<String, String>,
}

struct Process {
    index: Index,
    /// Watch events that have not arrived yet.
    news: VecDeque<Change>,
    /// Jobs continue until they have nothing more to do.
    job: Option<Job>,
    /// Hears, and does nothing.
    stands_by: bool,
}

struct World {
    now: Time,
    counter: u64,
    secrets: BTreeMap<String, Stored>,
    policy: TokenPolicy,
    account_uid: String,
    mints: usize,
    /// When each token was issued, and what it is bound to: name and UID.
    minted: Vec<(Time, Option<(String, String)>)>,
    calls: usize,
    faults: Vec<Fault>,
    processes: Vec<Process>,
    /// A gap is allowed until the end.
    killed: bool,
}

fn site() -> Site {
    Site { server: "https://api".into(), ca: b"ca".to_vec(), internal: false }
}

fn key(name: &str) -> Key {
    Key::new("ci", name)
}

fn policy() -> TokenPolicy {
    serde_json::from_value(json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
        "metadata": {"name": "p", "namespace": "ci", "uid": "policy-1", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
        "spec": {"serviceAccounts": {"names": ["a"]}, "token": {"duration": "1h"}, "rotation": {"overlap": "60s"}},
    }))
    .unwrap()
}

fn conflict(what: &str) -> Failure {
    Failure::refused(what, &Status { code: Some(409), ..Status::default() })
}

impl World {
    fn new(processes: usize, faults: &[Fault]) -> Self {
        Self::with(policy(), processes, faults)
    }

    /// A world whose tokens are bound so. Only with anchors there is an overlap to speak of.
    fn bound(binding: Binding, faults: &[Fault]) -> Self {
        let mut policy = policy();
        policy.spec.token.binding = binding;
        policy.spec.rotation.overlap = None;
        Self::with(policy, 1, faults)
    }

    fn with(policy: TokenPolicy, processes: usize, faults: &[Fault]) -> Self {
        let mut world = Self {
            now: Time::from_timestamp(1_800_000_000, 0).unwrap(),
            counter: 100,
            secrets: BTreeMap::new(),
            policy,
            account_uid: "account-1".into(),
            mints: 0,
            minted: Vec::new(),
            calls: 0,
            faults: faults.to_vec(),
            processes: Vec::new(),
            // Two processes may retire each other's unnamed anchors; the fence promises the end, not every instant.
            killed: processes > 1,
        };
        for _ in 0..processes {
            let process = world.start();
            world.processes.push(process);
        }
        world
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A process after its first lists.
    fn start(&self) -> Process {
        let mut index = Index::new(site(), vec![None]);
        let mut feed = |change| index.apply(&None, change, self.now);
        feed(Change::Policy(Event::Listing));
        feed(Change::Policy(Event::Item(key("p"), 1, PolicyState::read(self.policy.clone(), &site()))));
        feed(Change::Policy(Event::Listed));
        feed(Change::Account(Event::Listing));
        feed(Change::Account(Event::Item(key("a"), 1, self.account())));
        feed(Change::Account(Event::Listed));
        feed(Change::Target(Event::Listing));
        feed(Change::Anchor(Event::Listing));
        for (name, stored) in &self.secrets {
            match (stored.is_anchor, Anchor::read(&stored.meta), watched(stored)) {
                (true, Some(anchor), _) => feed(Change::Anchor(Event::Item(key(name), version(&stored.meta), anchor))),
                (false, _, Some(target)) => feed(Change::Target(Event::Item(key(name), version(&stored.meta), target))),
                _ => {}
            }
        }
        feed(Change::Target(Event::Listed));
        feed(Change::Anchor(Event::Listed));
        Process { index, news: VecDeque::new(), job: None, stands_by: false }
    }

    fn account(&self) -> Account {
        Account { uid: self.account_uid.as_str().into(), labels: BTreeMap::new(), terminating: false }
    }

    fn tell(&mut self, change: impl Fn() -> Change) {
        for process in &mut self.processes {
            process.news.push_back(change());
        }
    }

    fn tell_secret(&mut self, name: &str) {
        let at = self.next();
        let Some(stored) = self.secrets.get(name) else {
            self.tell(|| Change::Anchor(Event::Deleted(key(name), at)));
            return self.tell(|| Change::Target(Event::Deleted(key(name), at)));
        };
        let (version, anchor, target) = (version(&stored.meta), Anchor::read(&stored.meta), watched(stored));
        match (stored.is_anchor, anchor, target) {
            (true, Some(anchor), _) => self.tell(|| Change::Anchor(Event::Applied(key(name), version, anchor.clone()))),
            (false, _, Some(target)) => {
                self.tell(|| Change::Target(Event::Applied(key(name), version, target.clone())));
            }
            _ => self.tell(|| Change::Target(Event::Deleted(key(name), version))),
        }
    }

    /// Lets process `n` hear its news and make at most one call.
    fn step(&mut self, n: usize, hears: bool) -> bool {
        let now = self.now;
        let process = &mut self.processes[n];
        if hears {
            while let Some(change) = process.news.pop_front() {
                process.index.apply(&None, change, now);
            }
        }
        process.index.notices();
        if process.stands_by {
            return false;
        }
        while process.index.take_status(now).is_some() {}
        let Some(job) = process.job.take().or_else(|| process.index.take(1, now)) else { return false };
        self.perform(n, job);
        self.check();
        true
    }

    fn fault(&mut self) -> Fault {
        self.calls += 1;
        self.now += TimeDelta::milliseconds(1);
        self.faults.get(self.calls - 1).copied().unwrap_or(Fault::None)
    }

    fn perform(&mut self, n: usize, job: Job) {
        let mut outcomes = Vec::new();
        for retirement in job.decision.retire {
            let fault = self.fault();
            if !matches!(fault, Fault::Refused | Fault::CrashBefore) {
                self.delete_anchor(&retirement);
            }
            match fault {
                Fault::CrashBefore | Fault::CrashAfter => return self.restart(n),
                Fault::None => outcomes.push(Outcome::Retired(retirement, Ok(()))),
                _ => outcomes.push(Outcome::Retired(retirement, Err(Failure::unanswered("delete", "fault")))),
            }
        }
        if !matches!(job.decision.act, Act::Idle(_)) {
            let fault = self.fault();
            let step = step_of(&job.decision.act);
            if matches!(fault, Fault::CrashBefore) {
                return self.restart(n);
            }
            let unanswered = || Outcome::Failed(step, Failure::unanswered("call", "fault"));
            let outcome = if fault == Fault::Refused { unanswered() } else { self.act(step, job.decision.act) };
            match fault {
                Fault::CrashAfter => return self.restart(n),
                Fault::Lost => outcomes.push(unanswered()),
                _ => outcomes.push(outcome),
            }
        }
        let process = &mut self.processes[n];
        process.job = process.index.finish(&job.grant, outcomes, self.now);
    }

    fn restart(&mut self, n: usize) {
        self.processes[n] = self.start();
    }

    fn delete_anchor(&mut self, retirement: &Retirement) {
        let name = retirement.secret.to_string();
        let same = self.secrets.get(&name).is_some_and(|stored| stored.meta.uid.as_deref() == Some(&*retirement.uid));
        if same {
            self.secrets.remove(&name);
            self.tell_secret(&name);
        }
    }

    fn act(&mut self, step: Step, act: Act) -> Outcome {
        let done = match act {
            Act::Idle(_) => unreachable!("not a call"),
            Act::Look(look) => Ok(self.look(look)),
            Act::CreateAnchor { body, .. } => Ok(Outcome::AnchorCreated(self.create_anchor(&body))),
            Act::CreateTarget { name, body, .. } => self.apply(&name, &body).map(Outcome::TargetCreated),
            Act::Mint { body, .. } => self.mint(&body).map(Outcome::Minted),
            Act::Publish { name, why, body } => self.apply(&name, &body).map(|meta| Outcome::Published(why, meta)),
            Act::ReadBack { name, why } => self.read(&name).map(|read| Outcome::ReadBack(why, read.meta, read.token)),
            Act::Patch { name, body, why } => self.patch(&name, &body).map(|meta| Outcome::Patched(why, meta)),
            Act::Remove { name, .. } => {
                self.secrets.remove(&name);
                self.tell_secret(&name);
                Ok(Outcome::Removed(name))
            }
        };
        done.unwrap_or_else(|failure| Outcome::Failed(step, failure))
    }

    fn look(&self, look: Look) -> Outcome {
        let secret = |name: &str, anchor: bool| {
            let stored = self.secrets.get(name).filter(|stored| stored.is_anchor == anchor || !anchor);
            stored.map_or(Found::Absent, |stored| Found::Secret(stored.meta.clone()))
        };
        let found = match &look {
            Look::Target(name) => secret(name, false),
            Look::Anchor(name) => secret(name, true),
            Look::Policy => Found::Policy(self.counter, PolicyState::read(self.policy.clone(), &site())),
            Look::Account => Found::Account(self.counter, self.account()),
        };
        Outcome::Looked(look, found)
    }

    fn put(&mut self, name: &str, mut meta: Value, is_anchor: bool, data: BTreeMap<String, String>) -> ObjectMeta {
        let old = self.secrets.get(name).map(|stored| stored.meta.clone());
        let fresh = format!("uid-{}", self.next());
        let version = self.next();
        meta["uid"] = old.as_ref().and_then(|meta| meta.uid.clone()).unwrap_or(fresh).into();
        meta["resourceVersion"] = version.to_string().into();
        let created = old.and_then(|meta| meta.creation_timestamp).map(|time| json!(time));
        meta["creationTimestamp"] = created.unwrap_or_else(|| facts::text(self.now).into());
        meta["name"] = name.into();
        let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        self.secrets.insert(name.into(), Stored { meta: meta.clone(), is_anchor, data });
        self.tell_secret(name);
        meta
    }

    fn create_anchor(&mut self, body: &Value) -> ObjectMeta {
        let name = format!("{}{}", keys::ANCHOR_PREFIX, self.next());
        self.put(&name, body["metadata"].clone(), true, BTreeMap::new())
    }

    fn mint(&mut self, body: &Value) -> Result<Minted, Failure> {
        let bound = &body["spec"]["boundObjectRef"];
        let bound = bound["name"].as_str().map(|name| (name.to_owned(), bound["uid"].as_str().unwrap().to_owned()));
        let there = bound.as_ref().is_none_or(|(name, uid)| self.lives(name, uid));
        if !there || body["metadata"]["uid"] != self.account_uid {
            return Err(conflict("request a token"));
        }
        self.mints += 1;
        self.minted.push((self.now, bound.clone()));
        let iat = self.now.timestamp();
        let mut payload = json!({
            "jti": format!("jti-{}", self.mints), "iss": "https://issuer", "aud": ["api"], "iat": iat, "exp": iat + 3600,
            "kubernetes.io": {"namespace": "ci", "serviceaccount": {"name": "a", "uid": self.account_uid}},
        });
        if let Some((name, uid)) = bound {
            payload["kubernetes.io"]["secret"] = json!({"name": name, "uid": uid});
        }
        let secret = claims::tests::token(&payload);
        Ok(Minted { claims: claims::read(&secret).unwrap(), secret })
    }

    fn apply(&mut self, name: &str, body: &SecretString) -> Result<ObjectMeta, Failure> {
        let body: Value = serde_json::from_str(body.expose_secret()).unwrap();
        let (uid, version) = (body["metadata"]["uid"].as_str(), body["metadata"]["resourceVersion"].as_str());
        let stored = self.secrets.get(name);
        let found = stored.map(|stored| (stored.meta.uid.as_deref(), stored.meta.resource_version.as_deref()));
        let fits = match uid {
            None => version == Some("1") && found.is_none(),
            Some(_) => found == Some((uid, version)),
        };
        if !fits {
            return Err(conflict("apply"));
        }
        let data: BTreeMap<String, String> = serde_json::from_value(body["data"].clone()).unwrap();
        let fields = |map: &Value| -> Value {
            map.as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| (format!("f:{key}"), json!({})))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let mut meta = body["metadata"].clone();
        meta["managedFields"] = json!([{"manager": "tokenward", "operation": "Apply", "fieldsV1": {
            "f:data": fields(&body["data"]),
            "f:metadata": {"f:labels": fields(&meta["labels"]), "f:annotations": fields(&meta["annotations"])},
        }}]);
        if let Some(owners) = stored.and_then(|stored| stored.meta.owner_references.clone()) {
            // Apply merges owner references by UID: those of others stay.
            let foreign = owners.iter().filter(|owner| owner.kind != "TokenPolicy").map(|owner| json!(owner));
            meta["ownerReferences"].as_array_mut().unwrap().extend(foreign);
        }
        Ok(self.put(name, meta, false, data))
    }

    fn read(&self, name: &str) -> Result<read_back::ReadBack, Failure> {
        let stored = self.secrets.get(name).ok_or_else(|| conflict("read"))?;
        let body = json!({"metadata": stored.meta, "data": stored.data}).to_string();
        Ok(read_back::read(&body.into()).unwrap())
    }

    fn patch(&mut self, name: &str, body: &Value) -> Result<ObjectMeta, Failure> {
        let stored = self.secrets.get(name).ok_or_else(|| conflict("patch"))?;
        let (is_anchor, data, mut meta) = (stored.is_anchor, stored.data.clone(), json!(stored.meta));
        let version = if body.is_array() { &body[0]["value"] } else { &body["metadata"]["resourceVersion"] };
        if *version != meta["resourceVersion"] {
            return Err(conflict("patch"));
        }
        if body.is_array() {
            meta["ownerReferences"] = body[1]["value"].clone();
        } else {
            for (field, value) in body["metadata"].as_object().unwrap() {
                meta[field] = value.clone();
            }
        }
        Ok(self.put(name, meta, is_anchor, data))
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Rotate => {
                let value = self.next().to_string();
                self.annotate(keys::ROTATE, value);
            }
            Deed::Revoke => {
                self.killed = true;
                self.annotate(keys::REVOKE_ISSUED_BEFORE, self.now.to_rfc3339());
            }
            Deed::RecreateAccount => {
                self.killed = true;
                self.account_uid = format!("account-{}", self.next());
                let (account, at) = (self.account(), self.next());
                self.tell(|| Change::Account(Event::Applied(key("a"), at, account.clone())));
            }
            Deed::DeleteTarget => self.kill("p-a"),
            Deed::DeleteAnchors => {
                let anchors: Vec<String> =
                    self.secrets.iter().filter(|(_, stored)| stored.is_anchor).map(|(name, _)| name.clone()).collect();
                for name in &anchors {
                    self.kill(name);
                }
            }
            Deed::StripLabel => self.edit(|meta| drop(meta["labels"].as_object_mut().unwrap().remove(keys::ROLE))),
            Deed::Relabel => self.edit(|meta| meta["labels"]["mine"] = "x".into()),
            Deed::AddOwner => self.edit(|meta| {
                let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"});
                meta["ownerReferences"].as_array_mut().unwrap().push(owner);
            }),
            Deed::EditToken => {
                self.killed = true;
                self.edit(|meta| meta["managedFields"][0]["fieldsV1"]["f:data"] = json!({}));
            }
        }
    }

    /// Annotates the policy.
    fn annotate(&mut self, key: &str, value: String) {
        self.policy.metadata.annotations.get_or_insert_default().insert(key.into(), value);
        let (policy, at) = (self.policy.clone(), self.next());
        self.tell(|| Change::Policy(Event::Applied(self::key("p"), at, PolicyState::read(policy.clone(), &site()))));
    }

    fn kill(&mut self, name: &str) {
        self.killed = true;
        self.secrets.remove(name);
        self.tell_secret(name);
    }

    fn edit(&mut self, change: impl Fn(&mut Value)) {
        let Some(stored) = self.secrets.get("p-a") else { return };
        let (mut meta, data) = (json!(stored.meta), stored.data.clone());
        change(&mut meta);
        self.put("p-a", meta, false, data);
    }

    /// The published token, if its target exists.
    fn published(&self) -> Option<Target> {
        Target::read(&self.secrets.get("p-a")?.meta)
    }

    fn lives(&self, name: &str, uid: &str) -> bool {
        self.secrets.get(name).is_some_and(|stored| stored.meta.uid.as_deref() == Some(uid))
    }

    /// Whether what the token is bound to is there.
    fn is_alive(&self, token: &TokenFacts) -> bool {
        self.policy.spec.token.binding == Binding::None || self.lives(&token.anchor, &token.anchor_uid)
    }

    /// Tokens issued before the instant of the policy's annotation that are still alive.
    fn unrevoked(&self) -> usize {
        let before = self.policy.metadata.annotations.as_ref().and_then(|all| all.get(keys::REVOKE_ISSUED_BEFORE));
        let Some(before) = before.and_then(|text| facts::time(text)) else { return 0 };
        let alive = |(issued, bound): &&(Time, Option<(String, String)>)| {
            *issued < before && bound.as_ref().is_some_and(|(name, uid)| self.lives(name, uid))
        };
        self.minted.iter().filter(alive).count()
    }

    /// At every instant the target holds a living token, unless somebody killed it.
    fn check(&self) {
        if let Some(token) = self.published().and_then(|target| target.token).filter(|_| !self.killed) {
            assert!(self.is_alive(&token), "the published token was revoked");
        }
    }

    /// Runs everybody until `seconds` have passed, hearing all news.
    fn run(&mut self, seconds: i64) {
        let end = self.now + TimeDelta::seconds(seconds);
        while self.now < end {
            let mut steps = 0;
            while (0..self.processes.len()).any(|n| self.step(n, true)) {
                steps += 1;
                assert!(steps < 200, "a hot loop");
            }
            self.now += TimeDelta::seconds(1);
        }
    }

    /// What must hold after all faults are over.
    fn assert_settled(&self) {
        let target = self.published().expect("a target");
        let token = target.token.expect("a token");
        assert!(self.is_alive(&token), "the published token is dead");
        assert_eq!(self.unrevoked(), 0, "a token outlives its revocation, after {:?}", self.faults);
        assert_eq!(*target.account_uid, *self.account_uid);
        let wanted = self.policy.metadata.annotations.as_ref().and_then(|map| map.get(keys::ROTATE)).cloned();
        assert_eq!(*target.rotate, *wanted.unwrap_or_default());
        let named: Vec<&str> = target.previous.iter().map(|entry| &*entry.anchor).chain([&*token.anchor]).collect();
        let unnamed = self.secrets.iter().filter(|(name, stored)| stored.is_anchor && !named.contains(&name.as_str()));
        assert_eq!(unnamed.count(), 0, "an anchor that no target names, after {:?}", self.faults);
        assert!(target.marked && target.owners.fit(&read_policy(&self.policy)), "{:?}", target.owners);
    }
}

fn read_policy(policy: &TokenPolicy) -> facts::Policy {
    (**PolicyState::read(policy.clone(), &site()).readable().unwrap()).clone()
}

/// The watch on targets selects by label.
fn watched(stored: &Stored) -> Option<Target> {
    Target::read(&stored.meta).filter(|target| target.marked)
}

fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().unwrap().parse().unwrap()
}

fn step_of(act: &Act) -> Step {
    match act {
        Act::Mint { .. } => Step::Mint,
        Act::CreateTarget { .. }
        | Act::Publish { .. }
        | Act::ReadBack { .. }
        | Act::Patch { .. }
        | Act::Remove { .. } => Step::Write,
        _ => Step::Harmless,
    }
}

/// First issue, then a rotation by hand, then time for overlap and sweep.
fn issue_and_rotate(mut world: World) -> World {
    world.run(15);
    world.deed(Deed::Rotate);
    world.run(150);
    world
}

#[test]
fn without_faults_it_costs_what_is_promised() {
    let world = issue_and_rotate(World::new(1, &[]));
    world.assert_settled();
    // First issue: look, anchor, token, apply. Rotation: anchor, token, apply, delete.
    assert_eq!((world.calls, world.mints), (8, 2));
}

#[test]
fn other_bindings_cost_what_is_promised() {
    // First issue: look, empty target, token, apply; without a binding no empty target. Rotation: token, apply.
    for (binding, calls) in [(Binding::Target, 6), (Binding::None, 5)] {
        let world = issue_and_rotate(World::bound(binding, &[]));
        world.assert_settled();
        assert_eq!((world.calls, world.mints), (calls, 2), "{binding:?}");
    }
}

#[test]
fn any_fault_at_any_call_leaves_a_living_token_whatever_it_is_bound_to() {
    for binding in [Binding::Target, Binding::None] {
        for (call, fault) in (0..7).flat_map(|call| FAULTS.map(|fault| (call, fault))) {
            let mut faults = vec![Fault::None; 7];
            faults[call] = fault;
            let world = issue_and_rotate(World::bound(binding, &faults));
            world.assert_settled();
            assert!(world.mints <= 3, "{} mints with {binding:?} and {fault:?} at {call}", world.mints);
        }
    }
}

#[test]
fn a_crash_after_the_empty_target_costs_no_token() {
    let mut world = World::bound(Binding::Target, &[Fault::None, Fault::CrashAfter]);
    world.run(15);
    world.assert_settled();
    assert_eq!(world.mints, 1);
}

#[test]
fn a_revocation_is_exact_whatever_fails_meanwhile() {
    for binding in [Binding::Anchor, Binding::Target] {
        for (call, fault) in (0..8).flat_map(|call| FAULTS.map(|fault| (call, fault))) {
            let mut faults = vec![Fault::None; 16];
            faults[4 + call] = fault;
            let mut world = World::bound(binding, &faults);
            world.run(15);
            world.deed(Deed::Rotate);
            world.run(5);
            world.deed(Deed::Revoke);
            world.run(150);
            world.assert_settled();
            assert!(world.mints <= 4, "{} mints with {binding:?} and {fault:?} at {call}", world.mints);
        }
    }
}

#[test]
fn any_two_faults_at_any_two_calls_leave_a_living_token_and_no_litter() {
    let calls = 10;
    for (first, second) in (0..calls).flat_map(|first| (first..calls).map(move |second| (first, second))) {
        for (one, two) in FAULTS.iter().flat_map(|one| FAULTS.iter().map(move |two| (*one, *two))) {
            let mut faults = vec![Fault::None; calls];
            faults[first] = one;
            faults[second] = two;
            let world = issue_and_rotate(World::new(1, &faults));
            world.assert_settled();
            assert!(world.mints <= 4, "{} mints with {one:?} at {first} and {two:?} at {second}", world.mints);
        }
    }
}

#[test]
fn every_single_deed_is_put_right() {
    for (deed, mints) in [
        (Deed::DeleteTarget, 2),
        (Deed::DeleteAnchors, 2),
        (Deed::EditToken, 2),
        (Deed::RecreateAccount, 2),
        (Deed::Rotate, 2),
        (Deed::Revoke, 2),
        (Deed::StripLabel, 1),
        (Deed::AddOwner, 1),
        (Deed::Relabel, 1),
    ] {
        let mut world = World::new(1, &[]);
        world.run(15);
        world.deed(deed);
        world.run(150);
        world.assert_settled();
        assert_eq!(world.mints, mints, "{deed:?}");
    }
}

#[test]
fn a_write_that_is_denied_for_long_costs_one_mint() {
    // Look, anchor and token work, then nothing for a while.
    let mut faults = vec![Fault::None; 3];
    faults.extend([Fault::Refused; 12]);
    let mut world = World::new(1, &faults);
    world.run(1000);
    world.assert_settled();
    assert_eq!(world.mints, 1);
}

#[test]
fn a_refused_anchor_costs_no_mint() {
    let mut faults = vec![Fault::None];
    faults.extend([Fault::Refused; 100]);
    let mut world = World::new(1, &faults);
    world.run(120);
    assert_eq!(world.mints, 0);
    assert!(world.secrets.is_empty());
}

#[test]
fn what_the_leader_left_is_swept_a_minute_after_another_began_to_lead() {
    let mut world = World::new(1, &[]);
    let standby = Process { stands_by: true, ..world.start() };
    world.processes.push(standby);
    world.run(15);
    let anchor = world.secrets.values().find(|stored| stored.is_anchor).map(|stored| json!(stored.meta)).unwrap();
    world.processes[0].stands_by = true;
    world.put("tw-left", anchor, true, BTreeMap::new());
    world.run(200);
    let (now, calls) = (world.now, world.calls);
    world.processes[1].stands_by = false;
    world.processes[1].index.lead(now);
    world.run(59);
    assert!(world.secrets.contains_key("tw-left"), "its maker may be about to publish");
    world.run(5);
    world.assert_settled();
    // A look at the target that would name it, and its deletion.
    assert_eq!((world.calls - calls, world.mints), (2, 1));
}

#[test]
fn a_restart_makes_no_call() {
    let mut world = World::new(1, &[]);
    world.run(15);
    let calls = world.calls;
    world.restart(0);
    world.run(60);
    assert_eq!(world.calls, calls);
}

#[test]
fn a_conflict_is_read_again_and_published_with_the_same_token() {
    let mut world = World::new(1, &[]);
    world.run(15);
    world.deed(Deed::Rotate);
    // Anchor and token, then somebody else edits the Secret and nobody tells us.
    assert!(world.step(0, true) && world.step(0, true));
    world.deed(Deed::Relabel);
    world.processes[0].news.clear();
    world.run(150);
    world.assert_settled();
    assert_eq!(world.mints, 2);
}

#[test]
fn a_policy_that_comes_back_while_we_look_for_it_is_served() {
    let mut world = World::new(1, &[]);
    world.run(15);
    let (now, gone, back) = (world.now, world.next(), world.next());
    let index = &mut world.processes[0].index;
    index.apply(&None, Change::Policy(Event::Deleted(key("p"), gone)), now);
    let job = index.take(1, now).unwrap();
    assert!(matches!(job.decision.act, Act::Look(Look::Policy)));
    let policy = PolicyState::read(world.policy.clone(), &site());
    index.apply(&None, Change::Policy(Event::Applied(key("p"), back, policy)), now);
    // The API server answered before.
    let answer = vec![Outcome::Looked(Look::Policy, Found::Absent)];
    assert!(index.finish(&job.grant, answer, now).is_none());
    world.run(15);
    world.assert_settled();
    assert_eq!(world.mints, 1);
}

#[test]
fn reasons_of_refusals_are_shared_only_when_the_namespace_is_the_cause() {
    assert!(Reason::QuotaExceeded.shared() && !Reason::AdmissionDenied.shared() && !Reason::TargetNotOwned.shared());
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![6 => Just(Fault::None), 1 => Just(Fault::Refused), 1 => Just(Fault::Lost), 1 => Just(Fault::CrashBefore), 1 => Just(Fault::CrashAfter)]
}

fn deed() -> impl Strategy<Value = Option<Deed>> {
    let some = prop_oneof![
        Just(Deed::Rotate),
        Just(Deed::DeleteTarget),
        Just(Deed::DeleteAnchors),
        Just(Deed::StripLabel),
        Just(Deed::EditToken),
        Just(Deed::AddOwner),
        Just(Deed::RecreateAccount),
        Just(Deed::Relabel),
        Just(Deed::Revoke),
    ];
    prop_oneof![8 => Just(None), 1 => some.prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Two processes with watches that lag, faults, and a third party: it always settles, without litter.
    #[test]
    fn two_processes_settle_under_any_schedule(
        faults in proptest::collection::vec(fault(), 0..30),
        schedule in proptest::collection::vec((0..2_usize, any::<bool>(), deed(), 0..4_i64), 0..120),
    ) {
        let mut world = World::new(2, &faults);
        for (process, hears, deed, pause) in schedule {
            world.step(process, hears);
            if let Some(deed) = deed {
                world.deed(deed);
            }
            world.now += TimeDelta::seconds(pause);
        }
        world.faults.clear();
        world.run(1500);
        world.assert_settled();
        prop_assert!(world.processes.iter_mut().all(|process| process.job.is_none()));
    }
}
