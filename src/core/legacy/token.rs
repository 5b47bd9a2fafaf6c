//! Facts about a Secret with a legacy token, by its metadata alone.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate, NaiveTime, TimeDelta};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::PartialObjectMeta;
use secrecy::SecretString;
use serde_json::json;
use strum::IntoStaticStr;

use super::{ACCOUNT, INVALID_SINCE, LAST_USED};
use crate::core::{
    Time,
    failure::Failure,
    id::{Key, Name, Uid},
    kernel::tended::{Found, Tended},
    meta,
    names::is_object_name,
    request::{self, Request, Verb, secret_path},
};

/// Longest pause after a step that failed: nothing is late by it.
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// Length of a UID.
const UID_LENGTH: usize = 36;

/// A day as a label has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    /// The label.
    pub text: Box<str>,
    /// When the day is over in UTC; none if the text is no day.
    pub end: Option<Time>,
}

/// Whether the API server refuses the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// It does not, and never did as far as the Secret says.
    No,
    /// Somebody emptied the label then: it does not any more. Secrets from before field managers say no time.
    Lifted(Option<Time>),
    /// It does, since the end of this day, if the label is one.
    Since(Option<Time>),
}

/// A Secret as far as decisions need it.
#[derive(Clone, Debug)]
pub struct LegacyToken {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// Deletion has begun.
    pub terminating: bool,
    /// For the `keep` selectors of policies.
    pub labels: BTreeMap<String, String>,
    /// The account whose token it holds, and its UID; empty where the Secret has no legal ones.
    pub account: (Name, Box<str>),
    /// When it was created.
    pub created: Time,
    /// The day of its last use.
    pub last_used: Option<Day>,
    /// Whether the API server refuses the token.
    pub quarantine: Quarantine,
    /// Somebody has just removed the label, and nothing in the Secret says so.
    pub was_lifted: bool,
    /// When the last pod that referred to it went, as far as this process saw that.
    pub released: Option<Time>,
}

/// What can be done to it.
#[derive(Clone, Debug, PartialEq, Eq, IntoStaticStr)]
pub enum LegacyStep {
    /// The API server is to refuse the token.
    Quarantine {
        /// Name of the policy that says so.
        policy: Name,
        /// Since when the token is unused.
        idle: Time,
        /// The label.
        today: NaiveDate,
    },
    /// The label is left empty, so that the next process knows that somebody lifted the quarantine, and when.
    Lift,
    /// The Secret goes.
    Delete {
        /// Name of the policy that says so.
        policy: Name,
        /// Since when it is in quarantine.
        since: Time,
    },
}

impl Day {
    fn read(text: &str) -> Self {
        Self { text: text.into(), end: day_end(text) }
    }
}

/// The end of a day in UTC, as Kubernetes writes days.
#[must_use]
pub fn day_end(text: &str) -> Option<Time> {
    // chrono also reads days without leading zeros, which Kubernetes does not, and such that are too late to count from.
    let is_plain = |day: &NaiveDate| text.len() == "YYYY-MM-DD".len() && day.to_string() == text;
    let day = text.parse::<NaiveDate>().ok().filter(is_plain)?;
    Some(day.checked_add_days(Days::new(1))?.and_time(NaiveTime::MIN).and_utc())
}

impl LegacyToken {
    /// Reads the metadata of a Secret of the type.
    #[must_use]
    pub fn read(meta: ObjectMeta) -> Self {
        // Anybody may have written these, of any length.
        let text = |key: &str| meta::annotation(&meta, key).unwrap_or_default();
        let name = Some(text(ACCOUNT)).filter(|name| is_object_name(name)).unwrap_or_default();
        let uid = Some(text("kubernetes.io/service-account.uid")).filter(|uid| uid.len() <= UID_LENGTH);
        let created = meta::created(&meta).time();
        Self {
            quarantine: match meta::label(&meta, INVALID_SINCE) {
                None => Quarantine::No,
                Some("") => Quarantine::Lifted(written(&meta, INVALID_SINCE)),
                Some(text) => Quarantine::Since(day_end(text)),
            },
            account: (name.into(), uid.unwrap_or_default().into()),
            last_used: meta::label(&meta, LAST_USED).map(Day::read),
            version: meta::version(&meta),
            terminating: meta.deletion_timestamp.is_some(),
            uid: Uid::read(meta.uid.as_deref().unwrap_or_default()),
            labels: meta.labels.unwrap_or_default(),
            created,
            was_lifted: false,
            released: None,
        }
    }

    fn label(&self, key: &Key, value: &str, what: &str) -> Request {
        let labels = json!({ INVALID_SINCE: value });
        let metadata =
            json!({"uid": self.uid.to_string(), "resourceVersion": self.version.to_string(), "labels": labels});
        let body = json!({ "metadata": metadata }).to_string();
        let path = secret_path(&key.namespace, &key.name);
        Request::write(Verb::MergePatch, &path, body.into(), format!("{what} of Secret {key}"))
    }
}

/// When this label was last written, by the field managers.
fn written(meta: &ObjectMeta, label: &str) -> Option<Time> {
    let field = format!("f:{label}");
    let owns = |fields: &serde_json::Value| !fields["f:metadata"]["f:labels"][&field].is_null();
    let entries = meta.managed_fields.iter().flatten();
    let owning = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)));
    owning.filter_map(|entry| entry.time.as_ref()).map(meta::instant).max()
}

impl Tended for LegacyToken {
    type Step = LegacyStep;

    fn uid(&self) -> Uid {
        self.uid
    }

    /// A label that is gone leaves no trace in the Secret: tools that replace the whole object take them away.
    fn follow(&mut self, before: &Self) {
        if before.uid != self.uid {
            return;
        }
        let had_label = before.was_lifted || before.quarantine != Quarantine::No;
        self.was_lifted = had_label && self.quarantine == Quarantine::No;
        self.released = self.released.max(before.released);
        if self.last_used.is_none() {
            self.last_used.clone_from(&before.last_used);
        }
    }

    /// Somebody waits for it, maybe with a consumer that fails.
    fn is_urgent(&self) -> bool {
        self.was_lifted
    }

    fn request(&self, key: &Key, step: &LegacyStep) -> Request {
        match step {
            LegacyStep::Quarantine { today, .. } => self.label(key, &today.to_string(), "patch the quarantine"),
            LegacyStep::Lift => self.label(key, "", "patch the lifted quarantine"),
            LegacyStep::Delete { .. } => {
                Request::delete_secret(&key.namespace, &key.name, self.uid, Some(self.version))
            }
        }
    }

    fn look(key: &Key) -> Request {
        Request::look("Secret", secret_path(&key.namespace, &key.name), &key.namespace, &key.name)
    }

    fn after(&self, step: &LegacyStep, what: &str, body: &SecretString) -> Result<Found<Self>, Failure> {
        if matches!(step, LegacyStep::Delete { .. }) { Ok(None) } else { Self::found(what, body) }
    }

    fn found(what: &str, body: &SecretString) -> Result<Found<Self>, Failure> {
        // All of it: the managed fields of others say when a label was written.
        let meta = request::parse::<PartialObjectMeta<Secret>>(what, body)?.metadata;
        Ok(Some((meta::version(&meta), Self::read(meta))))
    }

    fn longest_pause(_: Option<&LegacyStep>) -> TimeDelta {
        LONGEST_PAUSE
    }
}
