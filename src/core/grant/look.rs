//! Live GETs: before anything is issued or deleted because something is *not* there, one says so.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::PartialObjectMeta;
use secrecy::SecretString;
use serde::Deserialize;

use super::Account;
use crate::{
    api::token_policy::TokenPolicy,
    core::{
        failure::Failure,
        id::{GrantKey, Name},
        meta, names,
        object::Object,
        place::applied::Demanded,
        policy::PolicyState,
        request::{Accept, Answer, Request, Verb, metadata, parse, secret_path},
    },
};

/// The object that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The Secret of this name.
    Target(Name),
    /// The anchor of this name.
    Anchor(Name),
    /// The policy.
    Policy,
    /// The account.
    Account,
}

/// The answer.
#[expect(clippy::large_enum_variant, reason = "one at a time, and none is kept")]
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A Secret.
    Secret(ObjectMeta),
    /// The policy, with its resourceVersion.
    Policy(u64, PolicyState),
    /// The account, with its resourceVersion.
    Account(u64, Account),
}

/// An empty metadata list has `items: null`.
#[derive(Deserialize)]
struct MetaList {
    items: Option<Vec<Object<PartialObjectMeta<Secret>>>>,
}

impl Look {
    /// The GET.
    #[must_use]
    pub fn request(&self, key: &GrantKey) -> Request {
        let GrantKey { namespace, policy, account } = key;
        match self {
            Self::Target(name) => Request::look("Secret", secret_path(namespace, name), namespace, name),
            // Metadata does not tell the type, so the server is asked for an anchor of this name: a Secret that merely
            // has such a name is not one.
            Self::Anchor(name) => Request {
                verb: Verb::Get,
                path: format!(
                    "/api/v1/namespaces/{namespace}/secrets?fieldSelector=metadata.name%3D{name}%2Ctype%3D{}",
                    names::ANCHOR_TYPE
                ),
                accept: Accept::MetadataList,
                body: SecretString::default(),
                what: format!("get anchor {namespace}/{name}"),
            },
            Self::Policy => Request::read(
                format!("get TokenPolicy {namespace}/{policy}"),
                format!("/apis/tokenward.dev/v1alpha1/namespaces/{namespace}/tokenpolicies/{policy}"),
            ),
            Self::Account => {
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}");
                Request::look("ServiceAccount", path, namespace, account)
            }
        }
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// When the answer proves nothing.
    pub fn read(&self, key: &GrantKey, answer: Answer, demanded: &Demanded) -> Result<Found, Failure> {
        let name = match self {
            Self::Target(name) | Self::Anchor(name) => name,
            Self::Policy => &key.policy,
            Self::Account => &key.account,
        };
        let body = match answer {
            Ok(body) => body,
            Err(refusal) if refusal.is_absent(name) => return Ok(Found::Absent),
            Err(refusal) => return Err(refusal.failure),
        };
        let what = || self.request(key).what;
        Ok(match self {
            Self::Target(_) => Found::Secret(metadata(&what(), &body)?),
            Self::Anchor(_) => {
                let list: MetaList = parse(&what(), &body)?;
                let mut items = list.items.into_iter().flatten();
                let named = items.find(|item| item.metadata.name.as_deref() == Some(name));
                named.map_or(Found::Absent, |item| Found::Secret(item.metadata))
            }
            Self::Policy => {
                let policy: Object<TokenPolicy> = parse(&what(), &body)?;
                Found::Policy(meta::version(&policy.metadata), PolicyState::parse(policy, demanded))
            }
            Self::Account => {
                let meta = metadata(&what(), &body)?;
                Found::Account(meta::version(&meta), Account::read(&meta))
            }
        })
    }
}
