//! Windows: when a token is renewed rather than just in time. Schedules are read as a CronJob's.

use chrono::TimeDelta;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp, Zoned,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{
    Time,
    schedule::{Renewal, jitter},
};
use crate::api::token_policy;

/// Where a search proves that a schedule ever happens; the instant itself does not matter.
const EPOCH: Time = Time::UNIX_EPOCH;

/// The windows of a policy. Without any, a token is renewed just in time.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<OpenHours>);

#[derive(Clone, Debug)]
struct OpenHours {
    opens: Cron,
    zone: TimeZone,
    length: TimeDelta,
}

/// When a token is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The instant.
    pub at: Time,
    /// There are windows, and none of them can be used for this token.
    pub outside: bool,
}

impl Windows {
    /// Compiles the windows of a spec.
    ///
    /// # Errors
    /// With the field and what is wrong with it: a schedule that is none or never happens, an unknown time zone.
    pub fn read(windows: &[token_policy::Window]) -> Result<Self, String> {
        let read = |(n, window)| OpenHours::read(window).map_err(|what| format!("spec.rotation.windows[{n}].{what}"));
        windows.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Where the replacement of a token falls, in this order:
    /// 1. the last window that opens before it is due, so that the token lives as long as it can;
    /// 2. the first window that opens before the latest instant at which it may be replaced;
    /// 3. that latest instant, outside of all windows.
    ///
    /// A window that has closed by now was missed, and does not count. `hash` spreads grants over the first half of a
    /// window, so that the second half is left for retries.
    #[must_use]
    pub fn place(&self, now: Time, renewal: &Renewal, hash: u64) -> Due {
        if self.0.is_empty() {
            return Due { at: renewal.due, outside: false };
        }
        let last = self.0.iter().filter_map(|window| window.last(now, renewal)).max_by_key(|(open, _)| *open);
        let first = || self.0.iter().filter_map(|window| window.next(now, renewal)).min_by_key(|(open, _)| *open);
        match last.or_else(first) {
            Some((open, length)) => Due { at: (open + jitter(length / 2, hash)).min(renewal.latest), outside: false },
            None => Due { at: renewal.latest, outside: true },
        }
    }
}

impl OpenHours {
    fn read(window: &token_policy::Window) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let opens = parser.parse(&window.schedule).map_err(|error| format!("schedule: {error}"))?;
        let name = window.time_zone.as_deref().unwrap_or("UTC");
        // The zones of this program, not of the machine: every process must come to the same result.
        let zone = TimeZoneDatabase::bundled().get(name);
        let zone = zone.map_err(|_| format!("timeZone: there is no time zone {name}"))?;
        let window = Self { opens, zone, length: window.duration.delta() };
        window.next_opening(EPOCH).map(|_| window.clone()).ok_or_else(|| "schedule: it never happens".to_owned())
    }

    /// The last opening after the token was issued and up to its due time, unless it has closed.
    fn last(&self, now: Time, renewal: &Renewal) -> Option<(Time, TimeDelta)> {
        let open = self.opens.find_previous_occurrence(&self.local(renewal.due)?, true).ok()?;
        let open = instant(&open)?;
        (open > renewal.issued && open + self.length > now).then_some((open, self.length))
    }

    /// The first opening after the due time that has not closed, if a token can wait for it.
    fn next(&self, now: Time, renewal: &Renewal) -> Option<(Time, TimeDelta)> {
        let open = self.next_opening(renewal.due.max(now - self.length))?;
        (open < renewal.latest).then_some((open, self.length))
    }

    fn next_opening(&self, after: Time) -> Option<Time> {
        instant(&self.opens.find_next_occurrence(&self.local(after)?, false).ok()?)
    }

    /// An instant on the window's clock; none is before year -9999 or after year 9999.
    fn local(&self, time: Time) -> Option<Zoned> {
        let timestamp = Timestamp::new(time.timestamp(), i32::try_from(time.timestamp_subsec_nanos()).ok()?).ok()?;
        Some(timestamp.to_zoned(self.zone.clone()))
    }
}

fn instant(zoned: &Zoned) -> Option<Time> {
    Time::from_timestamp(zoned.timestamp().as_second(), 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(windows: &[(&str, &str, &str)]) -> Result<Windows, String> {
        let windows: Vec<token_policy::Window> = windows
            .iter()
            .map(|(schedule, duration, zone)| token_policy::Window {
                schedule: (*schedule).into(),
                duration: duration.parse().unwrap(),
                time_zone: (!zone.is_empty()).then(|| (*zone).into()),
            })
            .collect();
        Windows::read(&windows)
    }

    fn at(text: &str) -> Time {
        crate::core::meta::time(text).unwrap()
    }

    fn renewal(issued: &str, due: &str, latest: &str) -> Renewal {
        Renewal { issued: at(issued), due: at(due), latest: at(latest) }
    }

    /// Where the token falls when it is asked for right after its issue.
    fn placed(windows: &Windows, renewal: &Renewal) -> (String, bool) {
        let due = windows.place(renewal.issued, renewal, 0);
        (crate::core::meta::text(due.at), due.outside)
    }

    #[test]
    fn without_windows_a_token_is_replaced_when_it_is_due() {
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T10:00:00Z", "2026-06-02T12:00:00Z");
        assert_eq!(placed(&Windows::default(), &renewal), ("2026-06-02T10:00:00Z".into(), false));
    }

    #[test]
    fn the_last_window_before_the_due_time_is_taken() {
        let nights = windows(&[("0 2 * * *", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-03T10:00:00Z", "2026-06-03T20:00:00Z");
        assert_eq!(placed(&nights, &renewal), ("2026-06-03T02:00:00Z".into(), false));
    }

    #[test]
    fn the_window_that_a_token_was_issued_in_is_over_for_it() {
        let nights = windows(&[("0 2 * * *", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T02:00:01Z", "2026-06-02T20:00:00Z", "2026-06-02T22:00:00Z");
        assert_eq!(placed(&nights, &renewal), ("2026-06-02T02:00:00Z".into(), false));
    }

    #[test]
    fn else_the_first_window_that_the_token_can_wait_for() {
        let nights = windows(&[("0 2 * * *", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T01:00:00Z", "2026-06-02T06:00:00Z");
        assert_eq!(placed(&nights, &renewal), ("2026-06-02T02:00:00Z".into(), false));
    }

    #[test]
    fn else_it_is_replaced_outside_of_them() {
        let sundays = windows(&[("0 2 * * 0", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T05:00:00Z", "2026-06-02T07:30:00Z");
        assert_eq!(placed(&sundays, &renewal), ("2026-06-02T07:30:00Z".into(), true));
    }

    #[test]
    fn a_missed_window_is_not_made_up_for_outside_of_it() {
        let nights = windows(&[("0 2 * * *", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T20:00:00Z", "2026-06-03T08:00:00Z");
        let place = |now| nights.place(at(now), &renewal, 0).at;
        assert_eq!(place("2026-06-02T03:59:59Z"), at("2026-06-02T02:00:00Z"), "it is open: now");
        assert_eq!(place("2026-06-02T04:00:00Z"), at("2026-06-03T02:00:00Z"), "the next one will do");
        assert_eq!(nights.place(at("2026-06-03T05:00:00Z"), &renewal, 0), Due { at: renewal.latest, outside: true });
    }

    #[test]
    fn of_several_windows_the_best_one_counts() {
        let both = windows(&[("0 2 * * *", "1h", ""), ("0 14 * * *", "1h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T13:00:00Z", "2026-06-02T15:00:00Z");
        assert_eq!(placed(&both, &renewal).0, "2026-06-02T02:00:00Z");
    }

    #[test]
    fn grants_are_spread_over_the_first_half_of_a_window() {
        let nights = windows(&[("0 2 * * *", "2h", "")]).unwrap();
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-02T10:00:00Z", "2026-06-02T12:00:00Z");
        assert_eq!(
            nights.place(renewal.issued, &renewal, u64::MAX).at,
            at("2026-06-02T02:59:59Z") + TimeDelta::milliseconds(999)
        );
    }

    #[test]
    fn time_zones_and_their_changes_are_followed() {
        let berlin = windows(&[("30 2 * * *", "1h", "Europe/Berlin")]).unwrap();
        let night = |day: &str, hours: i64| {
            let due = at(&format!("{day}T20:00:00Z"));
            let renewal = Renewal { issued: due - TimeDelta::hours(hours), due, latest: due + TimeDelta::hours(1) };
            placed(&berlin, &renewal).0
        };
        assert_eq!(night("2026-01-10", 24), "2026-01-10T01:30:00Z", "winter");
        assert_eq!(night("2026-07-10", 24), "2026-07-10T00:30:00Z", "summer");
        assert_eq!(night("2026-03-29", 24), "2026-03-29T01:00:00Z", "02:30 does not exist: right after the gap");
        assert_eq!(night("2026-10-25", 24), "2026-10-25T00:30:00Z", "02:30 exists twice: once, the first");
    }

    #[test]
    fn what_cannot_be_a_window_is_named() {
        for (schedule, zone, what) in [
            ("61 2 * * *", "", "windows[0].schedule"),
            ("0 2 * *", "", "windows[0].schedule"),
            ("0 0 2 * * *", "", "windows[0].schedule"),
            ("0 2 30 2 *", "", "never happens"),
            ("0 2 * * *", "Europe/Nowhere", "no time zone Europe/Nowhere"),
        ] {
            let error = windows(&[(schedule, "1h", zone)]).unwrap_err();
            assert!(error.contains(what), "{schedule}: {error}");
        }
        assert!(windows(&[("@daily", "1h", ""), ("*/5 0-6 1,15 * MON-FRI", "1m", "Asia/Tokyo")]).is_ok());
    }

    proptest! {
        #[test]
        fn never_after_the_latest_instant(issued in 0..2_000_000_000_i64, due in 60..1_000_000_i64, rest in 0..1_000_000_i64, passed in 0..2_000_000_i64, hash: u64) {
            let time = |seconds| Time::from_timestamp(seconds, 0).unwrap();
            let renewal = Renewal { issued: time(issued), due: time(issued + due), latest: time(issued + due + rest) };
            let weekdays = windows(&[("15 3 * * 1-5", "30m", "America/New_York")]).unwrap();
            let placed = weekdays.place(time(issued + passed), &renewal, hash);
            prop_assert!(placed.at > renewal.issued && placed.at <= renewal.latest);
            prop_assert_eq!(placed.outside && placed.at != renewal.latest, false);
        }
    }
}
