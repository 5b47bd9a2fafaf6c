//! Format `Token`: the files that a projected volume would have, and the server's URL.

use secrecy::{ExposeSecret as _, SecretSlice};

use super::{Data, Format, Material};
use crate::core::address::ClusterAddress;

const KEYS: [&str; 4] = ["ca.crt", "namespace", "server", "token"];

pub(super) struct PlainToken;

impl Format for PlainToken {
    fn keys(&self) -> Vec<&str> {
        KEYS.to_vec()
    }

    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        let values = [
            address.ca.clone(),
            material.key.namespace.as_bytes().to_vec(),
            address.server.clone().into_bytes(),
            material.token.expose_secret().as_bytes().to_vec(),
        ];
        KEYS.into_iter().map(str::to_owned).zip(values.map(SecretSlice::from)).collect()
    }
}
