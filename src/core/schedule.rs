//! When: renewal, retirement, retries and the mint budget. All times come from the server's answers.

use chrono::TimeDelta;

use super::{
    Time,
    id::{Secs, Uid, stable_hash},
    reason::IssueReason,
};
use crate::api::{duration::Duration, token_policy::Rotation};

/// A token is replaced at least this long before it expires: two periods of the one minute after which
/// client-go reads a token file again.
const RESERVE: TimeDelta = TimeDelta::seconds(120);
/// Jitter takes up to this share of the interval, so that a fleet issued together does not rotate together.
const JITTER_SHARE: i32 = 10;
/// Longest pause between two tries of a failing grant.
pub const MAX_BACKOFF: TimeDelta = TimeDelta::seconds(60);
/// Pause after the first failure.
const FIRST_BACKOFF: TimeDelta = TimeDelta::seconds(1);
/// The clocks of several API servers differ by less, and the operator's follows the one that answered last.
const LEAST_STEP: TimeDelta = TimeDelta::seconds(10);
/// Older tokens that a target remembers; with `overlap` ≤ 7 × `maxAge` no more can be alive.
pub const MAX_PREVIOUS: usize = 8;

/// When a token is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When it was issued.
    pub issued: Time,
    /// When it is due, if it need not wait for a window.
    pub due: Time,
    /// When it is replaced at the latest, if it waits for one.
    pub latest: Time,
}

/// Spreads grants over time; the same in every process.
#[must_use]
pub fn spread(policy: Uid, account: Uid) -> u64 {
    stable_hash([policy.to_string().as_str(), account.to_string().as_str()])
}

/// The renewal of a token issued and expiring at these instants.
///
/// `hash` spreads grants: the same value always gives the same instant. Nothing of the result is after `expires`.
/// A wait for a window may use half of the reserve between due time and expiry, but never goes beyond `maxAge`.
#[must_use]
pub fn renewal(issued: Time, expires: Time, rotation: &Rotation, hash: u64) -> Renewal {
    let granted = (expires - issued).max(TimeDelta::zero());
    let share = granted / 100 * (100 - rotation.renew_before_percentage.clamp(5, 85));
    // The reserve of 120 s must not eat more than half of a short life, or renewing would never end.
    let wanted = share.min((granted - RESERVE).max(granted / 2));
    let age = rotation.max_age.map_or(granted, Duration::delta);
    let interval = wanted.min(age);
    let due = interval - jitter(interval / JITTER_SHARE, hash);
    let latest = (due + (granted - due) / 2).min(age.max(due));
    Renewal { issued, due: issued + due, latest: issued + latest }
}

/// When a token is revoked whose successor is published `now`.
#[must_use]
pub fn retires_at(now: Time, expires: Time, overlap: Option<Duration>) -> Time {
    overlap.map_or(expires, |overlap| expires.min(now + overlap.delta()))
}

/// When a grant that failed `failures` times in a row is tried again.
///
/// Exponential from 1 s to 60 s with up to 10 % stable jitter, and never longer than a quarter of what is
/// left of the published token.
#[must_use]
pub fn retry_at(now: Time, failures: u32, expires: Option<Time>, hash: u64) -> Time {
    let doubled = FIRST_BACKOFF * 2_i32.pow(failures.saturating_sub(1).min(6));
    let pause = doubled.min(MAX_BACKOFF);
    let left = expires.map(|end| end - now).filter(|left| *left > TimeDelta::zero());
    let pause = left.map_or(pause, |left| pause.min((left / 4).max(FIRST_BACKOFF)));
    now + (pause - jitter(pause / JITTER_SHARE, hash.rotate_left(failures % 64)))
}

/// The pause after so many failures in a row of work that is cheap and urgent: from 5 ms, as the in-tree controllers' rate
/// limiter, to `longest`.
#[must_use]
pub fn quick_retry(failures: u32, longest: TimeDelta) -> TimeDelta {
    let doubled = TimeDelta::milliseconds(5) * 2_i32.saturating_pow(failures.saturating_sub(1).min(16));
    doubled.min(longest)
}

/// Whether the clock went back since this was asked last.
pub fn went_back(latest: &mut Time, now: Time) -> bool {
    std::mem::replace(latest, now) > now + LEAST_STEP
}

/// A stable share of `most`.
pub fn jitter(most: TimeDelta, hash: u64) -> TimeDelta {
    let millis = u64::try_from(most.num_milliseconds()).unwrap_or(0);
    let part = (u128::from(hash) * u128::from(millis)) >> 64;
    TimeDelta::milliseconds(i64::try_from(part).unwrap_or(0))
}

/// How many tokens one grant may still mint, whatever the cause: the end of every hot loop.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    available: u8,
    /// The repair that was made last.
    last_repair: Option<IssueReason>,
    /// Pace, in seconds.
    interval: u16,
    refilled: Secs,
    /// The last mint; 1970 before the first.
    spent: Secs,
}

/// Mints in a row before the pace is limited.
const BURST: u8 = 3;
/// Pace after the burst, in seconds.
const PACE: u16 = 10;
/// Slowest pace, in seconds, while the same repair repeats: somebody fights us.
const SLOWEST: u16 = 600;
/// After this long without a mint the budget is full again.
const FORGIVEN: TimeDelta = TimeDelta::hours(1);

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            available: BURST,
            last_repair: None,
            interval: PACE,
            refilled: Secs::not_before(now),
            spent: Secs::default(),
        }
    }

    /// The first instant at which a mint is allowed for this reason, `now` or later. Only repairs get slower as they repeat.
    #[must_use]
    pub fn ready_at(&self, now: Time, why: IssueReason) -> Time {
        let pace = if why.is_repair() { self.pace() } else { TimeDelta::seconds(PACE.into()) };
        if self.refill(now).available > 0 { now } else { now.max(self.refilled.time() + pace) }
    }

    /// The clock went back to `now`.
    pub fn rewind(&mut self, now: Time) {
        let now = Secs::of(now);
        (self.refilled, self.spent) = (self.refilled.min(now), self.spent.min(now));
    }

    /// Whether the last mint made the same repair: somebody undid it.
    #[must_use]
    pub fn repeats(&self, why: IssueReason) -> bool {
        self.last_repair == Some(why)
    }

    /// Takes one mint.
    pub fn spend(&mut self, now: Time, why: Option<IssueReason>) {
        *self = self.refill(now);
        // A schedule or a hand undoes nothing.
        let repair = why.filter(|why| why.is_repair());
        let same = repair.is_some() && repair == self.last_repair;
        self.available = self.available.saturating_sub(1);
        self.interval = match (same, self.available) {
            (true, 0) => (self.interval * 2).min(SLOWEST),
            (true, _) => self.interval,
            (false, _) => PACE,
        };
        self.last_repair = repair;
        self.spent = Secs::not_before(now);
        if self.available == 0 {
            self.refilled = Secs::not_before(now);
        }
    }

    fn pace(&self) -> TimeDelta {
        TimeDelta::seconds(self.interval.into())
    }

    fn refill(&self, now: Time) -> Self {
        if now - self.spent.time() >= FORGIVEN {
            return Self::new(now);
        }
        let mut refilled = *self;
        while refilled.available < BURST && now - refilled.refilled.time() >= refilled.pace() {
            refilled.available += 1;
            refilled.refilled = Secs::not_before(refilled.refilled.time() + refilled.pace());
        }
        if refilled.available == BURST {
            refilled.refilled = Secs::not_before(now);
        }
        refilled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn rotation(percentage: i32, max_age: Option<u32>) -> Rotation {
        Rotation {
            renew_before_percentage: percentage,
            max_age: max_age.map(Duration::from_secs),
            ..Rotation::default()
        }
    }

    fn due(issued: Time, expires: Time, rotation: &Rotation, hash: u64) -> Time {
        renewal(issued, expires, rotation, hash).due
    }

    #[test]
    fn a_wait_for_a_window_uses_half_of_the_reserve_and_respects_max_age() {
        assert_eq!(renewal(at(0), at(3600), &rotation(20, None), 0).latest, at(3240));
        assert_eq!(renewal(at(0), at(3600), &rotation(20, Some(3000)), 0).latest, at(3000));
        assert_eq!(renewal(at(0), at(3600), &rotation(20, Some(60)), 0).latest, at(60));
    }

    #[test]
    fn renews_when_the_share_is_left() {
        assert_eq!(due(at(0), at(3600), &rotation(20, None), 0), at(2880));
        assert_eq!(due(at(0), at(3600), &rotation(85, None), 0), at(540));
        assert_eq!(due(at(0), at(3600), &rotation(20, Some(60)), 0), at(60));
    }

    #[test]
    fn keeps_two_minutes_in_reserve_but_never_more_than_half() {
        assert_eq!(due(at(0), at(600), &rotation(5, None), 0), at(480));
        assert_eq!(due(at(0), at(100), &rotation(5, None), 0), at(50));
    }

    #[test]
    fn jitter_is_at_most_a_tenth_of_the_interval() {
        assert_eq!(due(at(0), at(1000), &rotation(50, None), u64::MAX), at(450) + TimeDelta::milliseconds(1));
    }

    #[test]
    fn an_old_token_retires_at_its_end_or_after_the_overlap() {
        assert_eq!(retires_at(at(0), at(500), None), at(500));
        assert_eq!(retires_at(at(0), at(500), Some(Duration::from_secs(60))), at(60));
        assert_eq!(retires_at(at(0), at(30), Some(Duration::from_secs(60))), at(30));
    }

    #[test]
    fn retries_double_and_tighten_near_expiry() {
        let pause = |failures, expires| (retry_at(at(0), failures, expires, 0) - at(0)).num_seconds();
        assert_eq!([1, 2, 3, 7, 99].map(|n| pause(n, None)), [1, 2, 4, 60, 60]);
        assert_eq!(pause(9, Some(at(40))), 10);
        assert_eq!(pause(9, Some(at(1))), 1);
        assert_eq!(pause(9, Some(at(-5))), 60);
    }

    #[test]
    fn three_mints_then_one_per_ten_seconds() {
        let mut budget = Budget::new(at(0));
        for _ in 0..3 {
            assert_eq!(budget.ready_at(at(0), IssueReason::RotationRequested), at(0));
            budget.spend(at(0), None);
        }
        assert_eq!(budget.ready_at(at(0), IssueReason::RotationRequested), at(10));
        budget.spend(at(10), None);
        assert_eq!(budget.ready_at(at(11), IssueReason::RotationRequested), at(20));
    }

    #[test]
    fn the_same_repair_slows_down_to_ten_minutes_and_is_forgiven_after_an_hour() {
        let mut budget = Budget::new(at(0));
        let mut now = at(0);
        for _ in 0..12 {
            now = budget.ready_at(now, IssueReason::DataChanged);
            budget.spend(now, Some(IssueReason::DataChanged));
        }
        assert_eq!(budget.ready_at(now, IssueReason::DataChanged) - now, TimeDelta::minutes(10));
        assert_eq!(budget.ready_at(now, IssueReason::RotationRequested) - now, TimeDelta::seconds(10));
        assert_eq!(budget.ready_at(now + TimeDelta::hours(1), IssueReason::DataChanged), now + TimeDelta::hours(1));
    }

    #[test]
    fn a_rotation_every_minute_is_never_held_up() {
        let mut budget = Budget::new(at(0));
        for minute in 0..200 {
            assert_eq!(budget.ready_at(at(minute * 60), IssueReason::RotationRequested), at(minute * 60));
            budget.spend(at(minute * 60), None);
        }
    }

    proptest! {
        #[test]
        fn never_due_after_expiry(granted in 0..10_000_000_i64, share in 5..=85, age in proptest::option::of(60..1_000_000_u32), hash: u64) {
            let Renewal { due, latest, .. } = renewal(at(0), at(granted), &rotation(share, age), hash);
            prop_assert!(due >= at(0) && due <= latest && latest <= at(granted));
            if granted >= 240 {
                prop_assert!(at(granted) - due >= RESERVE);
            }
        }

        #[test]
        fn at_most_one_mint_per_ten_seconds_after_the_burst(steps in proptest::collection::vec((0..30_i64, any::<bool>()), 1..200)) {
            let mut budget = Budget::new(at(0));
            let (mut now, mut mints) = (0, 0_i64);
            for (wait, repair) in steps {
                now += wait;
                let why = if repair { IssueReason::DataChanged } else { IssueReason::RotationRequested };
                if budget.ready_at(at(now), why) <= at(now) {
                    budget.spend(at(now), Some(why));
                    mints += 1;
                }
            }
            prop_assert!(mints <= 3 + now / 10);
        }
    }
}
