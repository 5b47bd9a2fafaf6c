//! Row 9: the token is right, but what stands around it is not. No token is minted for that.

use serde_json::{Value, json};

use super::{
    Act, Facts, Why,
    issue::{self, Case},
};
use crate::core::{
    facts::{Anchor, Policy, Target, text},
    grant::Copy,
    keys,
    render::{self, Draft},
};

/// The next repair of a target whose token is right, or of an anchor it names.
pub(super) fn next(case: &Case<'_>) -> Option<(Why, Act)> {
    let target = case.target?;
    if let Some(repair) = bonds(case.facts, case.policy) {
        return Some(repair);
    }
    if let Some(why) = rewrite(case, target) {
        return Some((why, written_again(case, target, why)));
    }
    let named = target.token.iter().map(|token| &token.anchor);
    let named = named.chain(target.previous.iter().map(|entry| &entry.anchor));
    let mut anchors = named.filter_map(|name| facts_of(case, name));
    anchors.find_map(|(name, anchor)| mended(case, name, anchor))
}

/// The patch of the first Secret of the grant that the policy's deletion would not take with it, or too late. It needs no
/// token and no account: this must be right at any time.
pub(super) fn bonds(facts: &Facts<'_>, policy: &Policy) -> Option<(Why, Act)> {
    owners(facts, policy).or_else(|| finalizers(facts))
}

fn owners(facts: &Facts<'_>, policy: &Policy) -> Option<(Why, Act)> {
    let targets = facts
        .targets()
        .filter(|(_, target)| target.written)
        .map(|(name, target)| (name, &target.owners, &target.resource_version));
    let anchors = facts.anchors.iter().map(|(name, (anchor, _))| (*name, &anchor.owners, &anchor.resource_version));
    let (name, _, version) = targets.chain(anchors).find(|(_, owners, _)| !owners.fit(policy))?;
    let body = replace(version, "ownerReferences", &render::owners(facts.key, policy));
    Some(patch(name, body, Why::OwnersChanged))
}

/// A finalizer keeps the token of a deleted anchor alive for 60 s more.
fn finalizers(facts: &Facts<'_>) -> Option<(Why, Act)> {
    let (name, (anchor, _)) = facts.anchors.iter().find(|(_, (anchor, _))| anchor.finalizers)?;
    Some(patch(name, replace(&anchor.resource_version, "finalizers", &json!([])), Why::FinalizersChanged))
}

fn facts_of<'a>(case: &Case<'a>, name: &str) -> Option<(&'a str, &'a Anchor)> {
    case.facts.anchors.get_key_value(name).map(|(name, (anchor, _))| (*name, *anchor))
}

/// Why the Secret has to be written again as a whole.
fn rewrite(case: &Case<'_>, target: &Target) -> Option<Why> {
    if target.layout != case.policy.layout {
        return Some(Why::LayoutChanged);
    }
    let untouched = target.marked && target.owned.metadata == render::owned(case.policy).metadata;
    (!untouched).then_some(Why::MetadataChanged)
}

/// Read the token once, then write the Secret with it: an apply of the metadata alone would delete the data.
fn written_again(case: &Case<'_>, target: &Target, why: Why) -> Act {
    let fits = |copy: &&Copy| copy.resource_version == target.resource_version;
    let Some(copy) = case.facts.memory.copy.as_deref().filter(fits) else {
        return Act::ReadBack { name: case.name.to_owned(), why };
    };
    let draft = Draft {
        grant: case.facts.key,
        policy: case.policy,
        account_uid: &copy.token.claims.account.uid,
        name: case.name,
        token: &copy.token.secret,
        claims: &copy.token.claims,
        bound: copy.token.claims.secret.as_ref(),
        rotate: &target.rotate,
        previous: &issue::kept(case.now, case.facts, target),
        token_inputs: &target.token_inputs,
    };
    let body = render::target(&draft, case.facts.site, &case.precondition());
    Act::Publish { name: case.name.to_owned(), why, body }
}

/// Apply leaves foreign owner references in place, and a second living owner would keep the Secret alive after
/// its policy; the same goes for finalizers. The list is replaced as a whole, if nobody changed it meanwhile.
fn replace(resource_version: &str, list: &str, wanted: &Value) -> Value {
    json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version},
        {"op": "add", "path": format!("/metadata/{list}"), "value": wanted},
    ])
}

fn patch(name: &str, body: Value, why: Why) -> (Why, Act) {
    (why, Act::Patch { name: name.to_owned(), body, why })
}

/// The patch of an anchor whose labels, annotations or owners are not as they were written.
fn mended(case: &Case<'_>, name: &str, anchor: &Anchor) -> Option<(Why, Act)> {
    let why = match anchor {
        anchor if *anchor.policy != *case.facts.key.policy => Why::MetadataChanged,
        anchor if *anchor.service_account != *case.facts.key.account => Why::MetadataChanged,
        anchor if !anchor.marked || anchor.target.is_empty() || anchor.dies_at_latest.is_none() => Why::MetadataChanged,
        _ => return None,
    };
    let mut metadata = render::anchor_metadata(case.facts.key, case.policy, case.name, case.now);
    if let Some(dies) = anchor.dies_at_latest {
        metadata["annotations"][keys::DIES_AT_LATEST] = text(dies).into();
    }
    metadata["resourceVersion"] = (*anchor.resource_version).into();
    Some(patch(name, json!({"metadata": metadata}), why))
}
