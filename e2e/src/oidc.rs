//! An OIDC issuer: discovery, keys and tokens.

use crate::https::Https;
use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// An issuer.
pub struct Issuer {
    /// Its server.
    pub https: Https,
    key: EcdsaKeyPair,
}

impl Issuer {
    /// Starts an issuer.
    ///
    /// # Errors
    /// When it has no key or no server.
    pub fn start() -> Result<Self> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .ok()
            .context("no key")?;
        let key = key(pkcs8.as_ref())?;
        let point = key.public_key().as_ref();
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        let keys = json!({"keys": [{"kid": "1", "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": encode(&point[1..33]), "y": encode(&point[33..])}]});
        let https = Https::start(|url| {
            let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]});
            move |path: &str, _: &Value| match path {
                "/.well-known/openid-configuration" => Some(document.clone()),
                "/keys" => Some(keys.clone()),
                _ => None,
            }
        })?;
        Ok(Self { https, key })
    }

    /// A token with these claims and its own as issuer.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, mut claims: Value) -> Result<String> {
        claims["iss"] = self.https.url.clone().into();
        sign(&self.key, &json!({"alg": "ES256", "kid": "1"}), &claims)
    }
}

/// The key in a PKCS #8 document.
///
/// # Errors
/// When there is none.
pub fn key(pkcs8: &[u8]) -> Result<EcdsaKeyPair> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new());
    key.ok().context("no key")
}

/// A JWT of this header and these claims.
///
/// # Errors
/// When it cannot be signed.
pub fn sign(key: &EcdsaKeyPair, header: &Value, claims: &Value) -> Result<String> {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).ok().context("no signature")?;
    Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}
