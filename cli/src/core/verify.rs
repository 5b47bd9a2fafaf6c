//! `verify`: the checks of a token, each with its evidence.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokenward::record::{Time, replaced_at, text};

use super::{
    order::find,
    signature::{self, Keys},
    target::Target,
    text::{Paint, span},
    token::{Claims, Object},
};

/// The issuer of legacy tokens in every cluster, whatever the API server publishes.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Something that was asked for, or why it could not be learnt.
pub type Learnt<T> = Result<T, String>;

/// What could be learnt of the cluster about a token.
pub struct Evidence {
    pub keys: Learnt<Keys>,
    /// The issuer that the API server publishes.
    pub issuer: Learnt<String>,
    pub review: Learnt<Review>,
    pub rights: Learnt<Rights>,
    /// UID of the account of that name.
    pub account: Learnt<Option<String>>,
    /// UID of the object that it is bound to.
    pub bound: Learnt<Option<String>>,
    pub origin: Learnt<Option<Origin>>,
}

impl Evidence {
    /// Nothing could be learnt, for this reason.
    pub fn none(why: &str) -> Self {
        Self {
            keys: Err(why.to_owned()),
            issuer: Err(why.to_owned()),
            review: Err(why.to_owned()),
            rights: Err(why.to_owned()),
            account: Err(why.to_owned()),
            bound: Err(why.to_owned()),
            origin: Err(why.to_owned()),
        }
    }
}

/// Whether a token may be sent to an API server that publishes these keys: not to that of another cluster, whose people
/// could use it.
pub fn may_be_sent(token: &SecretString, claims: &Claims, keys: &Learnt<Keys>) -> Learnt<()> {
    match keys {
        Ok(keys) => signature::check(token, claims, keys)
            .map_err(|_| "the API server did not sign it, so it is not sent there".to_owned()),
        Err(why) => Err(format!("another API server may have signed it, so it is not sent there; {why}")),
    }
}

/// What the API server says of a token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Review {
    pub authenticated: bool,
    pub user: User,
    pub audiences: Vec<String>,
    pub error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct User {
    username: String,
}

/// What the holder of a token may do in its namespace.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rights {
    resource_rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Rule {
    /// Everybody may ask who he is, and what he may do.
    fn is_for_everybody(&self) -> bool {
        let asks = |group: &String| matches!(&**group, "authentication.k8s.io" | "authorization.k8s.io");
        self.api_groups.iter().all(asks) && self.resources.iter().all(|resource| resource.starts_with("selfsubject"))
    }

    fn line(&self) -> String {
        let group = |group: &String| if group.is_empty() { String::new() } else { format!(".{group}") };
        let groups: Vec<String> = self.api_groups.iter().map(group).collect();
        let resources = self.resources.iter().flat_map(|name| groups.iter().map(move |group| format!("{name}{group}")));
        let names = if self.resource_names.is_empty() {
            String::new()
        } else {
            format!(" named {}", self.resource_names.join(", "))
        };
        format!("{} {}{names}", self.verbs.join(","), resources.collect::<Vec<_>>().join(", "))
    }
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub policy: String,
    pub secret: String,
    /// The one in the Secret, and when it is replaced; else when it dies.
    pub current: bool,
    pub until: Option<Time>,
}

/// The policy that issued a token, if one of these Secrets remembers it.
pub fn origin(id: &str, targets: &[Target], policies: &[DynamicObject], now: Time) -> Option<Origin> {
    let (target, current) = find(id, targets).ok()?;
    let Target { name, record, .. } = target;
    let policy = policies.iter().find(|policy| policy.metadata.name.as_deref() == Some(&*record.policy));
    let planned = || {
        let policy = policy?;
        let rotation = serde_json::from_value(policy.data["spec"]["rotation"].clone()).unwrap_or_default();
        replaced_at(&rotation, policy.metadata.uid.as_deref()?, record, now)
    };
    let retired = || {
        record.previous.iter().find(|previous| previous.id.to_string() == id).map(|previous| previous.retires.time())
    };
    let until = if current { planned() } else { retired() };
    Some(Origin { policy: record.policy.to_string(), secret: name.clone(), current, until })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    Passed,
    Failed,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub evidence: String,
}

/// All that is known of a token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub id: String,
    pub namespace: String,
    pub service_account: String,
    pub legacy: bool,
    pub checks: Vec<Check>,
    /// What it may do in its namespace.
    pub rights: Vec<String>,
}

/// Checks a token, for this audience if one is given.
pub fn report(token: &SecretString, claims: &Claims, evidence: &Evidence, audience: Option<&str>, now: Time) -> Report {
    let (bound, account) = (&claims.bound, ("ServiceAccount", &claims.account));
    let mut checks = vec![
        signature(token, claims, &evidence.keys),
        time(claims, now),
        issuer(claims, evidence, audience),
        rights(claims, &evidence.rights),
        review(&evidence.review),
        living("account", account, &evidence.account),
    ];
    checks.extend(bound.as_ref().map(|(kind, object)| living("bound to", (kind, object), &evidence.bound)));
    checks.push(source(&evidence.origin, now));
    checks.push(verdict(&checks, claims.legacy));
    let rules = evidence.rights.iter().flat_map(|rights| &rights.resource_rules);
    // Several Roles may give the same.
    let mut seen = BTreeSet::new();
    let rights = rules.filter(|rule| !rule.is_for_everybody()).map(Rule::line).filter(|line| seen.insert(line.clone()));
    Report {
        id: claims.id.clone(),
        namespace: claims.namespace.clone(),
        service_account: claims.account.name.clone(),
        legacy: claims.legacy,
        checks,
        rights: rights.collect(),
    }
}

fn check(name: &'static str, passed: bool, evidence: impl Into<String>) -> Check {
    Check { name, verdict: if passed { Verdict::Passed } else { Verdict::Failed }, evidence: evidence.into() }
}

fn unknown(name: &'static str, why: &str) -> Check {
    Check { name, verdict: Verdict::Unknown, evidence: format!("not checked: {why}") }
}

fn signature(token: &SecretString, claims: &Claims, keys: &Learnt<Keys>) -> Check {
    let name = "signature";
    let keys = match keys {
        Ok(keys) => keys,
        Err(why) => return unknown(name, why),
    };
    let Claims { algorithm, key_id, .. } = claims;
    match signature::check(token, claims, keys) {
        Ok(()) => check(name, true, format!("{algorithm} by the key {key_id}, which the API server publishes")),
        Err(why) => check(name, false, why),
    }
}

fn time(claims: &Claims, now: Time) -> Check {
    let issued = claims.issued_at.map(|at| format!("issued {} ago, ", span(now - at))).unwrap_or_default();
    let early = claims.not_before.filter(|at| *at > now);
    match (early, claims.expires_at) {
        (Some(start), _) => check("time", false, format!("not valid before {}, in {}", text(start), span(start - now))),
        (None, Some(end)) if end <= now => {
            check("time", false, format!("{issued}expired {} ago, at {}", span(now - end), text(end)))
        }
        (None, Some(end)) => check("time", true, format!("{issued}expires in {}, at {}", span(end - now), text(end))),
        (None, None) => check("time", true, format!("{issued}never expires")),
    }
}

fn issuer(claims: &Claims, evidence: &Evidence, audience: Option<&str>) -> Check {
    let (name, own) = ("issuer", &claims.issuer);
    let audiences = if claims.audiences.is_empty() { "none".to_owned() } else { claims.audiences.join(", ") };
    if let Some(wanted) = audience.filter(|wanted| !claims.audiences.iter().any(|audience| audience == wanted)) {
        return check(name, false, format!("it is not for {wanted}, but for: {audiences}"));
    }
    // An API server may accept issuers that it does not publish.
    let accepted = evidence.review.as_ref().is_ok_and(|review| review.authenticated);
    match &evidence.issuer {
        Ok(issuer) if issuer == own => check(name, true, format!("{own}, the API server's own; for: {audiences}")),
        _ if claims.legacy && own == LEGACY_ISSUER => {
            check(name, true, format!("{own}, as in every legacy token; for: {audiences}"))
        }
        Ok(_) if accepted => check(name, true, format!("{own}, which the API server accepts; for: {audiences}")),
        Ok(issuer) => check(name, false, format!("{own}, but the API server is {issuer}; for: {audiences}")),
        Err(why) => unknown(name, &format!("{why}; it says {own}, for: {audiences}")),
    }
}

fn rights(claims: &Claims, rights: &Learnt<Rights>) -> Check {
    let name = "rights";
    match rights {
        Ok(rights) => {
            let own = rights.resource_rules.iter().any(|rule| !rule.is_for_everybody());
            let what =
                if own { "by Roles and ClusterRoles, it may" } else { "it may do nothing but what every account may" };
            check(name, true, format!("in namespace {}, {what}", claims.namespace))
        }
        Err(why) => unknown(name, why),
    }
}

fn review(review: &Learnt<Review>) -> Check {
    let name = "review";
    match review {
        Ok(review) if review.authenticated => {
            let audiences = review.audiences.join(", ");
            check(name, true, format!("the API server accepts it as {}, for: {audiences}", review.user.username))
        }
        Ok(review) => check(name, false, format!("the API server refuses it: {}", review.error)),
        Err(why) => unknown(name, why),
    }
}

fn living(name: &'static str, (kind, object): (&str, &Object), found: &Learnt<Option<String>>) -> Check {
    let what = format!("{kind} {}", object.name);
    match found {
        Ok(None) => check(name, false, format!("{what} is gone, and the token died with it")),
        // A legacy token names no UID of its Secret.
        Ok(Some(uid)) if object.uid.is_empty() || *uid == object.uid => check(name, true, format!("{what} lives")),
        Ok(Some(_)) => check(name, false, format!("{what} was created anew, and the token died with the old one")),
        Err(why) => unknown(name, &format!("{what}: {why}")),
    }
}

fn source(origin: &Learnt<Option<Origin>>, now: Time) -> Check {
    let name = "origin";
    let Origin { policy, secret, current, until } = match origin {
        Ok(Some(origin)) => origin,
        Ok(None) => return Check { name, verdict: Verdict::Unknown, evidence: "no policy knows it".to_owned() },
        Err(why) => return unknown(name, why),
    };
    let (role, fate) = if *current { ("current", "replaced") } else { ("previous", "revoked") };
    let until = until.map(|at| format!(", {fate} in {}", span(at - now))).unwrap_or_default();
    check(name, true, format!("policy {policy}, {role} token of Secret {secret}{until}"))
}

/// A token is good if nothing speaks against it, and if what makes it good was checked: also that nobody has revoked it.
fn verdict(checks: &[Check], legacy: bool) -> Check {
    let name = "verdict";
    let is = |name: &str, verdict| checks.iter().any(|check| check.name == name && check.verdict == verdict);
    // A legacy token can be refused while its Secret lives.
    let lives = !legacy && is("account", Verdict::Passed) && !is("bound to", Verdict::Unknown);
    let needed = ["signature", "time", "issuer", "review"].into_iter();
    let missing: Vec<&str> =
        needed.filter(|check| is(check, Verdict::Unknown) && !(*check == "review" && lives)).collect();
    if checks.iter().any(|check| check.verdict == Verdict::Failed) {
        check(name, false, "the token is not good")
    } else if missing.is_empty() {
        check(name, true, "the token is good")
    } else {
        let evidence = format!("could not be checked, for want of: {}", missing.join(", "));
        Check { name, verdict: Verdict::Unknown, evidence }
    }
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.checks.iter().any(|check| check.name == "verdict" && check.verdict == Verdict::Passed)
    }

    pub fn draw(&self, paint: Paint) -> String {
        let legacy = if self.legacy { "legacy " } else { "" };
        let id = if self.id.is_empty() { String::new() } else { format!(" {}", self.id) };
        let head = format!("{legacy}token{id} of ServiceAccount {}/{}\n", self.namespace, self.service_account);
        let line = |check: &Check| {
            let mark = match check.verdict {
                Verdict::Passed => paint.good("✓"),
                Verdict::Failed => paint.bad("✗"),
                Verdict::Unknown => paint.faint("?"),
            };
            let rights = if check.name == "rights" { &self.rights[..] } else { &[] };
            let rights: Vec<String> = rights.iter().map(|right| format!("{:14}{right}\n", "")).collect();
            format!("{mark} {:<10}  {}\n{}", check.name, check.evidence, rights.concat())
        };
        self.checks.iter().map(line).fold(head, |text, line| text + &line)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::{
        signature::tests::signed,
        target::tests::{at, target},
        token::tests::payload,
    };

    /// A token of one hour, at 12:00, and evidence that is all in its favour.
    fn good(more: &[(&str, Value)]) -> (SecretString, Evidence) {
        let mut payload = payload();
        let times = [("iat", "11:50:00"), ("nbf", "11:50:00"), ("exp", "12:50:00")];
        for (claim, time) in times {
            payload[claim] = at(&format!("2026-11-28T{time}Z")).timestamp().into();
        }
        for (claim, value) in more {
            payload[*claim] = value.clone();
        }
        let (token, keys) = signed(&payload);
        let review = json!({"authenticated": true, "user": {"username": "system:serviceaccount:ci:deployer"}, "audiences": ["https://api"]});
        let rights = json!({"resourceRules": [
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews"]},
            {"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["x"], "resourceNames": ["a"]},
            {"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["x"], "resourceNames": ["a"]},
        ]});
        let origin =
            Origin { policy: "p".into(), secret: "s".into(), current: true, until: Some(at("2026-11-28T12:40:00Z")) };
        let evidence = Evidence {
            keys: Ok(keys),
            issuer: Ok("https://issuer".into()),
            review: Ok(serde_json::from_value(review).unwrap()),
            rights: Ok(serde_json::from_value(rights).unwrap()),
            account: Ok(Some("sa-1".into())),
            bound: Ok(Some("anchor-1".into())),
            origin: Ok(Some(origin)),
        };
        (token, evidence)
    }

    fn reported(token: &SecretString, evidence: &Evidence, audience: Option<&str>) -> Report {
        report(token, &Claims::read(token).unwrap(), evidence, audience, at("2026-11-28T12:00:00Z"))
    }

    /// The checks that failed.
    fn failed(report: &Report) -> Vec<(&str, &str)> {
        let failed = report.checks.iter().filter(|check| check.verdict == Verdict::Failed && check.name != "verdict");
        failed.map(|check| (check.name, check.evidence.as_str())).collect()
    }

    #[test]
    fn shows_the_evidence_of_a_good_token() {
        let (token, evidence) = good(&[]);
        let report = reported(&token, &evidence, Some("https://api"));
        let expected = "token id-1 of ServiceAccount ci/deployer
✓ signature   ES256 by the key key-1, which the API server publishes
✓ time        issued 10m ago, expires in 50m, at 2026-11-28T12:50:00Z
✓ issuer      https://issuer, the API server's own; for: https://api
✓ rights      in namespace ci, by Roles and ClusterRoles, it may
              get,list x, x.apps named a
✓ review      the API server accepts it as system:serviceaccount:ci:deployer, for: https://api
✓ account     ServiceAccount deployer lives
✓ bound to    Secret tw-1 lives
✓ origin      policy p, current token of Secret s, replaced in 40m
✓ verdict     the token is good
";
        assert_eq!(report.draw(Paint(false)), expected);
        assert!(report.is_good());
        assert!(!format!("{report:?}").contains("eyJ") && !serde_json::to_string(&report).unwrap().contains("eyJ"));
    }

    type Case = (&'static str, &'static str, fn(&mut Evidence));

    #[test]
    fn each_check_can_fail() {
        let refused = || serde_json::from_value(json!({"authenticated": false, "error": "invalid"})).unwrap();
        let cases: [Case; 6] = [
            ("signature", "publishes no key", |evidence| evidence.keys = Ok(signed(&payload()).1.renamed("other"))),
            ("signature", "no ES256 signature", |evidence| evidence.keys = Ok(signed(&payload()).1)),
            ("account", "is gone", |evidence| evidence.account = Ok(None)),
            ("account", "created anew", |evidence| evidence.account = Ok(Some("sa-2".into()))),
            ("bound to", "Secret tw-1 is gone", |evidence| evidence.bound = Ok(None)),
            ("bound to", "created anew", |evidence| evidence.bound = Ok(Some("other".into()))),
        ];
        for (name, why, change) in cases {
            let (token, mut evidence) = good(&[]);
            change(&mut evidence);
            let report = reported(&token, &evidence, None);
            let failed = failed(&report);
            assert!(matches!(failed[..], [(check, evidence)] if check == name && evidence.contains(why)), "{failed:?}");
            assert!(!report.is_good());
        }
        let (token, mut evidence) = good(&[]);
        (evidence.issuer, evidence.review) = (Ok("https://other".into()), Ok(refused()));
        let report = reported(&token, &evidence, None);
        let why = [
            ("issuer", "https://issuer, but the API server is https://other; for: https://api"),
            ("review", "the API server refuses it: invalid"),
        ];
        assert_eq!(failed(&report), why);
        let (token, evidence) = good(&[]);
        assert_eq!(
            failed(&reported(&token, &evidence, Some("vault"))),
            [("issuer", "it is not for vault, but for: https://api")]
        );
    }

    #[test]
    fn a_token_of_another_cluster_is_not_sent() {
        let (token, evidence) = good(&[]);
        let claims = Claims::read(&token).unwrap();
        assert_eq!(may_be_sent(&token, &claims, &evidence.keys), Ok(()));
        assert!(may_be_sent(&token, &claims, &Ok(signed(&payload()).1)).is_err());
        assert!(may_be_sent(&token, &claims, &Err("no right to see them".into())).is_err(), "nobody knows whose it is");
    }

    #[test]
    fn a_token_is_good_only_if_it_was_seen_to_live() {
        let lacking = || Err("you lack a right".to_owned());
        let verdict = |change: fn(&mut Evidence)| {
            let (token, mut evidence) = good(&[]);
            (evidence.review, evidence.rights) = (Err("you lack a right".into()), Err("you lack a right".into()));
            change(&mut evidence);
            let report = reported(&token, &evidence, None);
            (report.is_good(), report.checks.last().unwrap().evidence.clone())
        };
        assert!(verdict(|_| ()).0, "account and anchor are there");
        let unchecked = (false, "could not be checked, for want of: review".to_owned());
        assert_eq!(verdict(|evidence| evidence.bound = Err("you lack a right".into())), unchecked);
        assert_eq!(verdict(|evidence| evidence.account = Err("you lack a right".into())), unchecked);
        assert_eq!(verdict(|evidence| evidence.bound = Ok(None)), (false, "the token is not good".to_owned()));
        let (token, mut evidence) = good(&[]);
        (evidence.account, evidence.bound) = (lacking(), Ok(None));
        assert!(!reported(&token, &evidence, None).is_good(), "it is dead, whatever the review says");
    }

    #[test]
    fn a_legacy_token_has_the_issuer_of_all_legacy_tokens() {
        let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
        let (token, keys) = signed(&json!({
            "iss": "kubernetes/serviceaccount",
            (claim("namespace")): "ci",
            (claim("secret.name")): "tw-1",
            (claim("service-account.name")): "deployer",
            (claim("service-account.uid")): "sa-1",
        }));
        let (_, mut evidence) = good(&[]);
        evidence.keys = Ok(keys);
        evidence.review = Ok(serde_json::from_value(json!({"authenticated": false, "error": "invalidated"})).unwrap());
        let report = reported(&token, &evidence, None);
        assert_eq!(failed(&report), [("review", "the API server refuses it: invalidated")]);
        let text = report.draw(Paint(false));
        assert!(text.starts_with("legacy token of ServiceAccount ci/deployer\n"), "{text}");
        // Its Secret says nothing about that.
        evidence.review = Err("you lack a right".into());
        assert!(!reported(&token, &evidence, None).is_good());
    }

    #[test]
    fn a_token_has_its_time() {
        let time = |claim: &str, time: &str| (claim.to_owned(), json!(at(time).timestamp()));
        for (claim, why) in [
            (time("exp", "2026-11-28T12:00:00Z"), "issued 10m ago, expired 0s ago, at 2026-11-28T12:00:00Z"),
            (time("nbf", "2026-11-28T12:00:05Z"), "not valid before 2026-11-28T12:00:05Z, in 5s"),
        ] {
            let (token, evidence) = good(&[(&claim.0, claim.1)]);
            assert_eq!(failed(&reported(&token, &evidence, None)), [("time", why)]);
        }
        let (token, evidence) = good(&[("exp", Value::Null)]);
        assert_eq!(reported(&token, &evidence, None).checks[1].evidence, "issued 10m ago, never expires");
    }

    #[test]
    fn without_a_cluster_only_the_time_is_checked() {
        let (token, _) = good(&[]);
        let report = reported(&token, &Evidence::none("no cluster"), None);
        let known: Vec<&str> =
            report.checks.iter().filter(|check| check.verdict != Verdict::Unknown).map(|check| check.name).collect();
        assert_eq!((known, report.is_good()), (vec!["time"], false));
        let unchecked = "? issuer      not checked: no cluster; it says https://issuer, for: https://api\n";
        assert!(report.draw(Paint(false)).contains(unchecked), "{}", report.draw(Paint(false)));
    }

    #[test]
    fn the_policy_of_a_token_is_found_in_the_records() {
        let now = at("2026-11-28T12:00:00Z");
        let policy = json!({"metadata": {"namespace": "ci", "name": "deployers", "uid": "u"}, "spec": {}});
        let policies: [DynamicObject; 1] = [serde_json::from_value(policy).unwrap()];
        let current = origin("id-a", &[target("a")], &policies, now).unwrap();
        assert_eq!(
            (current.policy.as_str(), current.secret.as_str(), current.current),
            ("deployers", "deployers-a", true)
        );
        assert!(current.until.is_some_and(|at| at > now));
        let previous = origin("old-a", &[target("a")], &policies, now).unwrap();
        assert_eq!((previous.current, previous.until), (false, Some(at("2026-11-28T14:00:00Z"))));
        assert_eq!(origin("x", &[target("a")], &policies, now), None);
    }
}
