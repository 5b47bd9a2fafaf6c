//! `BootstrapTokenPolicy`: how long bootstrap tokens may live, and what is found to be wrong with them.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn has attributes of the same names")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{duration::Duration, schema};

/// Reports on the bootstrap tokens of the cluster, and gives those that live too long an earlier end.
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
    doc = "Reports on the bootstrap tokens in kube-system, and gives those that live too long an earlier end.",
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
        description = "Bootstrap tokens there are"
    ),
    printcolumn(
        name = "Findings",
        type_ = "integer",
        json_path = ".status.tokens.withFindings",
        description = "Tokens with which something is wrong"
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
        description = "The longest time that a token may still have"
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
    /// Whether expired tokens are deleted is not decided here but by the operator's flag
    /// --bootstrap-token-cleaner.
    #[serde(default)]
    pub mode: Mode,
    /// The longest time that a token may still have, at least 10m. With Enforce, a token without expiration or with
    /// a later one expires this long after it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('10m')")
            .message("a node needs time to join; write 10m or more")
    )]
    pub max_age: Option<Duration>,
    /// The extra groups that tokens may give; a token with another one is a finding. Without this field any is
    /// allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("items" = schema::text(277, GROUP)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub allowed_groups: Option<Vec<String>>,
    /// Labels of Secrets that are exempt from maxAge. Expired ones are deleted all the same.
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

/// What the operator last saw.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
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
    /// What is wrong with tokens, at most 20, by name of the Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<TokenFinding>,
}

/// How many bootstrap tokens are in which state; each is in one.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenCounts {
    /// All of them.
    pub total: i32,
    /// They expire, but not yet.
    pub valid: i32,
    /// They are expired.
    pub expired: i32,
    /// They have no expiration.
    pub never_expires: i32,
    /// Their expiration cannot be read, which counts as expired.
    pub unparsable: i32,
    /// Something is wrong with them.
    pub with_findings: i32,
}

/// Something that is wrong with a token.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct TokenFinding {
    /// Name of the Secret in kube-system.
    pub secret: String,
    /// Expired, Unparsable, NeverExpires, BeyondMaxAge, NameMismatch or GroupNotAllowed.
    pub reason: String,
    /// What to do, for people.
    pub message: String,
}
