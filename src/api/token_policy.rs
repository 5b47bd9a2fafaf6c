//! `TokenPolicy`: which accounts get tokens, how long these live, and where they are written.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn has attributes of the same names")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    cron,
    duration::{self, Duration},
    foreign,
    format::{self, FormatOptions},
    schema::{self, Form},
};

/// Keeps bound ServiceAccount tokens alive in Secrets: one Secret per selected account, rotated before
/// its token expires.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "tokenward.dev",
    version = "v1alpha1",
    kind = "TokenPolicy",
    plural = "tokenpolicies",
    shortname = "tp",
    category = "tokenward",
    namespaced,
    status = "TokenPolicyStatus",
    derive = "PartialEq",
    doc = "Keeps bound ServiceAccount tokens alive in Secrets of its own namespace, and revokes them when it is deleted.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every selected account has a valid token"
    ),
    printcolumn(
        name = "Accounts",
        type_ = "string",
        json_path = ".status.accounts.summary",
        description = "Accounts with a valid token, of those selected"
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.earliestExpiration",
        description = "When the first of the tokens expires"
    ),
    printcolumn(
        name = "Next-Rotation",
        type_ = "string",
        json_path = ".status.nextRotation",
        description = "When the next token is replaced"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    ),
    printcolumn(
        name = "Format",
        type_ = "string",
        json_path = ".spec.secret.format.type",
        priority = 1,
        description = "Shape of the Secret"
    ),
    printcolumn(
        name = "Granted",
        type_ = "string",
        json_path = ".status.grantedDuration",
        priority = 1,
        description = "Lifetime the API server granted"
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
#[x_kube(
    validation = Rule::new("(has(self.serviceAccounts.names) && size(self.serviceAccounts.names) == 1) || !has(self.secret) || !has(self.secret.name) || self.secret.name.contains('{serviceAccount}')")
        .message(Message::Expression(format!("'secret.name ' + {} + ' would give one Secret to several accounts; put {{serviceAccount}} into it'", schema::shown("self.secret.name")))),
    validation = Rule::new("!has(self.secret) || !has(self.secret.format) || !(self.secret.format.type in ['Kubeconfig', 'ArgoCDCluster', 'IstioRemoteSecret']) || !has(self.token) || !has(self.token.audiences) || size(self.token.audiences) == 0")
        .message(Message::Expression(format!("'format ' + self.secret.format.type + ' talks to the API server, so token.audiences must be empty, and has ' + {} + '; remove the audiences or use format type Token or Custom'", schema::shown("self.token.audiences[0]")))),
    validation = format::type_kept(),
    validation = Rule::new("!has(self.token) || !has(self.token.binding) || self.token.binding == 'Anchor' || !has(self.rotation) || (!has(self.rotation.overlap) && !has(self.rotation.maxAge))")
        .message(Message::Expression(format!("(has(self.rotation.overlap) ? 'rotation.overlap ' + {} : 'rotation.maxAge ' + {}) + ' needs tokens that are revoked one by one, which token.binding ' + self.token.binding + ' does not give; use token.binding Anchor, or remove rotation.overlap and rotation.maxAge'", schema::shown("self.rotation.overlap"), schema::shown("self.rotation.maxAge"))))
)]
pub struct TokenPolicySpec {
    /// The accounts that get a token, always in the policy's own namespace. Set exactly one of names and selector.
    pub service_accounts: ServiceAccounts,
    /// The token that the operator requests from the API server.
    #[serde(default)]
    pub token: TokenOptions,
    /// When a token is replaced, and how long the old one stays valid.
    #[serde(default)]
    pub rotation: Rotation,
    /// The Secret that the consumer reads.
    #[serde(default)]
    pub secret: Secret,
    /// Stops issuing. Existing tokens go on until they expire, and revoking still works.
    #[serde(default)]
    pub suspend: bool,
    /// Fate of Secrets and tokens when the policy is deleted or stops selecting an account: Delete removes and revokes
    /// them, Retain leaves them until they expire. A change rotates the tokens.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

const ACCOUNT: Form = (
    schema::SUBDOMAIN,
    "write the name of a ServiceAccount: lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each '.'",
);

/// Exactly one of `names` and `selector`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.names) != has(self.selector)")
        .message("set exactly one of serviceAccounts.names and serviceAccounts.selector")
)]
pub struct ServiceAccounts {
    /// Names of ServiceAccounts, 1 to 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("items" = schema::text(253, ACCOUNT)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub names: Option<Vec<String>>,
    /// Labels of ServiceAccounts; {} selects every account of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub selector: Option<LabelSelector>,
}

/// The TokenRequest.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct TokenOptions {
    /// Audiences of the token; empty means the API server itself. An administrator's limit names those that are
    /// allowed. Must be empty with the formats Kubeconfig, ArgoCDCluster and IstioRemoteSecret.
    #[serde(default)]
    #[schemars(length(max = 16), extend("items" = schema::text(512, schema::LINE)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub audiences: Vec<String>,
    /// Requested lifetime, at least 10m. The server may grant less; rotation follows the granted lifetime.
    #[serde(default = "default_duration")]
    #[x_kube(
        validation = duration::at_least("10m", "the API server issues no token for less than 10 minutes; ask for 10m or more")
    )]
    pub duration: Duration,
    /// Object that a token lives and dies with: Anchor is an empty Secret per token, so that each token can be revoked
    /// alone; Target is the Secret that holds the token; None is only its ServiceAccount.
    #[serde(default)]
    pub binding: Binding,
}

/// The object that a token is bound to.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "a description of a variant makes the schema unstructural")]
pub enum Binding {
    #[default]
    Anchor,
    Target,
    None,
}

/// 24 hours.
#[must_use]
pub fn default_duration() -> Duration {
    Duration::from_secs(24 * 3600)
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self { audiences: Vec::new(), duration: default_duration(), binding: Binding::default() }
    }
}

/// The schedule of replacements.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxAge) || has(self.overlap)")
        .message(Message::Expression(format!("'rotation.maxAge ' + {} + ' needs rotation.overlap: say how long the old token stays valid, at most 7 times maxAge'", schema::shown("self.maxAge")))),
    validation = Rule::new("!has(self.maxAge) || !has(self.overlap) || ![self.maxAge, self.overlap].all(d, d.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')) || duration(self.overlap).getSeconds() <= 7 * duration(self.maxAge).getSeconds()")
        .message(Message::Expression(format!("'rotation.overlap ' + {} + ' must be at most 7 times rotation.maxAge ' + {} + ', so that no more than 8 old tokens live at once; shorten overlap or lengthen maxAge'", schema::shown("self.overlap"), schema::shown("self.maxAge"))))
)]
pub struct Rotation {
    /// Renew when this share of the granted lifetime is left, 5 to 85 percent.
    #[serde(default = "default_renew_before")]
    #[schemars(range(min = 5, max = 85), transform = schema::unformatted)]
    pub renew_before_percentage: i32,
    /// Renew at the latest this long after issue, at least 1m. Needs overlap, and token.binding Anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = duration::at_least("1m", "rotation.maxAge must be at least 1m; write 1m or more")
    )]
    pub max_age: Option<Duration>,
    /// How long the old token stays valid after its successor was published; by default until it expires. At most 7
    /// times maxAge. Needs token.binding Anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Duration>,
    /// Windows for renewals: a token is replaced in the last window that opens before it is due. By default, a token is
    /// replaced when it is due.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub windows: Vec<Window>,
}

/// A span of time that begins again and again.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens, as a CronJob's schedule: five fields, or @daily and the like, but not @every and no time zone.
    #[schemars(length(max = 2 * cron::MAX_LENGTH))]
    #[x_kube(
        validation = Rule::new(cron::rule()).message(cron::FORM),
        validation = Rule::new(cron::EVERY_RULE).message(cron::NO_EVERY),
        validation = Rule::new(cron::TZ_RULE).message(cron::NO_TZ)
    )]
    pub schedule: String,
    /// How long it stays open, at least 1m.
    #[x_kube(
        validation = duration::at_least("1m", "a window must be open for at least 1m; write 1m or more")
    )]
    pub duration: Duration,
    /// IANA time zone of the schedule, such as Europe/Berlin; by default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(64)))]
    #[x_kube(validation = schema::matches(64, cron::ZONE))]
    pub time_zone: Option<String>,
}

fn default_renew_before() -> i32 {
    20
}

impl Default for Rotation {
    fn default() -> Self {
        Self { renew_before_percentage: default_renew_before(), max_age: None, overlap: None, windows: Vec::new() }
    }
}

/// The target Secret.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = foreign::argo_cd_keys(),
    validation = foreign::istio_keys()
)]
pub struct Secret {
    /// Name of the Secret: literal text and the placeholders {policy} and {serviceAccount}.
    #[serde(default = "default_name")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(
        validation = name(),
        validation = Rule::new("!self.startsWith('bootstrap-token-') && !self.startsWith('sh.helm.release.')")
            .message("Secrets named bootstrap-token-… and sh.helm.release.… belong to others; choose another secret.name")
    )]
    pub name: String,
    /// Labels of the Secret. Keys on which other controllers act are refused.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = schema::label_value()))]
    #[x_kube(validation = schema::label_keys("secret.labels"), validation = foreign::keys("labels"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Secret. Keys on which other controllers act are refused.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = schema::label_keys("secret.annotations"), validation = foreign::keys("annotations"))]
    pub annotations: BTreeMap<String, String>,
    /// Shape of the Secret.
    #[serde(default)]
    pub format: FormatOptions,
}

/// What the placeholders stand for is a name by itself, so that one letter stands for it here.
fn name() -> Rule {
    let filled = "self.replace('{policy}', 'x').replace('{serviceAccount}', 'x')";
    Rule::new(format!("size({filled}) <= 253 && {filled}.matches('^{}$')", schema::SUBDOMAIN)).message("write lower-case letters, digits, '-', '.' and the placeholders {policy} and {serviceAccount}, with a letter, digit or placeholder at both ends and beside each '.' (at most 253 characters)")
}

fn default_name() -> String {
    "{policy}-{serviceAccount}".to_owned()
}

impl Default for Secret {
    fn default() -> Self {
        Self {
            name: default_name(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            format: FormatOptions::default(),
        }
    }
}

/// The fate of Secrets and tokens at the end.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "a description of a variant makes the schema unstructural")]
pub enum DeletionPolicy {
    #[default]
    Delete,
    Retain,
}

/// State of the policy as the operator last saw it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = schema::pending()))]
pub struct TokenPolicyStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, Suspended, LifetimeShortened, WindowsUnsatisfiable, RevocationUnsupported,
    /// RevocationFailing, SigningKeysRotating, InternalServer, ClusterAddressContested, ApiAudienceNotAllowed and
    /// ClockSkew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Counts of accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountCounts>,
    /// Lifetime that the API server granted, the shortest where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_duration: Option<Duration>,
    /// When the first of the published tokens expires (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest_expiration: Option<String>,
    /// When the next of the published tokens is replaced (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<String>,
    /// Accounts without a valid token or with failing renewals, at most 20, closest to expiry first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<AccountFailure>,
}

/// How many accounts are in which state.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct AccountCounts {
    /// Accounts the policy selects or names.
    pub selected: i32,
    /// Accounts with a published, valid token of the current generation.
    pub ready: i32,
    /// Accounts whose last attempt failed.
    pub failing: i32,
    /// Ready of selected, as in 3/3.
    pub summary: String,
}

/// Why one account has no fresh token.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountFailure {
    /// Name of the account.
    pub service_account: String,
    /// One word for the cause, from a documented list.
    pub reason: String,
    /// Cause and cure, for people.
    pub message: String,
    /// When this cause was first seen (RFC 3339).
    pub since: String,
}
