//! Rows 8 and 11: whether a fresh token is needed, and the next call of issuing it.

use super::{Act, Facts, Look, Parties, Standing, Verdict, repair, standing, throttled};
use crate::core::{
    Time,
    facts::{Policy, Previous, Target},
    failure::{Failure, Reason},
    grant::{Attempt, Minted},
    render::{self, Draft, Precondition},
    schedule,
};

/// Why a Secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// There was none before.
    FirstIssue,
    /// The target was deleted.
    TargetDeleted,
    /// The target describes no token.
    TargetEmpty,
    /// The target was written for a policy of another UID: re-created, or restored from a backup.
    PolicyRecreated,
    /// The account has another UID than the token.
    AccountRecreated,
    /// The token's anchor was deleted: the token was revoked.
    AnchorDeleted,
    /// The spec asks for another token.
    SpecChanged,
    /// The rotate annotation has a new value.
    RotationRequested,
    /// Somebody else wrote our keys of the Secret.
    DataChanged,
    /// The schedule says so.
    Due,
    /// Labels or annotations of ours were changed.
    MetadataChanged,
    /// Owner references were changed.
    OwnersChanged,
    /// The spec asks for another layout.
    LayoutChanged,
}

impl Why {
    /// The word in events, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstIssue => "FirstIssue",
            Self::TargetDeleted => "TargetDeleted",
            Self::TargetEmpty => "TargetEmpty",
            Self::PolicyRecreated => "PolicyRecreated",
            Self::AccountRecreated => "AccountRecreated",
            Self::AnchorDeleted => "AnchorDeleted",
            Self::SpecChanged => "SpecChanged",
            Self::RotationRequested => "RotationRequested",
            Self::DataChanged => "DataChanged",
            Self::Due => "Due",
            Self::MetadataChanged => "MetadataChanged",
            Self::OwnersChanged => "OwnersChanged",
            Self::LayoutChanged => "LayoutChanged",
        }
    }

    /// The cause when somebody else undid our work; the pace of such repairs slows down while they repeat.
    #[must_use]
    pub const fn repair(self) -> Option<&'static str> {
        match self {
            Self::FirstIssue
            | Self::SpecChanged
            | Self::RotationRequested
            | Self::Due
            | Self::LayoutChanged => None,
            _ => Some(self.as_str()),
        }
    }
}

/// What is needed, and what has to be looked at before it is believed.
struct Need {
    why: Why,
    look: Option<Look>,
}

impl From<Why> for Need {
    fn from(why: Why) -> Self {
        Self { why, look: None }
    }
}

/// The next call for a grant whose target is, or shall be, the Secret `name`.
pub(super) fn serve(
    now: Time,
    facts: &Facts<'_>,
    parties: Parties<'_>,
    name: &str,
    target: Option<&Target>,
) -> Verdict {
    let valid = target.is_some_and(|target| facts.is_valid(target, now));
    let verdict = |act, active| Verdict {
        act,
        standing: standing(facts, valid),
        active,
    };
    match need(now, facts, parties, name, target) {
        Some(need) => match usable(now, facts, parties, target) {
            Some(attempt) => verdict(
                throttled(now, facts, proceed(now, facts, parties, name, target, attempt)),
                true,
            ),
            None => paced(
                now,
                facts,
                need,
                |need| create(now, facts, parties, name, need.why),
                valid,
            ),
        },
        None => match target.and_then(|target| repair::next(now, facts, parties, name, target)) {
            Some((why, act)) => paced(now, facts, why.into(), |_| act, valid),
            None => Verdict {
                act: settled(now, facts, target),
                standing: Standing::Ready,
                active: false,
            },
        },
    }
}

/// Row 7 for calls that begin something: looks first, then the mint budget.
fn paced(now: Time, facts: &Facts<'_>, need: Need, act: impl FnOnce(Need) -> Act, valid: bool) -> Verdict {
    let ready_at = facts.memory.budget.ready_at(now);
    let standing = standing(facts, valid);
    let verdict = |act, standing| Verdict {
        act,
        standing,
        active: false,
    };
    match need {
        Need { look: Some(look), .. } => verdict(throttled(now, facts, Act::Look(look)), standing),
        Need { why, .. } if ready_at > now => {
            let what = format!("{} again and again", why.as_str());
            let exhausted = Standing::Failing(Failure::new(Reason::MintBudgetExhausted, &what));
            verdict(
                Act::Idle(Some(ready_at)),
                if valid { standing } else { exhausted },
            )
        }
        need => verdict(throttled(now, facts, act(need)), standing),
    }
}

/// Row 8: why a fresh token is needed. The order is from what kills the token to what only ages it.
fn need(
    now: Time,
    facts: &Facts<'_>,
    parties: Parties<'_>,
    name: &str,
    target: Option<&Target>,
) -> Option<Need> {
    let Some(target) = target else {
        return Some(missing(facts, name));
    };
    let Some(token) = &target.token else {
        return Some(Why::TargetEmpty.into());
    };
    // Without the label nobody knows for which policy's UID it was written: that is a repair, not a new token.
    if !target.policy_uid.is_empty() && *target.policy_uid != *parties.policy.uid {
        return Some(Why::PolicyRecreated.into());
    }
    if *target.account_uid != *parties.account.uid {
        return Some(Why::AccountRecreated.into());
    }
    if let Some(look) = anchor_doubt(facts, &token.anchor, &token.anchor_uid) {
        return Some(Need {
            why: Why::AnchorDeleted,
            look,
        });
    }
    changed(facts, parties.policy, target)
        .or_else(|| facts.due(target).filter(|due| *due <= now).map(|_| Why::Due))
        .map(Need::from)
}

/// A first write needs proof that there is nothing to overwrite.
fn missing(facts: &Facts<'_>, name: &str) -> Need {
    let seen_before = facts.memory.published || !facts.anchors.is_empty();
    let why = match (facts.old.is_empty(), seen_before) {
        (false, _) => Why::SpecChanged,
        (true, true) => Why::TargetDeleted,
        (true, false) => Why::FirstIssue,
    };
    let proven = facts.memory.proof.target_absent;
    Need {
        why,
        look: (!proven).then(|| Look::Target(name.to_owned())),
    }
}

/// `None`: the anchor is there. `Some(None)`: it is gone for sure. `Some(Some(look))`: look first.
#[expect(clippy::option_option, reason = "three answers, each said in the line above")]
fn anchor_doubt(facts: &Facts<'_>, name: &str, uid: &str) -> Option<Option<Look>> {
    match facts.anchors.get(name) {
        Some((anchor, _)) if *anchor.uid == *uid => None,
        Some(_) => Some(None),
        None if facts.memory.proof.anchor_absent.as_deref() == Some(name) => Some(None),
        None => Some(Some(Look::Anchor(name.to_owned()))),
    }
}

fn changed(facts: &Facts<'_>, policy: &Policy, target: &Target) -> Option<Why> {
    if target.token_inputs != policy.token_inputs {
        return Some(Why::SpecChanged);
    }
    // Removing the annotation never rotates.
    if policy
        .rotate
        .as_deref()
        .is_some_and(|value| *value != *target.rotate)
    {
        return Some(Why::RotationRequested);
    }
    // Under another layout other keys were written; the repair of the layout finds out what is left of them.
    let edited = target.layout == policy.layout && target.owned.data != render::owned(policy).data;
    let lost = facts.memory.proof.token_lost.as_deref() == Some(&*target.resource_version);
    (edited || lost).then_some(Why::DataChanged)
}

/// The attempt in memory, if its token would still be the right one.
fn usable<'a>(
    now: Time,
    facts: &Facts<'a>,
    parties: Parties<'_>,
    target: Option<&Target>,
) -> Option<&'a Attempt> {
    let attempt = facts.memory.attempt.as_ref()?;
    let fits = attempt.token_inputs == parties.policy.token_inputs
        && attempt.account_uid == parties.account.uid
        && !attempt.spent;
    let fresh = attempt
        .token
        .as_ref()
        .is_none_or(|token| is_fresh(now, facts, parties.policy, token, target));
    (fits && fresh).then_some(attempt)
}

/// A held token is worth publishing while it is not due itself and newer than what is published.
fn is_fresh(now: Time, facts: &Facts<'_>, policy: &Policy, token: &Minted, target: Option<&Target>) -> bool {
    let claims = &token.claims;
    let due = schedule::due(
        claims.issued_at,
        claims.expires_at,
        &policy.spec.rotation,
        facts.hash(),
    );
    let published = target.and_then(|target| target.token.as_ref());
    let newer =
        published.is_none_or(|published| claims.issued_at > published.issued_at || dead(facts, target));
    due > now && newer
}

/// The published token cannot be used, so any other is better.
fn dead(facts: &Facts<'_>, target: Option<&Target>) -> bool {
    target
        .and_then(|target| target.token.as_ref())
        .is_none_or(|token| !facts.alive(&token.anchor, &token.anchor_uid))
}

fn create(now: Time, facts: &Facts<'_>, parties: Parties<'_>, name: &str, why: Why) -> Act {
    Act::CreateAnchor {
        why,
        body: render::anchor(facts.key, parties.policy, name, now),
    }
}

/// An anchor is there: mint; a token is there: publish it.
fn proceed(
    now: Time,
    facts: &Facts<'_>,
    parties: Parties<'_>,
    name: &str,
    target: Option<&Target>,
    attempt: &Attempt,
) -> Act {
    let anchor = (attempt.anchor.name.as_str(), attempt.anchor.uid.as_str());
    let Some(token) = &attempt.token else {
        return Act::Mint(render::token_request(
            facts.key,
            parties.policy,
            &attempt.account_uid,
            anchor,
        ));
    };
    if facts.memory.proof.target_doubtful || target.is_none() && !facts.memory.proof.target_absent {
        return Act::Look(Look::Target(name.to_owned()));
    }
    let draft = Draft {
        grant: facts.key,
        policy: parties.policy,
        account_uid: &attempt.account_uid,
        name,
        token: &token.secret,
        claims: &token.claims,
        anchor,
        rotate: attempt.rotate.as_deref().unwrap_or_default(),
        previous: &previous(now, facts, parties),
        token_inputs: &attempt.token_inputs,
    };
    Act::Publish {
        name: name.to_owned(),
        why: attempt.why,
        body: render::target(&draft, facts.site, &precondition(target)),
    }
}

/// After the first write, both UID and resourceVersion: the resourceVersion alone would create an absent object.
pub(super) fn precondition(target: Option<&Target>) -> Precondition {
    target.map_or(Precondition::Absent, |target| Precondition::Exactly {
        uid: target.uid.clone(),
        resource_version: target.resource_version.clone(),
    })
}

/// Older tokens after a new one is published: those still alive, and the one that it replaces.
fn previous(now: Time, facts: &Facts<'_>, parties: Parties<'_>) -> Vec<Previous> {
    let mut previous: Vec<Previous> = facts
        .targets()
        .flat_map(|(_, target)| kept(facts, target))
        .collect();
    let replaced = facts.targets().filter_map(|(_, target)| target.token.as_ref());
    previous.extend(
        replaced
            .filter(|token| token.expires_at > now && facts.alive(&token.anchor, &token.anchor_uid))
            .map(|token| Previous {
                anchor: token.anchor.clone(),
                uid: token.anchor_uid.clone(),
                token_id: token.id.clone(),
                retires_at: schedule::retires_at(now, token.expires_at, parties.policy.spec.rotation.overlap),
            }),
    );
    // The oldest beyond the limit loses its name here, and is retired for it.
    previous.drain(..previous.len().saturating_sub(schedule::MAX_PREVIOUS));
    previous
}

/// Entries of `previous` whose anchor is still there; the others are done.
pub(super) fn kept(facts: &Facts<'_>, target: &Target) -> Vec<Previous> {
    target
        .previous
        .iter()
        .filter(|entry| facts.alive(&entry.anchor, &entry.uid))
        .cloned()
        .collect()
}

/// Rows 10 and 11: nothing is needed but to remove a target under an old name, or to wait.
fn settled(now: Time, facts: &Facts<'_>, target: Option<&Target>) -> Act {
    let old = facts.old.iter().find(|_| facts.target().is_some());
    match old {
        Some((name, old)) => throttled(
            now,
            facts,
            Act::Remove {
                name: (*name).to_owned(),
                uid: old.uid.clone(),
                resource_version: old.resource_version.clone(),
            },
        ),
        None => Act::Idle(target.and_then(|target| facts.due(target))),
    }
}
