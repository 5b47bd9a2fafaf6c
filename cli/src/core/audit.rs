//! `audit`: who uses which token, from the lines of an API server's audit log. Memory grows with the number of tokens, not
//! with that of lines.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokenward::record::{Time, text};

use super::{
    target::Target,
    text::{Node, Paint, count, plain, span},
};

/// Verbs, addresses and programs that are kept of a token.
const KEPT: usize = 8;
/// How the API server begins the user name of an account.
const ACCOUNT: &str = "system:serviceaccount:";
/// Kubelets request tokens for pods, more than all others together.
const NODE: &str = "system:node:";

/// What a policy has to do with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    pub namespace: String,
    pub policy: String,
    pub secret: String,
    /// Of a previous token: when its successor was issued, and when it dies.
    pub replaced_at: Option<Time>,
    pub dies_at: Option<Time>,
}

/// The tokens that these Secrets hold and remember, by their ids.
pub fn known(targets: &[Target]) -> BTreeMap<String, Known> {
    targets.iter().flat_map(of_target).collect()
}

fn of_target(target: &Target) -> Vec<(String, Known)> {
    let Target { namespace, name, record } = target;
    let known = |replaced_at, dies_at| Known {
        namespace: namespace.clone(),
        policy: record.policy.to_string(),
        secret: name.clone(),
        replaced_at,
        dies_at,
    };
    let current = record.token.iter().map(|token| (token.id.to_string(), known(None, None)));
    // Oldest first: each was replaced by the next one.
    let issued =
        record.previous.iter().map(|previous| previous.issued).chain(record.token.iter().map(|token| token.issued));
    let previous = record
        .previous
        .iter()
        .zip(issued.skip(1))
        .map(|(previous, next)| (previous.id.to_string(), known(Some(next.time()), Some(previous.retires.time()))));
    current.chain(previous).collect()
}

/// An event, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(borrow, default, rename = "sourceIPs")]
    source_ips: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_agent: Cow<'a, str>,
    request_received_timestamp: DateTime<Utc>,
    #[serde(borrow, default)]
    annotations: Annotations<'a>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
    #[serde(borrow, default)]
    extra: Extra<'a>,
}

#[derive(Default, Deserialize)]
struct Extra<'a> {
    #[serde(borrow, default, rename = "authentication.kubernetes.io/credential-id")]
    credential: Vec<Cow<'a, str>>,
    #[serde(borrow, default, rename = "authentication.kubernetes.io/pod-name")]
    pod: Vec<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, default, rename = "authentication.kubernetes.io/issued-credential-id")]
    issued: Cow<'a, str>,
}

/// The first few values of a kind.
#[derive(Debug, Default, Serialize)]
pub struct Few {
    values: BTreeSet<String>,
    /// There were others.
    more: bool,
}

impl Few {
    fn add(&mut self, value: &str) {
        if value.is_empty() || self.values.contains(value) {
            return;
        }
        if self.values.len() < KEPT { self.values.extend([plain(value)]) } else { self.more = true }
    }

    fn line(&self) -> String {
        let more = if self.more { " and others" } else { "" };
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.join(", ") + more
    }
}

/// The use of a token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// `None` for a token without an id: a legacy token, or one of a server older than 1.30.
    pub id: Option<String>,
    pub user: String,
    pub known: Option<Known>,
    /// Who requested a token that no policy knows.
    pub requested_by: Option<String>,
    pub requests: u64,
    /// Of these, how many came after the token was replaced.
    pub late_requests: u64,
    pub first: Time,
    pub last: Time,
    pub verbs: Few,
    pub addresses: Few,
    pub user_agents: Few,
}

/// What was read so far.
pub struct Audit {
    known: BTreeMap<String, Known>,
    /// Only accounts of this namespace.
    namespace: Option<String>,
    uses: BTreeMap<(Option<String>, String), Use>,
    /// Who requested which token, but for kubelets.
    issued: BTreeMap<String, String>,
    /// Lines that are no events.
    pub unread: u64,
}

impl Audit {
    pub fn new(known: BTreeMap<String, Known>, namespace: Option<String>) -> Self {
        Self { known, namespace, uses: BTreeMap::new(), issued: BTreeMap::new(), unread: 0 }
    }

    /// Takes one line in.
    pub fn read(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => self.take(&event),
            Err(_) => self.unread += 1,
        }
    }

    fn take(&mut self, event: &Event<'_>) {
        if let Some(id) =
            event.annotations.issued.strip_prefix("JTI=").filter(|_| !event.user.username.starts_with(NODE))
        {
            self.issued.insert(id.to_owned(), plain(&event.user.username));
        }
        let id = event.user.extra.credential.first().and_then(|id| id.strip_prefix("JTI="));
        let known = id.and_then(|id| self.known.get(id));
        // Tokens of pods are the kubelet's business, unless somebody carried one of ours into a pod.
        let of_pod = !event.user.extra.pod.is_empty() && known.is_none();
        if of_pod || !self.concerns(&event.user.username) {
            return;
        }
        let key = (id.map(str::to_owned), event.user.username.to_string());
        self.uses.entry(key).or_insert_with(|| Use::new(id, event, known)).add(event);
    }

    fn concerns(&self, user: &str) -> bool {
        let account = user.strip_prefix(ACCOUNT).and_then(|account| account.split_once(':'));
        account.is_some_and(|(namespace, _)| self.namespace.as_ref().is_none_or(|wanted| wanted == namespace))
    }

    /// The uses: first those of tokens that were replaced, then those of current tokens, then those of all others.
    pub fn uses(mut self) -> Vec<Use> {
        let mut uses: Vec<Use> = self.uses.into_values().collect();
        for unknown in uses.iter_mut().filter(|found| found.known.is_none()) {
            unknown.requested_by = unknown.id.as_ref().and_then(|id| self.issued.remove(id));
        }
        uses.sort_by_key(|found| (!found.is_late(), found.known.is_none(), found.user.clone(), found.first));
        uses
    }
}

impl Use {
    fn new(id: Option<&str>, event: &Event<'_>, known: Option<&Known>) -> Self {
        Self {
            id: id.map(plain),
            user: plain(&event.user.username),
            known: known.cloned(),
            requested_by: None,
            requests: 0,
            late_requests: 0,
            first: event.request_received_timestamp,
            last: event.request_received_timestamp,
            verbs: Few::default(),
            addresses: Few::default(),
            user_agents: Few::default(),
        }
    }

    fn add(&mut self, event: &Event<'_>) {
        let at = event.request_received_timestamp;
        (self.first, self.last) = (self.first.min(at), self.last.max(at));
        self.verbs.add(&event.verb);
        self.user_agents.add(&event.user_agent);
        // The client is the first; proxies follow.
        event.source_ips.first().into_iter().for_each(|address| self.addresses.add(address));
        // A request has several lines, but ends once.
        if matches!(&*event.stage, "ResponseComplete" | "Panic") {
            self.requests += 1;
            self.late_requests += u64::from(self.was_replaced(at));
        }
    }

    fn was_replaced(&self, at: Time) -> bool {
        let replaced = self.known.as_ref().and_then(|known| known.replaced_at);
        // Tokens tell their issue in whole seconds, rounded down.
        replaced.is_some_and(|replaced| at >= replaced + TimeDelta::seconds(1))
    }

    /// It was used after it was replaced, be it by a watch that goes on and so counts as no request yet.
    fn is_late(&self) -> bool {
        self.was_replaced(self.last)
    }

    fn node(&self, now: Time, paint: Paint) -> Node {
        let (first, last, requests) = (self.first, self.last, count(self.requests, "request"));
        let used = format!("{requests}, first {}, last {} ({} ago)", text(first), text(last), span(now - last));
        let mut below = vec![Node::leaf(self.origin())];
        below.extend(self.warning(now).map(|warning| Node::leaf(paint.bad(&warning))));
        below.push(Node::leaf(used));
        let kinds = [("verbs", &self.verbs), ("from", &self.addresses), ("with", &self.user_agents)];
        let kinds = kinds.iter().filter(|(_, few)| !few.values.is_empty());
        below.extend(kinds.map(|(kind, few)| Node::leaf(format!("{kind}: {}", few.line()))));
        Node { line: format!("{}  {}", self.user, self.id.as_deref().unwrap_or("without an id")), below }
    }

    fn origin(&self) -> String {
        match (&self.known, &self.requested_by, &self.id) {
            (Some(Known { namespace, policy, secret, replaced_at, .. }), ..) => {
                let role = if replaced_at.is_some() { "previous" } else { "current" };
                format!("policy {namespace}/{policy}, {role} token of Secret {secret}")
            }
            (None, Some(by), _) => format!("no policy knows it; requested by {by}"),
            (None, None, Some(_)) => "no policy knows it, and its request is not in this log".to_owned(),
            (None, None, None) => "no policy knows it; a legacy token".to_owned(),
        }
    }

    /// Who still uses a token that was replaced breaks when it dies.
    fn warning(&self, now: Time) -> Option<String> {
        let dies = self.known.as_ref()?.dies_at?;
        let end = if dies > now { format!("breaks in {}", span(dies - now)) } else { "is broken".to_owned() };
        let late = if self.late_requests > 0 { count(self.late_requests, "request") } else { "a watch".to_owned() };
        self.is_late().then(|| format!("{late} after it was replaced: this consumer {end}"))
    }
}

/// The uses as trees.
pub fn draw(uses: &[Use], now: Time, paint: Paint) -> String {
    uses.iter().map(|found| found.node(now, paint).draw()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::target::tests::{at, meta};

    /// A request at a minute after 12, with this token.
    fn line(minute: u32, id: Option<&str>, more: Value) -> Vec<u8> {
        let mut event = json!({
            "stage": "ResponseComplete", "verb": "get", "sourceIPs": ["10.0.0.1", "10.0.0.9"], "userAgent": "curl/8",
            "user": {"username": "system:serviceaccount:ci:a", "extra": {}},
            "requestReceivedTimestamp": format!("2026-11-28T12:{minute:02}:00.000001Z"),
        });
        if let Some(id) = id {
            event["user"]["extra"]["authentication.kubernetes.io/credential-id"] = json!([format!("JTI={id}")]);
        }
        let Value::Object(more) = more else { panic!("no object") };
        for (key, value) in more {
            event[key] = value;
        }
        event.to_string().into_bytes()
    }

    fn audited(lines: &[Vec<u8>]) -> Vec<Use> {
        let mut meta = meta("a");
        // Replaced by the current one at 12:10.
        let issued = ("tokenward.dev/issued-at".to_owned(), "2026-11-28T12:10:00Z".to_owned());
        meta.annotations.as_mut().unwrap().extend([issued]);
        let mut audit = Audit::new(known(&[Target::read(&meta).unwrap()]), None);
        for line in lines {
            audit.read(line);
        }
        audit.uses()
    }

    #[test]
    fn joins_requests_to_policies_and_names_who_will_break() {
        let watch = json!({"verb": "watch", "stage": "ResponseStarted", "userAgent": "prometheus/3"});
        let uses = audited(&[
            line(20, Some("id-a"), json!({})),
            line(5, Some("old-a"), json!({})),
            line(30, Some("old-a"), json!({})),
            line(31, Some("old-a"), watch),
        ]);
        let text = draw(&uses, at("2026-11-28T13:00:00Z"), Paint(false));
        let expected = "system:serviceaccount:ci:a  old-a
├─ policy ci/deployers, previous token of Secret deployers-a
├─ 1 request after it was replaced: this consumer breaks in 1h
├─ 2 requests, first 2026-11-28T12:05:00Z, last 2026-11-28T12:31:00Z (28m59s ago)
├─ verbs: get, watch
├─ from: 10.0.0.1
└─ with: curl/8, prometheus/3

system:serviceaccount:ci:a  id-a
├─ policy ci/deployers, current token of Secret deployers-a
├─ 1 request, first 2026-11-28T12:20:00Z, last 2026-11-28T12:20:00Z (39m59s ago)
├─ verbs: get
├─ from: 10.0.0.1
└─ with: curl/8
";
        assert_eq!(text, expected);
    }

    #[test]
    fn tells_of_tokens_that_no_policy_knows() {
        let issued = json!({"user": {"username": "alice"}, "annotations": {"authentication.kubernetes.io/issued-credential-id": "JTI=x"}});
        let uses = audited(&[
            line(1, None, issued),
            line(2, Some("x"), json!({})),
            line(3, Some("y"), json!({})),
            line(4, None, json!({})),
        ]);
        let origins: Vec<String> = uses.iter().map(Use::origin).collect();
        let expected = [
            "no policy knows it; requested by alice",
            "no policy knows it, and its request is not in this log",
            "no policy knows it; a legacy token",
        ];
        assert_eq!(origins, expected);
    }

    #[test]
    fn leaves_out_people_pods_and_other_namespaces() {
        let pod = |id| {
            json!({"user": {"username": "system:serviceaccount:ci:a", "extra": {
            "authentication.kubernetes.io/credential-id": [id], "authentication.kubernetes.io/pod-name": ["p"]}}})
        };
        let uses = audited(&[
            line(1, None, json!({"user": {"username": "alice"}})),
            line(2, None, pod("JTI=of-a-kubelet")),
            line(3, None, pod("JTI=id-a")),
            b"no event\n".to_vec(),
            b"\n".to_vec(),
        ]);
        assert_eq!(uses.iter().map(|found| found.id.as_deref()).collect::<Vec<_>>(), [Some("id-a")]);
        let mut audit = Audit::new(BTreeMap::new(), Some("cd".into()));
        audit.read(&line(1, Some("x"), json!({})));
        audit.read(b"no event");
        assert_eq!((audit.unread, audit.uses().len()), (1, 0));
    }

    #[test]
    fn a_request_counts_once_and_a_watch_that_goes_on_is_a_use() {
        let stage = |stage: &str| json!({"stage": stage, "verb": "watch"});
        let counted = |stages: &[&str]| {
            let lines: Vec<_> = stages.iter().map(|name| line(20, Some("old-a"), stage(name))).collect();
            let uses = audited(&lines);
            let shown = draw(&uses, at("2026-11-28T13:00:00Z"), Paint(false));
            (uses[0].requests, uses[0].late_requests, shown)
        };
        for stages in [&["RequestReceived", "ResponseStarted", "ResponseComplete"][..], &["RequestReceived", "Panic"]] {
            let (requests, late, _) = counted(stages);
            assert_eq!((requests, late), (1, 1), "{stages:?}");
        }
        let (requests, late, shown) = counted(&["RequestReceived", "ResponseStarted"]);
        assert_eq!((requests, late), (0, 0));
        assert!(shown.contains("a watch after it was replaced: this consumer breaks in 1h"), "{shown}");
    }

    #[test]
    fn a_use_in_the_second_of_the_replacement_is_not_late() {
        let uses = audited(&[line(10, Some("old-a"), json!({"userAgent": ""}))]);
        assert_eq!((uses[0].requests, uses[0].late_requests), (1, 0));
        assert!(!draw(&uses, at("2026-11-28T13:00:00Z"), Paint(false)).contains("with:"));
    }

    #[test]
    fn keeps_a_few_values_of_each_kind_and_no_control_characters() {
        let lines: Vec<_> =
            (0..20).map(|n| line(n, Some("x"), json!({"userAgent": format!("agent\u{1b}[31m{n:02}")}))).collect();
        let uses = audited(&lines);
        assert_eq!((uses[0].user_agents.values.len(), uses[0].user_agents.more, uses[0].requests), (KEPT, true, 20));
        assert!(!draw(&uses, at("2026-11-28T13:00:00Z"), Paint(false)).contains('\u{1b}'));
    }
}
