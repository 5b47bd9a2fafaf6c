//! Keys and issuers: what the API server publishes, and the tokens that are signed so.

use std::collections::BTreeSet;

use super::Index;
use crate::core::{Time, facts::Target, grant::GrantKey, table::Key};

impl Index {
    /// Takes one poll of the API server's keys and issuer in; `None` for an answer that was none. When one is gone, every
    /// grant is decided again, the most urgent first.
    pub fn observe_signers(&mut self, keys: Option<&BTreeSet<String>>, issuer: Option<&str>, now: Time) {
        if self.signers.observe(keys, issuer, now) {
            let grants: Vec<GrantKey> = self.grants.keys().cloned().collect();
            for key in grants {
                self.wake(&key);
            }
            self.mark_all(now);
        }
    }

    /// A target was written, changed or removed: who signed its token counts.
    pub(super) fn signed(&mut self, key: &Key, before: Option<&Target>, now: Time) {
        let after = self.targets.get(key).and_then(|target| target.token.as_ref());
        if self.signers.published(before.and_then(|target| target.token.as_ref()), after) {
            self.mark_all(now);
        }
    }

    pub(super) fn mark_all(&mut self, now: Time) {
        let policies: Vec<Key> = self.policies.iter().map(|(key, _)| key.clone()).collect();
        for key in policies {
            self.statuses.mark(key, now);
        }
    }

    /// How many published tokens each key has signed.
    pub fn tokens_by_key(&self) -> impl Iterator<Item = (&str, usize)> {
        self.signers.tokens()
    }
}
