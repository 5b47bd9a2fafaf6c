//! One call to the API server, as data: a decision says the whole call, and whoever sends it adds nothing.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::PartialObjectMeta;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    failure::Failure,
    id::{Key, Uid},
    names,
    object::Object,
    place::secret,
    reason::FailureReason,
};

/// The verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET of an object or a list.
    Get,
    /// POST.
    Create,
    /// Server-side apply.
    Apply,
    /// RFC 7396.
    MergePatch,
    /// RFC 6902.
    JsonPatch,
    /// DELETE with preconditions.
    Delete,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Whatever the server has: the set of keys is of a media type of its own.
    Any,
    /// The whole object.
    Json,
    /// Metadata only: token bytes never come back.
    Metadata,
    /// The same for a list.
    MetadataList,
}

/// One call.
#[derive(Debug)]
pub struct Request {
    /// The verb.
    pub verb: Verb,
    /// Path and query.
    pub path: String,
    /// The form of the answer.
    pub accept: Accept,
    /// The body; empty for none.
    pub body: SecretString,
    /// Verb and object for messages: "create Secret ci/x".
    pub what: String,
}

/// The body of a successful answer, or why there is none.
pub type Answer = Result<SecretString, Box<Refusal>>;

/// Why a call brought nothing.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status, if the API server itself answered.
    pub code: Option<u16>,
    /// The object's name, when the server said it: `details.name`.
    pub object: Option<String>,
    /// For people.
    pub failure: Failure,
}

impl From<Failure> for Box<Refusal> {
    fn from(failure: Failure) -> Self {
        Self::new(Refusal { code: None, object: None, failure })
    }
}

impl Refusal {
    /// A 404 that names the object. The 404 of an API that is not served names nothing and proves nothing.
    #[must_use]
    pub fn is_absent(&self, name: &str) -> bool {
        self.code == Some(404) && self.object.as_deref() == Some(name)
    }
}

/// Path of a Secret.
#[must_use]
pub fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}

impl Request {
    /// Reads the metadata of an object.
    #[must_use]
    pub fn look(kind: &str, path: String, namespace: &str, name: &str) -> Self {
        let what = format!("get {kind} {namespace}/{name}");
        Self { verb: Verb::Get, path, accept: Accept::Metadata, body: SecretString::default(), what }
    }

    /// Reads an object or a list whole.
    #[must_use]
    pub fn read(what: String, path: String) -> Self {
        Self { verb: Verb::Get, path, accept: Accept::Json, body: SecretString::default(), what }
    }

    /// Deletes a Secret of this UID, in this version if one is given.
    #[must_use]
    pub fn delete_secret(namespace: &str, name: &str, uid: Uid, version: Option<u64>) -> Self {
        let mut preconditions = json!({"uid": uid.to_string()});
        if let Some(version) = version {
            preconditions["resourceVersion"] = version.to_string().into();
        }
        Self {
            verb: Verb::Delete,
            path: secret_path(namespace, name),
            accept: Accept::Metadata,
            body: json!({ "preconditions": preconditions }).to_string().into(),
            what: format!("delete Secret {namespace}/{name}"),
        }
    }

    /// Writes an object under our field manager.
    #[must_use]
    pub fn write(verb: Verb, path: &str, body: SecretString, what: String) -> Self {
        let force = if verb == Verb::Apply { "&force=true" } else { "" };
        let path = format!("{path}?fieldManager={}{force}", names::MANAGER);
        Self { verb, path, accept: Accept::Metadata, body, what }
    }
}

/// Reads an answer that holds no token.
///
/// # Errors
/// When it is not what was asked for; the answer itself is never quoted.
pub fn parse<T: DeserializeOwned>(what: &str, body: &SecretString) -> Result<T, Failure> {
    let malformed = |_| Failure::unanswered(what, "the answer has another form than asked for");
    serde_json::from_str(body.expose_secret()).map_err(malformed)
}

/// Reads the metadata in an answer.
///
/// # Errors
/// As [`parse`].
pub fn metadata(what: &str, body: &SecretString) -> Result<ObjectMeta, Failure> {
    parse::<Object<PartialObjectMeta<Secret>>>(what, body).map(|object| object.metadata)
}

/// The answer was no token, or no Secret.
#[must_use]
pub fn rejected(what: &str, error: &str) -> Failure {
    Failure::new(FailureReason::TokenRejected, &format!("{what}: {error}"))
}

/// The write of a status. It is kept off an object that was re-created meanwhile.
#[must_use]
pub fn apply_status(kind: &str, plural: &str, key: &Key, uid: Uid, status: &impl Serialize) -> Request {
    let Key { namespace, name } = key;
    let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    let mut metadata = json!({"name": &**name, "uid": uid.to_string()});
    if !namespace.is_empty() {
        metadata["namespace"] = (&**namespace).into();
    }
    let head = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": kind});
    let mut body = head;
    (body["metadata"], body["status"]) = (metadata, json!(status));
    let path = format!("/apis/tokenward.dev/v1alpha1/{place}{plural}/{name}/status");
    let what =
        format!("apply the status of {kind} {}", if namespace.is_empty() { name.to_string() } else { key.to_string() });
    Request::write(Verb::Apply, &path, secret::apply_body(&body), what)
}
