//! `BootstrapTokenPolicy`: how long bootstrap tokens may live, and what is found to be wrong with them.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn has attributes of the same names")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    duration::{self, Duration},
    schema,
};

/// Reports faults of the bootstrap tokens in kube-system, and gives tokens that live too long an earlier expiration.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "tokenward.dev",
    version = "v1alpha1",
    kind = "BootstrapTokenPolicy",
    plural = "bootstraptokenpolicies",
    shortname = "btpol",
    category = "tokenward",
    status = "BootstrapTokenPolicyStatus",
    derive = "PartialEq",
    doc = "Reports faults of the bootstrap tokens in kube-system, and gives tokens that live too long an earlier expiration.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the tokens are watched and every cap could be written"
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "Report or Enforce"),
    printcolumn(
        name = "Tokens",
        type_ = "integer",
        json_path = ".status.tokens.total",
        description = "Number of bootstrap tokens"
    ),
    printcolumn(
        name = "Findings",
        type_ = "integer",
        json_path = ".status.tokens.withFindings",
        description = "Number of tokens with findings"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    ),
    printcolumn(
        name = "Max-Age",
        type_ = "string",
        json_path = ".spec.maxAge",
        priority = 1,
        description = "Longest remaining life of a token"
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
pub struct BootstrapTokenPolicySpec {
    /// Report writes nothing but the status. Enforce gives tokens that outlive maxAge an earlier expiration.
    /// The operator's flag --bootstrap-token-cleaner, and not this field, decides whether expired tokens are deleted.
    #[serde(default)]
    pub mode: Mode,
    /// Longest remaining life of a token, at least 10m. With Enforce, a token without expiration or with a later one
    /// expires this long after it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = duration::at_least("10m", "a node needs time to join; write 10m or more")
    )]
    pub max_age: Option<Duration>,
    /// Extra groups that tokens may give; a token with another group is a finding. Without this field, every group is
    /// allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("items" = schema::text(277, GROUP)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub allowed_groups: Option<Vec<String>>,
    /// Labels of Secrets that are exempt from maxAge. Expired tokens are deleted all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub keep: Option<LabelSelector>,
}

const GROUP: schema::Form = (
    "system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]",
    "write a group like system:bootstrappers:workers: that prefix, then lower-case letters, digits, ':' and '-', with a letter or digit at the end",
);

/// Whether a policy writes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "a description of a variant makes the schema unstructural")]
pub enum Mode {
    #[default]
    Report,
    Enforce,
}

/// State of the bootstrap tokens as the operator last saw them.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = schema::pending()))]
pub struct BootstrapTokenPolicyStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Stalled and Overlapping.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Counts of bootstrap tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCounts>,
    /// Faults of tokens, at most 20, by name of the Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<TokenFinding>,
}

/// How many bootstrap tokens are in which state; each is in one.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenCounts {
    /// All bootstrap tokens.
    pub total: i32,
    /// Tokens that have not expired yet.
    pub valid: i32,
    /// Expired tokens.
    pub expired: i32,
    /// Tokens without expiration.
    pub never_expires: i32,
    /// Tokens whose expiration cannot be read; they count as expired.
    pub unparsable: i32,
    /// Tokens with findings.
    pub with_findings: i32,
}

/// A fault of a token.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct TokenFinding {
    /// Name of the Secret in kube-system.
    pub secret: String,
    /// Expired, Unparsable, NeverExpires, BeyondMaxAge, NameMismatch or GroupNotAllowed.
    pub reason: String,
    /// Cause and cure, for people.
    pub message: String,
}
