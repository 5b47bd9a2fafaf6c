//! Row 9: the token is right, but the Secrets around it are not. No token is minted for that.

use serde_json::{Value, json};

use super::{
    call::{self, Call, Step},
    checks::{Case, Finding},
    view::{PlacedAnchor, View},
};
use crate::core::{
    id::{GrantKey, Name, Secs},
    place::{
        record::{Bond, Record},
        secret::{self, Owners, owner_digest},
    },
    policy::Policy,
    reason::IssueReason,
    request::{Request, Verb, secret_path},
};

/// The next repair of a target whose token is right, or of an anchor it names.
#[must_use]
pub fn next(case: &Case<'_>) -> Option<(IssueReason, Call)> {
    let (policy, target) = (case.view.readable()?, case.target?);
    if let Some(repair) = owners_and_finalizers(case.view, policy) {
        return Some(repair);
    }
    if let Some(Finding::Rewrite(why)) = case.first(9) {
        return Some((why, written_again(case, why)?));
    }
    let mut anchors = target.bonds().filter_map(|(bond, _, account)| {
        Some((case.view.anchor(&bond.name)?, account.unwrap_or(&case.view.key.account)))
    });
    anchors.find_map(|(anchor, account)| mended(case, policy, anchor, account))
}

/// The patch of the first Secret of the grant that the policy's deletion would not take with it, or too late. It needs no
/// token and no account: this must be right at any time.
#[must_use]
pub fn owners_and_finalizers(view: &View<'_>, policy: &Policy) -> Option<(IssueReason, Call)> {
    // A Secret that is still to be taken over is as its last owner left it.
    let owners = if view.taken_over() { None } else { owners(view, policy) };
    owners.or_else(|| finalizers(view))
}

fn owners(view: &View<'_>, policy: &Policy) -> Option<(IssueReason, Call)> {
    let targets = view.targets().filter(|target| target.written());
    let targets = targets.map(|target| (&target.name, target.version, target.object.owners));
    let anchors = view.anchors.iter().map(|anchor| (&anchor.anchor.name, anchor.anchor.version, anchor.owners()));
    let unfit = |(_, _, owners): &(&Name, u64, Owners)| !owners.fit(policy);
    let (name, version, _) = targets.chain(anchors).find(unfit)?;
    let body = replace(version, "ownerReferences", &secret::owners(&view.key, policy));
    Some((IssueReason::OwnersChanged, patch(view, name, &body, IssueReason::OwnersChanged)))
}

/// A finalizer keeps the token of a deleted anchor alive for 60 s more.
fn finalizers(view: &View<'_>) -> Option<(IssueReason, Call)> {
    let anchor = view.anchors.iter().find(|anchor| anchor.has_finalizers())?;
    let body = replace(anchor.anchor.version, "finalizers", &json!([]));
    Some((IssueReason::FinalizersChanged, patch(view, &anchor.anchor.name, &body, IssueReason::FinalizersChanged)))
}

/// Read the token once, then write the Secret with it: an apply of the metadata alone would delete the data.
fn written_again(case: &Case<'_>, why: IssueReason) -> Option<Call> {
    let (view, target) = (case.view, case.target?);
    let read_back = view.grant.rare.as_ref().and_then(|rare| rare.read_back.as_ref());
    let Some(read_back) = read_back.filter(|read_back| read_back.version == target.version) else {
        return Some(read(case, why));
    };
    let claims = &read_back.token.claims;
    let bond = claims.secret.as_ref();
    let bond = bond.map(|bound| Bond { name: bound.name.as_str().into(), uid: bound.uid.as_str().into() });
    let policy = view.readable()?;
    let record = Record {
        policy: view.key.policy.clone(),
        service_account: view.key.account.clone(),
        account_uid: claims.account.uid.as_str().into(),
        token: Some(call::recorded(claims, bond)),
        signer: Some(claims.signer.clone()),
        rotate: target.rotate().into(),
        previous: call::kept(view, target),
        // An earlier check has compared the inputs of policy and target.
        token_inputs: policy.token_inputs.as_ref().into(),
        layout: view.layout(policy),
    };
    Some(call::publish(case, policy, &record, &read_back.token.secret, why))
}

/// Reads the target whole.
#[must_use]
pub fn read(case: &Case<'_>, why: IssueReason) -> Call {
    let namespace = &case.view.key.namespace;
    let what = format!("read Secret {namespace}/{} to repair it", case.name);
    Call::of(Step::ReadBack { why }, Request::read(what, secret_path(namespace, &case.name)))
}

/// Apply leaves foreign owner references in place, and a second living owner would keep the Secret alive after
/// its policy; the same goes for finalizers. The list is replaced as a whole, if nobody changed it meanwhile.
fn replace(version: u64, list: &str, wanted: &Value) -> Value {
    json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": version.to_string()},
        {"op": "add", "path": format!("/metadata/{list}"), "value": wanted},
    ])
}

fn patch(view: &View<'_>, name: &Name, body: &Value, why: IssueReason) -> Call {
    let namespace = &view.key.namespace;
    let verb = if body.is_array() { Verb::JsonPatch } else { Verb::MergePatch };
    let what = format!("patch the metadata of Secret {namespace}/{name}");
    let request = Request::write(verb, &secret_path(namespace, name), body.to_string().into(), what);
    Call::of(Step::Patch { why }, request)
}

/// The patch of an anchor whose labels, annotations or owners are not as they were written. An older token may be of the
/// account that the Secret was taken over from, and its anchor goes on saying so.
fn mended(case: &Case<'_>, policy: &Policy, anchor: &PlacedAnchor<'_>, account: &Name) -> Option<(IssueReason, Call)> {
    let key = GrantKey { account: account.clone(), ..case.view.key.clone() };
    if anchor.owner == owner_digest(&key.policy, &key.account) && !anchor.is_stripped() {
        return None;
    }
    let dies = anchor.dies_at_latest.map_or(case.view.now + policy.spec.token.duration.delta(), Secs::time);
    let mut metadata = secret::anchor_metadata(&key, policy, &case.name, dies);
    metadata["resourceVersion"] = anchor.anchor.version.to_string().into();
    let why = IssueReason::MetadataChanged;
    Some((why, patch(case.view, &anchor.anchor.name, &json!({"metadata": metadata}), why)))
}
