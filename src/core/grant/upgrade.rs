//! Objects as commit 9faba8a wrote them, in every format and binding, after a rotation and with an older token: what the
//! release before left is taken over as it is.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Account,
    controller::{Change, Grants},
};
use crate::{
    api::token_policy::TokenPolicy,
    core::{
        address::{ClusterAddress, KnownAddress, Source},
        id::Key,
        kernel::{controller::Controller as _, store::WatchEvent},
        meta,
        object::Object,
        place::{
            applied::Demanded,
            secret::{Anchor, Target},
        },
        policy::PolicyState,
    },
};

#[derive(Deserialize)]
struct Capture {
    taken: String,
    server: String,
    ca: String,
    policies: Vec<Value>,
    accounts: Vec<Metadata>,
    targets: Vec<Metadata>,
    anchors: Vec<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl Metadata {
    fn key(&self) -> (Key, u64) {
        (Key::new("ci", self.metadata.name.as_deref().unwrap()), meta::version(&self.metadata))
    }
}

#[test]
fn objects_of_the_release_before_cost_no_call() {
    let capture = include_str!("../../../e2e/cases/objects-of-9faba8a.json");
    let capture: Capture = serde_json::from_str(capture).unwrap();
    let now = meta::time(&capture.taken).unwrap();
    let address = ClusterAddress { server: capture.server, ca: capture.ca.into(), internal: false };
    let address = KnownAddress { address, source: Source::OwnConnection, contest: None };
    let mut grants = Grants::new(address, Demanded::default(), vec![None], 7);
    let mut see = |change| grants.observe(0, change, now);
    see(Change::Policy(WatchEvent::Listing));
    for policy in capture.policies {
        let policy: Object<TokenPolicy> = serde_json::from_value(policy).unwrap();
        let key = Key::new("ci", policy.metadata.name.as_deref().unwrap());
        let at = meta::version(&policy.metadata);
        let state = PolicyState::parse(policy, &Demanded::default());
        see(Change::Policy(WatchEvent::Item(key, at, state)));
    }
    see(Change::Policy(WatchEvent::Listed));
    see(Change::Account(WatchEvent::Listing));
    for account in &capture.accounts {
        let (key, at) = account.key();
        see(Change::Account(WatchEvent::Item(key, at, Account::read(&account.metadata))));
    }
    see(Change::Account(WatchEvent::Listed));
    see(Change::Target(WatchEvent::Listing));
    for target in &capture.targets {
        let (key, at) = target.key();
        see(Change::Target(WatchEvent::Item(key, at, Box::new(Target::read(&target.metadata).unwrap()))));
    }
    see(Change::Target(WatchEvent::Listed));
    see(Change::Anchor(WatchEvent::Listing));
    for anchor in &capture.anchors {
        let (key, at) = anchor.key();
        see(Change::Anchor(WatchEvent::Item(key, at, Box::new(Anchor::read(&anchor.metadata).unwrap()))));
    }
    see(Change::Anchor(WatchEvent::Listed));
    assert_eq!((capture.targets.len(), capture.anchors.len()), (11, 11));
    let call = grants.take(&mut 1000, now).map(|(_, request)| request.what);
    assert_eq!(call, None, "no token and no write");
    let status = grants.take_status(100, now);
    assert!(status.is_none(), "{}", secrecy::ExposeSecret::expose_secret(&status.unwrap().1.body));
}
