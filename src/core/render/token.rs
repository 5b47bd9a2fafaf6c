//! Format `Token`: the files that a projected volume would have, and the server's URL.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretSlice};

use super::Draft;
use crate::core::facts::Site;

/// The keys this format writes.
pub const KEYS: [&str; 4] = ["ca.crt", "namespace", "server", "token"];

/// The data of the Secret.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site) -> BTreeMap<&'static str, SecretSlice<u8>> {
    let values = [
        site.ca.clone(),
        draft.grant.namespace.as_bytes().to_vec(),
        site.server.clone().into_bytes(),
        draft.token.expose_secret().as_bytes().to_vec(),
    ];
    KEYS.into_iter().zip(values.map(SecretSlice::from)).collect()
}
