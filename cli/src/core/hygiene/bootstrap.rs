//! Bootstrap tokens.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;
use tokenward::record::Time;

use super::{
    Facts,
    row::{Row, Severity, names},
};
use crate::core::text::span;

/// The group of every bootstrap token.
const GROUP: &str = "system:bootstrappers";
/// A machine joins within hours; kubeadm's tokens live for a day.
const LONG: TimeDelta = TimeDelta::days(30);
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
    expiration: Option<ByteString>,
    auth_extra_groups: Option<ByteString>,
    usage_bootstrap_authentication: Option<ByteString>,
}

/// The end of a token.
enum End {
    Never,
    At(Time),
    /// The API server takes such a token as one that has expired.
    Unreadable,
}

impl Token {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn end(&self) -> End {
        match text(self.data.expiration.as_ref()) {
            "" => End::Never,
            time => DateTime::parse_from_rfc3339(time).map_or(End::Unreadable, |time| End::At(time.to_utc())),
        }
    }

    /// It logs somebody in.
    fn is_live(&self, now: Time) -> bool {
        let authenticates = text(self.data.usage_bootstrap_authentication.as_ref()) == "true";
        authenticates
            && match self.end() {
                End::Never => true,
                End::At(end) => end > now,
                End::Unreadable => false,
            }
    }

    fn groups(&self) -> impl Iterator<Item = &str> {
        let extra = text(self.data.auth_extra_groups.as_ref()).split(',');
        extra.chain([GROUP]).filter(|group| !group.is_empty())
    }
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
        live.iter().filter(|token| matches!(token.end(), End::Never)).map(|token| token.name()).collect();
    let cure =
        "delete the Secret, and create a token with a lifetime when a machine joins; a BootstrapTokenPolicy caps it";
    if !immortal.is_empty() {
        row.finds(Severity::High, format!("tokens that let machines join never expire: {}", names(&immortal)), cure);
    }
    for token in live {
        match token.end() {
            End::At(end) if end - now > LONG => {
                let problem = format!("the token {} lets machines join for another {}", token.name(), span(end - now));
                row.finds(Severity::Medium, problem, cure);
            }
            _ => {}
        }
    }
}

/// Groups of tokens with rights beyond those that a joining node needs.
fn groups(row: &mut Row, facts: &Facts, live: &[&Token]) {
    let Some(rbac) = row.learn(&facts.rbac) else { return };
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for token in live {
        for group in token.groups() {
            members.entry(group).or_default().push(token.name());
        }
    }
    for (group, tokens) in members {
        let bound = rbac.bindings(|subject| subject.kind == "Group" && subject.name == group);
        let broad =
            bound.iter().filter(|bound| bound.namespace.is_none() && !NODE_ROLES.contains(&bound.role.as_str()));
        for bound in broad {
            let severity = if bound.role.ends_with(" cluster-admin") { Severity::Critical } else { Severity::High };
            let problem = format!("holders of {} are in the group {group}, which has {}", names(&tokens), bound.role);
            row.finds(
                severity,
                problem,
                "delete the ClusterRoleBinding, or take the group from auth-extra-groups of the Secret",
            );
        }
    }
}

#[cfg(test)]
pub mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    use super::*;

    pub fn token(name: &str, data: &[(&str, &str)]) -> Token {
        let data: serde_json::Map<String, Value> =
            data.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into())).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
    }

    #[test]
    fn a_token_logs_in_while_it_lives_and_may() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let usage = ("usage-bootstrap-authentication", "true");
        for (data, live) in [
            (vec![usage], true),
            (vec![("token-secret", "s")], false),
            (vec![usage, ("expiration", "1970-01-01T00:00:01Z")], true),
            (vec![usage, ("expiration", "1970-01-01T00:00:00Z")], false),
            (vec![usage, ("expiration", "soon")], false),
        ] {
            assert_eq!(token("t", &data).is_live(now), live, "{data:?}");
        }
        assert!(!format!("{:?}", token("t", &[("token-secret", "hidden")])).contains("hidden"));
    }
}
