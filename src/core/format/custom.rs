//! Format `Custom`: keys and texts of the policy's own, in which the token and what belongs to it are filled in.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};

use super::{Data, Format, Material};
use crate::{
    api::{
        format::{CustomOptions, OPAQUE},
        template::{self, Piece, Placeholder},
    },
    core::{address::ClusterAddress, meta},
};

pub(super) struct Custom<'a>(pub Option<&'a CustomOptions>);

impl Custom<'_> {
    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|options| &options.data).map(|(key, text)| (key.as_str(), text.as_str()))
    }
}

impl Format for Custom<'_> {
    fn keys(&self) -> Vec<&str> {
        self.texts().map(|(key, _)| key).collect()
    }

    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        self.texts().map(|(key, text)| (key.to_owned(), fill(text, material, address))).collect()
    }

    /// The API server demands the keys of some types, and takes them empty.
    fn empty(&self) -> Data {
        let demanded = self.0.iter().flat_map(|options| options.demanded());
        demanded.map(|key| (key.to_owned(), SecretSlice::from(Vec::new()))).collect()
    }

    fn secret_type(&self) -> &str {
        self.0.and_then(|options| options.secret_type.as_deref()).unwrap_or(OPAQUE)
    }

    fn tells_server(&self) -> bool {
        use Placeholder::{Ca, CaBase64, Server};
        let tells = |piece| matches!(piece, Ok(Piece::Value(Server | Ca | CaBase64)));
        self.texts().flat_map(|(_, text)| template::pieces(text)).any(tells)
    }
}

/// A policy with a placeholder that there is not is unreadable, so none is met here.
fn fill(text: &str, material: &Material<'_>, address: &ClusterAddress) -> SecretSlice<u8> {
    let mut filled = Vec::new();
    for piece in template::pieces(text).flatten() {
        match piece {
            Piece::Text(text) => filled.extend_from_slice(text.as_bytes()),
            Piece::Value(Placeholder::Token) => filled.extend_from_slice(material.token.expose_secret().as_bytes()),
            Piece::Value(Placeholder::Server) => filled.extend_from_slice(address.server.as_bytes()),
            Piece::Value(Placeholder::Ca) => filled.extend_from_slice(&address.ca),
            Piece::Value(Placeholder::CaBase64) => filled.extend(STANDARD.encode(&address.ca).into_bytes()),
            Piece::Value(Placeholder::Namespace) => filled.extend_from_slice(material.key.namespace.as_bytes()),
            Piece::Value(Placeholder::ServiceAccount) => filled.extend_from_slice(material.key.account.as_bytes()),
            Piece::Value(Placeholder::ExpiresAt) => filled.extend(meta::text(material.expires.time()).into_bytes()),
        }
    }
    SecretSlice::from(filled)
}
