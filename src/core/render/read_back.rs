//! From a target back to its token, whatever the format: the token is the text in it whose `jti` is the one
//! that the annotations name.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::SecretString;
use serde_json::Value;

use crate::core::{claims, facts::Target, grant::Minted, managed::owns_data};

/// A Secret read whole.
#[derive(Debug)]
pub struct ReadBack {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// The token that its annotations name, if a key of ours still holds it.
    pub token: Option<Minted>,
}

/// Finds the token in the body of a GET of a Secret.
///
/// # Errors
/// When the body is not a Secret. The error never quotes it.
pub fn read(body: &SecretString) -> Result<ReadBack, &'static str> {
    use secrecy::ExposeSecret as _;
    let mut secret: Value = serde_json::from_str(body.expose_secret()).map_err(|_| "the answer is not JSON")?;
    let meta: ObjectMeta =
        serde_json::from_value(secret["metadata"].take()).map_err(|_| "the answer has no metadata")?;
    let token = Target::read(&meta).and_then(|target| find(&meta, &secret["data"], &target));
    Ok(ReadBack { meta, token })
}

/// Only keys that our Apply entry still owns count: a text that somebody else put there is not our token.
fn find(meta: &ObjectMeta, data: &Value, target: &Target) -> Option<Minted> {
    let data = data.as_object()?;
    let values = data.iter().filter(|(key, _)| owns_data(meta, key)).filter_map(|(_, value)| value.as_str());
    values.filter_map(decode).find_map(|text| tokens(&text).find(|token| fits(token, target)))
}

fn fits(token: &Minted, target: &Target) -> bool {
    target.token.as_ref().is_none_or(|known| *known.id == *token.claims.token_id)
        && *target.account_uid == *token.claims.account.uid
}

fn decode(value: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(value).ok()?).ok()
}

/// Every text in the form of a JSON Web Token that a ServiceAccount could have.
fn tokens(text: &str) -> impl Iterator<Item = Minted> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.split(move |c| !is_inner(c)).filter(|word| word.starts_with("eyJ")).filter_map(|word| {
        let secret = SecretString::from(word);
        let claims = claims::read(&secret).ok()?;
        Some(Minted { secret, claims })
    })
}
