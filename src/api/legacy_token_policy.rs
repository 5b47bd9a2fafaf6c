//! `LegacyTokenPolicy`: what becomes of token Secrets that nobody uses.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn has attributes of the same names")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{duration::Duration, schema};

/// Lists Secrets with legacy ServiceAccount tokens, which never expire, and takes those out of use that nobody uses.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "tokenward.dev",
    version = "v1alpha1",
    kind = "LegacyTokenPolicy",
    plural = "legacytokenpolicies",
    shortname = "ltpol",
    category = "tokenward",
    status = "LegacyTokenPolicyStatus",
    derive = "PartialEq",
    doc = "Lists Secrets with legacy ServiceAccount tokens, which never expire, and takes those out of use that nobody uses.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether everything that the mode needs is known and every write worked"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "Report, Quarantine or Delete"
    ),
    printcolumn(
        name = "Tokens",
        type_ = "integer",
        json_path = ".status.tokens.total",
        description = "Number of Secrets with legacy tokens"
    ),
    printcolumn(
        name = "Unused",
        type_ = "integer",
        json_path = ".status.tokens.unused",
        description = "Number of those unused for longer than unusedFor"
    ),
    printcolumn(
        name = "Quarantined",
        type_ = "integer",
        json_path = ".status.tokens.quarantined",
        description = "Number of those whose token the API server refuses"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    ),
    printcolumn(
        name = "Unused-For",
        type_ = "string",
        json_path = ".spec.unusedFor",
        priority = 1,
        description = "How long a token must be unused"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1,
        description = "Why the policy is ready or not"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct LegacyTokenPolicySpec {
    /// Report writes nothing but the status. Quarantine has the API server refuse unused tokens, until somebody lifts that.
    /// Delete deletes their Secrets later, too.
    #[serde(default)]
    pub mode: LegacyMode,
    /// How long a token must be unused before it is quarantined, at least 24h. The day of its last use counts as a whole.
    #[serde(default = "year")]
    #[x_kube(
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('24h')")
            .message("Kubernetes records uses by the day; write 24h or more")
    )]
    pub unused_for: Duration,
    /// How long a token must be quarantined, and nobody try to use it, before its Secret is deleted, at least 24h. Only mode
    /// Delete reads it.
    #[serde(default = "year")]
    #[x_kube(
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('24h')")
            .message("somebody must have the time to miss it; write 24h or more")
    )]
    pub delete_after: Duration,
    /// Labels of Secrets that are reported only: other policies leave them alone as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub keep: Option<LabelSelector>,
    /// Labels of the namespaces that the policy is for. Without this field, it is for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub namespace_selector: Option<LabelSelector>,
}

/// The period of the in-tree cleaner.
fn year() -> Duration {
    Duration::from_secs(365 * 24 * 3600)
}

/// How far a policy goes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "a description of a variant makes the schema unstructural")]
pub enum LegacyMode {
    #[default]
    Report,
    Quarantine,
    Delete,
}

/// The Secrets with legacy tokens as the operator last saw them.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = schema::pending()))]
pub struct LegacyTokenPolicyStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Stalled and Overlapping.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Counts of the Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<LegacyTokenCounts>,
    /// The Secrets, at most 50, the longest unused first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<LegacyTokenFinding>,
}

/// How many Secrets are in which state; each is in one.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LegacyTokenCounts {
    /// All Secrets in the namespaces of the policy.
    pub total: i32,
    /// The API server refuses the token.
    pub quarantined: i32,
    /// A pod refers to the Secret, so nothing is done to it.
    pub mounted: i32,
    /// The field keep of this policy, or of another one that is for the Secret, selects it, so nothing is done to it.
    pub kept: i32,
    /// When the token was last used cannot be known, so nothing is done to it.
    pub unknown: i32,
    /// Used, lifted from quarantine or created within unusedFor.
    pub used: i32,
    /// Unused for longer.
    pub unused: i32,
}

/// A Secret with a legacy token.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LegacyTokenFinding {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub secret: String,
    /// The account whose token it holds.
    pub service_account: String,
    /// Quarantined, Mounted, Kept, Unknown, Used or Unused.
    pub state: String,
    /// When the Secret was created.
    pub created: String,
    /// The day of the last use, as Kubernetes recorded it; none if it recorded none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// Why the state is Unknown, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Pods and accounts that refer to the Secret, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referred_by: Vec<String>,
}
