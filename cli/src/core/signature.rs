//! The signature of a token, against the keys that an API server publishes. ring does the arithmetic.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::token::Claims;

/// A set of keys (RFC 7517).
#[derive(Debug, Deserialize)]
pub struct Keys {
    keys: Vec<Key>,
}

/// A public key. The members depend on its kind.
#[derive(Debug, Deserialize)]
struct Key {
    #[serde(default)]
    kid: String,
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

/// Whether one of these keys signed the token; else why not.
///
/// # Errors
/// When no key has its name, the algorithm does not go with the key or is unknown here, or the signature is not that key's.
pub fn check(token: &SecretString, claims: &Claims, keys: &Keys) -> Result<(), String> {
    let Claims { algorithm, key_id, .. } = claims;
    let text = token.expose_secret();
    let (message, signature) = text.rsplit_once('.').ok_or("the token has no signature")?;
    let signature = bytes(signature).ok_or("the signature is no base64")?;
    let mut named = keys.keys.iter().filter(|key| key.kid == *key_id).peekable();
    if named.peek().is_none() {
        return Err(format!("the API server publishes no key {key_id}"));
    }
    let signed = |key: &Key| key.verifies(algorithm, message.as_bytes(), &signature) == Some(true);
    if named.any(signed) { Ok(()) } else { Err(format!("it is no {algorithm} signature by the key {key_id}")) }
}

impl Key {
    /// The algorithm must be one for this kind of key, whatever the token says. `None` for one that is not known here.
    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        match (algorithm, &*self.kty, &*self.crv) {
            ("RS256", "RSA", _) => self.rsa(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature),
            ("RS384", "RSA", _) => self.rsa(&signature::RSA_PKCS1_2048_8192_SHA384, message, signature),
            ("RS512", "RSA", _) => self.rsa(&signature::RSA_PKCS1_2048_8192_SHA512, message, signature),
            ("ES256", "EC", "P-256") => self.ecdsa(&signature::ECDSA_P256_SHA256_FIXED, message, signature),
            ("ES384", "EC", "P-384") => self.ecdsa(&signature::ECDSA_P384_SHA384_FIXED, message, signature),
            _ => None,
        }
    }

    fn rsa(&self, kind: &'static RsaParameters, message: &[u8], signature: &[u8]) -> Option<bool> {
        let key = RsaPublicKeyComponents { n: bytes(&self.n)?, e: bytes(&self.e)? };
        Some(key.verify(kind, message, signature).is_ok())
    }

    fn ecdsa(&self, kind: &'static dyn VerificationAlgorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        // An uncompressed point (SEC 1, 2.3.3).
        let point = [vec![4], bytes(&self.x)?, bytes(&self.y)?].concat();
        Some(UnparsedPublicKey::new(kind, point).verify(message, signature).is_ok())
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
pub mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::core::token::tests::{payload, token};

    /// The token of RFC 7515, appendix A.2, and its key.
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";

    /// A token as an API server signs it, and the keys that it publishes.
    pub fn signed(payload: &Value) -> (SecretString, Keys) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let unsigned = token(payload);
        let (message, _) = unsigned.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(&random, message.as_bytes()).unwrap());
        let point = pair.public_key().as_ref();
        let key = json!({"kid": "key-1", "kty": "EC", "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])});
        (format!("{message}.{signature}").into(), keys(&[key]))
    }

    fn keys(keys: &[Value]) -> Keys {
        serde_json::from_value(json!({"keys": keys})).unwrap()
    }

    impl Keys {
        /// The same keys by another name.
        pub fn renamed(mut self, name: &str) -> Self {
            self.keys.iter_mut().for_each(|key| name.clone_into(&mut key.kid));
            self
        }
    }

    #[test]
    fn verifies_es256() {
        let ((token, keys), (other, _)) = (signed(&payload()), signed(&payload()));
        let claims = Claims::read(&token).unwrap();
        assert_eq!(check(&token, &claims, &keys), Ok(()));
        assert!(check(&other, &claims, &keys).unwrap_err().contains("no ES256 signature by the key key-1"));
        let unnamed = Claims { key_id: "key-2".into(), ..claims.clone() };
        assert!(check(&token, &unnamed, &keys).unwrap_err().contains("publishes no key key-2"));
        let text = token.expose_secret().replacen('.', ".e", 1);
        assert!(check(&text.into(), &claims, &keys).is_err(), "other claims");
    }

    #[test]
    fn verifies_rs256() {
        let keys = keys(&[json!({"kty": "RSA", "n": N, "e": "AQAB"})]);
        let claims = |algorithm: &str| Claims { algorithm: algorithm.into(), ..Claims::default() };
        let (last, token) = (RS256.len() - 4, SecretString::from(RS256));
        assert_eq!(check(&token, &claims("RS256"), &keys), Ok(()));
        let forged = format!("{}AAAA", &RS256[..last]);
        assert!(check(&forged.into(), &claims("RS256"), &keys).is_err());
        for algorithm in ["none", "HS256", "ES256", "RS384", ""] {
            assert!(check(&token, &claims(algorithm), &keys).is_err(), "{algorithm}");
        }
    }
}
