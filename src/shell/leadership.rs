//! Leadership: an instant until which this process may act.

use std::{future::pending, time::Duration};

use tokio::{sync::watch, time::Instant};

/// Whether this process may act. Without an election it always may.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Option<watch::Receiver<Option<Instant>>>);

impl Leadership {
    /// As long as this says.
    #[must_use]
    pub fn until(receiver: watch::Receiver<Option<Instant>>) -> Self {
        Self(Some(receiver))
    }

    /// Whether it may right now.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.left().is_some()
    }

    /// How long it may still act, if at all. It is asked again for every write, as a process may sleep without noticing.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let Some(until) = &self.0 else { return Some(Duration::MAX) };
        let left = until.borrow().map(|until| until.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero())
    }

    /// Resolves when that may have changed.
    pub async fn changed(&mut self) {
        let Some(until) = &mut self.0 else { return pending().await };
        if until.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}
