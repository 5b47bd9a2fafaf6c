//! Which name a grant's target has, and who may have it.

use std::cmp::Reverse;

use super::facts::{Policy, Target};

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

/// A policy that wants a name for an account.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Name of the policy.
    pub policy_name: &'a str,
    /// The policy.
    pub policy: &'a Policy,
    /// The account it wants the name for.
    pub account: &'a str,
}

/// Of several claims to one name, the one that has it.
///
/// The incumbent is the policy that the Secret was written for, while it still wants the name for the same
/// account: an edit of another policy never takes a Secret away. A free name goes to the older policy,
/// then to the lower name.
#[must_use]
pub fn holder<'a>(claims: &'a [Claim<'a>], occupant: Option<&Target>) -> Option<&'a Claim<'a>> {
    claims.iter().max_by_key(|claim| {
        let incumbent = occupant
            .is_some_and(|target| *target.policy == *claim.policy_name && *target.service_account == *claim.account);
        (incumbent, Reverse((claim.policy.created, claim.policy_name, claim.account)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
