//! Row 9: the token is right, but what stands around it is not. No token is minted for that.

use serde_json::{Value, json};

use super::{Act, Facts, Parties, Why, issue};
use crate::core::{
    Time,
    facts::Target,
    grant::Copy,
    keys,
    render::{self, Draft},
};

/// The next repair of a target whose token is right, or of an anchor it names.
pub(super) fn next(
    now: Time,
    facts: &Facts<'_>,
    parties: Parties<'_>,
    name: &str,
    target: &Target,
) -> Option<(Why, Act)> {
    if !target.owners.fit(parties.policy) {
        let owners = render::owners(facts.key, parties.policy);
        return Some((
            Why::OwnersChanged,
            patch(
                name,
                replace_owners(&target.resource_version, &owners),
                Why::OwnersChanged,
            ),
        ));
    }
    if let Some(why) = rewrite(parties, target) {
        return Some((why, written_again(facts, parties, name, target, why)));
    }
    anchor(now, facts, parties, target)
}

/// Why the Secret has to be written again as a whole.
fn rewrite(parties: Parties<'_>, target: &Target) -> Option<Why> {
    if !target.marked
        || target.owned.metadata != render::owned(parties.policy).metadata
            && target.layout == parties.policy.layout
    {
        return Some(Why::MetadataChanged);
    }
    (target.layout != parties.policy.layout).then_some(Why::LayoutChanged)
}

/// Read the token once, then write the Secret with it: an apply of the metadata alone would delete the data.
fn written_again(facts: &Facts<'_>, parties: Parties<'_>, name: &str, target: &Target, why: Why) -> Act {
    let fits = |copy: &&Copy| {
        copy.resource_version == target.resource_version && !facts.memory.proof.target_doubtful
    };
    let copy = facts.memory.copy.as_ref().filter(fits);
    let Some((copy, anchor)) = copy.and_then(|copy| Some((copy, copy.token.claims.secret.as_ref()?))) else {
        return Act::ReadBack {
            name: name.to_owned(),
            why,
        };
    };
    let draft = Draft {
        grant: facts.key,
        policy: parties.policy,
        account_uid: &copy.token.claims.account.uid,
        name,
        token: &copy.token.secret,
        claims: &copy.token.claims,
        anchor: (&anchor.name, &anchor.uid),
        rotate: &target.rotate,
        previous: &issue::kept(facts, target),
        token_inputs: &target.token_inputs,
    };
    let body = render::target(&draft, facts.site, &issue::precondition(Some(target)));
    Act::Publish {
        name: name.to_owned(),
        why,
        body,
    }
}

/// Apply leaves foreign owner references in place, and a second living owner would keep the Secret alive after
/// its policy: the list is replaced as a whole, if nobody changed it meanwhile.
fn replace_owners(resource_version: &str, owners: &Value) -> Value {
    json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version},
        {"op": "add", "path": "/metadata/ownerReferences", "value": owners},
    ])
}

fn patch(name: &str, body: Value, why: Why) -> Act {
    Act::Patch {
        name: name.to_owned(),
        body,
        why,
    }
}

/// The first anchor named by the target whose labels, annotations or owners are not as they were written.
fn anchor(now: Time, facts: &Facts<'_>, parties: Parties<'_>, target: &Target) -> Option<(Why, Act)> {
    let named = target
        .token
        .iter()
        .map(|token| &token.anchor)
        .chain(target.previous.iter().map(|entry| &entry.anchor));
    let mut anchors = named.filter_map(|name| facts.anchors.get_key_value(&**name));
    anchors.find_map(|(name, (anchor, _))| {
        let why = match anchor {
            anchor if !anchor.owners.fit(parties.policy) => Why::OwnersChanged,
            anchor if !anchor.marked || anchor.target.is_empty() || anchor.dies_at_latest.is_none() => {
                Why::MetadataChanged
            }
            _ => return None,
        };
        let mut metadata =
            render::anchor_metadata(facts.key, parties.policy, facts.name.as_deref().ok()?, now);
        if let Some(dies) = anchor.dies_at_latest {
            metadata["annotations"][keys::DIES_AT_LATEST] = crate::core::facts::text(dies).into();
        }
        metadata["resourceVersion"] = (*anchor.resource_version).into();
        Some((why, patch(name, json!({"metadata": metadata}), why)))
    })
}
