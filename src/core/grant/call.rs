//! The calls of a grant, and the write of a target with its record.

use secrecy::SecretString;

use super::{
    Attempt, Retirement,
    checks::Case,
    look::Look,
    view::{Placed, View},
};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        credential::token::Claims,
        id::{Name, Secs, Uid},
        place::{
            record::{Bond, Previous, Record, Token},
            secret::{self, Fence, Target},
        },
        policy::Policy,
        reason::IssueReason,
        request::{Request, Verb, secret_path},
        schedule,
    },
};

/// The step that a call belongs to, for the reader of its answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// A live GET.
    Look(Look),
    /// The anchor of the attempt.
    CreateAnchor,
    /// The target of the attempt without a token, to learn the UID that the token is bound to.
    CreateTarget,
    /// The token of the attempt.
    Mint,
    /// The target is written.
    Publish {
        /// Why.
        why: IssueReason,
    },
    /// The target is read whole, to be written again.
    ReadBack {
        /// Why.
        why: IssueReason,
    },
    /// The metadata of a Secret of ours is patched.
    Patch {
        /// Why.
        why: IssueReason,
    },
    /// A target is deleted.
    Remove {
        /// Its name.
        name: Name,
    },
    /// A Secret that tokens are bound to is deleted.
    Retire(Box<Retirement>),
}

/// A call of a grant.
#[derive(Debug)]
pub struct Call {
    /// The step it belongs to.
    pub step: Step,
    /// The call itself.
    pub request: Request,
    /// The attempt that it begins or goes on with.
    pub attempt: Option<Box<Attempt>>,
}

impl Call {
    /// A call that belongs to no attempt.
    #[must_use]
    pub fn of(step: Step, request: Request) -> Self {
        Self { step, request, attempt: None }
    }

    /// A live GET.
    #[must_use]
    pub fn looking(view: &View<'_>, look: Look) -> Self {
        let request = look.request(&view.key);
        Self::of(Step::Look(look), request)
    }
}

/// The apply of a target.
#[must_use]
pub fn apply(view: &View<'_>, name: &str, body: SecretString) -> Request {
    let namespace = &view.key.namespace;
    Request::write(Verb::Apply, &secret_path(namespace, name), body, format!("apply Secret {namespace}/{name}"))
}

/// The record of an attempt, without its token.
#[must_use]
pub fn record(view: &View<'_>, policy: &Policy, attempt: &Attempt) -> Record {
    Record {
        policy: view.key.policy.clone(),
        service_account: view.key.account.clone(),
        account_uid: attempt.account_uid,
        token: None,
        signer: None,
        rotate: attempt.rotate.as_deref().unwrap_or_default().into(),
        previous: Vec::new(),
        token_inputs: attempt.token_inputs.clone(),
        layout: view.layout(policy),
    }
}

/// A token as its record names it.
#[must_use]
pub fn recorded(claims: &Claims, bond: Option<Bond>) -> Token {
    Token {
        id: Uid::read(&claims.token_id),
        issued: Secs::of(claims.issued_at),
        expires: Secs::of(claims.expires_at),
        bond: bond.unwrap_or_default(),
    }
}

/// The write of a target.
#[must_use]
pub fn publish(case: &Case<'_>, policy: &Policy, record: &Record, token: &SecretString, why: IssueReason) -> Call {
    let view = case.view;
    let fence = case.target.map_or(Fence::Absent, Placed::fence);
    let body = secret::target(&view.key, policy, &case.name, record, Some(token), view.address, fence);
    Call::of(Step::Publish { why }, apply(view, &case.name, body))
}

/// Older tokens after a new one is published: those still alive, and the one that it replaces.
#[must_use]
pub fn previous(case: &Case<'_>, policy: &Policy) -> Vec<Previous> {
    let view = case.view;
    // Tokens of an earlier account of this name are dead already; those of another account are not.
    let account = view.account.map(|account| account.uid.digest());
    let ours = |target: &Target| Some(target.account_uid) == account || view.taken_over();
    let leaver = view.leaver.clone().filter(|leaver| *leaver != view.key.account).map(Box::new);
    let of_another = |account: Option<Box<Name>>| account.filter(|account| **account != view.key.account);
    let mut previous: Vec<Previous> = view
        .targets()
        .flat_map(|target| kept(view, target).into_iter().map(move |entry| (target, entry)))
        .filter(|(target, entry)| ours(target) || entry.account.is_some())
        .map(|(_, entry)| Previous { account: of_another(entry.account.or_else(|| leaver.clone())), ..entry })
        .collect();
    previous.extend(view.targets().filter(|target| ours(target)).filter_map(|target| {
        let token = target.object.token.as_ref().filter(|token| token.expires.time() > view.now)?;
        let retires = Secs::of(retires_at(case, policy, target, token)?);
        Some(Previous {
            bond: token.bond.clone(),
            id: token.id,
            issued: token.issued,
            retires,
            account: leaver.clone(),
        })
    }));
    // The oldest beyond the limit loses its name here, and is retired for it.
    previous.drain(..previous.len().saturating_sub(schedule::MAX_PREVIOUS));
    previous
}

/// When a token retires that is being replaced; `None` when there is nothing to remember. One that has no anchor lives
/// until it expires, and is remembered once its successors are bound otherwise: a revocation must not forget it.
fn retires_at(case: &Case<'_>, policy: &Policy, target: &Target, token: &Token) -> Option<Time> {
    let expires = token.expires.time();
    if case.view.lives(&token.bond) {
        return Some(schedule::retires_at(case.view.now, expires, policy.spec.rotation.overlap));
    }
    let (itself, nothing) = (token.bond.uid == target.uid, token.bond.uid.is_empty());
    let bound_otherwise = match policy.binding() {
        Binding::Anchor => itself || nothing,
        Binding::Target => nothing,
        Binding::None => itself,
    };
    bound_otherwise.then_some(expires)
}

/// Entries of `previous` whose token may be alive; the others are done.
#[must_use]
pub fn kept(view: &View<'_>, target: &Target) -> Vec<Previous> {
    let unanchored = |entry: &Previous| {
        (entry.bond.uid.is_empty() || entry.bond.uid == target.uid) && entry.retires.time() > view.now
    };
    target.previous().iter().filter(|entry| view.lives(&entry.bond) || unanchored(entry)).cloned().collect()
}
