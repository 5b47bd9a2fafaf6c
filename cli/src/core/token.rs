//! Tokens in texts, and their claims. Nothing here shows a token.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::DateTime;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokenward::record::{Time, names::is_object_name};

use super::text::plain;

/// Shorter words hold no token in base64.
const SHORT: usize = 64;
/// Characters of a DNS label (RFC 1123).
const MAX_LABEL: usize = 63;

/// The tokens in a text, each once: of a Secret's value, a kubeconfig, a file in any format, also in base64 as the data of a
/// Secret in YAML or JSON.
pub fn tokens(text: &str) -> Vec<SecretString> {
    let mut found: Vec<&str> = Vec::new();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        if Claims::read_text(word).is_some() && !found.contains(&word) {
            found.push(word);
        }
    }
    if found.is_empty() { encoded(text) } else { found.into_iter().map(SecretString::from).collect() }
}

fn encoded(text: &str) -> Vec<SecretString> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')));
    let decoded =
        words.filter(|word| word.len() >= SHORT).filter_map(|word| String::from_utf8(STANDARD.decode(word).ok()?).ok());
    decoded.map(|text| tokens(&text)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// Whether a namespace can be called so: a DNS label (RFC 1123).
pub fn is_namespace(name: &str) -> bool {
    name.len() <= MAX_LABEL && !name.contains('.') && is_object_name(name)
}

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub uid: String,
}

/// The claims of a `ServiceAccount` token of any kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `alg` and `kid` of the header.
    pub algorithm: String,
    pub key_id: String,
    /// `jti`; empty for legacy tokens.
    pub id: String,
    pub issuer: String,
    pub audiences: Vec<String>,
    pub issued_at: Option<Time>,
    pub not_before: Option<Time>,
    /// Legacy tokens have none.
    pub expires_at: Option<Time>,
    pub namespace: String,
    pub account: Object,
    /// Kind and object that it lives and dies with, besides its account.
    pub bound: Option<(&'static str, Object)>,
    /// The token of a Secret of type `kubernetes.io/service-account-token`.
    pub legacy: bool,
}

impl Claims {
    /// Reads a token; `None` for a text that is no `ServiceAccount` token.
    pub fn read(token: &SecretString) -> Option<Self> {
        Self::read_text(token.expose_secret())
    }

    fn read_text(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, payload, _) = (json(parts.next()?)?, json(parts.next()?)?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let text = |value: &Value| plain(value.as_str().unwrap_or_default());
        let time = |claim: &str| DateTime::from_timestamp(payload[claim].as_i64()?, 0);
        let common = Self {
            algorithm: text(&header["alg"]),
            key_id: text(&header["kid"]),
            id: text(&payload["jti"]),
            issuer: text(&payload["iss"]),
            audiences: list(&payload["aud"]),
            issued_at: time("iat"),
            not_before: time("nbf"),
            expires_at: time("exp"),
            ..Self::default()
        };
        let claims = common.of_bound(&payload["kubernetes.io"]).or_else(|| common.of_legacy(&payload))?;
        claims.has_legal_names().then_some(claims)
    }

    /// Anybody can write a token, and its names get into the paths of requests.
    fn has_legal_names(&self) -> bool {
        let bound = self.bound.iter().map(|(_, object)| object);
        is_namespace(&self.namespace) && bound.chain([&self.account]).all(|object| is_object_name(&object.name))
    }

    fn of_bound(&self, claim: &Value) -> Option<Self> {
        let bound = [("Pod", "pod"), ("Secret", "secret"), ("Node", "node")];
        let bound = bound.into_iter().find_map(|(kind, key)| Some((kind, object(&claim[key])?)));
        let namespace = plain(claim["namespace"].as_str()?);
        Some(Self { namespace, account: object(&claim["serviceaccount"])?, bound, ..self.clone() })
    }

    fn of_legacy(&self, payload: &Value) -> Option<Self> {
        let text = |claim: &str| Some(plain(payload[format!("kubernetes.io/serviceaccount/{claim}")].as_str()?));
        let account = Object { name: text("service-account.name")?, uid: text("service-account.uid")? };
        // Legacy tokens name no UID of their Secret.
        let secret = Object { name: text("secret.name")?, uid: String::new() };
        Some(Self {
            namespace: text("namespace")?,
            account,
            bound: Some(("Secret", secret)),
            legacy: true,
            ..self.clone()
        })
    }
}

fn json(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn object(value: &Value) -> Option<Object> {
    let text = |field: &str| Some(plain(value[field].as_str()?));
    Some(Object { name: text("name")?, uid: text("uid")? })
}

/// `aud` is one text or several (RFC 7519, 4.1.3).
fn list(value: &Value) -> Vec<String> {
    let several = value.as_array().into_iter().flatten().chain(value.is_string().then_some(value));
    several.filter_map(|one| one.as_str().map(plain)).collect()
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A token with these claims and no valid signature.
    pub fn token(payload: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", encode(&json!({"alg": "ES256", "kid": "key-1"})), encode(payload))
    }

    pub fn payload() -> Value {
        json!({
            "jti": "id-1", "iss": "https://issuer", "aud": ["https://api"], "iat": 1000, "nbf": 1000, "exp": 4600,
            "kubernetes.io": {
                "namespace": "ci",
                "serviceaccount": {"name": "deployer", "uid": "sa-1"},
                "secret": {"name": "tw-1", "uid": "anchor-1"},
            },
        })
    }

    fn found(text: &str) -> Vec<String> {
        tokens(text).iter().map(|token| token.expose_secret().to_owned()).collect()
    }

    #[test]
    fn finds_tokens_in_texts_of_any_format() {
        let token = token(&payload());
        let encoded = STANDARD.encode(format!("token: {token}\n"));
        for text in [
            token.clone(),
            format!("{{\"users\": [{{\"user\": {{\"token\": \"{token}\"}}}}]}}"),
            format!("users:\n- user:\n    token: {token}\n"),
            format!("Authorization: Bearer {token}\r\n{token}"),
            format!("apiVersion: v1\nkind: Secret\ndata:\n  name: eA==\n  config: {encoded}\n"),
        ] {
            assert_eq!(found(&text), std::slice::from_ref(&token), "{text}");
        }
        for text in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30.x", &format!("{token}.x"), &encoded[..40]] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn reads_bound_and_legacy_tokens() {
        let read = |payload: &Value| Claims::read(&token(payload).into());
        let claims = read(&payload()).unwrap();
        assert_eq!((claims.namespace.as_str(), claims.account.name.as_str()), ("ci", "deployer"));
        assert_eq!(claims.bound, Some(("Secret", Object { name: "tw-1".into(), uid: "anchor-1".into() })));
        let legacy = json!({
            "iss": "kubernetes/serviceaccount", "aud": "one",
            "kubernetes.io/serviceaccount/namespace": "ci",
            "kubernetes.io/serviceaccount/service-account.name": "deployer",
            "kubernetes.io/serviceaccount/service-account.uid": "sa-1",
            "kubernetes.io/serviceaccount/secret.name": "old",
        });
        let claims = read(&legacy).unwrap();
        assert_eq!((claims.legacy, claims.expires_at, claims.audiences), (true, None, vec!["one".to_owned()]));
        assert_eq!(read(&json!({"iss": "https://idp", "sub": "me"})), None, "the token of a person");
        for (place, name) in [
            ("/kubernetes.io/namespace", "x/services/http:evil:80/proxy/x?y="),
            ("/kubernetes.io/namespace", ""),
            ("/kubernetes.io/namespace", "a.b"),
            ("/kubernetes.io/serviceaccount/name", "../x"),
            ("/kubernetes.io/secret/name", "x?y"),
        ] {
            let mut forged = payload();
            *forged.pointer_mut(place).unwrap() = name.into();
            assert_eq!(read(&forged), None, "{place} {name}");
        }
        let mut forged = legacy;
        forged["kubernetes.io/serviceaccount/namespace"] = "..".into();
        assert_eq!(read(&forged), None);
        let mut forged = payload();
        forged["iss"] = "https://\u{1b}[31missuer".into();
        assert_eq!(read(&forged).unwrap().issuer, "https:// [31missuer");
    }
}
