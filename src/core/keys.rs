//! Labels, annotations and types that Tokenward writes and reads. Other tools rely on these names.

/// The field manager of every write.
pub const MANAGER: &str = "tokenward";

/// Label: `target` or `anchor`. The watch on targets selects by it.
pub const ROLE: &str = "tokenward.dev/role";
/// Label: UID of the policy that a Secret was written for.
pub const POLICY_UID: &str = "tokenward.dev/policy-uid";
/// Label for people; other tools overwrite it, so nothing here reads it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Value of [`ROLE`] on the Secret that a consumer reads.
pub const TARGET_ROLE: &str = "target";
/// Value of [`ROLE`] on the Secret that a token is bound to.
pub const ANCHOR_ROLE: &str = "anchor";
/// Type of every anchor. Types are immutable, so no label can make us take another Secret for an anchor.
pub const ANCHOR_TYPE: &str = "tokenward.dev/anchor";
/// How the name of every anchor starts.
pub const ANCHOR_PREFIX: &str = "tw-";

/// Name of the policy.
pub const POLICY: &str = "tokenward.dev/policy";
/// Name of the target; a renamed copy of a target is not ours.
pub const TARGET: &str = "tokenward.dev/target";
/// Name of the account.
pub const SERVICE_ACCOUNT: &str = "tokenward.dev/service-account";
/// UID of the account.
pub const SERVICE_ACCOUNT_UID: &str = "tokenward.dev/service-account-uid";
/// The token's `jti`.
pub const TOKEN_ID: &str = "tokenward.dev/token-id";
/// The token's `kid`.
pub const KEY_ID: &str = "tokenward.dev/key-id";
/// The token's `iss`.
pub const ISSUER: &str = "tokenward.dev/issuer";
/// The token's `iat`.
pub const ISSUED_AT: &str = "tokenward.dev/issued-at";
/// The token's `exp`.
pub const EXPIRES_AT: &str = "tokenward.dev/expires-at";
/// Name of the Secret the token is bound to: its anchor, or the target itself; empty for none.
pub const ANCHOR: &str = "tokenward.dev/anchor";
/// UID of that Secret.
pub const ANCHOR_UID: &str = "tokenward.dev/anchor-uid";
/// On a policy: rotate when this value is new. On a target: the value it was issued under.
pub const ROTATE: &str = "tokenward.dev/rotate";
/// On a policy or a target: every token issued before this instant is revoked.
pub const REVOKE_ISSUED_BEFORE: &str = "tokenward.dev/revoke-issued-before";
/// Beside it: why, in one word.
pub const REVOKE_REASON: &str = "tokenward.dev/revoke-reason";
/// Older tokens that may still be valid, as JSON.
pub const PREVIOUS: &str = "tokenward.dev/previous";
/// Hash over what needs a new token when it changes.
pub const TOKEN_INPUTS: &str = "tokenward.dev/token-inputs";
/// Hash over what needs only a new rendering when it changes.
pub const LAYOUT: &str = "tokenward.dev/layout";
/// On an anchor: no token bound to it outlives this instant.
pub const DIES_AT_LATEST: &str = "tokenward.dev/dies-at-latest";

/// Every annotation of a target. All are always written, so a missing one was removed by somebody else.
pub const TARGET_ANNOTATIONS: [&str; 15] = [
    ANCHOR,
    ANCHOR_UID,
    EXPIRES_AT,
    ISSUED_AT,
    ISSUER,
    KEY_ID,
    LAYOUT,
    POLICY,
    PREVIOUS,
    ROTATE,
    SERVICE_ACCOUNT,
    SERVICE_ACCOUNT_UID,
    TARGET,
    TOKEN_ID,
    TOKEN_INPUTS,
];

/// Every label of a target.
pub const TARGET_LABELS: [&str; 3] = [MANAGED_BY, POLICY_UID, ROLE];
