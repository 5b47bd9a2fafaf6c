//! Which of several grants has a name that all of them want.

use std::cmp::Reverse;

use crate::core::id::{Name, Secs};

/// A grant that wants a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The Secret of that name was written for this policy and account.
    pub incumbent: bool,
    /// When the policy was created.
    pub created: Secs,
    /// Name of the policy.
    pub policy: Name,
    /// Name of the account.
    pub account: Name,
}

/// The claim that holds.
///
/// The incumbent is the policy that the Secret was written for, while it still wants the name for the same
/// account: an edit of another policy never takes a Secret away. A free name goes to the older policy,
/// then to the lower name.
#[must_use]
pub fn holder(claims: &[Claim]) -> Option<&Claim> {
    claims.iter().max_by_key(|claim| (claim.incumbent, Reverse((claim.created, &claim.policy, &claim.account))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(incumbent: bool, created: &str, policy: &str) -> Claim {
        let created = Secs::of(crate::core::meta::time(created).unwrap());
        Claim { incumbent, created, policy: policy.into(), account: "a".into() }
    }

    #[test]
    fn the_incumbent_then_the_older_then_the_lower_name_has_it() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        for (claims, holds) in [
            ([claim(false, early, "a"), claim(true, late, "b")], "b"),
            ([claim(false, late, "a"), claim(false, early, "b")], "b"),
            ([claim(false, early, "b"), claim(false, early, "a")], "a"),
        ] {
            assert_eq!(holder(&claims).map(|claim| &*claim.policy), Some(holds), "{claims:?}");
        }
    }
}
