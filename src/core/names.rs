//! Labels, annotations and types that Tokenward writes and reads, and how objects may be called. Other tools rely on these
//! names.

use super::id::{Name, stable_hash};
pub use crate::api::foreign::MANAGED_BY;

/// The field manager of every write.
pub const MANAGER: &str = "tokenward";

/// Label: `target` or `anchor`. The watch on targets selects by it.
pub const ROLE: &str = "tokenward.dev/role";
/// Label: UID of the policy that a Secret was written for.
pub const POLICY_UID: &str = "tokenward.dev/policy-uid";

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

/// Longest name of a Secret: it is a DNS subdomain (RFC 1123).
const MAX_NAME: usize = 253;

/// Join tokens, and releases of Helm. The schema refuses them as well, where no placeholder hides them.
const BELONG_TO_OTHERS: [&str; 2] = ["bootstrap-token-", "sh.helm.release."];

/// The name that `policy` wants for the target of `account`.
///
/// # Errors
/// With the reason, when that is not a legal name of a Secret.
pub fn target_name(template: &str, policy: &str, account: &str) -> Result<String, String> {
    let name = template.replace("{policy}", policy).replace("{serviceAccount}", account);
    if name.len() > MAX_NAME {
        return Err(format!(
            "the Secret's name {name:.40}… would have {} characters, more than {MAX_NAME}",
            name.len()
        ));
    }
    if BELONG_TO_OTHERS.iter().any(|start| name.starts_with(start)) {
        return Err(format!("Secrets named like {name:.40} belong to others"));
    }
    if is_object_name(&name) { Ok(name) } else { Err(format!("{name:?} is not a legal name of a Secret")) }
}

/// Whether an object can be called so: a DNS subdomain (RFC 1123). Anything else in an annotation was put there by
/// somebody else, and must not get into a request's path.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && name.split('.').all(label)
}

/// Digits of an anchor's name.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// So many digits are drawn for each name.
const DRAWN: usize = 10;

/// The name of a fresh anchor: ten characters of base 36, drawn by hashing. Names must not collide in a namespace,
/// nothing more.
#[must_use]
pub fn anchor(seed: u64, number: u64) -> Name {
    let mut left = stable_hash([seed.to_string().as_str(), number.to_string().as_str()]);
    let mut name = Name::from(ANCHOR_PREFIX);
    for _ in 0..DRAWN {
        name.push(char::from(DIGITS[usize::try_from(left % 36).unwrap_or(0)]));
        left /= 36;
    }
    name
}

/// A text without the digits of anchors' names.
#[must_use]
pub fn without_anchors(text: &str) -> String {
    let mut parts = text.split(ANCHOR_PREFIX);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|c: char| DIGITS.iter().any(|digit| char::from(*digit) == c));
        let drawn = part.len() - rest.len() == DRAWN;
        text + ANCHOR_PREFIX + if drawn { "…" } else { "" } + if drawn { rest } else { part }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_no_anchor() {
        let told = |text: &str| without_anchors(text);
        assert_eq!(
            told("secrets \"tw-0a1b2c3d4e\" is forbidden, tw-9z8y7x6w5v too"),
            "secrets \"tw-…\" is forbidden, tw-… too"
        );
        assert_eq!(told(&format!("{} x", anchor(1, 2))), "tw-… x");
        for text in ["", "tw-", "Secret ci/my-tw-app", "tw-0a1b2c3d4e5f"] {
            assert_eq!(told(text), text);
        }
    }

    #[test]
    fn fills_the_template() {
        assert_eq!(target_name("{policy}-{serviceAccount}", "p", "a").as_deref(), Ok("p-a"));
        assert_eq!(target_name("fixed", "p", "a").as_deref(), Ok("fixed"));
    }

    #[test]
    fn refuses_what_no_secret_can_be_called() {
        for template in ["", "x&y=", "a/b", "a b", "-x", "x-", "a..b", ".a", "A", "{policy}."] {
            assert!(target_name(template, "p", "a").is_err(), "{template}");
        }
        for policy in ["bootstrap-token-abcdef", "sh.helm.release.v1.x.v1"] {
            assert!(target_name("{policy}", policy, "a").is_err(), "{policy}");
        }
        let long = target_name("{policy}-{serviceAccount}", &"p".repeat(200), &"a".repeat(60)).unwrap_err();
        assert!(long.contains("261 characters"), "{long}");
    }
}
