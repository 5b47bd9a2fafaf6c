//! From a target back to its token, whatever the format: the token is the text in it whose `jti` is the one
//! that the annotations name.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::SecretString;
use serde_json::Value;

use crate::core::{
    credential::token::{self, Minted},
    id::Uid,
    place::{applied::owns_data, record::Record},
};

/// A Secret read whole.
#[derive(Debug)]
pub struct StoredToken {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// The token that its annotations name, if a key of ours still holds it.
    pub token: Option<Minted>,
    /// Its type, which nobody can change.
    pub kind: String,
}

/// Finds the token in the body of a GET of a Secret.
///
/// # Errors
/// When the body is not a Secret. The error never quotes it.
pub fn read(body: &SecretString) -> Result<StoredToken, &'static str> {
    use secrecy::ExposeSecret as _;
    let mut secret: Value = serde_json::from_str(body.expose_secret()).map_err(|_| "the answer is not JSON")?;
    let meta: ObjectMeta =
        serde_json::from_value(secret["metadata"].take()).map_err(|_| "the answer has no metadata")?;
    let token = Record::read(&meta).and_then(|record| find(&meta, &secret["data"], &record));
    Ok(StoredToken { meta, token, kind: secret["type"].as_str().unwrap_or_default().to_owned() })
}

/// Only keys that our Apply entry still owns count: a text that somebody else put there is not our token.
fn find(meta: &ObjectMeta, data: &Value, record: &Record) -> Option<Minted> {
    let data = data.as_object()?;
    let values = data.iter().filter(|(key, _)| owns_data(meta, key)).filter_map(|(_, value)| value.as_str());
    values.filter_map(decode).find_map(|text| tokens(&text).find(|token| fits(token, record)))
}

fn fits(token: &Minted, record: &Record) -> bool {
    record.token.as_ref().is_none_or(|known| known.id == Uid::read(&token.claims.token_id))
        && record.account_uid == Uid::read(&token.claims.account.uid)
}

fn decode(value: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(value).ok()?).ok()
}

/// Every text in the form of a JSON Web Token that a ServiceAccount could have.
fn tokens(text: &str) -> impl Iterator<Item = Minted> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.split(move |c| !is_inner(c)).filter(|word| word.starts_with("eyJ")).filter_map(|word| {
        let secret = SecretString::from(word);
        let claims = token::read(&secret).ok()?;
        Some(Minted { secret, claims })
    })
}
