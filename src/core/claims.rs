//! What a ServiceAccount token says about itself. Nothing is verified here: the API server signed it a
//! moment ago, and what matters is that it is the token we asked for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};

use super::Time;

/// The claims of a bound ServiceAccount token that matter for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `jti`, the credential id in the audit log; empty on servers older than 1.30.
    pub token_id: String,
    /// `kid` of the header.
    pub key_id: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// `iat`.
    pub issued_at: Time,
    /// `exp`.
    pub expires_at: Time,
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub account: ObjectRef,
    /// The Secret the token is bound to, if any.
    pub secret: Option<ObjectRef>,
}

/// A name and the UID that went with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ObjectRef {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// The text is not a ServiceAccount token. It never says what the text was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not three parts of base64url.
    #[error("not a JSON Web Token in compact form")]
    Shape,
    /// Parts are missing or of the wrong type.
    #[error("a JSON Web Token without the claims of a ServiceAccount token")]
    Claims,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kid: String,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    jti: String,
    iss: String,
    #[serde(default)]
    aud: Vec<String>,
    iat: i64,
    exp: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: ObjectRef,
    secret: Option<ObjectRef>,
}

/// Reads the claims of a token.
///
/// # Errors
/// When the text is not a token that a Kubernetes API server would issue to a ServiceAccount.
pub fn read(token: &SecretString) -> Result<Claims, Malformed> {
    let mut parts = token.expose_secret().split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Malformed::Shape);
    };
    let header: Header = decode(header)?;
    let payload: Payload = decode(payload)?;
    Ok(Claims {
        token_id: payload.jti,
        key_id: header.kid,
        issuer: payload.iss,
        audiences: payload.aud,
        issued_at: instant(payload.iat)?,
        expires_at: instant(payload.exp)?,
        namespace: payload.kubernetes.namespace,
        account: payload.kubernetes.serviceaccount,
        secret: payload.kubernetes.secret,
    })
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, Malformed> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::Shape)?;
    serde_json::from_slice(&json).map_err(|_| Malformed::Claims)
}

fn instant(seconds: i64) -> Result<Time, Malformed> {
    DateTime::from_timestamp(seconds, 0).ok_or(Malformed::Claims)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// An unsigned token with these claims, shaped as the API server shapes it.
    pub(crate) fn token(payload: &Value) -> SecretString {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", encode(&json!({"alg": "ES256", "kid": "key-1"})), encode(payload)).into()
    }

    pub(crate) fn payload() -> Value {
        json!({
            "jti": "id-1", "iss": "https://issuer", "aud": ["https://api"], "iat": 1000, "exp": 4600,
            "kubernetes.io": {
                "namespace": "ci",
                "serviceaccount": {"name": "deployer", "uid": "sa-1"},
                "secret": {"name": "tw-1", "uid": "anchor-1"}
            }
        })
    }

    #[test]
    fn reads_a_bound_token() {
        let claims = read(&token(&payload())).unwrap();
        assert_eq!((claims.token_id.as_str(), claims.key_id.as_str()), ("id-1", "key-1"));
        assert_eq!((claims.expires_at - claims.issued_at).num_seconds(), 3600);
        assert_eq!(claims.secret, Some(ObjectRef { name: "tw-1".into(), uid: "anchor-1".into() }));
    }

    #[test]
    fn refuses_anything_else() {
        for text in ["", "a", "a.b", "a.b.c", "e30.e30.", "e30.e30.x.y", "e30.e30.x"] {
            assert!(read(&text.into()).is_err(), "{text}");
        }
        for (claim, value) in [("iat", json!("now")), ("exp", json!(i64::MAX)), ("kubernetes.io", json!({}))] {
            let mut payload = payload();
            payload[claim] = value;
            assert_eq!(read(&token(&payload)), Err(Malformed::Claims), "{claim}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = read(&text.into());
        }
    }
}
