//! Bootstrap tokens.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use k8s_openapi::{ByteString, api::rbac::v1::PolicyRule, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, de::IgnoredAny};
use tokenward::record::{Expiration, Time};

use super::{
    Facts,
    rbac::{Bound, reads_configuration},
    row::{Row, Severity, names},
};
use crate::core::text::span;

/// The group of every bootstrap token.
const GROUP: &str = "system:bootstrappers";
/// The name of its Secret is this and its ID.
const NAME: &str = "bootstrap-token-";
/// A machine joins within hours; kubeadm's tokens live for a day.
const LONG: TimeDelta = TimeDelta::days(30);
/// Its other groups have this before their names; the API server refuses a token with any other group.
const GROUPS: &str = "system:bootstrappers:";
/// The cluster roles that a joining node needs; the last is kubeadm's own.
const NODE_ROLES: [&str; 4] = [
    "ClusterRole system:node-bootstrapper",
    "ClusterRole system:certificates.k8s.io:certificatesigningrequests:nodeclient",
    "ClusterRole system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
    "ClusterRole kubeadm:get-nodes",
];

/// A Secret of type `bootstrap.kubernetes.io/token`, without the key that holds the secret half of the token.
#[derive(Debug, Deserialize)]
pub struct Token {
    metadata: ObjectMeta,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Data {
    token_id: Option<ByteString>,
    /// Whether it is there; its value is dropped.
    token_secret: Option<IgnoredAny>,
    expiration: Option<ByteString>,
    auth_extra_groups: Option<ByteString>,
    usage_bootstrap_authentication: Option<ByteString>,
}

impl Token {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn end(&self) -> Expiration {
        Expiration::read(self.data.expiration.as_ref().map(|bytes| bytes.0.as_slice()).unwrap_or_default())
    }

    /// It logs somebody in.
    fn is_live(&self, now: Time) -> bool {
        let authenticates = text(self.data.usage_bootstrap_authentication.as_ref()) == "true";
        let id = text(self.data.token_id.as_ref());
        let is_whole = self.data.token_secret.is_some() && self.metadata.deletion_timestamp.is_none();
        authenticates
            && is_whole
            && is_id(id)
            && self.name().strip_prefix(NAME) == Some(id)
            && self.groups().all(|group| group == GROUP || is_extra(group))
            && match self.end() {
                Expiration::Never => true,
                Expiration::At(end) => end > now,
                Expiration::Unparsable => false,
            }
    }

    /// The name of the user.
    fn user(&self) -> String {
        format!("system:bootstrap:{}", self.name().trim_start_matches(NAME))
    }

    fn groups(&self) -> impl Iterator<Item = &str> {
        let extra = Some(text(self.data.auth_extra_groups.as_ref())).filter(|extra| !extra.is_empty());
        extra.into_iter().flat_map(|extra| extra.split(',')).chain([GROUP])
    }
}

/// Six small letters or digits.
fn is_id(id: &str) -> bool {
    id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// A group that `auth-extra-groups` may name, by Kubernetes' `BootstrapGroupPattern`.
fn is_extra(group: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let Some((last, rest)) = group.strip_prefix(GROUPS).and_then(|name| name.as_bytes().split_last()) else {
        return false;
    };
    letter(*last) && rest.len() < 256 && rest.iter().all(|byte| letter(*byte) || b":-".contains(byte))
}

fn text(bytes: Option<&ByteString>) -> &str {
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

pub fn row(facts: &Facts, now: Time) -> Row {
    let mut row = Row::new("bootstrap tokens");
    // Without flags, tokens are taken to work.
    let servers = row.servers(facts, "--enable-bootstrap-token-auth");
    if !servers.is_empty() {
        let on = servers.iter().any(|flags| flags.is_on("enable-bootstrap-token-auth", false));
        row.seen(format!("kube-apiserver runs with --enable-bootstrap-token-auth={on}"));
        if !on {
            return row;
        }
    }
    let Some(tokens) = row.learn(&facts.bootstrap) else { return row };
    let live: Vec<&Token> = tokens.iter().filter(|token| token.is_live(now)).collect();
    if live.is_empty() {
        row.seen("no Secret in kube-system is a bootstrap token that logs in");
        return row;
    }
    row.found(format!("bootstrap tokens in kube-system that log in: {}", live.len()));
    ends(&mut row, &live, now);
    groups(&mut row, facts, &live);
    row
}

fn ends(row: &mut Row, live: &[&Token], now: Time) {
    let immortal: Vec<&str> =
        live.iter().filter(|token| token.end() == Expiration::Never).map(|token| token.name()).collect();
    let cure =
        "delete the Secret, and create a token with a lifetime when a machine joins; a BootstrapTokenPolicy caps it";
    if !immortal.is_empty() {
        row.finds(Severity::High, format!("tokens that let machines join never expire: {}", names(&immortal)), cure);
    }
    for token in live {
        match token.end() {
            Expiration::At(end) if end - now > LONG => {
                let problem = format!("the token {} lets machines join for another {}", token.name(), span(end - now));
                row.finds(Severity::Medium, problem, cure);
            }
            _ => {}
        }
    }
}

/// Users and groups of tokens with rights beyond those that a joining node needs.
fn groups(row: &mut Row, facts: &Facts, live: &[&Token]) {
    facts.rbac.unknown().for_each(|why| row.unknown(why));
    let mut members: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for token in live {
        members.entry(("User", token.user())).or_default().push(token.name());
        for group in token.groups() {
            members.entry(("Group", group.to_owned())).or_default().push(token.name());
        }
    }
    for ((kind, name), tokens) in members {
        let bound = facts.rbac.bindings(|subject| subject.kind == kind && subject.name == name);
        for bound in bound.iter().filter(|bound| !is_usual(bound)) {
            let severity = if bound.is_admin() { Severity::Critical } else { Severity::High };
            let place = bound.namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
            let are = if kind == "User" { "are the user" } else { "are in the group" };
            let problem = format!("holders of {} {are} {name}, which has {}{place}", names(&tokens), bound.role);
            row.finds(severity, problem, cure(&name));
        }
    }
}

/// Every token is in [`GROUP`], and has its user.
fn cure(name: &str) -> &'static str {
    if name.starts_with(GROUPS) {
        "delete the binding, or take the group from auth-extra-groups of the Secret"
    } else {
        "delete the binding"
    }
}

/// A binding that Kubernetes or kubeadm makes, to a role that nobody widened.
fn is_usual(bound: &Bound) -> bool {
    let (usual, may): (_, fn(&PolicyRule) -> bool) = match bound.namespace {
        None => (NODE_ROLES.contains(&bound.role.as_str()), is_for_nodes),
        Some("kube-system") => (bound.role.starts_with("Role kubeadm:"), reads_configuration),
        Some("kube-public") => (bound.role == "Role kubeadm:bootstrap-signer-clusterinfo", reads_configuration),
        Some(_) => (false, reads_configuration),
    };
    usual && bound.rules.iter().all(may)
}

/// Certificate signing requests, and to get nodes.
fn is_for_nodes(rule: &PolicyRule) -> bool {
    let requests = [
        "certificatesigningrequests",
        "certificatesigningrequests/nodeclient",
        "certificatesigningrequests/selfnodeclient",
    ];
    let may = |verbs: &[&str]| rule.verbs.iter().all(|verb| verbs.contains(&verb.as_str()));
    let mut resources = rule.resources.iter().flatten();
    rule.non_resource_urls.iter().flatten().next().is_none()
        && resources.all(|resource| match resource.as_str() {
            "nodes" => may(&["get"]),
            other => requests.contains(&other) && may(&["create", "get", "list", "watch"]),
        })
}

#[cfg(test)]
pub mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    use super::*;

    /// The token `abcdef`, with this data besides.
    pub fn token(more: &[(&str, &str)]) -> Token {
        let all = [("token-id", "abcdef"), ("token-secret", "hidden"), ("usage-bootstrap-authentication", "true")];
        let data: serde_json::Map<String, Value> =
            all.iter().chain(more).map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into())).collect();
        serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "data": data})).unwrap()
    }

    #[test]
    fn a_token_logs_in_while_it_lives_and_may() {
        let now = Time::from_timestamp(0, 0).unwrap();
        let long = format!("system:bootstrappers:{}", "a".repeat(257));
        for (key, value, live) in [
            ("unused", "", true),
            ("usage-bootstrap-authentication", "false", false),
            ("expiration", "1970-01-01T00:00:01Z", true),
            ("expiration", "1970-01-01T00:00:00Z", false),
            ("expiration", "soon", false),
            ("expiration", "2070-01-01 00:00:00Z", false),
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b", true),
            ("auth-extra-groups", "system:bootstrappers:a:b-c", true),
            ("auth-extra-groups", "system:bootstrappers:a,", false),
            ("auth-extra-groups", "system:bootstrappers:a,ops", false),
            ("auth-extra-groups", "system:bootstrappers:", false),
            ("auth-extra-groups", "system:bootstrappers:a-", false),
            ("auth-extra-groups", "system:bootstrappers:Ops", false),
            ("auth-extra-groups", &long[1..], false),
            ("auth-extra-groups", &long, false),
            ("auth-extra-groups", &long[..long.len() - 1], true),
            ("token-id", "fedcba", false),
        ] {
            assert_eq!(token(&[(key, value)]).is_live(now), live, "{key} {value}");
        }
        assert!(!format!("{:?}", token(&[])).contains("hidden"));
    }

    #[test]
    fn half_a_token_and_one_that_is_being_deleted_log_nobody_in() {
        let (mut half, mut deleted, mut wrong) = (token(&[]), token(&[]), token(&[("token-id", "a.cdef")]));
        half.data.token_secret = None;
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("1970-01-01T00:00:00Z")).unwrap();
        wrong.metadata.name = Some("bootstrap-token-a.cdef".into());
        for token in [half, deleted, wrong] {
            assert!(!token.is_live(Time::from_timestamp(0, 0).unwrap()), "{token:?}");
        }
    }
}
