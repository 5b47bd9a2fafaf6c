//! What the metadata of a Secret says of a legacy token.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokenward::record::{ACCOUNT, INVALID_SINCE, LAST_USED};

/// A Secret of type `kubernetes.io/service-account-token`.
pub struct LegacySecret<'a>(pub &'a ObjectMeta);

impl<'a> LegacySecret<'a> {
    pub fn namespace(&self) -> &'a str {
        self.0.namespace.as_deref().unwrap_or_default()
    }

    /// Its name in its namespace.
    pub fn short_name(&self) -> &'a str {
        self.0.name.as_deref().unwrap_or_default()
    }

    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace(), self.short_name())
    }

    pub fn account(&self) -> &'a str {
        self.0.annotations.as_ref().and_then(|all| all.get(ACCOUNT)).map_or("", String::as_str)
    }

    pub fn last_used(&self) -> Option<&str> {
        self.label(LAST_USED)
    }

    /// The day since when nobody has used it for sure: that of its last use; else it was not used since it was created and
    /// since uses are recorded.
    pub fn idle_since(&self, tracked: Option<&str>) -> Option<String> {
        let created = self.0.creation_timestamp.as_ref().map(|time| time.0.to_string());
        let unused = || Some(created?.get(..10)?.max(tracked?).to_owned());
        self.last_used().map(str::to_owned).or_else(unused)
    }

    /// The API server refuses its token.
    pub fn is_quarantined(&self) -> bool {
        self.label(INVALID_SINCE).is_some_and(|since| !since.is_empty())
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.0.labels.as_ref()?.get(name).map(String::as_str)
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A Secret `ci/<name>` of account `deployer`, with a label.
    pub fn legacy(name: &str, label: Option<(&str, &str)>) -> ObjectMeta {
        let mut meta = json!({"namespace": "ci", "name": name, "annotations": {ACCOUNT: "deployer"}});
        meta["creationTimestamp"] = "2026-01-10T00:00:00Z".into();
        if let Some((label, value)) = label {
            meta["labels"] = json!({format!("kubernetes.io/legacy-token-{label}"): value});
        }
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn labels_say_when_it_was_used_and_whether_it_works() {
        let (used, refused) =
            (legacy("a", Some(("last-used", "2026-11-20"))), legacy("b", Some(("invalid-since", "x"))));
        assert_eq!(
            (LegacySecret(&used).last_used(), LegacySecret(&used).is_quarantined()),
            (Some("2026-11-20"), false)
        );
        assert_eq!((LegacySecret(&refused).last_used(), LegacySecret(&refused).is_quarantined()), (None, true));
        assert_eq!((LegacySecret(&used).account(), LegacySecret(&used).name().as_str()), ("deployer", "ci/a"));
    }

    #[test]
    fn a_token_without_a_recorded_use_is_idle_since_uses_are_recorded() {
        let (never, used) = (legacy("a", None), legacy("b", Some(("last-used", "2026-02-01"))));
        let since = |meta: &ObjectMeta, tracked| LegacySecret(meta).idle_since(tracked);
        assert_eq!(since(&never, Some("2025-01-01")).as_deref(), Some("2026-01-10"));
        assert_eq!(since(&never, Some("2026-03-01")).as_deref(), Some("2026-03-01"));
        assert_eq!(since(&never, None), None);
        assert_eq!(since(&used, None).as_deref(), Some("2026-02-01"));
    }
}
