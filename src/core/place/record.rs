//! The record: all that the operator remembers of a token, in the annotations of the Secret that holds it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::core::{
    credential::keys::Signer,
    id::{Name, Secs, Uid},
    meta,
    names::{self, is_object_name},
};

/// The Secret that a token lives and dies with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// Name of the Secret it is bound to: its anchor, or the target itself; empty for none.
    pub name: Name,
    /// UID of that Secret.
    pub uid: Uid,
}

/// A published token, as known without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// `jti`.
    pub id: Uid,
    /// `iat`.
    pub issued: Secs,
    /// `exp`.
    pub expires: Secs,
    /// The Secret it is bound to.
    pub bond: Bond,
}

/// An older token that may still be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The Secret it is bound to.
    pub bond: Bond,
    /// `jti`.
    pub id: Uid,
    /// `iat`. An earlier release did not write it; then it is the epoch, and every revocation covers the token.
    pub issued: Secs,
    /// When its anchor is deleted; fixed when its successor was published.
    pub retires: Secs,
    /// Name of its account, where that is another one than the Secret's: the Secret was taken over since.
    pub account: Option<Box<Name>>,
}

/// The record of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the policy.
    pub policy: Name,
    /// Name of the account.
    pub service_account: Name,
    /// UID of the account.
    pub account_uid: Uid,
    /// The token; none in a target that waits for its first.
    pub token: Option<Token>,
    /// Its `kid` and `iss`.
    pub signer: Option<Arc<Signer>>,
    /// The rotate value it was issued under; empty for none.
    pub rotate: Name,
    /// Older tokens.
    pub previous: Vec<Previous>,
    /// Fingerprint it was issued under.
    pub token_inputs: Name,
    /// Layout it was written under.
    pub layout: Name,
}

/// Longest `kid` and `iss` that are read. They become labels of metrics, and a foreign hand may have written them.
const MAX_SIGNER: usize = 512;

impl Record {
    /// Reads the annotations of a Secret. `None` when it is no target of ours, whatever its labels say: they name no
    /// policy and account, or another Secret.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<Self> {
        let text = |key| meta::annotation(meta, key).unwrap_or_default();
        let (policy, service_account) = (object(meta, names::POLICY), object(meta, names::SERVICE_ACCOUNT));
        if meta.name.as_deref() != Some(text(names::TARGET)) || policy.is_empty() || service_account.is_empty() {
            return None;
        }
        let signer = signer(meta);
        Some(Self {
            policy,
            service_account,
            account_uid: Uid::read(text(names::SERVICE_ACCOUNT_UID)),
            token: signer.as_ref().and_then(|_| token(meta)),
            signer,
            rotate: text(names::ROTATE).into(),
            previous: serde_json::from_str::<Vec<Entry>>(text(names::PREVIOUS))
                .map(|entries| entries.into_iter().filter_map(Entry::read).collect())
                .unwrap_or_default(),
            token_inputs: text(names::TOKEN_INPUTS).into(),
            layout: text(names::LAYOUT).into(),
        })
    }

    /// The annotations of a target of this name. Without a token only those that make the Secret ours.
    #[must_use]
    pub fn annotations(&self, target: &str) -> Vec<(&'static str, String)> {
        let mut annotations = vec![
            (names::POLICY, self.policy.to_string()),
            (names::TARGET, target.to_owned()),
            (names::SERVICE_ACCOUNT, self.service_account.to_string()),
        ];
        let Some((token, signer)) = self.token.as_ref().zip(self.signer.as_ref()) else { return annotations };
        annotations.extend([
            (names::SERVICE_ACCOUNT_UID, self.account_uid.to_string()),
            (names::TOKEN_ID, token.id.to_string()),
            (names::KEY_ID, signer.key_id.to_string()),
            (names::ISSUER, signer.issuer.to_string()),
            (names::ISSUED_AT, meta::text(token.issued.time())),
            (names::EXPIRES_AT, meta::text(token.expires.time())),
            (names::ANCHOR, token.bond.name.to_string()),
            (names::ANCHOR_UID, token.bond.uid.to_string()),
            (names::ROTATE, self.rotate.to_string()),
            (names::PREVIOUS, previous(&self.previous)),
            (names::TOKEN_INPUTS, self.token_inputs.to_string()),
            (names::LAYOUT, self.layout.to_string()),
        ]);
        annotations
    }
}

fn signer(meta: &ObjectMeta) -> Option<Arc<Signer>> {
    let short = |key| meta::annotation(meta, key).filter(|text| text.len() <= MAX_SIGNER);
    Some(Arc::new(Signer { key_id: short(names::KEY_ID)?.into(), issuer: short(names::ISSUER)?.into() }))
}

fn token(meta: &ObjectMeta) -> Option<Token> {
    let text = |key| meta::annotation(meta, key);
    let time = |key| text(key).and_then(meta::time).map(Secs::of);
    Some(Token {
        id: Uid::read(text(names::TOKEN_ID)?),
        issued: time(names::ISSUED_AT)?,
        expires: time(names::EXPIRES_AT)?,
        bond: Bond { name: object(meta, names::ANCHOR), uid: Uid::read(text(names::ANCHOR_UID)?) },
    })
}

/// An annotation that names an object; empty when it is not there or no object can be called so.
pub(super) fn object(meta: &ObjectMeta, key: &str) -> Name {
    meta::annotation(meta, key).filter(|name| is_object_name(name)).unwrap_or_default().into()
}

/// One entry of the annotation `previous`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    anchor: String,
    uid: String,
    token_id: String,
    #[serde(default = "epoch")]
    issued_at: String,
    retires_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account: Option<String>,
}

fn epoch() -> String {
    meta::text(Secs::default().time())
}

impl Entry {
    fn read(self) -> Option<Previous> {
        Some(Previous {
            bond: Bond { name: self.anchor.into(), uid: Uid::read(&self.uid) },
            id: Uid::read(&self.token_id),
            issued: Secs::of(meta::time(&self.issued_at)?),
            retires: Secs::of(meta::time(&self.retires_at)?),
            account: self.service_account.filter(|name| is_object_name(name)).map(|name| Box::new(name.into())),
        })
    }
}

fn previous(entries: &[Previous]) -> String {
    let entry = |entry: &Previous| Entry {
        anchor: entry.bond.name.to_string(),
        uid: entry.bond.uid.to_string(),
        token_id: entry.id.to_string(),
        issued_at: meta::text(entry.issued.time()),
        retires_at: meta::text(entry.retires.time()),
        service_account: entry.account.as_deref().map(ToString::to_string),
    };
    serde_json::json!(entries.iter().map(entry).collect::<Vec<_>>()).to_string()
}
