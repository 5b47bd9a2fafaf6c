//! Windows: when a token is renewed rather than just in time. Schedules are read as a CronJob's.

use chrono::TimeDelta;
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{
    Time,
    cron::Schedule,
    id::Uid,
    place::record::Record,
    schedule::{self, Renewal, jitter},
};
use crate::api::{cron::ZONE, token_policy};

/// The windows of a policy. Without any, a token is renewed just in time.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<OpenHours>);

#[derive(Clone, Debug)]
struct OpenHours {
    opens: Schedule,
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
    /// With field, value, rule and cure: a schedule that is none, an unknown time zone. A schedule that never happens is
    /// one: no token waits for it.
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

/// When the token of a record is replaced under the rotation of its policy, which has this UID. `None` without a token, and
/// where a window cannot be read.
#[must_use]
pub fn replaced_at(rotation: &token_policy::Rotation, policy: &str, record: &Record, now: Time) -> Option<Time> {
    let (token, windows) = (record.token.as_ref()?, Windows::read(&rotation.windows).ok()?);
    let hash = schedule::spread(Uid::read(policy), record.account_uid);
    let renewal = schedule::renewal(token.issued.time(), token.expires.time(), rotation, hash);
    Some(windows.place(now, &renewal, hash).at)
}

impl OpenHours {
    fn read(window: &token_policy::Window) -> Result<Self, String> {
        let token_policy::Window { schedule, duration, time_zone } = window;
        let opens = Schedule::read(schedule).map_err(|what| format!("schedule {schedule:?}: {what}"))?;
        let name = time_zone.as_deref().unwrap_or("UTC");
        // The zones of this program, not of the machine: every process must come to the same result.
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| format!("timeZone {name:?}: {}", ZONE.1))?;
        Ok(Self { opens, zone, length: duration.delta() })
    }

    /// The last opening after the token was issued and up to its due time, unless it has closed.
    fn last(&self, now: Time, renewal: &Renewal) -> Option<(Time, TimeDelta)> {
        let open = self.openings(renewal.issued, renewal.due).next_back()?;
        (open + self.length > now).then_some((open, self.length))
    }

    /// The first opening after the due time that has not closed, if a token can wait for it.
    fn next(&self, now: Time, renewal: &Renewal) -> Option<(Time, TimeDelta)> {
        let open = self.openings(renewal.due.max(now - self.length), renewal.latest).next()?;
        (open < renewal.latest).then_some((open, self.length))
    }

    /// All openings after one instant and up to another. In a gap several can be one.
    fn openings(&self, after: Time, until: Time) -> impl DoubleEndedIterator<Item = Time> {
        let shown = self.shown(after).zip(self.shown(until)).into_iter();
        shown.flat_map(|(after, until)| self.opens.between(after, until)).filter_map(|local| self.instant(local))
    }

    /// The latest time that the zone's clocks have shown by an instant: clocks that were set back show again what they
    /// have shown. `None` before year -9999 and after year 9999.
    fn shown(&self, by: Time) -> Option<DateTime> {
        let by = Timestamp::new(by.timestamp(), i32::try_from(by.timestamp_subsec_nanos()).ok()?).ok()?;
        let moment = SignedDuration::from_nanos(1);
        let change = self.zone.preceding(by.checked_add(moment).ok()?).next();
        let before = change.and_then(|change| change.timestamp().checked_sub(moment).ok());
        before.into_iter().chain([by]).map(|instant| self.zone.to_datetime(instant)).max()
    }

    /// The instant at which the zone's clocks reach a time: the first of two, and the end of the gap that it lies in.
    fn instant(&self, local: DateTime) -> Option<Time> {
        let first = self.zone.to_ambiguous_timestamp(local).earlier().ok()?;
        let gap = self.zone.to_datetime(first) < local;
        let reached = if gap { self.zone.following(first).next()?.timestamp() } else { first };
        Time::from_timestamp(reached.as_second(), 0)
    }
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
    fn what_cannot_be_a_window_is_named_with_its_value_and_what_to_write() {
        for (schedule, zone, told) in [
            ("61 2 * * *", "", r#"spec.rotation.windows[0].schedule "61 2 * * *": minute "61""#),
            ("0 2 * *", "", r#"spec.rotation.windows[0].schedule "0 2 * *": it has 4 of five fields; write"#),
            ("@every 1h", "", r#"spec.rotation.windows[0].schedule "@every 1h": @every has no fixed instants"#),
            (
                "0 2 * * *",
                "Europe/Nowhere",
                r#"spec.rotation.windows[0].timeZone "Europe/Nowhere": must be a name of the IANA"#,
            ),
        ] {
            let error = windows(&[(schedule, "1h", zone)]).unwrap_err();
            assert!(error.starts_with(told), "{schedule}: {error}");
        }
        let second = windows(&[("@midnight", "1h", ""), ("0/30 2 * * 7", "1h", "")]).unwrap_err();
        assert!(second.starts_with("spec.rotation.windows[1].schedule"), "{second}");
    }

    #[test]
    fn a_schedule_that_never_happens_holds_up_no_token_and_no_other_window() {
        let renewal = renewal("2026-06-01T10:00:00Z", "2026-06-03T10:00:00Z", "2026-06-03T20:00:00Z");
        let never = ("0 2 30 2 *", "2h", "");
        assert_eq!(placed(&windows(&[never]).unwrap(), &renewal), ("2026-06-03T20:00:00Z".into(), true));
        let both = windows(&[never, ("0 2 * * *", "2h", "")]).unwrap();
        assert_eq!(placed(&both, &renewal), ("2026-06-03T02:00:00Z".into(), false));
    }

    /// Schedules with the verdict of robfig/cron v3.0.1 and the next five openings: expression as a Go string, zone, start
    /// in Unix seconds, `invalid`, `never` or the openings.
    const CASES: &str = include_str!("../../e2e/cases/window-schedules.tsv");
    /// Morocco as the cases know it. Release 2026f, which we have, sets its clocks otherwise from autumn 2026 on.
    const CASABLANCA: &[u8] = include_bytes!("../../e2e/cases/africa-casablanca-2025c.tzif");

    fn hours(schedule: &str, zone: &str) -> Result<OpenHours, String> {
        windows(&[(schedule, "1h", zone)]).map(|mut windows| windows.0.remove(0))
    }

    fn seconds(seconds: i64) -> Time {
        Time::from_timestamp(seconds, 0).unwrap()
    }

    /// Each instant once, as a window that opens at several times of a gap opens once.
    fn found(hours: &OpenHours, after: i64, until: i64) -> Vec<i64> {
        let mut found: Vec<i64> = hours.openings(seconds(after), seconds(until)).map(|open| open.timestamp()).collect();
        found.dedup();
        found
    }

    /// Whether the clocks were changed in the 24 hours up to here. There we differ on purpose, in gap and overlap, and
    /// robfig/cron is wrong for the rest of the day after a change of half an hour: it counts on in whole hours.
    fn is_changed(hours: &OpenHours, second: i64) -> bool {
        let offset = |second| hours.zone.to_offset(Timestamp::from_second(second).unwrap());
        offset(second) != offset(second - 86_400)
    }

    #[test]
    fn every_case_has_the_verdict_and_the_openings_of_a_cron_job() {
        let (mut verdicts, mut intervals, mut never, mut alike, mut changed) = (0, 0, 0, 0, 0);
        for line in CASES.lines() {
            let [expression, zone, start, verdict] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let (expression, start): (String, i64) =
                (serde_json::from_str(expression).unwrap(), start.parse().unwrap());
            let read = hours(&expression, zone);
            if expression.starts_with("@every ") {
                assert!(read.unwrap_err().contains("no fixed instants"), "{line}");
                intervals += 1;
                continue;
            }
            assert_eq!(read.is_err(), verdict == "invalid", "{line}");
            verdicts += 1;
            let Ok(mut hours) = read else { continue };
            if zone == "Africa/Casablanca" {
                hours.zone = TimeZone::tzif(zone, CASABLANCA).unwrap();
            }
            if verdict == "never" {
                // robfig/cron searches for five years.
                assert_eq!(found(&hours, start, start + 5 * 366 * 86_400), [0; 0], "{line}");
                never += 1;
                continue;
            }
            let mut theirs: Vec<i64> = verdict.split(' ').map(|opening| opening.parse().unwrap()).collect();
            let mut ours = found(&hours, start, theirs[4]);
            if ours == theirs {
                alike += 1;
                continue;
            }
            ours.retain(|open| !is_changed(&hours, *open));
            theirs.retain(|open| !is_changed(&hours, *open));
            assert_eq!(ours, theirs, "{line}");
            changed += 1;
        }
        assert_eq!((verdicts, intervals), (2985, 15));
        assert_eq!((never, alike, changed), (3, 2151, 2));
    }

    proptest! {
        #[test]
        fn openings_are_the_instants_at_which_the_clocks_first_reach_them(
            zone in proptest::sample::select(&["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Africa/Casablanca", "America/St_Johns"][..]),
            schedule in proptest::sample::select(&["* * * * *", "*/7 1-3 * * *", "30 2 * * *", "59 1 * * 0", "0 0 * * *"][..]),
            change in 0..60_usize,
            from in -50_i64..50,
            until in 0_i64..50,
        ) {
            let hours = hours(schedule, zone).unwrap();
            let change = hours.zone.following(Timestamp::UNIX_EPOCH).nth(change).unwrap().timestamp().as_second();
            let (from, until) = (change + from * 900, change + (from + until) * 900);
            // Minute by minute, as somebody who watches the clock.
            let clock = |second: i64| hours.zone.to_datetime(Timestamp::from_second(second).unwrap());
            let mut shown = ((change - 2 * 86_400)..=from).step_by(60).map(clock).max().unwrap();
            let mut watched = Vec::new();
            for second in (from + 60..=until).step_by(60) {
                if hours.opens.between(shown, clock(second)).next().is_some() {
                    watched.push(second);
                }
                shown = shown.max(clock(second));
            }
            let mut backwards: Vec<i64> = hours.openings(seconds(from), seconds(until)).rev().map(|at| at.timestamp()).collect();
            backwards.reverse();
            backwards.dedup();
            let found = found(&hours, from, until);
            prop_assert_eq!(&found, &watched);
            prop_assert_eq!(found, backwards);
        }

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
