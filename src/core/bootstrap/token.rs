//! Facts about a bootstrap token, without the token.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;

use super::Expiration;
use crate::core::{id::Uid, meta};

const NAME_PREFIX: &str = "bootstrap-token-";

/// A bootstrap token's Secret as the watch reads it: there is no field for `token-secret`.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Secret)]
pub struct BootstrapSecret {
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// Nobody can change its data.
    #[serde(default)]
    pub immutable: bool,
    /// The keys that decide.
    pub data: Option<BootstrapData>,
}

/// The data of such a Secret, as far as it is read: usages are not, as other distributions have their own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct BootstrapData {
    expiration: ByteString,
    token_id: ByteString,
    auth_extra_groups: ByteString,
}

/// A bootstrap token as far as decisions need it.
#[derive(Clone, Debug)]
pub struct BootstrapToken {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// Deletion has begun.
    pub terminating: bool,
    /// Its expiration cannot be changed.
    pub immutable: bool,
    /// For the `keep` selectors of policies.
    pub labels: BTreeMap<String, String>,
    /// When it ends.
    pub expiration: Expiration,
    /// The name is `bootstrap-token-` and the token id: else nobody can authenticate with it.
    pub well_named: bool,
    /// The groups it gives besides `system:bootstrappers`.
    pub groups: Vec<Box<str>>,
    /// UID of the object of which it was reported that it would be deleted.
    pub reported: Option<Uid>,
}

impl BootstrapToken {
    /// Reads a Secret as the watch delivers it.
    #[must_use]
    pub fn read(secret: BootstrapSecret) -> Self {
        let BootstrapSecret { metadata, immutable, data } = secret;
        let id = metadata.name.as_deref().and_then(|name| name.strip_prefix(NAME_PREFIX));
        let BootstrapData { expiration, token_id, auth_extra_groups } = data.unwrap_or_default();
        let groups = String::from_utf8_lossy(&auth_extra_groups.0);
        Self {
            well_named: id.is_some_and(|id| is_id(id) && id.as_bytes() == token_id.0),
            reported: None,
            uid: Uid::read(metadata.uid.as_deref().unwrap_or_default()),
            version: meta::version(&metadata),
            terminating: metadata.deletion_timestamp.is_some(),
            immutable,
            labels: metadata.labels.unwrap_or_default(),
            expiration: Expiration::read(&expiration.0),
            // Kubernetes does not trim: a blank belongs to the group and spoils the whole list.
            groups: groups.split(',').filter(|_| !groups.is_empty()).map(Into::into).collect(),
        }
    }
}

/// Six small letters and digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The token id that a Secret's name stands for.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    name.strip_prefix(NAME_PREFIX).filter(|id| is_id(id))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    fn read(name: &str, data: &[(&str, &str)]) -> BootstrapToken {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (*key, ByteString((*value).into()))).collect();
        let secret = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": "7"}, "data": data});
        BootstrapToken::read(serde_json::from_value(secret).unwrap())
    }

    /// A token with this raw expiration.
    pub fn token(expiration: &str) -> BootstrapToken {
        read("bootstrap-token-abc123", &[("token-id", "abc123"), ("expiration", expiration)])
    }

    #[test]
    fn a_secret_without_data_never_expires() {
        for secret in [json!({"metadata": {"name": "x"}}), json!({"metadata": {"name": "x"}, "data": null})] {
            let secret = serde_json::from_value(secret).unwrap();
            assert_eq!(BootstrapToken::read(secret).expiration, Expiration::Never);
        }
    }

    #[test]
    fn the_secret_part_is_never_read() {
        let secret =
            json!({"metadata": {}, "data": {"token-secret": {"not": ["even", "text"]}, "token-id": "YWJjMTIz"}});
        let secret: BootstrapSecret = serde_json::from_value(secret).unwrap();
        assert_eq!(secret.data.unwrap().token_id.0, b"abc123");
        let planted =
            json!({"metadata": {}, "data": {"token-secret": "c2VjcmV0c2VjcmV0", "usage-bootstrap-x": "c2Vj"}});
        let planted: BootstrapSecret = serde_json::from_value(planted).unwrap();
        assert!(!format!("{planted:?}{:?}", BootstrapToken::read(planted.clone())).contains("c2Vj"));
    }

    #[test]
    fn names_must_say_the_id() {
        let id = [("token-id", "abc123")];
        assert!(read("bootstrap-token-abc123", &id).well_named);
        for name in ["bootstrap-token-def456", "abc123", "bootstrap-token-ABC123", "bootstrap-token-"] {
            assert!(!read(name, &id).well_named, "{name}");
        }
    }

    #[test]
    fn groups() {
        let token = read("x", &[("auth-extra-groups", "a,b, c")]);
        assert_eq!(token.groups, ["a".into(), "b".into(), Box::from(" c")]);
        assert!(read("x", &[]).groups.is_empty());
    }
}
