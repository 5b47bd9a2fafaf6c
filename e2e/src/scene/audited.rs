//! The operator's calls, as the API server's audit log tells them.

use super::{Scene, claims, plane};
use crate::operator::{ACCOUNT, NAMESPACE, token};
use crate::{AuditEvent, Options, eventually};
use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret;
use std::time::Duration;

/// Kinds of components that are not installed here.
const OPTIONAL: [&str; 2] = ["bootstraptokenpolicies", "legacytokenpolicies"];
/// Without a call for so long the operator is at rest.
const QUIET: TimeDelta = TimeDelta::seconds(6);

/// A scene whose operator is told apart in the audit log by the id of its own token.
pub struct Audited {
    pub scene: Scene,
    credential: String,
}

impl Audited {
    /// As [`Scene::start`].
    pub async fn start(namespace: &str) -> Result<Self> {
        let token = token(plane().await?, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
        let id = claims(token.expose_secret())?["jti"].as_str().context("a token without jti")?.to_owned();
        let options = Options { token: Some(token), ..Options::default() };
        Ok(Self { scene: Scene::start_with(namespace, options).await?, credential: id })
    }

    /// What the operator asked of the API server so far; a watch counts when it opens.
    pub fn calls(&self) -> Result<Vec<AuditEvent>> {
        let mut events = self.scene.plane.audit()?;
        events.retain(|event| {
            let counts = event.is_complete() != (event.verb == "watch");
            counts && event.credential_id() == Some(&self.credential)
        });
        events.sort_by_key(|event| event.received);
        let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        ensure!(events.iter().all(|event| event.user == user), "a credential of somebody else");
        // Only whether the optional kinds are there may be asked in vain: the shipped rights are enough for all else.
        let refused = lines(&events, |event| event.code == 403 && !OPTIONAL.contains(&event.resource.as_str()));
        ensure!(refused.is_empty(), "refused: {refused:?}");
        Ok(events)
    }

    /// Waits until the operator has called nothing but watches for [`QUIET`], and returns when that was.
    pub async fn rest(&self) -> Result<DateTime<Utc>> {
        let check = async || {
            let (calls, now) = (self.calls()?, Utc::now());
            let last = calls.iter().rfind(|call| call.verb != "watch").context("no call yet")?;
            ensure!(now - last.at > QUIET, "just now {}", line(last));
            Ok(now)
        };
        eventually(Duration::from_mins(3), "the operator comes to rest", check).await
    }

    /// The calls since then, when the operator is at rest.
    pub async fn calls_until_rest(&self, since: DateTime<Utc>) -> Result<Vec<AuditEvent>> {
        self.rest().await?;
        Ok(self.calls()?.into_iter().filter(|call| call.received >= since).collect())
    }
}

/// Verb, resource and name of a call, or its path where it names no resource; every anchor is called `(anchor)`.
fn line(call: &AuditEvent) -> String {
    if call.resource.is_empty() {
        return format!("{} {}", call.verb, call.request_uri);
    }
    let name = if call.name.starts_with("tw-") { "(anchor)" } else { &call.name };
    let slash = if call.subresource.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{} {name}", call.verb, call.resource, call.subresource).trim_end().to_owned()
}

/// The wanted ones of these calls, a line each.
pub fn lines(calls: &[AuditEvent], wanted: impl Fn(&AuditEvent) -> bool) -> Vec<String> {
    calls.iter().filter(|call| wanted(call)).map(line).collect()
}

/// The calls that an issue and a rotation may cost.
pub fn on_secrets(calls: &[AuditEvent]) -> Vec<String> {
    let counted = |call: &AuditEvent| match call.resource.as_str() {
        "secrets" => !["list", "watch"].contains(&call.verb.as_str()),
        "serviceaccounts" => call.subresource == "token",
        _ => false,
    };
    lines(calls, counted)
}
