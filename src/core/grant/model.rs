//! The grants run against a small API server: every order of crash, refusal, lost answer and conflict that fits into a few
//! calls, with the promises checked after each of them.

pub mod server;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::controller::Grants;
use crate::{
    api::token_policy::{Binding, TokenPolicy},
    core::{
        address::KnownAddress,
        id::Key,
        kernel::{controller::Controller as _, store::WatchEvent},
        meta, names,
        place::{
            applied::Demanded,
            record::{Bond, Token},
        },
        policy::PolicyState,
        reason::FailureReason,
        request::{Refusal, Request, Verb},
    },
};
use server::{Server, address};

/// The fate of one call.
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

/// A deed of somebody else.
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
    /// The CA of the cluster is another one.
    RotateCa,
}

struct Process {
    grants: Grants,
    /// How much of the server's log has been heard.
    heard: usize,
    /// Hears, and does nothing.
    stands_by: bool,
}

struct World {
    server: Server,
    address: KnownAddress,
    calls: usize,
    faults: Vec<Fault>,
    processes: Vec<Process>,
    /// A gap is allowed until the end.
    killed: bool,
}

#[expect(clippy::unnecessary_box_returns, reason = "an answer holds a box")]
fn unanswered() -> Box<Refusal> {
    let failure = crate::core::failure::Failure::unanswered("call", "fault");
    Box::new(Refusal { code: None, object: None, failure })
}

impl World {
    fn new(processes: usize, faults: &[Fault]) -> Self {
        Self::with(|_| {}, processes, faults)
    }

    /// A world whose tokens are bound so. Only with anchors there is an overlap to speak of.
    fn bound(binding: Binding, faults: &[Fault]) -> Self {
        let bind = |policy: &mut TokenPolicy| {
            policy.spec.token.binding = binding;
            policy.spec.rotation.overlap = None;
        };
        Self::with(bind, 1, faults)
    }

    fn with(policy: impl FnOnce(&mut TokenPolicy), processes: usize, faults: &[Fault]) -> Self {
        let mut server = Server::new();
        server.policy("ci", "p", policy);
        server.account("ci", "a", &[]);
        // Two processes may retire each other's unnamed anchors; the fence promises the end, not every instant.
        let killed = processes > 1;
        let mut world =
            Self { server, address: address(), calls: 0, faults: faults.to_vec(), processes: Vec::new(), killed };
        for _ in 0..processes {
            let process = world.start();
            world.processes.push(process);
        }
        world
    }

    /// A process after its first lists.
    fn start(&mut self) -> Process {
        // No two processes draw the same names.
        let mut grants = Grants::new(self.address.clone(), Demanded::default(), vec![None], self.server.next());
        grants.lead(self.server.now);
        for change in self.server.lists() {
            grants.observe(0, change, self.server.now);
        }
        Process { grants, heard: self.server.log.len(), stands_by: false }
    }

    /// Lets process `n` hear its news and make at most one call.
    fn step(&mut self, n: usize, hears: bool) -> bool {
        let now = self.server.now;
        let process = &mut self.processes[n];
        if hears {
            for change in self.server.log.drain_from(&mut process.heard) {
                process.grants.observe(0, change, now);
            }
        }
        process.grants.news();
        if process.stands_by {
            return false;
        }
        while let Some((ticket, _)) = process.grants.take_status(8, now) {
            process.grants.answered(ticket, Ok("{}".into()), now);
        }
        let Some((ticket, request)) = process.grants.take(&mut 1000, now) else { return false };
        self.perform(n, ticket, &request);
        self.check();
        true
    }

    fn perform(&mut self, n: usize, ticket: u32, request: &Request) {
        self.calls += 1;
        self.server.pass(TimeDelta::milliseconds(1));
        let fault = self.faults.get(self.calls - 1).copied().unwrap_or(Fault::None);
        if fault == Fault::CrashBefore {
            return self.restart(n);
        }
        let answer = if fault == Fault::Refused { Err(unanswered()) } else { self.server.answer(request) };
        match fault {
            Fault::CrashAfter => self.restart(n),
            Fault::Lost => drop(self.processes[n].grants.answered(ticket, Err(unanswered()), self.server.now)),
            _ => drop(self.processes[n].grants.answered(ticket, answer, self.server.now)),
        }
    }

    fn restart(&mut self, n: usize) {
        self.processes[n] = self.start();
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Rotate => {
                let value = self.server.next().to_string();
                self.annotate(names::ROTATE, &value);
            }
            Deed::Revoke => {
                self.killed = true;
                self.annotate(names::REVOKE_ISSUED_BEFORE, &self.server.now.to_rfc3339());
            }
            Deed::RotateCa => {
                self.address.address.ca = self.server.next().to_string().into();
                for process in &mut self.processes {
                    process.grants.observe_address(self.address.clone(), self.server.now);
                }
            }
            Deed::RecreateAccount => {
                self.killed = true;
                self.server.account("ci", "a", &[]);
            }
            Deed::DeleteTarget => self.kill("p-a"),
            Deed::DeleteAnchors => {
                for (_, name) in self.server.anchors() {
                    self.kill(&name);
                }
            }
            Deed::StripLabel => self.edit(|meta| drop(meta["labels"].as_object_mut().unwrap().remove(names::ROLE))),
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
    fn annotate(&mut self, key: &str, value: &str) {
        self.server.annotate("ci", "p", key, value);
    }

    fn kill(&mut self, name: &str) {
        self.killed = true;
        self.server.secrets.remove(&("ci".to_owned(), name.to_owned()));
        self.server.tell_secret("ci", name);
    }

    fn edit(&mut self, change: impl Fn(&mut Value)) {
        let Some(stored) = self.server.secrets.get(&("ci".to_owned(), "p-a".to_owned())) else { return };
        let (mut meta, data) = (json!(stored.meta), stored.data.clone());
        change(&mut meta);
        self.server.put("ci", "p-a", meta, false, data);
    }

    fn policy(&self) -> &TokenPolicy {
        &self.server.policies[&("ci".to_owned(), "p".to_owned())]
    }

    fn annotation(&self, key: &str) -> Option<&String> {
        self.policy().metadata.annotations.as_ref()?.get(key)
    }

    /// Whether the Secret that the token is bound to is there.
    fn is_alive(&self, token: &Token) -> bool {
        let Bond { name, uid } = &token.bond;
        self.policy().spec.token.binding == Binding::None || self.server.lives("ci", name, &uid.to_string())
    }

    /// Tokens issued before the instant of the policy's annotation that are still alive.
    fn unrevoked(&self) -> usize {
        let before = self.annotation(names::REVOKE_ISSUED_BEFORE).and_then(|text| meta::time(text));
        let Some(before) = before else { return 0 };
        let alive = self.server.minted.iter().filter(|(issued, bound)| {
            *issued < before && bound.as_ref().is_some_and(|(name, uid)| self.server.lives("ci", name, uid))
        });
        alive.count()
    }

    /// At every instant the target holds a living token, unless somebody killed it.
    fn check(&self) {
        let token = self.server.published("ci", "p-a").and_then(|(record, _)| record.token);
        if let Some(token) = token.filter(|_| !self.killed) {
            assert!(self.is_alive(&token), "the published token was revoked");
        }
    }

    /// Runs everybody until `seconds` have passed, hearing all news.
    fn run(&mut self, seconds: i64) {
        let end = self.server.now + TimeDelta::seconds(seconds);
        while self.server.now < end {
            let mut steps = 0;
            while (0..self.processes.len()).any(|n| self.step(n, true)) {
                steps += 1;
                assert!(steps < 200, "a hot loop");
            }
            self.server.pass(TimeDelta::seconds(1));
        }
    }

    /// The state that must hold after all faults are over.
    fn assert_settled(&self) {
        let (record, target) = self.server.published("ci", "p-a").expect("a target");
        let token = record.token.expect("a token");
        assert!(self.is_alive(&token), "the published token is dead");
        assert_eq!(self.unrevoked(), 0, "a token outlives its revocation, after {:?}", self.faults);
        let stored = &self.server.secrets[&("ci".to_owned(), "p-a".to_owned())];
        assert_eq!(stored.data["ca.crt"], STANDARD.encode(&self.address.address.ca), "the CA, after {:?}", self.faults);
        let account = &self.server.accounts[&("ci".to_owned(), "a".to_owned())];
        assert_eq!(Some(record.account_uid.to_string()), account.uid);
        assert_eq!(*record.rotate, *self.annotation(names::ROTATE).cloned().unwrap_or_default());
        let named: Vec<&str> =
            record.previous.iter().map(|entry| &*entry.bond.name).chain([&*token.bond.name]).collect();
        let anchors = self.server.anchors();
        let unnamed = anchors.iter().filter(|(_, name)| !named.contains(&name.as_str()));
        assert_eq!(unnamed.count(), 0, "an anchor that no target names, after {:?}", self.faults);
        let policy = PolicyState::read(self.policy().clone(), &Demanded::default());
        assert!(target.marked && target.owners.fit(policy.readable().unwrap()), "{:?}", target.owners);
    }
}

/// The news that a process has not heard yet.
trait Log {
    fn drain_from(&self, heard: &mut usize) -> Vec<super::controller::Change>;
}

impl Log for Vec<super::controller::Change> {
    fn drain_from(&self, heard: &mut usize) -> Vec<super::controller::Change> {
        let news = self[*heard..].to_vec();
        *heard = self.len();
        news
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
    assert_eq!((world.calls, world.server.mints), (8, 2));
}

#[test]
fn other_bindings_cost_what_is_promised() {
    // First issue: look, empty target, token, apply; without a binding no empty target. Rotation: token, apply.
    for (binding, calls) in [(Binding::Target, 6), (Binding::None, 5)] {
        let world = issue_and_rotate(World::bound(binding, &[]));
        world.assert_settled();
        assert_eq!((world.calls, world.server.mints), (calls, 2), "{binding:?}");
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
            assert!(world.server.mints <= 3, "{} mints with {binding:?} and {fault:?} at {call}", world.server.mints);
        }
    }
}

#[test]
fn a_crash_after_the_empty_target_costs_no_token() {
    let mut world = World::bound(Binding::Target, &[Fault::None, Fault::CrashAfter]);
    world.run(15);
    world.assert_settled();
    assert_eq!(world.server.mints, 1);
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
            assert!(world.server.mints <= 4, "{} mints with {binding:?} and {fault:?} at {call}", world.server.mints);
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
            assert!(
                world.server.mints <= 4,
                "{} mints with {one:?} at {first} and {two:?} at {second}",
                world.server.mints
            );
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
        (Deed::RotateCa, 1),
    ] {
        let mut world = World::new(1, &[]);
        world.run(15);
        world.deed(deed);
        world.run(150);
        world.assert_settled();
        assert_eq!(world.server.mints, mints, "{deed:?}");
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
    assert_eq!(world.server.mints, 1);
}

#[test]
fn a_refused_anchor_costs_no_mint() {
    let mut faults = vec![Fault::None];
    faults.extend([Fault::Refused; 100]);
    let mut world = World::new(1, &faults);
    world.run(120);
    assert_eq!(world.server.mints, 0);
    assert!(world.server.secrets.is_empty());
}

#[test]
fn what_the_leader_left_is_swept_a_minute_after_another_began_to_lead() {
    let mut world = World::new(1, &[]);
    let standby = Process { stands_by: true, ..world.start() };
    world.processes.push(standby);
    world.run(15);
    let anchor =
        world.server.secrets.values().find(|stored| stored.is_anchor).map(|stored| json!(stored.meta)).unwrap();
    world.processes[0].stands_by = true;
    world.server.put("ci", "tw-left", anchor, true, std::collections::BTreeMap::new());
    world.run(200);
    let (now, calls) = (world.server.now, world.calls);
    world.processes[1].stands_by = false;
    world.processes[1].grants.lead(now);
    world.run(59);
    assert!(
        world.server.secrets.contains_key(&("ci".to_owned(), "tw-left".to_owned())),
        "its maker may be about to publish"
    );
    world.run(5);
    world.assert_settled();
    // A look at the target that would name it, and its deletion.
    assert_eq!((world.calls - calls, world.server.mints), (2, 1));
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
    world.processes[0].heard = world.server.log.len();
    world.run(150);
    world.assert_settled();
    assert_eq!(world.server.mints, 2);
}

#[test]
fn a_policy_that_comes_back_while_we_look_for_it_is_served() {
    let mut world = World::new(1, &[]);
    world.run(15);
    let (now, gone, back) = (world.server.now, world.server.next(), world.server.next());
    let grants = &mut world.processes[0].grants;
    grants.observe(0, super::controller::Change::Policy(WatchEvent::Deleted(Key::new("ci", "p"), gone)), now);
    let (ticket, request) = grants.take(&mut 9, now).unwrap();
    assert!(request.verb == Verb::Get && request.path.ends_with("/tokenpolicies/p"), "{}", request.path);
    let policy = world.server.policies[&("ci".to_owned(), "p".to_owned())].clone();
    let policy = PolicyState::read(policy, &Demanded::default());
    grants.observe(0, super::controller::Change::Policy(WatchEvent::Applied(Key::new("ci", "p"), back, policy)), now);
    // The API server answered before.
    let status = k8s_openapi::apimachinery::pkg::apis::meta::v1::Status::default();
    let failure = crate::core::failure::Failure::refused("get", &status);
    grants.answered(ticket, Err(Box::new(Refusal { code: Some(404), object: Some("p".into()), failure })), now);
    assert!(grants.take(&mut 9, now).is_none());
    world.run(15);
    world.assert_settled();
    assert_eq!(world.server.mints, 1);
}

#[test]
fn reasons_of_refusals_are_shared_only_when_the_namespace_is_the_cause() {
    assert!(
        FailureReason::QuotaExceeded.shared()
            && !FailureReason::AdmissionDenied.shared()
            && !FailureReason::TargetNotOwned.shared()
    );
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
        Just(Deed::RotateCa),
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
            world.server.pass(TimeDelta::seconds(pause));
        }
        world.faults.clear();
        world.run(1500);
        world.assert_settled();
    }
}
