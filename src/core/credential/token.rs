//! ServiceAccount tokens: the request, the answer, and the claims. No signature is verified: the API server made it a
//! moment ago, and all that matters is that the token is the one we asked for.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::core::{
    Time,
    credential::keys::Signer,
    id::{GrantKey, Uid},
    place::record::Bond,
    policy::Policy,
};

/// The claims of a bound ServiceAccount token that matter for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `jti`, the credential id in the audit log; empty on servers older than 1.30.
    pub token_id: String,
    /// `kid` of the header, and `iss`.
    pub signer: Arc<Signer>,
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

const BAD_SHAPE: &str = "not a JSON Web Token in compact form";
const BAD_CLAIMS: &str = "a JSON Web Token without the claims of a ServiceAccount token";

/// A token in memory, minted or read back.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token itself.
    pub secret: SecretString,
    /// Its claims.
    pub claims: Claims,
}

/// The body of a TokenRequest: for this UID of the account, bound to this Secret by name and UID, if to any.
#[must_use]
pub fn request(key: &GrantKey, policy: &Policy, account_uid: Uid, bond: Option<&Bond>) -> SecretString {
    let token = &policy.spec.token;
    let mut spec = json!({"audiences": token.audiences, "expirationSeconds": token.duration.as_secs()});
    if let Some(Bond { name, uid }) = bond {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "name": &**name, "uid": uid.to_string()});
        spec["boundObjectRef"] = secret;
    }
    let metadata = json!({"name": &*key.account, "namespace": &*key.namespace, "uid": account_uid.to_string()});
    let kind = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"});
    let mut body = kind;
    (body["metadata"], body["spec"]) = (metadata, spec);
    body.to_string().into()
}

#[derive(Deserialize)]
struct TokenRequestAnswer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    token: SecretString,
}

/// Reads the answer to a TokenRequest.
///
/// # Errors
/// When it holds no token of a ServiceAccount. The error never quotes the answer.
pub fn answer(body: &SecretString) -> Result<Minted, String> {
    let answer: Result<TokenRequestAnswer, _> = serde_json::from_str(body.expose_secret());
    let secret = answer.map_err(|_| "the answer holds no token".to_owned())?.status.token;
    let claims = read(&secret)?;
    Ok(Minted { secret, claims })
}

/// The API server authenticates with this leeway.
pub const LEEWAY: TimeDelta = TimeDelta::seconds(60);

/// Checks that the token is the one that was asked for. Servers before 1.34 do not check the account's UID, so its own
/// claim is compared; a token that is not bound to our anchor could not be revoked.
///
/// # Errors
/// With what is wrong.
pub fn verify(
    key: &GrantKey,
    account_uid: Uid,
    bond: Option<&Bond>,
    audiences: &[String],
    claims: &Claims,
    now: Time,
) -> Result<(), &'static str> {
    let asked = audiences.iter().all(|audience| claims.audiences.contains(audience));
    let bound = claims.secret.as_ref().map(|secret| (secret.name.as_str(), Uid::read(&secret.uid)));
    match claims {
        Claims { namespace, .. } if *namespace != *key.namespace => Err("the token is for another namespace"),
        Claims { account, .. } if *account.name != *key.account => Err("the token is for another account"),
        Claims { account, .. } if Uid::read(&account.uid) != account_uid => {
            Err("the token is for an earlier account of this name")
        }
        Claims { .. } if bound != bond.map(|bond| (bond.name.as_str(), bond.uid)) => {
            Err("the token is bound to something else")
        }
        Claims { .. } if !asked || (audiences.len() != claims.audiences.len() && !audiences.is_empty()) => {
            Err("the token is for other audiences")
        }
        Claims { expires_at, .. } if *expires_at <= now => Err("the token has expired already"),
        Claims { issued_at, .. } if *issued_at > now + LEEWAY => {
            Err("the token is issued in the future; check the clocks")
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kid: Box<str>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    jti: String,
    iss: Box<str>,
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
/// When the text is not a token that a Kubernetes API server would issue to a ServiceAccount. The error never quotes it.
pub fn read(token: &SecretString) -> Result<Claims, &'static str> {
    let mut parts = token.expose_secret().split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(BAD_SHAPE);
    };
    let header: Header = decode(header)?;
    let payload: Payload = decode(payload)?;
    Ok(Claims {
        token_id: payload.jti,
        signer: Arc::new(Signer { key_id: header.kid, issuer: payload.iss }),
        audiences: payload.aud,
        issued_at: instant(payload.iat)?,
        expires_at: instant(payload.exp)?,
        namespace: payload.kubernetes.namespace,
        account: payload.kubernetes.serviceaccount,
        secret: payload.kubernetes.secret,
    })
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, &'static str> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| BAD_SHAPE)?;
    serde_json::from_slice(&json).map_err(|_| BAD_CLAIMS)
}

fn instant(seconds: i64) -> Result<Time, &'static str> {
    DateTime::from_timestamp(seconds, 0).ok_or(BAD_CLAIMS)
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
        assert_eq!((claims.token_id.as_str(), &*claims.signer.key_id), ("id-1", "key-1"));
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
            assert_eq!(read(&token(&payload)), Err(BAD_CLAIMS), "{claim}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = read(&text.into());
        }
    }
}
