//! Waiting for a state that comes by itself.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Checks every 50 ms until `check` is `Ok`, at most for `within`.
///
/// # Errors
/// The last error of `check`, with `what` and the time waited in front of it.
pub async fn eventually<T>(within: Duration, what: &str, check: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    eventually_every(Duration::from_millis(50), within, what, check).await
}

/// As [`eventually`], with another pause between two checks.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_every<T>(
    pause: Duration,
    within: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        let answer = tokio::time::timeout(left.max(pause), check()).await;
        let error = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(elapsed) => anyhow::Error::new(elapsed).context("the check itself did not end"),
        };
        if start.elapsed() >= within {
            return Err(error).with_context(|| format!("not within {within:?}: {what}"));
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{bail, ensure};

    #[tokio::test]
    async fn returns_the_first_success() {
        let mut tries = 0;
        let got = eventually(Duration::from_secs(5), "three tries", async || {
            tries += 1;
            ensure!(tries == 3, "only {tries}");
            Ok(tries)
        });
        assert_eq!(got.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn tells_what_was_awaited_and_the_last_error() {
        let never = eventually(Duration::from_millis(60), "a miracle", async || -> Result<()> { bail!("no") });
        let text = format!("{:#}", never.await.unwrap_err());
        assert!(text.contains("a miracle") && text.ends_with("no"), "{text}");
    }

    #[tokio::test]
    async fn ends_a_check_that_hangs() {
        let hung =
            eventually(Duration::from_millis(60), "an answer", async || std::future::pending::<Result<()>>().await);
        assert!(hung.await.is_err());
    }
}
