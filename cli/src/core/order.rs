//! `rotate` and `revoke`: what is asked of the API server, and what becomes of each token.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokenward::record::{Bond, Time, names, text};

use super::target::Target;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Rotate,
    Revoke,
}

/// Whom an order concerns.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Policies of these names.
    Policies(Vec<String>),
    /// Every policy that was read.
    All,
    Secret(String),
    Account(String),
    TokenId(String),
}

/// A policy, as far as an order depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    /// It issues no tokens.
    pub suspended: bool,
}

impl Policy {
    pub fn read(policy: &DynamicObject) -> Self {
        Self {
            namespace: policy.metadata.namespace.clone().unwrap_or_default(),
            name: policy.metadata.name.clone().unwrap_or_default(),
            suspended: policy.data["spec"]["suspend"] == true,
        }
    }

    fn has(&self, target: &Target) -> bool {
        self.namespace == target.namespace && self.name == *target.record.policy
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AnnotatePolicy {
        namespace: String,
        name: String,
    },
    AnnotateSecret {
        namespace: String,
        name: String,
    },
    /// Exactly this one, by its UID.
    DeleteAnchor {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// A token that an order concerns.
#[derive(Clone, Debug)]
pub struct Concerned {
    pub id: String,
    /// The one in the Secret.
    pub current: bool,
    pub bond: Bond,
    pub target: Target,
    /// A successor is to be expected.
    pub replaced: bool,
}

/// The requests, and the tokens that they concern.
#[derive(Clone, Debug)]
pub struct Plan {
    pub verb: Verb,
    pub steps: Vec<Step>,
    pub tokens: Vec<Concerned>,
    /// The Secrets could not be read, so nobody knows the tokens.
    pub is_blind: bool,
}

/// What comes of an order.
///
/// # Errors
/// When it concerns nothing, or cannot be carried out for what it concerns; with the way out.
pub fn plan(verb: Verb, choice: &Choice, policies: &[Policy], targets: &[Target]) -> Result<Plan, String> {
    let chosen = match choice {
        Choice::Policies(names) => return of_policies(verb, &named(names, policies)?, policies, targets),
        Choice::All if policies.is_empty() => return Err("there is no such TokenPolicy".to_owned()),
        Choice::All => return of_policies(verb, policies, policies, targets),
        Choice::TokenId(id) if verb == Verb::Revoke => return of_token(id, policies, targets),
        Choice::TokenId(id) => vec![find(id, targets)?.0],
        Choice::Secret(name) => filled(targets.iter().filter(|target| target.name == *name), "Secret", name)?,
        Choice::Account(name) => {
            filled(targets.iter().filter(|target| *target.record.service_account == **name), "ServiceAccount", name)?
        }
    };
    match verb {
        Verb::Revoke => Ok(of_secrets(&chosen, policies)),
        Verb::Rotate => of_policies(verb, &whole(&chosen, policies, targets)?, policies, targets),
    }
}

fn named(names: &[String], policies: &[Policy]) -> Result<Vec<Policy>, String> {
    let unknown = names.iter().find(|name| !policies.iter().any(|policy| policy.name == **name));
    match unknown {
        Some(name) => Err(format!("there is no TokenPolicy {name}; `kubectl get tokenpolicies -A` lists all")),
        None => Ok(policies.iter().filter(|policy| names.contains(&policy.name)).cloned().collect()),
    }
}

fn filled<'a>(targets: impl Iterator<Item = &'a Target>, kind: &str, name: &str) -> Result<Vec<&'a Target>, String> {
    let found: Vec<&Target> = targets.collect();
    let none = || format!("no policy keeps a token for {kind} {name}; `kubectl tokenward status -A` lists all");
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn of_policies(verb: Verb, chosen: &[Policy], policies: &[Policy], targets: &[Target]) -> Result<Plan, String> {
    let concerned: Vec<&Target> =
        targets.iter().filter(|target| chosen.iter().any(|policy| policy.has(target))).collect();
    let suspended = chosen.iter().find(|policy| verb == Verb::Rotate && policy.suspended);
    if let Some(Policy { namespace, name, .. }) = suspended {
        return Err(format!(
            "policy {namespace}/{name} is suspended and issues nothing; set spec.suspend to false first"
        ));
    }
    let annotate = |policy: &Policy| {
        let Policy { namespace, name, .. } = policy.clone();
        Step::AnnotatePolicy { namespace, name }
    };
    Ok(Plan::new(verb, chosen.iter().map(annotate).collect(), tokens(verb, &concerned, policies)))
}

fn of_secrets(chosen: &[&Target], policies: &[Policy]) -> Plan {
    let annotate =
        |target: &&Target| Step::AnnotateSecret { namespace: target.namespace.clone(), name: target.name.clone() };
    let tokens = tokens(Verb::Revoke, chosen, policies);
    Plan::new(Verb::Revoke, chosen.iter().map(annotate).collect(), tokens)
}

fn of_token(id: &str, policies: &[Policy], targets: &[Target]) -> Result<Plan, String> {
    let (target, _) = find(id, targets)?;
    let Target { namespace, name, record } = target;
    let mut tokens = tokens(Verb::Revoke, &[target], policies);
    tokens.retain(|token| token.id == id);
    let bond = tokens.first().map(|token| token.bond.clone()).unwrap_or_default();
    if bond.name.is_empty() {
        let account = &record.service_account;
        return Err(format!(
            "token {id} is bound to nothing and cannot be revoked alone; delete and create ServiceAccount {namespace}/{account} to end all of its tokens"
        ));
    }
    if *bond.name == **name {
        return Err(format!(
            "token {id} is bound to Secret {namespace}/{name} itself and cannot be revoked alone; revoke all of that Secret with --secret {name}"
        ));
    }
    let anchor =
        Step::DeleteAnchor { namespace: namespace.clone(), name: bond.name.to_string(), uid: bond.uid.to_string() };
    Ok(Plan::new(Verb::Revoke, vec![anchor], tokens))
}

/// The target that remembers a token, and whether it is its current one.
///
/// # Errors
/// When none does.
pub fn find<'a>(id: &str, targets: &'a [Target]) -> Result<(&'a Target, bool), String> {
    let is_current = |target: &Target| target.record.token.as_ref().is_some_and(|token| token.id.to_string() == id);
    let is_previous = |target: &Target| target.record.previous.iter().any(|previous| previous.id.to_string() == id);
    let current = targets.iter().find(|target| is_current(target)).map(|target| (target, true));
    let found = current.or_else(|| targets.iter().find(|target| is_previous(target)).map(|target| (target, false)));
    found.ok_or_else(|| format!("no policy knows the token {id}: it has expired, was revoked, or is not Tokenward's"))
}

/// The policies of these targets, if each has no other.
fn whole(chosen: &[&Target], policies: &[Policy], targets: &[Target]) -> Result<Vec<Policy>, String> {
    let is_chosen =
        |target: &Target| chosen.iter().any(|one| one.namespace == target.namespace && one.name == target.name);
    let concerned = policies.iter().filter(|policy| chosen.iter().any(|target| policy.has(target)));
    for policy in concerned.clone() {
        let others = targets.iter().filter(|target| policy.has(target) && !is_chosen(target));
        let others: Vec<&str> = others.map(|target| &*target.record.service_account).collect();
        if !others.is_empty() {
            let (name, others) = (&policy.name, others.join(", "));
            return Err(format!(
                "a rotation is of a whole policy, and {name} serves {others} as well; rotate it with `kubectl tokenward rotate {name}`"
            ));
        }
    }
    let whole: Vec<Policy> = concerned.cloned().collect();
    if whole.is_empty() {
        Err("its policy is gone, so nothing can rotate it; revoke it instead".to_owned())
    } else {
        Ok(whole)
    }
}

/// The tokens of these targets that an order concerns: a rotation only those in the Secrets.
fn tokens(verb: Verb, targets: &[&Target], policies: &[Policy]) -> Vec<Concerned> {
    let of = |target: &&Target| {
        let issues = policies.iter().any(|policy| policy.has(target) && !policy.suspended);
        let token = |id: String, current, bond: &Bond| Concerned {
            id,
            current,
            bond: bond.clone(),
            target: (*target).clone(),
            // A revocation leaves a token alone that is bound to nothing, so none comes in its place.
            replaced: current && issues && (verb == Verb::Rotate || !bond.name.is_empty()),
        };
        let record = &target.record;
        let previous = record.previous.iter().filter(|_| verb == Verb::Revoke);
        let previous = previous.map(|previous| token(previous.id.to_string(), false, &previous.bond));
        let current = record.token.iter().map(|current| token(current.id.to_string(), true, &current.bond));
        current.chain(previous).collect::<Vec<_>>()
    };
    targets.iter().flat_map(of).collect()
}

impl Concerned {
    /// Whether a revocation can end it.
    pub fn is_bound(&self) -> bool {
        !self.bond.name.is_empty()
    }

    fn line(&self, verb: Verb) -> String {
        let Self { id, target: Target { namespace, name, record }, .. } = self;
        let role = if self.current { "current " } else { "previous" };
        let account = &record.service_account;
        let fate = match verb {
            Verb::Revoke if !self.is_bound() => {
                format!(": LIVES ON, bound to nothing; delete ServiceAccount {account} to end it")
            }
            Verb::Revoke if self.current && !self.replaced => {
                ": no successor comes, as its policy issues none".to_owned()
            }
            _ => String::new(),
        };
        format!("  {role}  {id}  Secret {namespace}/{name}, policy {}, account {account}{fate}\n", record.policy)
    }
}

impl Plan {
    /// The commands that revoke its tokens while no operator runs.
    pub fn by_hand(&self) -> String {
        let mut anchors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for token in self.tokens.iter().filter(|token| token.is_bound()) {
            anchors.entry(&*token.target.namespace).or_default().push(&*token.bond.name);
        }
        let commands = anchors
            .iter()
            .map(|(namespace, names)| format!("`kubectl -n {namespace} delete secret {}`", names.join(" ")));
        commands.collect::<Vec<_>>().join(", ")
    }

    fn new(verb: Verb, steps: Vec<Step>, tokens: Vec<Concerned>) -> Self {
        Self { verb, steps, tokens, is_blind: false }
    }

    /// What is about to happen.
    pub fn describe(&self) -> String {
        if self.is_blind {
            return "It is not known which tokens this concerns.\n".to_owned();
        }
        if self.tokens.is_empty() {
            return "No token is known that this concerns.\n".to_owned();
        }
        let replaced = "These tokens are replaced, and stay valid for the overlap of their policy:\n";
        match self.verb {
            Verb::Rotate => self.list(replaced, |_| true),
            Verb::Revoke => {
                self.list("These tokens die:\n", Concerned::is_bound)
                    + &self.list("These tokens do not die:\n", |token| !token.is_bound())
            }
        }
    }

    /// The tokens of a kind, below this line; nothing if there are none.
    fn list(&self, head: &str, of_kind: fn(&Concerned) -> bool) -> String {
        let lines: String =
            self.tokens.iter().filter(|token| of_kind(token)).map(|token| token.line(self.verb)).collect();
        if lines.is_empty() { lines } else { head.to_owned() + &lines }
    }

    /// What is true when nothing is outstanding.
    pub fn done(&self) -> String {
        let count = |of_kind: fn(&Concerned) -> bool| self.tokens.iter().filter(|token| of_kind(token)).count();
        let (dead, living) = (count(Concerned::is_bound), count(|token| !token.is_bound()));
        let (successors, ended) = (count(|token| token.replaced), count(|token| token.current && token.is_bound()));
        if self.tokens.is_empty() {
            return "there was no token to wait for".to_owned();
        }
        if self.verb == Verb::Rotate {
            return "the new tokens work".to_owned();
        }
        let dead = if dead > 0 { "the old tokens are refused" } else { "no token was revoked" };
        let successors = match successors {
            0 => "",
            all if all == ended => ", and their successors work",
            _ => ", and the successors work of those whose policy issues any",
        };
        let living = match living {
            0 => String::new(),
            1 => "; 1 token is bound to nothing and lives on".to_owned(),
            _ => format!("; {living} tokens are bound to nothing and live on"),
        };
        format!("{dead}{successors}{living}")
    }
}

/// The annotations of an order, as a merge patch. `now` is a whole second, rounded down, of the API server's clock.
pub fn patch(verb: Verb, now: Time, reason: Option<&str>) -> Value {
    let annotations = match verb {
        Verb::Rotate => {
            let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
            json!({(names::ROTATE): text(now) + &reason})
        }
        // Tokens that were issued within this second are meant, too. Without a reason that of an earlier order goes.
        Verb::Revoke => {
            json!({(names::REVOKE_ISSUED_BEFORE): text(now + TimeDelta::seconds(1)), (names::REVOKE_REASON): reason})
        }
    };
    json!({"metadata": {"annotations": annotations}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::target::tests::{at, target};

    fn policy(name: &str) -> Policy {
        Policy { namespace: "ci".into(), name: name.into(), suspended: false }
    }

    fn annotated(name: &str) -> Step {
        Step::AnnotatePolicy { namespace: "ci".into(), name: name.into() }
    }

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.tokens.iter().map(|token| token.id.as_str()).collect()
    }

    fn planned(verb: Verb, choice: &Choice) -> Result<Plan, String> {
        plan(verb, choice, &[policy("deployers"), policy("q")], &[target("a"), target("b")])
    }

    #[test]
    fn a_policy_is_annotated_and_all_of_its_tokens_named() {
        let one = Choice::Policies(vec!["deployers".into()]);
        let revoked = planned(Verb::Revoke, &one).unwrap();
        assert_eq!(
            (revoked.steps.clone(), ids(&revoked)),
            (vec![annotated("deployers")], vec!["id-a", "old-a", "id-b", "old-b"])
        );
        let rotated = planned(Verb::Rotate, &one).unwrap();
        assert_eq!((rotated.steps.clone(), ids(&rotated)), (vec![annotated("deployers")], vec!["id-a", "id-b"]));
        let all = planned(Verb::Revoke, &Choice::All).unwrap();
        assert_eq!(all.steps, [annotated("deployers"), annotated("q")]);
        let unknown = planned(Verb::Revoke, &Choice::Policies(vec!["deployers".into(), "x".into()]));
        assert!(unknown.unwrap_err().contains("no TokenPolicy x"));
    }

    #[test]
    fn a_secret_or_an_account_is_revoked_alone() {
        let secret = Step::AnnotateSecret { namespace: "ci".into(), name: "deployers-a".into() };
        for choice in [Choice::Secret("deployers-a".into()), Choice::Account("a".into())] {
            let plan = planned(Verb::Revoke, &choice).unwrap();
            assert_eq!((plan.steps.clone(), ids(&plan)), (vec![secret.clone()], vec!["id-a", "old-a"]));
        }
        assert!(planned(Verb::Revoke, &Choice::Account("x".into())).unwrap_err().contains("ServiceAccount x"));
    }

    #[test]
    fn a_token_is_revoked_by_its_anchor() {
        for (id, anchor, uid) in [("id-a", "tw-a", "u1"), ("old-b", "tw-old-b", "u0")] {
            let plan = planned(Verb::Revoke, &Choice::TokenId(id.into())).unwrap();
            let deleted = Step::DeleteAnchor { namespace: "ci".into(), name: anchor.into(), uid: uid.into() };
            assert_eq!((plan.steps.clone(), ids(&plan)), (vec![deleted], vec![id]));
        }
        assert!(
            planned(Verb::Revoke, &Choice::TokenId("x".into())).unwrap_err().contains("no policy knows the token x")
        );
    }

    #[test]
    fn a_token_without_an_anchor_of_its_own_is_not_revoked_alone() {
        for (anchor, way_out) in
            [("", "delete and create ServiceAccount ci/a"), ("deployers-a", "--secret deployers-a")]
        {
            let mut target = target("a");
            target.record.token.as_mut().unwrap().bond.name = anchor.into();
            let refused = plan(Verb::Revoke, &Choice::TokenId("id-a".into()), &[], &[target]);
            assert!(refused.clone().unwrap_err().contains(way_out), "{refused:?}");
        }
    }

    #[test]
    fn a_rotation_is_of_a_whole_policy() {
        let shared = planned(Verb::Rotate, &Choice::Secret("deployers-a".into())).unwrap_err();
        assert!(shared.contains("deployers serves b as well"), "{shared}");
        let alone =
            plan(Verb::Rotate, &Choice::TokenId("old-a".into()), &[policy("deployers")], &[target("a")]).unwrap();
        assert_eq!((alone.steps.clone(), ids(&alone)), (vec![annotated("deployers")], vec!["id-a"]));
        let orphan = plan(Verb::Rotate, &Choice::Account("a".into()), &[], &[target("a")]);
        assert!(orphan.unwrap_err().contains("its policy is gone"));
    }

    #[test]
    fn a_suspended_policy_does_not_rotate_and_gives_no_successor() {
        let suspended = [Policy { suspended: true, ..policy("deployers") }];
        assert!(plan(Verb::Rotate, &Choice::All, &suspended, &[target("a")]).unwrap_err().contains("is suspended"));
        let revoked = plan(Verb::Revoke, &Choice::All, &suspended, &[target("a")]).unwrap();
        assert!(revoked.tokens.iter().all(|token| !token.replaced));
        assert!(revoked.describe().contains("no successor comes"), "{}", revoked.describe());
    }

    #[test]
    fn says_what_dies_and_what_cannot() {
        let mut unbound = target("a");
        unbound.record.token.as_mut().unwrap().bond.name = "".into();
        let text = plan(Verb::Revoke, &Choice::All, &[policy("deployers")], &[unbound]).unwrap().describe();
        let expected = "These tokens die:
  previous  old-a  Secret ci/deployers-a, policy deployers, account a
These tokens do not die:
  current   id-a  Secret ci/deployers-a, policy deployers, account a: LIVES ON, bound to nothing; delete ServiceAccount a to end it
";
        assert_eq!(text, expected);
        let blind = Plan { is_blind: true, ..Plan::new(Verb::Revoke, Vec::new(), Vec::new()) };
        assert_eq!(blind.describe(), "It is not known which tokens this concerns.\n");
    }

    #[test]
    fn a_wait_claims_only_what_it_has_seen() {
        let with_bond = |name: &str| {
            let mut target = target("a");
            target.record.previous.clear();
            target.record.token.as_mut().unwrap().bond.name = name.into();
            target
        };
        let done = |verb, suspended, targets: &[Target]| {
            plan(verb, &Choice::All, &[Policy { suspended, ..policy("deployers") }], targets).unwrap().done()
        };
        let (bound, unbound) = (with_bond("tw-a"), with_bond(""));
        for (targets, suspended, said) in [
            (vec![], false, "there was no token to wait for"),
            (vec![bound.clone()], false, "the old tokens are refused, and their successors work"),
            (vec![target("a")], false, "the old tokens are refused, and their successors work"),
            (vec![bound.clone()], true, "the old tokens are refused"),
            (vec![unbound.clone()], false, "no token was revoked; 1 token is bound to nothing and lives on"),
            (
                vec![bound, unbound.clone()],
                false,
                "the old tokens are refused, and their successors work; 1 token is bound to nothing and lives on",
            ),
        ] {
            assert_eq!(done(Verb::Revoke, suspended, &targets), said);
        }
        assert_eq!(done(Verb::Rotate, false, std::slice::from_ref(&unbound)), "the new tokens work");
        let rotated = plan(Verb::Rotate, &Choice::All, &[policy("deployers")], &[unbound]).unwrap();
        assert!(rotated.tokens[0].replaced);
        let one = planned(Verb::Revoke, &Choice::TokenId("old-a".into())).unwrap();
        assert_eq!(one.done(), "the old tokens are refused");
    }

    #[test]
    fn a_revocation_covers_the_second_in_which_it_was_asked_for() {
        let now = at("2026-11-28T12:00:00Z");
        let annotations = |verb, reason| patch(verb, now, reason)["metadata"]["annotations"].take();
        let revoked = annotations(Verb::Revoke, None);
        let expected =
            json!({"tokenward.dev/revoke-issued-before": "2026-11-28T12:00:01Z", "tokenward.dev/revoke-reason": null});
        assert_eq!(revoked, expected);
        assert_eq!(annotations(Verb::Revoke, Some("leak"))["tokenward.dev/revoke-reason"], "leak");
        assert_eq!(
            annotations(Verb::Rotate, Some("test")),
            json!({"tokenward.dev/rotate": "2026-11-28T12:00:00Z test"})
        );
    }
}
