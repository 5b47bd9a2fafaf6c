//! Signatures of `kube-public/cluster-info`, byte for byte as the in-tree `bootstrapsigner` makes them, and when to
//! make them.

use std::collections::{BTreeMap, VecDeque};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::TimeDelta;
use k8s_openapi::{ByteString, api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use ring::hmac;
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};
use serde::Deserialize;

use super::{Expiration, token};
use crate::core::{Time, failure::Failure, names, schedule::quick_retry};

/// The namespace of the ConfigMap.
pub const NAMESPACE: &str = "kube-public";
/// Its name.
pub const NAME: &str = "cluster-info";
const PAYLOAD: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// Longest pause after a pass that failed: what could not be signed is 4 s after it can be.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(4);
/// A pass reads every token, so one follows another only after this.
const BETWEEN_PASSES: TimeDelta = TimeDelta::seconds(1);
/// So many rewrites by others within [`CONTEST`] are a fight.
const REWRITES: usize = 3;
/// How long the signatures must be left alone before they are written again.
const CONTEST: TimeDelta = TimeDelta::minutes(10);

/// A bootstrap token with its secret, as a signing pass reads it.
#[derive(Deserialize)]
pub struct SigningToken {
    metadata: ObjectMeta,
    data: Option<SigningData>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct SigningData {
    expiration: ByteString,
    token_id: ByteString,
    /// Base64, as the API has it.
    token_secret: SecretString,
    usage_bootstrap_signing: ByteString,
}

/// Without anything that is in it.
impl std::fmt::Debug for SigningToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningToken")
    }
}

impl SigningToken {
    /// Whether it signs now: upstream's checks, in upstream's order.
    fn signs(&self, now: Time) -> Option<(&str, &SigningData)> {
        let data = self.data.as_ref()?;
        let id = token::id_of(self.metadata.name.as_deref()?)?;
        let legal = id.as_bytes() == data.token_id.0
            && !data.token_secret.expose_secret().is_empty()
            && Expiration::read(&data.expiration.0).ended(now).is_none()
            && data.usage_bootstrap_signing.0 == b"true";
        legal.then_some((id, data))
    }
}

/// A detached JSON Web Signature (RFC 7515, appendix F) with HS256; the key is the token's secret alone.
fn sign(payload: &str, id: &str, secret: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The wanted signatures against the present ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys of the ConfigMap to set, or to remove.
    pub changes: BTreeMap<String, Option<String>>,
    /// The keys after it.
    wanted: BTreeMap<String, String>,
    /// When the first of the signing tokens ends.
    next: Option<Time>,
    /// The ConfigMap's resourceVersion.
    version: Option<String>,
    /// Field managers of signatures besides this operator.
    others: Vec<String>,
}

/// Plans a pass over what was just read. Without a payload there is nothing to sign, and what stands there stays.
#[must_use]
pub fn plan(now: Time, config_map: &ConfigMap, tokens: &[SigningToken]) -> Plan {
    let data = config_map.data.clone().unwrap_or_default();
    let Some(payload) = data.get(PAYLOAD) else {
        return Plan::default();
    };
    let signing: Vec<(&str, &SigningData)> = tokens.iter().filter_map(|token| token.signs(now)).collect();
    let wanted: BTreeMap<String, String> =
        signing.iter().filter_map(|(id, data)| signature(payload, id, data)).collect();
    let foreign = data.keys().filter(|key| key.starts_with(SIGNATURE_PREFIX) && !wanted.contains_key(*key));
    let missing = wanted.iter().filter(|(key, value)| data.get(*key) != Some(value));
    let changes = foreign
        .map(|key| (key.clone(), None))
        .chain(missing.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect();
    let ends = signing.iter().filter_map(|(_, data)| match Expiration::read(&data.expiration.0) {
        Expiration::At(at) => Some(at),
        Expiration::Never | Expiration::Unparsable => None,
    });
    Plan {
        changes,
        next: ends.min(),
        version: config_map.metadata.resource_version.clone(),
        others: others(&config_map.metadata),
        wanted,
    }
}

/// A value that is no base64 signs nothing: no signature is better than a wrong one.
fn signature(payload: &str, id: &str, data: &SigningData) -> Option<(String, String)> {
    let secret = Zeroizing::new(STANDARD.decode(data.token_secret.expose_secret()).ok()?);
    Some((format!("{SIGNATURE_PREFIX}{id}"), sign(payload, id, &secret)))
}

/// The other field managers that own a signature.
fn others(metadata: &ObjectMeta) -> Vec<String> {
    let signed = |fields: &serde_json::Value| {
        let data = fields["f:data"].as_object();
        data.is_some_and(|data| data.keys().any(|key| key.starts_with("f:jws-kubeconfig-")))
    };
    let entries = metadata.managed_fields.iter().flatten();
    let owning = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| signed(&fields.0)));
    owning.filter_map(|entry| entry.manager.clone()).filter(|name| name != names::MANAGER).collect()
}

/// How a pass ended.
#[derive(Debug)]
pub enum Pass {
    /// There was nothing to do, or no ConfigMap.
    Unchanged(Plan),
    /// The changes were written.
    Written(Plan),
    /// The changes were not written, as the signatures are contested.
    Contested(Plan),
    /// The ConfigMap was changed at the same time.
    Conflict,
    /// A call failed.
    Failed(Failure),
}

impl Pass {
    /// The metric's label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unchanged(_) => "unchanged",
            Self::Written(_) => "written",
            Self::Contested(_) => "contested",
            Self::Conflict => "conflict",
            Self::Failed(_) => "failed",
        }
    }
}

/// When to sign, and whether to.
#[derive(Debug, Default)]
pub struct ClusterInfoSigner {
    /// The API server asked for a pause until then.
    not_before: Option<Time>,
    due: Option<Time>,
    busy: bool,
    last_pass: Option<Time>,
    failures: u32,
    /// The last write: if the map has changed though we want the same, somebody else wrote.
    written: Option<BTreeMap<String, String>>,
    rewrites: VecDeque<Time>,
    contested: Option<Contest>,
}

#[derive(Debug)]
struct Contest {
    version: Option<String>,
    until: Time,
}

/// How the contest about the signatures changed in a pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It began; with these field managers.
    Began(Vec<String>),
    /// It is over.
    Ended,
}

impl ClusterInfoSigner {
    /// Something that is signed, or that signs, may have changed.
    pub fn mark(&mut self, now: Time) {
        let earliest = self.last_pass.map_or(now, |last| (last + BETWEEN_PASSES).clamp(now, now + BETWEEN_PASSES));
        let earliest = self.not_before.map_or(earliest, |at| at.max(earliest));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// When the next pass is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.due.filter(|_| !self.busy)
    }

    /// Whether others fight about the signatures.
    #[must_use]
    pub const fn is_contested(&self) -> bool {
        self.contested.is_some()
    }

    /// Begins a pass if one is due; it may write unless the signatures are contested.
    pub fn take(&mut self, now: Time) -> Option<bool> {
        if self.busy || self.due.is_none_or(|due| due > now) {
            return None;
        }
        (self.busy, self.due, self.last_pass, self.not_before) = (true, None, Some(now), None);
        Some(self.contested.as_ref().is_none_or(|contest| contest.until <= now))
    }

    /// Ends a pass and schedules the next: at the next expiry, or after a pause when it failed.
    pub fn finish(&mut self, pass: &Pass, now: Time) -> Option<Turn> {
        self.busy = false;
        let (plan, again) = match pass {
            Pass::Failed(_) | Pass::Conflict => {
                self.failures += 1;
                let asked = if let Pass::Failed(failure) = pass { failure.not_before(now) } else { now };
                self.not_before = Some(asked).filter(|at| *at > now);
                (None, Some(asked.max(now + quick_retry(self.failures, LONGEST_PAUSE))))
            }
            Pass::Unchanged(plan) | Pass::Written(plan) | Pass::Contested(plan) => {
                self.failures = 0;
                (Some(plan), plan.next)
            }
        };
        let turn = plan.and_then(|plan| self.contest(pass, plan, now));
        let until = self.contested.as_ref().map(|contest| contest.until);
        self.due = self.due.into_iter().chain(again).chain(until).min();
        turn
    }

    fn contest(&mut self, pass: &Pass, plan: &Plan, now: Time) -> Option<Turn> {
        match pass {
            Pass::Written(_) if self.was_rewritten(plan, now) => {
                let until = now + CONTEST;
                let began = self.contested.replace(Contest { version: None, until }).is_none();
                began.then(|| Turn::Began(plan.others.clone()))
            }
            Pass::Unchanged(_) | Pass::Written(_) => {
                self.contested.take_if(|contest| contest.until <= now).map(|_| Turn::Ended)
            }
            Pass::Contested(_) => {
                let contest = self.contested.as_mut()?;
                if contest.version != plan.version {
                    *contest = Contest { version: plan.version.clone(), until: now + CONTEST };
                }
                None
            }
            Pass::Conflict | Pass::Failed(_) => None,
        }
    }

    /// Notes what was written, and whether others have changed the same too often.
    fn was_rewritten(&mut self, plan: &Plan, now: Time) -> bool {
        if self.written.as_ref() == Some(&plan.wanted) {
            self.rewrites.push_back(now);
        }
        self.written = Some(plan.wanted.clone());
        self.rewrites.retain(|at| now - *at < CONTEST);
        self.rewrites.len() >= REWRITES
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn token(name: &str, data: &[(&str, &str)]) -> SigningToken {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (*key, ByteString((*value).into()))).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
    }

    fn config_map(data: &[(&str, &str)]) -> ConfigMap {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        serde_json::from_value(json!({"metadata": {"resourceVersion": "1"}, "data": data})).unwrap()
    }

    const ID: (&str, &str) = ("token-id", "abc123");
    const SECRET: (&str, &str) = ("token-secret", "tokenSecret");
    const SIGNING: (&str, &str) = ("usage-bootstrap-signing", "true");
    const SIGNATURE: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiYzEyMyJ9..QSxpUG7Q542CirTI2ECPSZjvBOJURUW5a7XqFpNI958";

    #[test]
    fn signs_as_upstream_does() {
        assert_eq!(sign("payload", "abc123", b"tokenSecret"), SIGNATURE);
        let content = "Hello from the other side. I must have called a thousand times.";
        for (content, secret, end) in [
            (content, "my voice is my passcode", ".VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"),
            ("", "my voice is my passcode", ".7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"),
            (content, "", ".UfkqvDGiIFxrMnFseDj9LYJOLNrvjW8aHhF71mvvAs8"),
        ] {
            assert!(sign(content, "joshua", secret.as_bytes()).ends_with(end), "{secret} {content}");
        }
    }

    #[test]
    fn signs_for_the_tokens_that_upstream_signs_for() {
        let name = "bootstrap-token-abc123";
        let expires = |value: &'static str| token(name, &[ID, SECRET, SIGNING, ("expiration", value)]);
        for (token, signs) in [
            (expires(""), true),
            (expires("2027-01-15T09:00:00Z"), true),
            (expires("2027-01-15T07:00:00Z"), false),
            (expires("garbage"), false),
            (token(name, &[ID, SECRET, ("usage-bootstrap-signing", "")]), false),
            (token(name, &[ID, SECRET, ("usage-bootstrap-signing", "True")]), false),
            (token(name, &[("token-id", ""), SECRET, SIGNING]), false),
            (token(name, &[ID, ("token-secret", ""), SIGNING]), false),
            (token(name, &[ID, SIGNING]), false),
            (token("abc123", &[ID, SECRET, SIGNING]), false),
            (token("bootstrap-token-def456", &[ID, SECRET, SIGNING]), false),
        ] {
            let changes = plan(at(0), &config_map(&[("kubeconfig", "payload")]), &[token]).changes;
            assert_eq!(changes.len(), usize::from(signs), "{changes:?}");
        }
    }

    #[test]
    fn writes_only_what_differs() {
        let tokens =
            || [token("bootstrap-token-abc123", &[ID, SECRET, SIGNING, ("expiration", "2027-01-15T09:00:00Z")])];
        let key = "jws-kubeconfig-abc123";
        let right = plan(at(0), &config_map(&[("kubeconfig", "payload"), (key, SIGNATURE), ("mine", "x")]), &tokens());
        assert_eq!((right.changes.len(), right.next), (0, Some(at(3600))));
        let wrong =
            plan(at(0), &config_map(&[("kubeconfig", "payload"), (key, "old"), ("jws-kubeconfig-x", "")]), &tokens());
        let changes = [("jws-kubeconfig-x".into(), None), (key.into(), Some(SIGNATURE.into()))];
        assert_eq!(wrong.changes, changes.into());
        assert!(plan(at(0), &config_map(&[(key, "old")]), &tokens()).changes.is_empty(), "no payload, no change");
    }

    fn pass(version: &str) -> Plan {
        Plan {
            wanted: [("a".into(), "b".into())].into(),
            version: Some(version.into()),
            others: vec!["x".into()],
            ..Plan::default()
        }
    }

    #[test]
    fn stops_while_somebody_else_keeps_rewriting() {
        let mut signer = ClusterInfoSigner::default();
        let mut turns = Vec::new();
        for n in 0..5 {
            signer.mark(at(2 * n));
            assert_eq!(signer.take(at(2 * n)), Some(n < 4), "pass {n}");
            let done = if n < 4 { Pass::Written(pass("1")) } else { Pass::Contested(pass("2")) };
            turns.extend(signer.finish(&done, at(2 * n)));
            // Our own write comes back through the watch, and is no proof of peace.
            signer.mark(at(2 * n + 1));
            signer.take(at(2 * n + 1));
            turns.extend(signer.finish(&Pass::Unchanged(pass("1")), at(2 * n + 1)));
        }
        assert_eq!(turns, [Turn::Began(vec!["x".into()])]);
        assert_eq!(signer.next_wake(), Some(at(608)), "ten minutes after the last rewrite");
        assert_eq!(signer.take(at(608)), Some(true));
        assert_eq!(signer.finish(&Pass::Written(pass("3")), at(608)), Some(Turn::Ended));
    }

    #[test]
    fn own_changes_of_what_is_signed_are_no_fight() {
        let mut signer = ClusterInfoSigner::default();
        for n in 0..10 {
            signer.mark(at(2 * n));
            assert_eq!(signer.take(at(2 * n)), Some(true));
            let wanted = [("a".into(), n.to_string())].into();
            assert_eq!(signer.finish(&Pass::Written(Plan { wanted, ..Plan::default() }), at(2 * n)), None);
        }
    }

    #[test]
    fn passes_keep_a_distance_and_follow_the_next_expiry() {
        let mut signer = ClusterInfoSigner::default();
        signer.mark(at(0));
        assert_eq!(signer.take(at(0)), Some(true));
        signer.mark(at(0));
        assert_eq!((signer.take(at(5)), signer.next_wake()), (None, None), "one at a time");
        signer.finish(&Pass::Unchanged(Plan { next: Some(at(60)), ..Plan::default() }), at(0));
        assert_eq!((signer.take(at(0)), signer.next_wake()), (None, Some(at(1))));
        assert_eq!(signer.take(at(1)), Some(true));
        signer.finish(&Pass::Unchanged(Plan { next: Some(at(60)), ..Plan::default() }), at(1));
        assert_eq!(signer.next_wake(), Some(at(60)));
    }
}
