//! Leadership: of several processes one acts. What a lease says about time is not believed, only that its holder has
//! changed it: each process measures by its own monotonic clock how long ago it saw that.

use std::time::Duration;

/// A lease whose holder has not renewed it for this long may be taken.
pub const LEASE: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long must not act any more: well before anybody else may.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two renewals, and between two looks at a lease of somebody else.
pub const RETRY: Duration = Duration::from_secs(2);

/// The lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// `spec.holderIdentity`.
    pub holder: Option<Box<str>>,
    /// `spec.renewTime`, compared and never read.
    pub renewed: Option<Box<str>>,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
}

impl LeaseRecord {
    /// Nobody holds it. Who merely removes the name, and not the time with it, has not released it.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.holder.as_deref().is_none_or(str::is_empty) && self.renewed.is_none()
    }

    /// Whether the holder has written between the two; others may touch the metadata.
    fn is_renewed(&self, before: &Self) -> bool {
        (&self.holder, &self.renewed, self.transitions) != (&before.holder, &before.renewed, before.transitions)
    }
}

/// The next step of the election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// There is none.
    Create,
    /// Replace it in exactly this version: it is ours, was released, or its holder has not renewed it in time.
    Replace {
        /// `metadata.resourceVersion`.
        version: Box<str>,
        /// `spec.leaseTransitions` after it.
        transitions: i32,
    },
    /// Somebody else holds it.
    Wait,
}

/// The view of one process. Instants are durations since its start, by its monotonic clock.
#[derive(Debug)]
pub struct Election {
    identity: Box<str>,
    /// The lease, if there was one at the last look.
    record: Option<LeaseRecord>,
    /// When its holder was last seen to renew it, or else when it was first found absent.
    seen: Option<Duration>,
    /// When our last successful write began, while the lease is ours.
    renewed: Option<Duration>,
}

impl Election {
    /// A candidate of this name, which no other process has.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self { identity: identity.into(), record: None, seen: None, renewed: None }
    }

    /// Takes in what a read has shown; `None`: there is no lease.
    pub fn observe(&mut self, record: Option<LeaseRecord>, now: Duration) {
        let renewed = match (&record, &self.record) {
            (Some(record), Some(known)) => record.is_renewed(known),
            (Some(_), None) => true,
            // One that is gone counts as renewed a moment ago: its holder may not know yet, and act.
            (None, _) => self.seen.is_none(),
        };
        if renewed {
            self.seen = Some(now);
        }
        // Another name is in it: from now on it is not ours. Without any lease it is, as others wait.
        if record.as_ref().is_some_and(|record| record.holder.as_ref() != Some(&self.identity)) {
            self.renewed = None;
        }
        self.record = record;
    }

    /// Takes in that our write, begun then, has left the lease so.
    pub fn wrote(&mut self, record: LeaseRecord, begun: Duration) {
        self.record = Some(record);
        self.seen = Some(begun);
        self.renewed = Some(begun);
    }

    /// The step after a read.
    #[must_use]
    pub fn step(&self, now: Duration) -> LeaseStep {
        let expired = self.seen.is_some_and(|seen| now.saturating_sub(seen) >= LEASE);
        let ours = self.renewed.is_some();
        match &self.record {
            None if ours || expired => LeaseStep::Create,
            Some(record) if ours || expired || record.is_released() => LeaseStep::Replace {
                version: record.version.clone(),
                transitions: record.transitions.saturating_add(i32::from(!ours)),
            },
            _ => LeaseStep::Wait,
        }
    }

    /// Until when this process may act, if at all.
    #[must_use]
    pub fn until(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed + RENEW_DEADLINE)
    }

    /// The lease to release, while it is ours.
    #[must_use]
    pub fn release(&self) -> Option<&LeaseRecord> {
        self.record.as_ref().filter(|_| self.renewed.is_some())
    }

    /// The holder, as the lease names it.
    #[must_use]
    pub fn holder(&self) -> &str {
        self.record.as_ref().and_then(|record| record.holder.as_deref()).unwrap_or_default()
    }

    /// How often the lease has passed to another holder, as the lease itself counts it, if there is one.
    #[must_use]
    pub fn transitions(&self) -> Option<i32> {
        self.record.as_ref().map(|record| record.transitions)
    }

    /// Our own name.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Held by `holder`, who has renewed it at `renewed`.
    fn record(holder: &str, renewed: &str) -> LeaseRecord {
        LeaseRecord {
            holder: Some(holder.into()),
            renewed: Some(renewed.into()),
            transitions: 3,
            version: format!("v{renewed}").into(),
        }
    }

    fn replace(version: &str, transitions: i32) -> LeaseStep {
        LeaseStep::Replace { version: version.into(), transitions }
    }

    /// Sees the lease of `a` at 100 s.
    fn standby() -> Election {
        let mut election = Election::new("b");
        election.observe(Some(record("a", "1")), at(100));
        election
    }

    /// Has written the lease at 5 s.
    fn leader() -> Election {
        let mut election = Election::new("a");
        election.wrote(record("a", "5"), at(5));
        election
    }

    #[test]
    fn a_lease_that_is_not_there_is_created_after_15_s_as_its_last_holder_may_still_act() {
        let mut election = Election::new("a");
        for seconds in [3, 5, 17] {
            election.observe(None, at(seconds));
            assert_eq!((election.step(at(seconds)), election.until()), (LeaseStep::Wait, None));
        }
        assert_eq!(election.step(at(18)), LeaseStep::Create);
        election.wrote(record("a", "1"), at(18));
        assert_eq!(election.until(), Some(at(18) + RENEW_DEADLINE), "counted from before the write");
    }

    #[test]
    fn a_lease_that_its_holder_makes_anew_is_not_taken_by_who_found_none() {
        let mut election = Election::new("b");
        election.observe(None, at(0));
        election.observe(Some(record("a", "1")), at(2));
        assert_eq!([election.step(at(16)), election.step(at(17))], [LeaseStep::Wait, replace("v1", 4)]);
    }

    #[test]
    fn a_replica_whose_wall_clock_is_60_s_off_steals_nothing_as_the_times_in_a_lease_are_never_compared() {
        for written in ["2026-11-22T09:59:00Z", "2026-11-22T10:01:00Z", "yesterday"] {
            let mut election = Election::new("b");
            election.observe(Some(record("a", written)), at(0));
            assert_eq!(election.step(at(14)), LeaseStep::Wait, "{written}");
            election.observe(Some(record("a", "a later one")), at(14));
            assert_eq!(election.step(at(28)), LeaseStep::Wait, "{written}");
        }
    }

    #[test]
    fn a_lease_is_taken_15_s_after_the_last_seen_renewal_whatever_it_says() {
        let mut election = standby();
        election.observe(Some(record("a", "1")), at(114));
        assert_eq!(election.step(at(114)), LeaseStep::Wait);
        election.observe(Some(record("a", "2099-01-01T00:00:00Z")), at(115));
        assert_eq!(election.step(at(129)), LeaseStep::Wait, "it was renewed");
        assert_eq!(election.step(at(130)), replace("v2099-01-01T00:00:00Z", 4));
    }

    #[test]
    fn a_change_of_the_metadata_is_no_renewal() {
        let mut election = standby();
        election.observe(Some(LeaseRecord { version: "labelled".into(), ..record("a", "1") }), at(114));
        assert_eq!(election.step(at(115)), replace("labelled", 4));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut election = standby();
        election.observe(Some(LeaseRecord { holder: None, renewed: None, ..record("", "2") }), at(101));
        assert_eq!(election.step(at(101)), replace("v2", 4));
    }

    #[test]
    fn whoever_removes_or_replaces_the_name_does_not_hand_over_at_once() {
        for name in ["", "mallory", "b"] {
            let mut election = standby();
            election.observe(Some(record(name, "1")), at(101));
            assert_eq!(election.step(at(115)), LeaseStep::Wait, "the holder may not know yet");
            assert_eq!(election.until(), None, "a name that we did not write makes nobody a leader");
            assert_eq!(election.step(at(116)), replace("v1", 4));
        }
    }

    #[test]
    fn only_a_leader_releases() {
        assert_eq!((leader().release(), standby().release()), (Some(&record("a", "5")), None));
    }

    #[test]
    fn a_renewal_is_no_transition() {
        assert_eq!(leader().step(at(7)), replace("v5", 3));
    }

    #[test]
    fn who_finds_another_name_in_the_lease_leads_no_more() {
        for name in ["b", ""] {
            let mut election = leader();
            election.observe(Some(record(name, "6")), at(6));
            assert_eq!((election.until(), election.step(at(6))), (None, LeaseStep::Wait));
        }
    }

    #[test]
    fn a_renewal_whose_answer_was_lost_is_known_again() {
        let mut election = leader();
        election.observe(Some(record("a", "7")), at(9));
        assert_eq!(election.until(), Some(at(15)), "only our own answers prolong it");
        assert_eq!(election.step(at(9)), replace("v7", 3));
    }

    #[test]
    fn a_lease_that_somebody_deletes_is_made_anew_by_its_holder_while_others_wait() {
        let (mut leader, mut standby) = (leader(), standby());
        leader.observe(None, at(7));
        assert_eq!((leader.step(at(7)), leader.until()), (LeaseStep::Create, Some(at(15))));
        standby.observe(None, at(101));
        assert_eq!([standby.step(at(114)), standby.step(at(115))], [LeaseStep::Wait, LeaseStep::Create]);
    }

    #[test]
    fn absurd_transitions_do_not_overflow() {
        let mut election = standby();
        election.observe(Some(LeaseRecord { transitions: i32::MAX, ..record("a", "1") }), at(101));
        assert_eq!(election.step(at(116)), replace("v1", i32::MAX));
    }
}
