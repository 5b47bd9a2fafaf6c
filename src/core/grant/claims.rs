//! Which of several grants has a name that all of them want.

use std::cmp::Reverse;

use crate::core::id::{Name, Secs};

/// A grant's claim to a name; the greatest holds.
///
/// The incumbent is the policy that the Secret was written for, while it still wants the name for the same
/// account: an edit of another policy never takes a Secret away. A free name goes to the older policy,
/// then to the lower name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The Secret of that name was written for this policy and account.
    pub incumbent: bool,
    /// When the policy was created, its name, and that of the account.
    pub age: Reverse<(Secs, Name, Name)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(incumbent: bool, created: &str, policy: &str) -> Claim {
        let created = Secs::of(crate::core::meta::time(created).unwrap());
        Claim { incumbent, age: Reverse((created, policy.into(), "a".into())) }
    }

    #[test]
    fn the_incumbent_then_the_older_then_the_lower_name_has_it() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        for (loses, holds) in [
            (claim(false, early, "a"), claim(true, late, "b")),
            (claim(false, late, "a"), claim(false, early, "b")),
            (claim(false, early, "b"), claim(false, early, "a")),
        ] {
            assert!(holds > loses, "{holds:?}");
        }
    }
}
