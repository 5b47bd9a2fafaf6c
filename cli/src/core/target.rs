//! The Secrets that the operator wrote, as their metadata describes them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokenward::record::Record;

/// A target: the Secret that a consumer reads.
#[derive(Clone, Debug)]
pub struct Target {
    pub namespace: String,
    pub name: String,
    pub record: Record,
}

impl Target {
    /// `None` for a Secret that is no target.
    pub fn read(meta: &ObjectMeta) -> Option<Self> {
        let record = Record::read(meta)?;
        Some(Self { namespace: meta.namespace.clone()?, name: meta.name.clone()?, record })
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;
    use tokenward::record::{Time, time};

    use super::*;

    pub fn at(text: &str) -> Time {
        time(text).unwrap()
    }

    /// The metadata of a target of policy `ci/deployers`, issued at midnight for a day, with one older token.
    pub fn meta(account: &str) -> ObjectMeta {
        let previous = json!([{
            "anchor": format!("tw-old-{account}"), "uid": "u0", "token-id": format!("old-{account}"),
            "issued-at": "2026-11-27T12:00:00Z", "retires-at": "2026-11-28T14:00:00Z",
        }]);
        let name = format!("deployers-{account}");
        let said = [
            ("policy", "deployers"),
            ("target", &name),
            ("service-account", account),
            ("service-account-uid", "a1"),
            ("token-id", &format!("id-{account}")),
            ("key-id", "key-1"),
            ("issuer", "https://issuer"),
            ("issued-at", "2026-11-28T00:00:00Z"),
            ("expires-at", "2026-11-29T00:00:00Z"),
            ("anchor", &format!("tw-{account}")),
            ("anchor-uid", "u1"),
            ("previous", &previous.to_string()),
        ];
        let annotations = said.map(|(key, value)| (format!("tokenward.dev/{key}"), value.to_owned()));
        ObjectMeta {
            namespace: Some("ci".into()),
            name: Some(name),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        }
    }

    /// As [`meta`]. Ids are short here: of a longer text that is no UUID only a digest is kept.
    pub fn target(account: &str) -> Target {
        Target::read(&meta(account)).unwrap()
    }

    #[test]
    fn a_renamed_copy_is_no_target() {
        assert!(Target::read(&ObjectMeta { name: Some("copy".into()), ..meta("deployer") }).is_none());
    }
}
