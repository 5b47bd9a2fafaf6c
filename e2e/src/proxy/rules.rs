//! What the proxy breaks, and when.

use super::Call;
use anyhow::{Context, Result};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to a call that a rule picks.
#[derive(Clone, Debug)]
pub enum Act {
    /// It waits until the rule's handle lets it go.
    Hold,
    /// The connection is closed without an answer.
    Drop,
    /// It is answered so.
    Fail {
        /// HTTP status.
        status: u16,
        /// The body of the answer.
        body: String,
        /// Headers of the answer, for example `Retry-After`.
        headers: Vec<(String, String)>,
    },
    /// The API server's answer breaks off in its middle (after).
    Truncate,
    /// The request's body (before) or the answer's body (after) becomes this one.
    Replace(String),
}

impl Act {
    /// A failure as the API server words it, with a `Status` of this reason.
    #[must_use]
    pub fn fail(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "reason": reason, "message": message, "code": code,
        });
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self::Fail { status: code, body: body.to_string(), headers }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

type Matches = Box<dyn Fn(&Call) -> bool + Send + Sync>;

/// Which calls, at which moment, and what happens to them.
pub struct Rule {
    matches: Matches,
    nth: Option<u64>,
    pub(super) when: When,
    pub(super) act: Act,
}

impl Rule {
    /// Acts before the call is forwarded: the API server does not see it yet, or never.
    pub fn before(matches: impl Fn(&Call) -> bool + Send + Sync + 'static, act: Act) -> Self {
        Self { matches: Box::new(matches), nth: None, when: When::Before, act }
    }

    /// Acts when the API server has answered: it did what it was asked.
    pub fn after(matches: impl Fn(&Call) -> bool + Send + Sync + 'static, act: Act) -> Self {
        Self { when: When::After, ..Self::before(matches, act) }
    }

    /// Acts on the n-th matching call only, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        Self { nth: Some(n), ..self }
    }
}

/// What becomes of held calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Closed,
    Open,
    Cut,
}

pub(super) struct Active {
    pub(super) rule: Rule,
    hits: AtomicU64,
    acted: watch::Sender<u64>,
    gate: watch::Sender<Gate>,
}

impl Active {
    pub(super) fn new(rule: Rule) -> Self {
        let (acted, gate) = (watch::Sender::new(0), watch::Sender::new(Gate::Closed));
        Self { rule, hits: AtomicU64::new(0), acted, gate }
    }

    pub(super) fn is_over(&self) -> bool {
        *self.gate.borrow() != Gate::Closed
    }

    pub(super) fn counts(&self, call: &Call) -> bool {
        if !(self.rule.matches)(call) {
            return false;
        }
        let hit = self.hits.fetch_add(1, Ordering::SeqCst) + 1;
        self.rule.nth.is_none_or(|nth| nth == hit)
    }

    pub(super) fn acts(&self) {
        self.acted.send_modify(|count| *count += 1);
    }

    /// Waits at the gate; false when the call is to be cut off.
    pub(super) async fn passes(&self) -> bool {
        let mut gate = self.gate.subscribe();
        gate.wait_for(|gate| *gate != Gate::Closed).await.is_ok_and(|gate| *gate == Gate::Open)
    }
}

/// A rule in force; dropping it ends the rule and lets held calls go.
pub struct RuleHandle(Arc<Active>);

impl RuleHandle {
    pub(super) fn new(active: Arc<Active>) -> Self {
        Self(active)
    }

    /// Waits until the rule has acted once: with [`Act::Hold`], until a call is held. At most 30 s.
    ///
    /// # Errors
    /// When nothing came within that time.
    pub async fn reached(&self) -> Result<()> {
        self.reached_times(1, Duration::from_secs(30)).await
    }

    /// As [`RuleHandle::reached`], for `times` calls within a time of your own.
    ///
    /// # Errors
    /// When fewer came within that time.
    pub async fn reached_times(&self, times: u64, within: Duration) -> Result<()> {
        let mut acted = self.0.acted.subscribe();
        let enough = tokio::time::timeout(within, acted.wait_for(|count| *count >= times)).await;
        let short = || format!("the rule acted on {} of {times} calls in {within:?}", self.acted());
        enough.with_context(short)?.with_context(short)?;
        Ok(())
    }

    /// Lets held calls go on and ends the rule.
    pub fn release(&self) {
        self.0.gate.send_replace(Gate::Open);
    }

    /// Closes the connections of held calls and ends the rule: what was held before forwarding is never forwarded.
    pub fn cut(&self) {
        self.0.gate.send_replace(Gate::Cut);
    }

    /// Ends the rule; the same as dropping it.
    pub fn remove(self) {
        drop(self);
    }

    /// How many calls matched, whether or not they were the n-th.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::SeqCst)
    }

    /// How many calls the rule has acted on.
    #[must_use]
    pub fn acted(&self) -> u64 {
        *self.0.acted.borrow()
    }
}

impl Drop for RuleHandle {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str) -> Call {
        let text = String::new;
        Call { method: method.to_owned(), path: text(), query: text(), body: bytes::Bytes::new() }
    }

    #[test]
    fn counts_every_match_and_picks_the_nth() {
        let active = Active::new(Rule::before(|call| call.method == "POST", Act::Drop).nth(2));
        let picked = ["POST", "GET", "POST", "POST"].map(|method| active.counts(&call(method)));
        assert_eq!(picked, [false, false, true, false]);
        assert_eq!(active.hits.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_dropped_handle_opens_the_gate_and_a_cut_one_does_not() {
        let open = Arc::new(Active::new(Rule::before(|_| true, Act::Hold)));
        drop(RuleHandle::new(open.clone()));
        assert!(open.passes().await);
        let cut = Arc::new(Active::new(Rule::before(|_| true, Act::Hold)));
        let handle = RuleHandle::new(cut.clone());
        handle.cut();
        drop(handle);
        assert!(!cut.passes().await);
    }
}
