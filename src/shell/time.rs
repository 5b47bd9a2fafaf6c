//! The clock: the API server's, carried on by the local monotonic clock.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use crate::core::Time;
use chrono::{DateTime, TimeDelta, Utc};

/// A `Date` header has whole seconds, so within this much of its middle the clocks agree.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// Now, by the API server's clock. Steps of the local clock do not move it.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    wall: DateTime<Utc>,
    offset: AtomicI64,
    /// Milliseconds that the local wall clock was last seen ahead of the monotonic one.
    drift: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), wall: Utc::now(), offset: AtomicI64::new(0), drift: AtomicI64::new(0) }
    }
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.at(Instant::now(), self.offset.load(Ordering::Relaxed))
    }

    /// Follows the `Date` header of the answer to a call that was sent then. The server wrote it at some moment
    /// between sending and now, so an answer that was long on its way says nothing against the clock.
    pub fn follow(&self, date: &str, sent: Instant) {
        let Ok(date) = DateTime::parse_from_rfc2822(date) else {
            return;
        };
        let middle = date.to_utc() + TimeDelta::milliseconds(500);
        let (received, way) = (Instant::now(), TimeDelta::from_std(sent.elapsed()).unwrap_or(TimeDelta::MAX));
        let corrected = |offset: i64| {
            let now = self.at(received, offset);
            let behind = middle - middle.clamp(now - way, now);
            (behind.abs() > TOLERANCE).then(|| offset + behind.num_milliseconds())
        };
        // Of two answers at once each sees the other's correction. No correction is no error.
        let _ = self.offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, corrected);
    }

    fn at(&self, instant: Instant, offset: i64) -> Time {
        let elapsed = TimeDelta::from_std(instant.saturating_duration_since(self.start)).unwrap_or(TimeDelta::MAX);
        self.wall + elapsed + TimeDelta::milliseconds(offset)
    }

    /// Whether the local wall clock has moved against the monotonic one since the last call: it was set, or the
    /// machine slept, when the monotonic clock stands still. Only the API server then knows the time.
    pub fn has_stepped(&self, wall: DateTime<Utc>) -> bool {
        let elapsed = TimeDelta::from_std(self.start.elapsed()).unwrap_or(TimeDelta::MAX);
        let drift = (wall - (self.wall + elapsed)).num_milliseconds();
        let before = self.drift.swap(drift, Ordering::Relaxed);
        TimeDelta::milliseconds(drift - before).abs() > TOLERANCE
    }

    /// How far the local wall clock is ahead of the API server's.
    #[must_use]
    pub fn skew(&self) -> TimeDelta {
        Utc::now() - self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_many_answers_tell_at_once_is_taken_once() {
        let clock = Clock::default();
        let server = Utc::now() + TimeDelta::seconds(1000);
        let date = server.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..100 {
                        clock.follow(&date, Instant::now());
                    }
                });
            }
        });
        assert!((clock.now() - server).abs() <= TimeDelta::seconds(2), "{}", clock.now() - server);
    }

    #[test]
    fn follows_the_server_and_tells_the_skew() {
        let clock = Clock::default();
        let server = Utc::now() + TimeDelta::seconds(100);
        clock.follow(&server.format("%a, %d %b %Y %H:%M:%S GMT").to_string(), Instant::now());
        assert!((clock.now() - server).abs() <= TimeDelta::seconds(2));
        assert!((clock.skew() + TimeDelta::seconds(100)).abs() <= TimeDelta::seconds(2));
    }

    #[test]
    fn a_step_of_the_local_clock_is_seen_once() {
        let clock = Clock::default();
        assert!(!clock.has_stepped(Utc::now()));
        let hour_later = || Utc::now() + TimeDelta::hours(1);
        assert_eq!([clock.has_stepped(hour_later()), clock.has_stepped(hour_later())], [true, false]);
        assert!(clock.has_stepped(Utc::now()), "back again");
    }

    #[test]
    fn small_differences_and_nonsense_change_nothing() {
        let clock = Clock::default();
        clock.follow("yesterday", Instant::now());
        clock.follow(&Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string(), Instant::now());
        assert!(clock.skew().abs() < TimeDelta::milliseconds(50));
    }
}
