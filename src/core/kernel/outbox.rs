//! Statuses that are to be written: the oldest first, fair between namespaces, and none more often than once a second.

use std::collections::{HashMap, VecDeque};

use chrono::TimeDelta;

use super::{
    controller::Outcome,
    queue::{Lane, Queue},
};
use crate::core::{Time, failure::Failure, request::Answer, schedule};

/// One object's status is written at most this often.
const PACE: TimeDelta = TimeDelta::seconds(1);

/// Objects whose status may have changed.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Queue<Time>,
    rows: HashMap<u32, OutboxRow>,
    in_flight: usize,
    /// Writes of the last second: they still count against the share of their namespace.
    recent: VecDeque<(Time, Lane)>,
    latest: Time,
}

#[derive(Debug, Default)]
struct OutboxRow {
    lane: Option<Lane>,
    /// When it was written last.
    written: Option<Time>,
    /// Writes that failed in a row.
    failures: u32,
    /// A write is under way; whether it is marked again meanwhile.
    busy: bool,
    again: bool,
    /// Since when it waits.
    since: Option<Time>,
}

impl Outbox {
    /// The status of this object may have changed. One that still tells of work under way can wait for its end: the first
    /// status of an object is then a true one.
    pub fn mark(&mut self, key: u32, namespace: u32, under_way: bool, now: Time) {
        let row = self.rows.entry(key).or_default();
        row.lane = Some(Lane { namespace, kind: 0 });
        if row.busy {
            row.again = true;
            return;
        }
        let since = *row.since.get_or_insert(now);
        let pace = match row.written {
            Some(written) => written + PACE,
            None if under_way => since + PACE,
            None => now,
        };
        if row.failures == 0 {
            self.wait(key, pace.max(now), since, now);
        }
    }

    fn wait(&mut self, key: u32, at: Time, since: Time, now: Time) {
        let lane = self.rows.get(&key).and_then(|row| row.lane);
        match lane {
            Some(lane) if at <= now => self.queue.ready(key, lane, since),
            _ => self.queue.sleep(key, at),
        }
    }

    /// The next object whose status may be written now, while fewer than `most` writes are under way. Its status either
    /// is written, and [`Outbox::answered`] follows, or is the same as before, and [`Outbox::unchanged`] does.
    pub fn take(&mut self, most: usize, now: Time) -> Option<u32> {
        if schedule::went_back(&mut self.latest, now) {
            self.rewind(now);
        }
        while let Some(key) = self.queue.woken(now) {
            let since = self.rows.get(&key).and_then(|row| row.since).unwrap_or(now);
            self.wait(key, now, since, now);
        }
        if self.in_flight >= most {
            return None;
        }
        while let Some((_, lane)) = self.recent.pop_front_if(|(at, _)| *at + PACE <= now) {
            self.queue.stopped(lane);
        }
        let (key, lane) = self.queue.take()?;
        self.queue.started(lane);
        self.in_flight += 1;
        let row = self.rows.entry(key).or_default();
        (row.busy, row.again, row.since) = (true, false, None);
        Some(key)
    }

    /// What waits is looked at now, and no write lies ahead.
    fn rewind(&mut self, now: Time) {
        let mut waiting = Vec::new();
        for (key, row) in &mut self.rows {
            row.written = row.written.map(|written| written.min(now));
            if let Some(since) = &mut row.since {
                *since = now.min(*since);
                waiting.push(*key);
            }
        }
        for key in waiting {
            self.wait(key, now, now, now);
        }
        self.recent.iter_mut().for_each(|(at, _)| *at = now.min(*at));
    }

    /// There was nothing to write, and so nothing is left of writes that failed.
    pub fn unchanged(&mut self, key: u32) {
        if let Some(lane) = self.ended(key) {
            self.queue.stopped(lane);
        }
        self.rows.get_mut(&key).into_iter().for_each(|row| row.failures = 0);
    }

    /// The answer to a write. An object that is gone needs no status, and one that was changed meanwhile is marked again by its
    /// watch.
    pub fn answered(&mut self, key: u32, answer: Answer, now: Time) -> Outcome {
        let failure = answer.err().filter(|refusal| !matches!(refusal.code, Some(404 | 409)));
        let failure = failure.map(|refusal| refusal.failure);
        self.written(key, failure.as_ref(), now);
        Outcome { failure, silent: true, ..Outcome::default() }
    }

    /// A write ended: it is done, or tried again in a while.
    fn written(&mut self, key: u32, failure: Option<&Failure>, now: Time) {
        let lane = self.ended(key);
        self.recent.extend(lane.map(|lane| (now, lane)));
        let Some(row) = self.rows.get_mut(&key) else { return };
        row.written = Some(now);
        row.failures = if failure.is_some() { row.failures + 1 } else { 0 };
        if let Some(failure) = failure {
            row.since = Some(now);
            let again = schedule::retry_at(now, row.failures, None, 0).max(failure.not_before(now));
            self.queue.sleep(key, again);
        } else if row.again {
            let namespace = row.lane.map_or(0, |lane| lane.namespace);
            self.mark(key, namespace, false, now);
        }
    }

    fn ended(&mut self, key: u32) -> Option<Lane> {
        let row = self.rows.get_mut(&key).filter(|row| row.busy)?;
        row.busy = false;
        self.in_flight -= 1;
        row.lane
    }

    /// The object is gone.
    pub fn forget(&mut self, key: u32) {
        self.unchanged(key);
        self.queue.remove(key);
        self.rows.remove(&key);
    }

    /// Objects that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Objects whose status may be written now.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.queue.ready_count()
    }

    /// When [`Outbox::take`] has something to give, if a write may begin.
    #[must_use]
    pub fn next_wake(&self, most: usize, now: Time) -> Option<Time> {
        let ready = (self.ready_count() > 0 && self.in_flight < most).then_some(now);
        ready.into_iter().chain(self.queue.next_wake()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Time {
        Time::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
    }

    /// Marks object `key`, which is in namespace `key / 100`.
    fn mark(outbox: &mut Outbox, key: u32, millis: i64) {
        outbox.mark(key, key / 100, false, at(millis));
    }

    #[test]
    fn a_busy_tenant_holds_up_nobody() {
        let mut outbox = Outbox::default();
        let mut writes = [0, 0];
        for second in 0..60 {
            for key in (0..25).chain([900]) {
                mark(&mut outbox, key, second * 1000);
            }
            for _ in 0..5 {
                let Some(key) = outbox.take(4, at(second * 1000)) else { break };
                writes[usize::from(key == 900)] += 1;
                outbox.written(key, None, at(second * 1000));
            }
        }
        assert_eq!(writes, [240, 60], "five writes a second: the stranger's is among them each time");
    }

    #[test]
    fn the_oldest_comes_first_and_once_a_second() {
        let mut outbox = Outbox::default();
        mark(&mut outbox, 2, 0);
        mark(&mut outbox, 1, 5);
        mark(&mut outbox, 2, 6);
        assert_eq!((outbox.take(2, at(6)), outbox.take(2, at(6)), outbox.take(2, at(6))), (Some(2), Some(1), None));
        outbox.written(2, None, at(10));
        mark(&mut outbox, 2, 20);
        assert_eq!((outbox.take(2, at(1009)), outbox.next_wake(2, at(1009))), (None, Some(at(1010))));
        assert_eq!(outbox.take(2, at(1010)), Some(2));
    }

    #[test]
    fn work_under_way_waits_a_second_for_its_end() {
        let mut outbox = Outbox::default();
        outbox.mark(1, 0, true, at(0));
        assert_eq!(outbox.take(1, at(500)), None);
        outbox.mark(1, 0, false, at(600));
        assert_eq!(outbox.take(1, at(600)), Some(1), "its end is told at once");
        outbox.mark(2, 0, true, at(600));
        outbox.written(1, None, at(610));
        assert_eq!(outbox.take(1, at(1600)), Some(2));
    }

    #[test]
    fn writes_under_way_are_bounded_and_changes_meanwhile_are_not_lost() {
        let mut outbox = Outbox::default();
        mark(&mut outbox, 1, 0);
        mark(&mut outbox, 2, 0);
        assert_eq!((outbox.take(1, at(0)), outbox.take(1, at(0))), (Some(1), None));
        mark(&mut outbox, 1, 1);
        outbox.written(1, None, at(2));
        assert_eq!(outbox.take(1, at(2)), Some(2));
        outbox.unchanged(2);
        assert_eq!(outbox.take(1, at(1002)), Some(1));
    }

    #[test]
    fn a_write_that_failed_is_tried_again() {
        let mut outbox = Outbox::default();
        mark(&mut outbox, 1, 0);
        assert_eq!(outbox.take(1, at(0)), Some(1));
        outbox.written(1, Some(&Failure::unanswered("write", "no answer")), at(0));
        mark(&mut outbox, 1, 10);
        assert_eq!(outbox.take(1, at(500)), None, "not before its pause is over");
        assert_eq!(outbox.take(1, at(1000)), Some(1));
    }

    #[test]
    fn a_write_that_failed_and_is_not_needed_any_more_leaves_nothing_behind() {
        let mut outbox = Outbox::default();
        mark(&mut outbox, 1, 0);
        assert_eq!(outbox.take(1, at(0)), Some(1));
        outbox.written(1, Some(&Failure::unanswered("write", "no answer")), at(0));
        assert_eq!(outbox.take(1, at(1000)), Some(1));
        outbox.unchanged(1);
        mark(&mut outbox, 1, 2000);
        assert_eq!(outbox.take(1, at(2000)), Some(1), "the next change is written");
    }
}
