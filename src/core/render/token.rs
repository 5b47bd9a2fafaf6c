//! Format `Token`: the files that a projected volume would have, and the server's URL.

use secrecy::{ExposeSecret as _, SecretSlice};

use super::{Data, Draft};
use crate::core::facts::Site;

/// The keys this format writes.
pub const KEYS: [&str; 4] = ["ca.crt", "namespace", "server", "token"];

/// The data of the Secret.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site) -> Data {
    let values = [
        site.ca.clone(),
        draft.grant.namespace.as_bytes().to_vec(),
        site.server.clone().into_bytes(),
        draft.token.expose_secret().as_bytes().to_vec(),
    ];
    KEYS.into_iter().map(str::to_owned).zip(values.map(SecretSlice::from)).collect()
}
