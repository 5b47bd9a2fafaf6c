//! What clients tell the API server where others can read it: paths, statuses, events, labels, annotations; everything but
//! the data of Secrets.

use super::{Call, Minted, Shared, locked};
use crate::control_plane::ISSUER;
use crate::leak::{Finding, Scanner};
use anyhow::Result;
use serde_json::Value;
use std::sync::Arc;

/// Everything that passed through one proxy.
pub struct Told(Arc<Shared>);

impl Told {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The tokens issued so far that are found in it, or in one of these texts, each with its name.
    ///
    /// # Errors
    /// When there are more tokens than fit in memory.
    pub fn leaks(&self, texts: &[(String, Vec<u8>)]) -> Result<Vec<Finding>> {
        let minted = locked(&self.0.minted);
        let scanner = Scanner::new(minted.iter().map(Minted::token), ISSUER)?;
        let mut found = scanner.scan("what was told to the API server", &locked(&self.0.told));
        found.extend(texts.iter().flat_map(|(name, text)| scanner.scan(name, text)));
        Ok(found)
    }
}

/// A body that is no JSON is taken as it is.
pub(super) fn append(told: &mut Vec<u8>, call: &Call) {
    told.extend(format!("\n{} {}?{} ", call.method, call.path, call.query).into_bytes());
    match serde_json::from_slice::<Value>(&call.body) {
        Ok(mut body) if body["kind"] == "Secret" => {
            body["data"].take();
            told.extend(body.to_string().into_bytes());
        }
        _ => told.extend_from_slice(&call.body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_all_but_the_data_of_secrets() {
        let mut told = Vec::new();
        let secret = json!({"kind": "Secret", "metadata": {"name": "shown"}, "data": {"token": "hidden"}});
        for (path, body) in [("/secrets/shown", secret.to_string()), ("/events", "{\"note\": \"told\"}".to_owned())] {
            let (method, query) = ("POST".to_owned(), "asked".to_owned());
            append(&mut told, &Call { method, path: path.to_owned(), query, body: body.into() });
        }
        let told = String::from_utf8(told).unwrap();
        assert!(["/secrets/shown", "asked", "\"shown\"", "\"told\""].iter().all(|text| told.contains(text)), "{told}");
        assert!(!told.contains("hidden"), "{told}");
    }
}
