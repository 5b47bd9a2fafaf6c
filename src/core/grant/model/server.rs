//! A small API server in memory: it takes the requests of every controller by verb and path.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use crate::{
    api::{schema::pending, token_policy::TokenPolicy},
    core::{
        Time,
        address::{ClusterAddress, KnownAddress, Source},
        credential::token,
        failure::Failure,
        grant::{Account, controller::Change},
        id::Key,
        kernel::store::WatchEvent,
        meta, names,
        place::{
            applied::Demanded,
            record::Record,
            secret::{Anchor, Target},
        },
        policy::PolicyState,
        request::{Answer, Refusal, Request, Verb},
    },
};

/// Where consumers reach this server.
pub fn address() -> KnownAddress {
    let address = ClusterAddress { server: "https://api".into(), ca: b"ca".to_vec(), internal: false };
    KnownAddress { address, source: Source::OwnConnection, contest: None }
}

/// A Secret.
#[derive(Clone)]
pub struct Stored {
    pub meta: ObjectMeta,
    pub is_anchor: bool,
    pub data: BTreeMap<String, String>,
    pub kind: String,
}

type Objects<T> = BTreeMap<(String, String), T>;

/// The server.
pub struct Server {
    pub now: Time,
    pub counter: u64,
    pub secrets: Objects<Stored>,
    pub policies: Objects<TokenPolicy>,
    pub accounts: Objects<ObjectMeta>,
    pub mints: usize,
    /// When each token was issued, and its bond: name and UID.
    pub minted: Vec<(Time, Option<(String, String)>)>,
    /// Requests by verb and last fixed part of the path.
    pub calls: BTreeMap<String, usize>,
    /// Everything that watches tell, in order.
    pub log: Vec<Change>,
}

#[expect(clippy::unnecessary_box_returns, reason = "an answer holds a box")]
fn refuse(what: &str, code: u16, name: &str) -> Box<Refusal> {
    let status = Status { code: Some(code.into()), ..Status::default() };
    Box::new(Refusal { code: Some(code), object: Some(name.into()), failure: Failure::refused(what, &status) })
}

#[expect(clippy::unnecessary_box_returns, reason = "an answer holds a box")]
fn immutable(what: &str, name: &str) -> Box<Refusal> {
    let message = Some("type: Invalid value: field is immutable".to_owned());
    let status = Status { code: Some(422), message, ..Status::default() };
    Box::new(Refusal { code: Some(422), object: Some(name.into()), failure: Failure::refused(what, &status) })
}

fn version(meta: &ObjectMeta) -> u64 {
    meta::version(meta)
}

/// The watch on targets selects by label.
fn watched(stored: &Stored) -> Option<(Record, Target)> {
    Target::read(&stored.meta).filter(|(_, target)| target.marked)
}

impl Server {
    pub fn new() -> Self {
        Self {
            now: Time::from_timestamp(1_800_000_000, 0).unwrap(),
            counter: 100,
            secrets: BTreeMap::new(),
            policies: BTreeMap::new(),
            accounts: BTreeMap::new(),
            mints: 0,
            minted: Vec::new(),
            calls: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    pub fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Calls of this kind so far, as in "get tokenpolicies".
    pub fn count(&self, call: &str) -> usize {
        self.calls.get(call).copied().unwrap_or(0)
    }

    pub fn account(&mut self, namespace: &str, name: &str, labels: &[(&str, &str)]) {
        let (uid, at) = (format!("account-{}", self.next()), self.next());
        let labels: Map<String, Value> = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let meta = json!({"namespace": namespace, "name": name, "uid": uid, "resourceVersion": at.to_string(), "labels": labels});
        let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        self.log.push(Change::Account(WatchEvent::Applied(Key::new(namespace, name), at, Account::read(&meta))));
        self.accounts.insert((namespace.into(), name.into()), meta);
    }

    /// Deletion of an account begins, and a finalizer holds it up.
    pub fn end_account(&mut self, namespace: &str, name: &str) {
        let (at, now) = (self.next(), meta::text(self.now));
        let Some(meta) = self.accounts.get_mut(&(namespace.to_owned(), name.to_owned())) else { return };
        meta.resource_version = Some(at.to_string());
        meta.deletion_timestamp = Some(serde_json::from_value(json!(now)).unwrap());
        let account = Account::read(meta);
        self.log.push(Change::Account(WatchEvent::Applied(Key::new(namespace, name), at, account)));
    }

    /// Creates a policy, or edits it; an edit of the spec is another generation.
    pub fn policy(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut TokenPolicy)) {
        let key = (namespace.to_owned(), name.to_owned());
        let fresh = || {
            serde_json::from_value(json!({
                "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
                "metadata": {"name": name, "namespace": namespace, "uid": format!("policy-{name}"), "generation": 0,
                    "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
                "spec": {"serviceAccounts": {"names": ["a"]}, "token": {"duration": "1h"}, "rotation": {"overlap": "60s"}},
                "status": pending(),
            }))
            .unwrap()
        };
        let mut policy: TokenPolicy = self.policies.get(&key).cloned().unwrap_or_else(fresh);
        let before = policy.spec.clone();
        change(&mut policy);
        if policy.spec != before || policy.metadata.generation == Some(0) {
            policy.metadata.generation = policy.metadata.generation.map(|generation| generation + 1);
        }
        self.store_policy(key, policy);
    }

    fn store_policy(&mut self, key: (String, String), mut policy: TokenPolicy) {
        let at = self.next();
        policy.metadata.resource_version = Some(at.to_string());
        let place = Key::new(key.0.as_str(), key.1.as_str());
        let state = PolicyState::read(policy.clone(), &Demanded::default());
        self.log.push(Change::Policy(WatchEvent::Applied(place, at, state)));
        self.policies.insert(key, policy);
    }

    pub fn delete_policy(&mut self, namespace: &str, name: &str) {
        self.policies.remove(&(namespace.to_owned(), name.to_owned()));
        let at = self.next();
        self.log.push(Change::Policy(WatchEvent::Deleted(Key::new(namespace, name), at)));
    }

    /// Annotates a policy.
    pub fn annotate(&mut self, namespace: &str, name: &str, key: &str, value: &str) {
        self.policy(namespace, name, |policy| {
            policy.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
        });
    }

    /// Somebody deletes all targets, or all anchors.
    pub fn delete_secrets(&mut self, anchors: bool) {
        let wanted = self.secrets.iter().filter(|(_, stored)| stored.is_anchor == anchors);
        for key in wanted.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.secrets.remove(&key);
            self.tell_secret(&key.0, &key.1);
        }
    }

    /// Deletion of the first target begins, and a finalizer holds it up.
    pub fn end_target(&mut self, finalizer: &str) {
        let now = meta::text(self.now);
        self.edit_target(|meta| {
            meta["deletionTimestamp"] = now.into();
            meta["finalizers"] = json!([finalizer]);
        });
    }

    /// Somebody edits the metadata of the first target.
    pub fn edit_target(&mut self, change: impl FnOnce(&mut Value)) {
        let Some((key, stored)) = self.secrets.iter().find(|(_, stored)| !stored.is_anchor) else { return };
        let (key, stored) = (key.clone(), stored.clone());
        let mut meta = json!(stored.meta);
        change(&mut meta);
        self.put(&key.0, &key.1, meta, false, stored.data);
    }

    /// The content of first lists.
    pub fn lists(&self) -> Vec<Change> {
        let mut changes = vec![Change::Policy(WatchEvent::Listing)];
        for ((namespace, name), policy) in &self.policies {
            let state = PolicyState::read(policy.clone(), &Demanded::default());
            let at = version(&policy.metadata);
            changes.push(Change::Policy(WatchEvent::Item(Key::new(namespace.as_str(), name.as_str()), at, state)));
        }
        changes.extend([Change::Policy(WatchEvent::Listed), Change::Account(WatchEvent::Listing)]);
        for ((namespace, name), meta) in &self.accounts {
            let key = Key::new(namespace.as_str(), name.as_str());
            changes.push(Change::Account(WatchEvent::Item(key, version(meta), Account::read(meta))));
        }
        changes.extend([Change::Account(WatchEvent::Listed), Change::Target(WatchEvent::Listing)]);
        changes.push(Change::Anchor(WatchEvent::Listing));
        for ((namespace, name), stored) in &self.secrets {
            let (key, at) = (Key::new(namespace.as_str(), name.as_str()), version(&stored.meta));
            match (stored.is_anchor, Anchor::read(&stored.meta), watched(stored)) {
                (true, Some(anchor), _) => changes.push(Change::Anchor(WatchEvent::Item(key, at, Box::new(anchor)))),
                (false, _, Some(target)) => changes.push(Change::Target(WatchEvent::Item(key, at, Box::new(target)))),
                _ => {}
            }
        }
        changes.extend([Change::Target(WatchEvent::Listed), Change::Anchor(WatchEvent::Listed)]);
        changes
    }

    pub fn tell_secret(&mut self, namespace: &str, name: &str) {
        let (at, key) = (self.next(), Key::new(namespace, name));
        let Some(stored) = self.secrets.get(&(namespace.to_owned(), name.to_owned())) else {
            self.log.push(Change::Anchor(WatchEvent::Deleted(key.clone(), at)));
            return self.log.push(Change::Target(WatchEvent::Deleted(key, at)));
        };
        let at = version(&stored.meta);
        self.log.push(match (stored.is_anchor, Anchor::read(&stored.meta), watched(stored)) {
            (true, Some(anchor), _) => Change::Anchor(WatchEvent::Applied(key, at, Box::new(anchor))),
            (false, _, Some(target)) => Change::Target(WatchEvent::Applied(key, at, Box::new(target))),
            _ => Change::Target(WatchEvent::Deleted(key, at)),
        });
    }

    /// Takes one request.
    pub fn answer(&mut self, request: &Request) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.split('/').skip_while(|part| *part != "namespaces").skip(1).collect();
        let verb = format!("{:?}", request.verb).to_lowercase();
        let kind = parts.get(3).filter(|part| **part == "token").or(parts.get(1)).copied().unwrap_or_default();
        *self.calls.entry(format!("{verb} {kind}")).or_default() += 1;
        let body = || serde_json::from_str::<Value>(request.body.expose_secret()).unwrap();
        let text = |value: Value| SecretString::from(value.to_string());
        let (what, namespace) = (request.what.as_str(), parts[0]);
        match (request.verb, &parts[1..]) {
            (Verb::Get, ["secrets"]) => Ok(text(self.anchor_list(namespace, query))),
            (Verb::Get, ["secrets", name]) => self.get_secret(what, namespace, name).map(text),
            (Verb::Get, ["serviceaccounts", name]) => {
                let meta = self.accounts.get(&(namespace.to_owned(), (*name).to_owned()));
                meta.map(|meta| text(json!({"metadata": meta}))).ok_or_else(|| refuse(what, 404, name))
            }
            (Verb::Get, ["tokenpolicies", name]) => {
                let policy = self.policies.get(&(namespace.to_owned(), (*name).to_owned()));
                policy.map(|policy| text(json!(policy))).ok_or_else(|| refuse(what, 404, name))
            }
            (Verb::Apply, ["tokenpolicies", name, "status"]) => {
                let key = (namespace.to_owned(), (*name).to_owned());
                let mut policy = self.policies.get(&key).cloned().ok_or_else(|| refuse(what, 404, name))?;
                policy.status = serde_json::from_value(body()["status"].clone()).unwrap();
                self.store_policy(key.clone(), policy);
                Ok(text(json!({"metadata": self.policies[&key].metadata})))
            }
            (Verb::Create, ["secrets"]) => {
                let meta = body()["metadata"].clone();
                let name = meta["name"].as_str().unwrap().to_owned();
                if self.secrets.contains_key(&(namespace.to_owned(), name.clone())) {
                    return Err(refuse(what, 409, &name));
                }
                Ok(text(json!({"metadata": self.put(namespace, &name, meta, true, BTreeMap::new())})))
            }
            (Verb::Create, ["serviceaccounts", name, "token"]) => self.mint(what, namespace, name, &body()).map(text),
            (Verb::Apply, ["secrets", name]) => self.apply(what, namespace, name, &body()).map(text),
            (Verb::MergePatch | Verb::JsonPatch, ["secrets", name]) => {
                self.patch(what, namespace, name, &body()).map(text)
            }
            (Verb::Delete, ["secrets", name]) => self.delete(what, namespace, name, &body()).map(text),
            other => panic!("{other:?} {}", request.path),
        }
    }

    fn anchor_list(&self, namespace: &str, query: &str) -> Value {
        let found = self.secrets.iter().filter(|((place, name), stored)| {
            place == namespace && stored.is_anchor && query.contains(&format!("metadata.name%3D{name}%2C"))
        });
        json!({"items": found.map(|(_, stored)| json!({"metadata": stored.meta})).collect::<Vec<_>>()})
    }

    fn get_secret(&self, what: &str, namespace: &str, name: &str) -> Result<Value, Box<Refusal>> {
        let stored = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        let stored = stored.ok_or_else(|| refuse(what, 404, name))?;
        Ok(json!({"metadata": stored.meta, "data": stored.data, "type": stored.kind}))
    }

    pub fn put(
        &mut self,
        namespace: &str,
        name: &str,
        mut meta: Value,
        is_anchor: bool,
        data: BTreeMap<String, String>,
    ) -> ObjectMeta {
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.secrets.get(&key).map(|stored| stored.meta.clone());
        let kind = self.secrets.get(&key).map_or_else(|| "Opaque".to_owned(), |stored| stored.kind.clone());
        let fresh = format!("uid-{}", self.next());
        let version = self.next();
        meta["uid"] = old.as_ref().and_then(|meta| meta.uid.clone()).unwrap_or(fresh).into();
        meta["resourceVersion"] = version.to_string().into();
        let created = old.and_then(|meta| meta.creation_timestamp).map(|time| json!(time));
        meta["creationTimestamp"] = created.unwrap_or_else(|| meta::text(self.now).into());
        (meta["name"], meta["namespace"]) = (name.into(), namespace.into());
        let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        self.secrets.insert(key, Stored { meta: meta.clone(), is_anchor, data, kind });
        self.tell_secret(namespace, name);
        meta
    }

    fn mint(&mut self, what: &str, namespace: &str, account: &str, body: &Value) -> Result<Value, Box<Refusal>> {
        let bound = &body["spec"]["boundObjectRef"];
        let bound = bound["name"].as_str().map(|name| (name.to_owned(), bound["uid"].as_str().unwrap().to_owned()));
        let there = bound.as_ref().is_none_or(|(name, uid)| self.lives(namespace, name, uid));
        let known = self.accounts.get(&(namespace.to_owned(), account.to_owned()));
        let uid = known.and_then(|meta| meta.uid.clone()).ok_or_else(|| refuse(what, 404, account))?;
        if !there || body["metadata"]["uid"] != uid.as_str() {
            return Err(refuse(what, 409, account));
        }
        self.mints += 1;
        self.minted.push((self.now, bound.clone()));
        let iat = self.now.timestamp();
        let mut payload = json!({
            "jti": format!("jti-{}", self.mints), "iss": "https://issuer", "aud": ["api"], "iat": iat, "exp": iat + 3600,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        });
        if let Some((name, uid)) = bound {
            payload["kubernetes.io"]["secret"] = json!({"name": name, "uid": uid});
        }
        Ok(json!({"status": {"token": token::tests::token(&payload).expose_secret()}}))
    }

    fn apply(&mut self, what: &str, namespace: &str, name: &str, body: &Value) -> Result<Value, Box<Refusal>> {
        let (uid, version) = (body["metadata"]["uid"].as_str(), body["metadata"]["resourceVersion"].as_str());
        let stored = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        let found = stored.map(|stored| (stored.meta.uid.as_deref(), stored.meta.resource_version.as_deref()));
        let fits = match uid {
            None => version == Some("1") && found.is_none(),
            Some(_) => found == Some((uid, version)),
        };
        if !fits {
            return Err(refuse(what, 409, name));
        }
        let kind = body["type"].as_str().unwrap().to_owned();
        if stored.is_some_and(|stored| stored.kind != kind) {
            return Err(immutable(what, name));
        }
        let data: BTreeMap<String, String> = serde_json::from_value(body["data"].clone()).unwrap();
        let fields = |map: &Value| -> Value {
            let fields = map.as_object().into_iter().flatten().map(|(key, _)| (format!("f:{key}"), json!({})));
            fields.collect::<Map<_, _>>().into()
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
        // Annotations of others stay.
        for (key, value) in stored.into_iter().flat_map(|stored| stored.meta.annotations.iter().flatten()) {
            let ours = names::TARGET_ANNOTATIONS.contains(&key.as_str());
            if !ours && meta["annotations"].get(key).is_none() {
                meta["annotations"][key] = value.as_str().into();
            }
        }
        let meta = self.put(namespace, name, meta, false, data);
        self.secrets.entry((namespace.to_owned(), name.to_owned())).and_modify(|stored| stored.kind = kind);
        Ok(json!({ "metadata": meta }))
    }

    fn patch(&mut self, what: &str, namespace: &str, name: &str, body: &Value) -> Result<Value, Box<Refusal>> {
        let stored = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        let stored = stored.ok_or_else(|| refuse(what, 404, name))?;
        let (is_anchor, data, mut meta) = (stored.is_anchor, stored.data.clone(), json!(stored.meta));
        let version = if body.is_array() { &body[0]["value"] } else { &body["metadata"]["resourceVersion"] };
        if *version != meta["resourceVersion"] {
            return Err(refuse(what, 409, name));
        }
        if body.is_array() {
            meta["ownerReferences"] = body[1]["value"].clone();
        } else {
            for (field, value) in body["metadata"].as_object().unwrap() {
                meta[field] = value.clone();
            }
        }
        Ok(json!({"metadata": self.put(namespace, name, meta, is_anchor, data)}))
    }

    fn delete(&mut self, what: &str, namespace: &str, name: &str, body: &Value) -> Result<Value, Box<Refusal>> {
        let key = (namespace.to_owned(), name.to_owned());
        let stored = self.secrets.get(&key).ok_or_else(|| refuse(what, 404, name))?;
        let wanted = &body["preconditions"];
        let same = stored.meta.uid.as_deref() == wanted["uid"].as_str();
        let version = wanted["resourceVersion"].as_str();
        if !same || version.is_some_and(|version| stored.meta.resource_version.as_deref() != Some(version)) {
            return Err(refuse(what, 409, name));
        }
        self.secrets.remove(&key);
        self.tell_secret(namespace, name);
        Ok(json!({"metadata": {}}))
    }

    pub fn lives(&self, namespace: &str, name: &str, uid: &str) -> bool {
        let stored = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        stored.is_some_and(|stored| stored.meta.uid.as_deref() == Some(uid))
    }

    /// The record of a target.
    pub fn published(&self, namespace: &str, name: &str) -> Option<(Record, Target)> {
        Target::read(&self.secrets.get(&(namespace.to_owned(), name.to_owned()))?.meta)
    }

    /// Time passes.
    pub fn pass(&mut self, span: TimeDelta) {
        self.now += span;
    }

    /// Names of all anchors.
    pub fn anchors(&self) -> Vec<(String, String)> {
        self.secrets.iter().filter(|(_, stored)| stored.is_anchor).map(|(key, _)| key.clone()).collect()
    }
}
