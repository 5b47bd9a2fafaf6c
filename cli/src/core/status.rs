//! `status`: from policies, Secrets and events to the tree.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound as _};
use k8s_openapi::{api::events::v1::Event, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::core::DynamicObject;
use serde::Serialize;
use tokenward::{
    api::token_policy::{AccountFailure, Rotation, TokenPolicyStatus},
    record::{Record, Time, replaced_at, time},
};

use super::{
    target::Target,
    text::{Node, Paint, bar, plain, span},
};

/// Events shown of a policy.
const EVENTS: usize = 3;

/// What was read of the cluster.
#[derive(Default)]
pub struct Seen {
    pub policies: Vec<DynamicObject>,
    pub targets: Vec<Target>,
    pub events: Vec<Event>,
}

/// A policy as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    pub namespace: String,
    pub name: String,
    pub ready: bool,
    /// Ready of selected accounts.
    pub accounts: String,
    /// Why it is not ready, and whatever else is to be known of it.
    pub notes: Vec<Note>,
    pub secrets: Vec<SecretView>,
    pub failures: Vec<AccountFailure>,
    /// The last ones, newest first.
    pub events: Vec<EventView>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The condition that says so.
    pub condition: String,
    pub reason: String,
    pub message: String,
}

/// A Secret with a token and those before it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretView {
    pub name: String,
    pub service_account: String,
    pub tokens: Vec<TokenView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    pub id: String,
    /// The one in the Secret.
    pub current: bool,
    /// The Secret that it is bound to; empty for none.
    pub anchor: String,
    pub key_id: Option<String>,
    pub issued_at: Time,
    /// When the operator replaces it.
    pub replaced_at: Option<Time>,
    /// When it is dead at the latest.
    pub ends_at: Time,
}

#[derive(Debug, Serialize)]
pub struct EventView {
    pub time: Time,
    pub reason: String,
    pub note: String,
}

/// What is shown of what was seen.
pub fn views(seen: Seen, now: Time) -> Vec<PolicyView> {
    let mut targets: BTreeMap<_, Vec<Target>> = BTreeMap::new();
    for target in seen.targets {
        targets.entry((target.namespace.clone(), target.record.policy.to_string())).or_default().push(target);
    }
    let mut events: BTreeMap<_, Vec<EventView>> = BTreeMap::new();
    for event in seen.events {
        let about = event.regarding.as_ref().map(|about| (about.namespace.clone(), about.name.clone()));
        events.entry(about.unwrap_or_default()).or_default().push(EventView::of(event));
    }
    let view = |policy: DynamicObject| {
        let (namespace, name) = (policy.metadata.namespace.clone(), policy.metadata.name.clone());
        let targets = targets.remove(&(namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default()));
        let events = events.remove(&(namespace, name));
        PolicyView::of(policy, targets.unwrap_or_default(), events.unwrap_or_default(), now)
    };
    seen.policies.into_iter().map(view).collect()
}

impl PolicyView {
    fn of(policy: DynamicObject, targets: Vec<Target>, mut events: Vec<EventView>, now: Time) -> Self {
        let status: TokenPolicyStatus = serde_json::from_value(policy.data["status"].clone()).unwrap_or_default();
        let rotation = serde_json::from_value(policy.data["spec"]["rotation"].clone()).unwrap_or_default();
        let uid = policy.metadata.uid.clone().unwrap_or_default();
        events.sort_by_key(|event| std::cmp::Reverse(event.time));
        events.truncate(EVENTS);
        Self {
            ready: condition(&status, "Ready").is_some_and(|ready| ready.0),
            accounts: status.accounts.as_ref().map(|accounts| accounts.summary.clone()).unwrap_or_default(),
            notes: notes(&status, policy.metadata.generation),
            secrets: targets.into_iter().map(|target| SecretView::of(target, &rotation, &uid, now)).collect(),
            failures: status.failures,
            events,
            namespace: policy.metadata.namespace.unwrap_or_default(),
            name: policy.metadata.name.unwrap_or_default(),
        }
    }

    fn node(&self, now: Time, paint: Paint, wide: bool) -> Node {
        let state = if self.ready { paint.good("ready") } else { paint.bad("not ready") };
        let note = |note: &Note| Node::leaf(format!("{}: {}", paint.bad(&note.reason), note.message));
        let failure = |failure: &AccountFailure| {
            let since = time(&failure.since).map(|since| format!(" (for {})", span(now - since))).unwrap_or_default();
            let AccountFailure { service_account, reason, message, .. } = failure;
            Node::leaf(format!("account {service_account}: {}{since}: {message}", paint.bad(reason)))
        };
        // The accounts that fail say the same in full.
        let notes = self.notes.iter().filter(|note| note.condition != "Ready" || self.failures.is_empty());
        let mut below: Vec<Node> = notes.map(note).collect();
        below.extend(self.failures.iter().map(failure));
        below.extend(self.secrets.iter().map(|secret| secret.node(now, paint, wide)));
        if !self.events.is_empty() {
            below.push(Node {
                line: "events".to_owned(),
                below: self.events.iter().map(|event| event.node(now, paint)).collect(),
            });
        }
        Node { line: format!("{}/{}  {state}  {}", self.namespace, self.name, self.accounts), below }
    }
}

/// A condition's state, reason and message.
fn condition(status: &TokenPolicyStatus, kind: &str) -> Option<(bool, Note)> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    let Condition { reason, message, .. } = condition.clone();
    let note = Note { condition: kind.to_owned(), reason, message };
    Some((condition.status == "True", note))
}

/// Why a policy is not ready, and all that is true of it besides.
fn notes(status: &TokenPolicyStatus, generation: Option<i64>) -> Vec<Note> {
    let unseen = || Note {
        condition: String::new(),
        reason: "NotObserved".to_owned(),
        message: "the operator has not seen this generation of the policy; check that it runs".to_owned(),
    };
    let mut notes: Vec<Note> = (status.observed_generation != generation).then(unseen).into_iter().collect();
    notes.extend(condition(status, "Ready").filter(|(ready, _)| !ready).map(|(_, note)| note));
    // The message of these two is that of Ready.
    let others = status.conditions.iter().filter(|condition| {
        condition.status == "True" && !["Ready", "Reconciling", "Stalled"].contains(&condition.type_.as_str())
    });
    notes.extend(others.map(|other| {
        let Condition { type_, message, .. } = other.clone();
        Note { condition: type_.clone(), reason: type_, message }
    }));
    notes
}

impl SecretView {
    fn of(target: Target, rotation: &Rotation, policy: &str, now: Time) -> Self {
        let Target { name, record, .. } = target;
        let current = record.token.as_ref().map(|token| TokenView {
            id: token.id.to_string(),
            current: true,
            anchor: token.bond.name.to_string(),
            key_id: record.signer.as_ref().map(|signer| signer.key_id.to_string()),
            issued_at: token.issued.time(),
            replaced_at: replaced_at(rotation, policy, &record, now).map(|at| at.trunc_subsecs(0)),
            ends_at: token.expires.time(),
        });
        let tokens = current.into_iter().chain(previous(&record)).collect();
        Self { name, service_account: record.service_account.to_string(), tokens }
    }

    fn node(&self, now: Time, paint: Paint, wide: bool) -> Node {
        let tokens = self.tokens.iter().map(|token| Node::leaf(token.line(now, paint, wide))).collect();
        Node { line: format!("account {}, Secret {}", self.service_account, self.name), below: tokens }
    }
}

/// Older tokens, the youngest first.
fn previous(record: &Record) -> impl Iterator<Item = TokenView> {
    record.previous.iter().rev().map(|previous| TokenView {
        id: previous.id.to_string(),
        current: false,
        anchor: previous.bond.name.to_string(),
        key_id: None,
        issued_at: previous.issued.time(),
        replaced_at: None,
        ends_at: previous.retires.time(),
    })
}

impl TokenView {
    fn line(&self, now: Time, paint: Paint, wide: bool) -> String {
        let Self { id, issued_at, ends_at, .. } = self;
        let bar = bar(now - *issued_at, *ends_at - *issued_at);
        let role = if self.current { "current " } else { "previous" };
        let replaced = self.replaced_at.map(|at| format!("rotates in {}, ", span(at - now))).unwrap_or_default();
        let end = match (*ends_at > now, self.current) {
            (false, _) => paint.bad("ended"),
            (true, true) => format!("{replaced}expires in {}", span(*ends_at - now)),
            (true, false) => format!("dies in {}", span(*ends_at - now)),
        };
        let more = if wide { self.more() } else { String::new() };
        format!("{role}  {id}  {}  {} old, {end}{more}", paint.faint(&bar), span(now - *issued_at))
    }

    fn more(&self) -> String {
        let anchor = if self.anchor.is_empty() { "nothing" } else { &self.anchor };
        let key = self.key_id.as_ref().map(|key| format!(", key {key}")).unwrap_or_default();
        format!("  bound to {anchor}{key}")
    }
}

impl EventView {
    fn of(event: Event) -> Self {
        let series = event.series.map(|series| series.last_observed_time.0);
        let seen = series.or(event.event_time.map(|time| time.0));
        let created = event.metadata.creation_timestamp.map(|time| time.0);
        let time = seen.or(created).map(instant).unwrap_or_default();
        let text = |text: Option<String>| plain(&text.unwrap_or_default());
        Self { time, reason: text(event.reason), note: text(event.note) }
    }

    fn node(&self, now: Time, paint: Paint) -> Node {
        Node::leaf(format!("{} ago  {}  {}", span(now - self.time), self.reason, paint.faint(&self.note)))
    }
}

fn instant(time: Timestamp) -> Time {
    DateTime::from_timestamp_nanos(time.as_nanosecond().try_into().unwrap_or_default())
}

/// The policies as trees.
pub fn draw(views: &[PolicyView], now: Time, paint: Paint, wide: bool) -> String {
    let trees: Vec<String> = views.iter().map(|view| view.node(now, paint, wide).draw()).collect();
    trees.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::target::tests::{at, target};

    fn policy(status: Value) -> DynamicObject {
        let mut policy =
            json!({"metadata": {"namespace": "ci", "name": "deployers", "uid": "u", "generation": 2}, "spec": {}});
        policy["status"] = status;
        serde_json::from_value(policy).unwrap()
    }

    fn ready() -> Value {
        json!({
            "observedGeneration": 2,
            "accounts": {"selected": 1, "ready": 1, "failing": 0, "summary": "1/1"},
            "conditions": [condition("Ready", "True", "TokensPublished", "")],
        })
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-28T10:00:00Z"})
    }

    fn event(minute: u32, reason: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ci", "name": reason}, "reason": reason, "note": "why",
            "regarding": {"namespace": "ci", "name": "deployers"},
            "eventTime": format!("2026-11-28T11:{minute:02}:00.000000Z"),
        }))
        .unwrap()
    }

    fn drawn(seen: Seen, wide: bool) -> String {
        let now = at("2026-11-28T12:00:00Z");
        draw(&views(seen, now), now, Paint(false), wide)
    }

    #[test]
    fn shows_the_tree_down_to_the_tokens() {
        let events = (1..6).map(|minute| event(minute, &format!("E{minute}"))).collect();
        let seen = Seen { policies: vec![policy(ready())], targets: vec![target("deployer")], events };
        let text = drawn(seen, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["ci/deployers  ready  1/1", "├─ account deployer, Secret deployers-deployer"]);
        assert!(lines[2].starts_with("│  ├─ current   id-deployer  ██████░░░░░░  12h old, rotates in "), "{text}");
        assert!(lines[2].ends_with(", expires in 12h"), "{text}");
        assert_eq!(lines[3], "│  └─ previous  old-deployer  ███████████░  1d old, dies in 2h");
        assert_eq!(
            lines[4..],
            ["└─ events", "   ├─ 55m ago  E5  why", "   ├─ 56m ago  E4  why", "   └─ 57m ago  E3  why"]
        );
    }

    #[test]
    fn wide_says_what_a_token_is_bound_to() {
        let text =
            drawn(Seen { policies: vec![policy(ready())], targets: vec![target("deployer")], events: vec![] }, true);
        assert!(text.contains("expires in 12h  bound to tw-deployer, key key-1\n"), "{text}");
        assert!(text.contains("dies in 2h  bound to tw-old-deployer\n"), "{text}");
    }

    #[test]
    fn says_why_a_policy_is_not_ready() {
        let failure = json!({"serviceAccount": "builder", "reason": "AccountNotFound", "message": "create it", "since": "2026-11-28T11:50:00Z"});
        let status = json!({"observedGeneration": 1, "failures": [failure], "conditions": [
            condition("Ready", "False", "AccountNotFound", "builder: create it"),
            condition("Stalled", "True", "AccountNotFound", "builder: create it"),
            condition("ClockSkew", "True", "ClockSkew", "the clocks differ"),
        ]});
        let text = drawn(Seen { policies: vec![policy(status)], ..Seen::default() }, false);
        let expected = [
            "ci/deployers  not ready  ",
            "├─ NotObserved: the operator has not seen this generation of the policy; check that it runs",
            "├─ ClockSkew: the clocks differ",
            "└─ account builder: AccountNotFound (for 10m): create it",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let contested = condition("Ready", "False", "NameContested", "two policies");
        let status = json!({"observedGeneration": 2, "conditions": [contested]});
        let text = drawn(Seen { policies: vec![policy(status)], ..Seen::default() }, false);
        assert_eq!(text, "ci/deployers  not ready  \n└─ NameContested: two policies\n");
    }

    #[test]
    fn a_policy_shows_its_own_secrets_and_events_only() {
        let mut other = policy(ready());
        other.metadata.namespace = Some("cd".into());
        let seen = Seen { policies: vec![other], targets: vec![target("deployer")], events: vec![event(1, "E")] };
        assert_eq!(drawn(seen, false), "cd/deployers  ready  1/1\n");
    }
}
