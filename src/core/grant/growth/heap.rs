//! Bytes on the heap. A test measures in a process of its own, as other tests allocate beside it.

use std::process::Command;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use peak_alloc::PeakAlloc;

use super::*;
use crate::core::{
    grant::Account,
    id::{Key, Name},
    place::{
        applied::Demanded,
        secret::{Anchor, Target},
    },
    request::Refusal,
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The room of one grant: names, UIDs and instants of account, target, anchor and token, and the way to find each.
const BYTES_PER_GRANT: usize = 500;

/// The room of an account that no policy selects.
const BYTES_PER_ACCOUNT: usize = 130;

/// The room of a policy with one grant: its spec, its status, and counts that a policy of many grants has but once.
const BYTES_PER_POLICY: usize = 3100;

/// The room of a grant that is due, was tried and waits, above that at rest: what failed, and a token under way.
const BYTES_IN_AN_OUTAGE: usize = 750;

/// Runs an ignored test of this module alone.
fn alone(name: &str) {
    let name = format!("core::grant::growth::heap::{name}");
    let test =
        Command::new(std::env::current_exe().unwrap()).args([&name, "--exact", "--ignored", "--nocapture"]).output();
    let output = test.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_grant_takes_at_most_500_bytes() {
    alone("bytes_per_grant");
}

#[test]
fn an_account_without_a_policy_takes_at_most_130_bytes() {
    alone("bytes_per_account");
}

#[test]
fn a_policy_of_one_grant_takes_at_most_3100_bytes() {
    alone("bytes_per_policy");
}

#[test]
fn a_grant_takes_at_most_750_bytes_more_in_an_outage() {
    alone("bytes_in_an_outage");
}

#[test]
fn rotations_leave_nothing_behind() {
    alone("bytes_over_rotations");
}

/// The objects of a grant that has its token, as a server with one such grant has them.
struct Template {
    account: ObjectMeta,
    target: ObjectMeta,
    anchor: ObjectMeta,
    server: Server,
}

impl Template {
    fn new() -> Self {
        let mut server = Server::new();
        server.account("ci", "app-000000", &[("t", "y")]);
        server.policy("ci", "p", |policy| {
            policy.spec.service_accounts.names = None;
            policy.spec.service_accounts.selector =
                Some(serde_json::from_str(r#"{"matchLabels": {"t": "y"}}"#).unwrap());
        });
        let mut crowd = Crowd::start(server);
        crowd.settle();
        let meta = |name: &str| crowd.server.secrets[&("ci".to_owned(), name.to_owned())].meta.clone();
        let (target, anchor) = (meta("p-app-000000"), meta(&crowd.server.anchors().remove(0).1));
        let account = crowd.server.accounts[&("ci".to_owned(), "app-000000".to_owned())].clone();
        Self { account, target, anchor, server: crowd.server }
    }

    /// The n-th object of a template, under names and UIDs of its own.
    fn object(&self, template: &ObjectMeta, n: usize) -> (Key, u64, ObjectMeta) {
        let uid = |of: usize| format!("{n:08x}-0000-4000-8000-00000000000{of}");
        let text = |text: &Option<String>| text.clone().unwrap();
        let renamed = [
            ("app-000000".to_owned(), format!("app-{n:06}")),
            (text(&self.account.uid), uid(1)),
            (text(&self.anchor.uid), uid(2)),
            (text(&self.target.uid), uid(3)),
            (text(&self.anchor.name), format!("tw-{n:010}")),
        ];
        let mut meta = template.clone();
        let owners = meta.owner_references.iter_mut().flatten().flat_map(|owner| [&mut owner.name, &mut owner.uid]);
        let maps = [&mut meta.labels, &mut meta.annotations].into_iter().flatten().flat_map(BTreeMap::values_mut);
        for text in meta.name.iter_mut().chain(&mut meta.uid).chain(owners).chain(maps) {
            for (from, to) in &renamed {
                if text.contains(from) {
                    *text = text.replace(from, to);
                }
            }
        }
        let name = meta.name.clone().unwrap();
        (Key::new("ci", name), 1000 + u64::try_from(n).unwrap(), meta)
    }

    fn list_accounts(&self, grants: &mut Grants, many: usize) {
        let now = self.server.now;
        grants.observe(0, Change::Account(WatchEvent::Listing), now);
        for n in 0..many {
            let (key, at, meta) = self.object(&self.account, n);
            grants.observe(0, Change::Account(WatchEvent::Item(key, at, Account::read(&meta))), now);
        }
        grants.observe(0, Change::Account(WatchEvent::Listed), now);
    }

    /// Four lists of so many grants, object by object.
    fn list(&self, grants: &mut Grants, many: usize) {
        let now = self.server.now;
        let policy = self.server.policies.values().next().unwrap();
        let policy = PolicyState::read(policy.clone(), &Demanded::default());
        for event in [WatchEvent::Listing, WatchEvent::Item(Key::new("ci", "p"), 5, policy), WatchEvent::Listed] {
            grants.observe(0, Change::Policy(event), now);
        }
        self.list_accounts(grants, many);
        grants.observe(0, Change::Target(WatchEvent::Listing), now);
        for n in 0..many {
            let (key, at, meta) = self.object(&self.target, n);
            let target = Box::new(Target::read(&meta).unwrap());
            grants.observe(0, Change::Target(WatchEvent::Item(key, at, target)), now);
        }
        grants.observe(0, Change::Target(WatchEvent::Listed), now);
        grants.observe(0, Change::Anchor(WatchEvent::Listing), now);
        for n in 0..many {
            let (key, at, meta) = self.object(&self.anchor, n);
            let anchor: Box<(Name, Name, Anchor)> = Box::new(Anchor::read(&meta).unwrap());
            grants.observe(0, Change::Anchor(WatchEvent::Item(key, at, anchor)), now);
        }
        grants.observe(0, Change::Anchor(WatchEvent::Listed), now);
        let call = grants.take(&mut 256, now).map(|(_, request)| request.what);
        assert_eq!(call, None, "a restart makes no call");
        while grants.next_wake(true, 0, now).is_some_and(|at| at <= now) {
            assert!(grants.take(&mut 256, now).is_none());
        }
    }
}

#[test]
#[ignore = "run alone, by another test"]
fn bytes_per_grant() {
    let template = Template::new();
    for many in [MANY, 10 * MANY] {
        let empty = HEAP.current_usage();
        let mut grants = Grants::new(address(), Demanded::default(), vec![None], 7);
        template.list(&mut grants, many);
        let held = HEAP.current_usage() - empty;
        HEAP.reset_peak_usage();
        template.list(&mut grants, many);
        let (peak, again) = (HEAP.peak_usage() - empty, HEAP.current_usage() - empty);
        let each = held / many;
        println!("{many} grants: {each} bytes each, {} after a re-list, whose peak was {}", again / many, peak / many);
        assert!(each <= BYTES_PER_GRANT, "{each} bytes per grant at {many}");
        assert!(peak * 10 <= held * 13 && again * 100 <= held * 101, "{held} bytes, then {again}, peak {peak}");
    }
}

#[test]
#[ignore = "run alone, by another test"]
fn bytes_per_account() {
    let template = Template::new();
    let empty = HEAP.current_usage();
    let mut grants = Grants::new(address(), Demanded::default(), vec![None], 7);
    template.list_accounts(&mut grants, MANY);
    let each = (HEAP.current_usage() - empty) / MANY;
    println!("{MANY} accounts without a policy: {each} bytes each");
    assert!(each <= BYTES_PER_ACCOUNT, "{each} bytes");
}

#[test]
#[ignore = "run alone, by another test"]
fn bytes_over_rotations() {
    let mut server = Server::new();
    let accounts: Vec<String> = (0..100).map(|n| format!("app-{n:06}")).collect();
    for account in &accounts {
        server.account("ci", account, &[]);
    }
    server.policy("ci", "p", |policy| names(policy, accounts));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    let mut sizes = Vec::new();
    for rotation in 0..=20 {
        if rotation > 0 {
            crowd.server.policy("ci", "p", |policy| {
                let annotations = policy.metadata.annotations.get_or_insert_default();
                annotations.insert(crate::core::names::ROTATE.into(), rotation.to_string());
            });
            crowd.settle();
            // The overlap ends, and the old tokens with it.
            crowd.pass(61);
            crowd.pass(2);
            assert_eq!((crowd.server.mints, crowd.server.anchors().len()), (100 * (rotation + 1), 100));
        }
        crowd.events();
        if [1, 20].contains(&rotation) {
            // The heap without the grants tells what these hold; the next process holds the same.
            let before = HEAP.current_usage();
            drop(std::mem::replace(&mut crowd.grants, Grants::new(address(), Demanded::default(), vec![None], 7)));
            sizes.push(before - HEAP.current_usage());
            if rotation == 1 {
                crowd.restart();
            }
        }
    }
    println!("100 grants: {} bytes after a rotation, {} after 20", sizes[0], sizes[1]);
    assert!(sizes[1] * 100 <= sizes[0] * 110, "{sizes:?}");
}

/// What the grants hold of the heap. The next process holds the same.
fn held(crowd: &mut Crowd) -> usize {
    let before = HEAP.current_usage();
    drop(std::mem::replace(&mut crowd.grants, Grants::new(address(), Demanded::default(), vec![None], 7)));
    let held = before - HEAP.current_usage();
    crowd.restart();
    held
}

#[test]
#[ignore = "run alone, by another test"]
fn bytes_per_policy() {
    let mut server = Server::new();
    let many = 2000;
    for n in 0..many {
        let account = format!("app-{n:05}");
        server.account("ci", &account, &[]);
        server.policy("ci", &format!("p-{n:05}"), |policy| names(policy, vec![account]));
    }
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(2);
    crowd.events();
    let sizes = [held(&mut crowd), held(&mut crowd)].map(|size| size / many);
    println!("{many} policies of one grant: {} bytes each, {} after a restart", sizes[0], sizes[1]);
    assert!(sizes.iter().all(|size| *size <= BYTES_PER_POLICY), "{sizes:?}");
}

#[test]
#[ignore = "run alone, by another test"]
fn bytes_in_an_outage() {
    let mut server = Server::new();
    let many = 2000;
    let accounts: Vec<String> = (0..many).map(|n| format!("app-{n:06}")).collect();
    for account in &accounts {
        server.account("ci", account, &[]);
    }
    server.policy("ci", "p", |policy| names(policy, accounts));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(2);
    crowd.events();
    let rest = HEAP.current_usage();
    crowd.annotate(crate::core::names::ROTATE, "1");
    crowd.hear();
    let status = Status { code: Some(500), message: Some("etcdserver: request timed out".into()), ..Status::default() };
    for _ in 0..120 {
        while let Some((ticket, request)) = crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now) {
            let failure = Failure::refused(&request.what, &status);
            let answer = Err(Box::new(Refusal { code: Some(500), object: None, failure }));
            crowd.grants.answered(ticket, answer, crowd.server.now);
        }
        crowd.events();
        crowd.server.pass(TimeDelta::seconds(5));
    }
    let more = HEAP.current_usage().saturating_sub(rest) / many;
    println!("{many} grants in an outage: {more} bytes each more than before");
    assert!(more <= BYTES_IN_AN_OUTAGE, "{more} bytes");
}
