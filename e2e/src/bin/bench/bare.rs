//! The bare loop: the calls that the operator makes for a grant, and nothing else. Its Secrets have the annotations that
//! `config/admission` demands of the operator's account, so both are judged alike, and not the labels and the type by which
//! the operator finds its own.

use crate::connection::{Call, Connection, JSON, METADATA};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const APPLY: &str = "application/apply-patch+yaml";
/// As long as the operator's field manager, so that `managedFields` are as long.
const MANAGER: &str = "barewards";

/// The grants of one namespace, which must hold the accounts and a ConfigMap that owns everything.
pub struct Bare {
    namespace: String,
    owner: Value,
    server: String,
    ca: String,
    grants: Vec<Grant>,
}

struct Grant {
    account: String,
    account_uid: String,
    written: Option<Written>,
}

/// What the last rotation left.
#[derive(Clone)]
struct Written {
    uid: String,
    resource_version: String,
    anchor: String,
    anchor_uid: String,
}

impl Bare {
    /// `accounts` are names and UIDs.
    pub fn new(namespace: &str, owner_uid: &str, (server, ca): (String, &str), accounts: &[(String, String)]) -> Self {
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner_uid}]);
        let grants = accounts.iter().map(|(account, account_uid)| Grant {
            account: account.clone(),
            account_uid: account_uid.clone(),
            written: None,
        });
        let ca = BASE64_STANDARD.encode(ca);
        Self { namespace: namespace.to_owned(), owner, server, ca, grants: grants.collect() }
    }

    /// Issues, or rotates, a token for every grant, one at a time on each of these connections.
    pub async fn round(&mut self, connections: &[Connection]) -> Result<Duration> {
        let grants = std::mem::take(&mut self.grants);
        let (todo, done) = (Mutex::new(grants), Mutex::new(Vec::new()));
        let start = Instant::now();
        let this = &*self;
        let worker = async |connection| {
            while let Some(mut grant) = pop(&todo)? {
                grant.written = Some(this.serve(connection, &grant).await?);
                lock(&done)?.push(grant);
            }
            Ok::<(), anyhow::Error>(())
        };
        try_join_all(connections.iter().map(worker)).await?;
        let took = start.elapsed();
        self.grants = done.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
        Ok(took)
    }

    /// The four calls of a first issue, or of a rotation.
    async fn serve(&self, connection: &Connection, grant: &Grant) -> Result<Written> {
        if grant.written.is_none() {
            self.look(connection, grant).await?;
        }
        let (anchor, anchor_uid) = self.create_anchor(connection, grant).await?;
        let token = self.mint(connection, grant, &anchor, &anchor_uid).await?;
        let body = self.target(grant, &token, &anchor, &anchor_uid);
        let path = format!("{}?fieldManager={MANAGER}&force=true", self.secret(&target_name(grant)));
        let call = Call { method: Method::PATCH, path: &path, accept: METADATA, body: Some((APPLY, &body)) };
        let written = connection.json(call).await?;
        if let Some(old) = &grant.written {
            self.delete_anchor(connection, old).await?;
        }
        Ok(Written {
            uid: text(&written, "/metadata/uid")?,
            resource_version: text(&written, "/metadata/resourceVersion")?,
            anchor,
            anchor_uid,
        })
    }

    async fn look(&self, connection: &Connection, grant: &Grant) -> Result<()> {
        let path = self.secret(&target_name(grant));
        let call = Call { method: Method::GET, path: &path, accept: METADATA, body: None };
        let (status, _) = connection.call(call).await?;
        ensure!(status == 404, "GET {path}: {status}");
        Ok(())
    }

    async fn create_anchor(&self, connection: &Connection, grant: &Grant) -> Result<(String, String)> {
        let path = format!("/api/v1/namespaces/{}/secrets?fieldManager={MANAGER}", self.namespace);
        let name = format!("ba-{}", suffix(grant));
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": {
                "name": name, "namespace": self.namespace, "ownerReferences": self.owner,
                "labels": {"barewards.dev/role": "anchor", "barewards.dev/policy-uid": grant.account_uid,
                    "app.kubernetes.io/managed-by": MANAGER},
                "annotations": {"tokenward.dev/policy": "policy", "tokenward.dev/target": name,
                    "tokenward.dev/service-account": grant.account,
                    "tokenward.dev/dies-at-latest": "2026-01-01T00:00:00Z"},
            },
        });
        let call = Call { method: Method::POST, path: &path, accept: METADATA, body: Some((JSON, &body)) };
        let created = connection.json(call).await?;
        Ok((name, text(&created, "/metadata/uid")?))
    }

    async fn mint(&self, connection: &Connection, grant: &Grant, anchor: &str, uid: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, grant.account);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"name": grant.account, "namespace": self.namespace, "uid": grant.account_uid},
            "spec": {"audiences": [], "expirationSeconds": 86400,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": anchor, "uid": uid}},
        });
        let call = Call { method: Method::POST, path: &path, accept: JSON, body: Some((JSON, &body)) };
        text(&connection.json(call).await?, "/status/token")
    }

    async fn delete_anchor(&self, connection: &Connection, old: &Written) -> Result<()> {
        let path = self.secret(&old.anchor);
        let body = json!({"preconditions": {"uid": old.anchor_uid}});
        let call = Call { method: Method::DELETE, path: &path, accept: METADATA, body: Some((JSON, &body)) };
        connection.json(call).await?;
        Ok(())
    }

    /// As many keys, labels and annotations as a target has, with values about as long.
    fn target(&self, grant: &Grant, token: &str, anchor: &str, anchor_uid: &str) -> Value {
        let (uid, time) = (&grant.account_uid, "2026-01-01T00:00:00Z");
        let previous = grant.written.as_ref().map_or("[]".to_owned(), |old| {
            let entry = json!({"anchor": old.anchor, "uid": old.anchor_uid, "tokenId": uid, "retiresAt": time});
            json!([entry]).to_string()
        });
        let mut metadata = json!({
            "name": target_name(grant), "namespace": self.namespace, "ownerReferences": self.owner,
            "labels": {"barewards.dev/role": "target", "barewards.dev/policy-uid": uid,
                "app.kubernetes.io/managed-by": MANAGER},
            "annotations": {
                "tokenward.dev/policy": "policy", "tokenward.dev/target": target_name(grant),
                "tokenward.dev/service-account": grant.account, "tokenward.dev/service-account-uid": uid,
                "tokenward.dev/token-id": uid, "tokenward.dev/key-id": &token[..43],
                "tokenward.dev/issuer": "https://kubernetes.default.svc.cluster.local",
                "tokenward.dev/issued-at": time, "tokenward.dev/expires-at": time,
                "tokenward.dev/anchor": anchor, "tokenward.dev/anchor-uid": anchor_uid,
                "tokenward.dev/rotate": "", "tokenward.dev/previous": previous,
                "tokenward.dev/token-inputs": "v1-0123456789abcdef", "tokenward.dev/layout": "v1-0123456789abcdef",
            },
        });
        match &grant.written {
            None => metadata["resourceVersion"] = "1".into(),
            Some(written) => {
                metadata["uid"] = written.uid.as_str().into();
                metadata["resourceVersion"] = written.resource_version.as_str().into();
            }
        }
        let data = json!({
            "token": BASE64_STANDARD.encode(token), "ca.crt": self.ca,
            "namespace": BASE64_STANDARD.encode(&self.namespace), "server": BASE64_STANDARD.encode(&self.server),
        });
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data})
    }

    fn secret(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace)
    }
}

fn target_name(grant: &Grant) -> String {
    format!("policy-{}", grant.account)
}

/// A name that no other anchor of the namespace has: accounts differ, and so do generations.
fn suffix(grant: &Grant) -> String {
    let generation = grant.written.as_ref().map_or("a", |old| if old.anchor.ends_with('a') { "b" } else { "a" });
    format!("{}-{generation}", grant.account)
}

fn text(answer: &Value, pointer: &str) -> Result<String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("an answer without {pointer}"))?.to_owned())
}

fn pop(todo: &Mutex<Vec<Grant>>) -> Result<Option<Grant>> {
    Ok(lock(todo)?.pop())
}

fn lock<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow::anyhow!("a worker panicked"))
}
