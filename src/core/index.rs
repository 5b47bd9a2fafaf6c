//! Everything known, by grant: a plain struct that one task owns.
//!
//! ```text
//! watches ──▶ tables ──▶ grants ──▶ queue ──▶ decide ──▶ job
//!               ▲           ▲                            │
//!               └───────────┴──────── outcomes ◀─────────┘
//! ```

mod outcome;
mod policies;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::TimeDelta;

use super::{
    Time,
    facts::{Account, Anchor, Policy, PolicyState, Site, Target},
    failure::{Failure, Reason},
    grant::{GrantKey, Memory},
    notice::{Notice, What},
    plan::{self, Act, Cause, Decision, Facts, Retirement, Standing},
    queue::Queue,
    select::{self, Claim},
    table::{Event, Key, Scope, Table},
};
pub use outcome::{Found, Outcome, Step};
use policies::StatusQueue;
pub use policies::StatusWrite;

/// A token or anchor younger than this at start was probably made by the process before.
const RESTART_CHARGE: TimeDelta = TimeDelta::seconds(10);

/// One step of one of the four watches. A `None` value is an object that is not what the watch is for.
#[derive(Debug)]
pub enum Change {
    /// TokenPolicies.
    Policy(Event<PolicyState>),
    /// ServiceAccounts.
    Account(Event<Account>),
    /// Secrets labelled as targets.
    Target(Event<Target>),
    /// Secrets of the anchors' type.
    Anchor(Event<Anchor>),
}

/// What the index keeps of one grant.
#[derive(Debug)]
struct Grant {
    memory: Memory,
    /// Names of Secrets whose annotations say that they are targets of this grant.
    targets: BTreeSet<Arc<str>>,
    /// Names of its anchors, with the instant each was first seen.
    anchors: BTreeMap<Arc<str>, Time>,
    /// The name it wants.
    wanted: Option<Arc<str>>,
    standing: Standing,
    since: Time,
    /// Names of anchors that we are deleting.
    retiring: Vec<Box<str>>,
    busy: bool,
    /// It changed while busy.
    dirty: bool,
}

/// Everything known.
#[derive(Debug)]
pub struct Index {
    site: Site,
    scopes: Vec<Scope>,
    policies: Table<PolicyState>,
    accounts: Table<Account>,
    targets: Table<Target>,
    anchors: Table<Anchor>,
    grants: BTreeMap<GrantKey, Grant>,
    /// Grants by the name that they want.
    claims: HashMap<Key, BTreeSet<GrantKey>>,
    /// Grants that fail for a reason that lies in their namespace: one probes, the others wait for it.
    troubles: HashMap<(Arc<str>, Reason), Trouble>,
    queue: Queue,
    statuses: StatusQueue,
    notices: Vec<Notice>,
    /// How far the local clock is ahead of the API server's.
    skew: TimeDelta,
    /// Scopes whose first lists are complete.
    opened: BTreeSet<Scope>,
    /// Watches that fail.
    unhealthy: BTreeMap<(Scope, &'static str), Failure>,
}

#[derive(Debug)]
struct Trouble {
    probe: GrantKey,
    waiting: BTreeSet<GrantKey>,
}

/// A decision that needs calls, and for whom.
#[derive(Debug)]
pub struct Job {
    /// Policy and account.
    pub grant: GrantKey,
    /// What to do.
    pub decision: Decision,
}

impl Index {
    /// An empty index over these scopes: one `None`, or one per watched namespace.
    #[must_use]
    pub fn new(site: Site, scopes: Vec<Scope>) -> Self {
        Self {
            site,
            scopes,
            policies: Table::default(),
            accounts: Table::default(),
            targets: Table::default(),
            anchors: Table::default(),
            grants: BTreeMap::new(),
            claims: HashMap::new(),
            troubles: HashMap::new(),
            queue: Queue::default(),
            statuses: StatusQueue::default(),
            notices: Vec::new(),
            skew: TimeDelta::zero(),
            opened: BTreeSet::new(),
            unhealthy: BTreeMap::new(),
        }
    }

    /// What goes into every target.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Lists that have not been complete once, as `kind in namespace`.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for scope in &self.scopes {
            let place = scope.as_deref().unwrap_or("all namespaces");
            for (kind, listed) in self.listed(scope) {
                if !listed {
                    waiting.push(format!("{kind} in {place}"));
                }
            }
        }
        waiting
    }

    fn listed(&self, scope: &Scope) -> [(&'static str, bool); 4] {
        [
            ("tokenpolicies", self.policies.listed(scope)),
            ("serviceaccounts", self.accounts.listed(scope)),
            ("secrets (targets)", self.targets.listed(scope)),
            ("secrets (anchors)", self.anchors.listed(scope)),
        ]
    }

    /// Nothing is decided for a namespace before each of its four streams has listed once: a half-built view
    /// would take everything for missing.
    fn is_complete(&self, namespace: &Arc<str>) -> bool {
        self.listed(&self.scope(namespace)).iter().all(|(_, listed)| *listed)
    }

    /// A watch fails, or works again. Policies whose grants cannot be decided for it say so.
    pub fn watch_health(&mut self, scope: &Scope, kind: &'static str, failure: Option<Failure>, now: Time) {
        if let Some(failure) = failure {
            self.unhealthy.insert((scope.clone(), kind), failure);
        } else {
            self.unhealthy.remove(&(scope.clone(), kind));
            self.answering_again(scope);
        }
        let covers = |key: &&Key| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let policies: Vec<Key> = self.policies.iter().map(|(key, _)| key).filter(covers).cloned().collect();
        for key in policies {
            self.statuses.mark(key, now);
        }
    }

    /// The API server answers again: what waited for that is tried now, most urgent first.
    fn answering_again(&mut self, scope: &Scope) {
        let waiting = self.grants.iter_mut().filter_map(|(key, grant)| {
            let covered = scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
            let failing = grant.memory.failing.as_mut().filter(|_| covered)?;
            (failing.failure.reason == Reason::ApiUnavailable).then(|| {
                failing.retry_at = Time::MIN_UTC;
                key.clone()
            })
        });
        for key in waiting.collect::<Vec<_>>() {
            self.wake(&key);
        }
    }

    /// Why grants of this namespace cannot be decided, if a failing watch is the cause.
    fn blocked(&self, namespace: &Arc<str>) -> Option<&Failure> {
        let scope = self.scope(namespace);
        let mut failures = self.unhealthy.iter().filter(|((failing, _), _)| *failing == scope);
        failures.next().map(|(_, failure)| failure).filter(|_| !self.is_complete(namespace))
    }

    fn scope(&self, namespace: &Arc<str>) -> Scope {
        self.scopes.iter().find(|scope| scope.as_ref() == Some(namespace)).cloned().flatten()
    }

    /// Takes one step of a watch in.
    pub fn apply(&mut self, scope: &Scope, change: Change, now: Time) {
        let listed = matches!(
            change,
            Change::Policy(Event::Listed)
                | Change::Account(Event::Listed)
                | Change::Target(Event::Listed)
                | Change::Anchor(Event::Listed)
        );
        match change {
            Change::Policy(event) => {
                let changed = self.policies.apply(scope, event);
                self.policies_changed(changed, now);
            }
            Change::Account(event) => {
                let changed = self.accounts.apply(scope, event);
                self.accounts_changed(changed, now);
            }
            Change::Target(event) => {
                let changed = self.targets.apply(scope, event);
                self.targets_changed(changed, now);
            }
            Change::Anchor(event) => {
                let changed = self.anchors.apply(scope, event);
                for (key, before) in &changed {
                    self.revoked_by_hand(key, before.as_ref());
                }
                self.anchors_changed(changed, now);
            }
        }
        if listed {
            self.open(scope, now);
        }
    }

    /// After the last first list of a scope every grant of it is decided once.
    fn open(&mut self, scope: &Scope, now: Time) {
        let complete = self.listed(scope).iter().all(|(_, listed)| *listed);
        if !complete || !self.opened.insert(scope.clone()) {
            return;
        }
        let covers = |key: &GrantKey| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let grants: Vec<GrantKey> = self.grants.keys().filter(|key| covers(key)).cloned().collect();
        for key in &grants {
            self.charge_restart(key, now);
            self.wake(key);
        }
        let policies: Vec<Key> = self.policies.iter().map(|(key, _)| key.clone()).collect();
        for key in policies {
            self.statuses.mark(key, now);
        }
    }

    /// A process that dies right after every mint must not get a full budget each time.
    fn charge_restart(&mut self, key: &GrantKey, now: Time) {
        let Some(facts) = self.facts(key) else { return };
        let issued = facts.target().and_then(|target| target.token.as_ref()).map(|token| token.issued_at);
        let newest = facts.anchors.values().map(|(anchor, _)| anchor.created).chain(issued).max();
        if newest.is_some_and(|newest| now - newest < RESTART_CHARGE) {
            self.grant(key, now).memory.budget.spend(now, None);
        }
    }

    fn policies_changed(&mut self, changed: Vec<(Key, Option<PolicyState>)>, now: Time) {
        for (key, _) in changed {
            let accounts = self.accounts.in_namespace(&key.namespace).map(|(account, _)| account.name.clone());
            let mut accounts: BTreeSet<Arc<str>> = accounts.collect();
            accounts.extend(self.policy(&key).into_iter().flat_map(|policy| named(policy)));
            accounts.extend(self.grants_of(&key).map(|grant| grant.account.clone()));
            for account in accounts {
                self.refresh(&GrantKey { namespace: key.namespace.clone(), policy: key.name.clone(), account }, now);
            }
            self.statuses.mark(key, now);
        }
    }

    fn accounts_changed(&mut self, changed: Vec<(Key, Option<Account>)>, now: Time) {
        for (key, _) in changed {
            let policies: Vec<Arc<str>> =
                self.policies.in_namespace(&key.namespace).map(|(policy, _)| policy.name.clone()).collect();
            for policy in policies {
                let grant = GrantKey { namespace: key.namespace.clone(), policy, account: key.name.clone() };
                if let Some(grant) = self.grants.get_mut(&grant) {
                    grant.memory.proof.account_doubtful = false;
                }
                self.refresh(&grant, now);
            }
        }
    }

    fn targets_changed(&mut self, changed: Vec<(Key, Option<Target>)>, now: Time) {
        for (key, before) in changed {
            let after = self.targets.get(&key).map(|target| of_target(&key, target));
            let before = before.map(|target| of_target(&key, &target));
            if let Some(owner) = before.filter(|owner| Some(owner) != after.as_ref()) {
                let grant = self.grant(&owner, now);
                grant.targets.remove(&key.name);
                // What names no anchor any more must be looked at again before an anchor counts as not named.
                grant.memory.proof.target_seen = None;
                self.settle(&owner, now);
            }
            if let Some(owner) = after {
                let grant = self.grant(&owner, now);
                grant.targets.insert(key.name.clone());
                grant.memory.published = true;
                self.settle(&owner, now);
            }
            let claimants: Vec<GrantKey> = self.claims.get(&key).into_iter().flatten().cloned().collect();
            for claimant in claimants {
                self.grant(&claimant, now).memory.proof.target_absent = false;
                self.wake(&claimant);
            }
        }
    }

    fn anchors_changed(&mut self, changed: Vec<(Key, Option<Anchor>)>, now: Time) {
        for (key, before) in changed {
            let before_owner = before.as_ref().and_then(|anchor| of_anchor(&key, anchor));
            let after = self.anchors.get(&key);
            // With its annotations removed an anchor stays where it was known to belong.
            let after_owner =
                after.and_then(|anchor| of_anchor(&key, anchor)).or(before_owner.clone().filter(|_| after.is_some()));
            if let Some(owner) = before_owner.filter(|owner| Some(owner) != after_owner.as_ref()) {
                self.anchor_left(&owner, &key.name, before.as_ref(), now);
            }
            if let Some(owner) = after_owner {
                self.anchor_joined(&owner, &key.name, now);
            }
        }
    }

    fn anchor_joined(&mut self, owner: &GrantKey, name: &Arc<str>, now: Time) {
        self.grant(owner, now).anchors.entry(name.clone()).or_insert(now);
        self.settle(owner, now);
    }

    fn anchor_left(&mut self, owner: &GrantKey, name: &Arc<str>, anchor: Option<&Anchor>, now: Time) {
        let grant = self.grant(owner, now);
        grant.anchors.remove(name);
        let attempt = grant.memory.attempt.as_mut();
        if let Some(attempt) = attempt.filter(|attempt| anchor.is_some_and(|anchor| *attempt.anchor.uid == *anchor.uid))
        {
            attempt.spent = true;
        }
        self.settle(owner, now);
    }

    /// Tells when somebody else deleted an anchor that one of our targets names. The end of a policy takes them
    /// all, and is no news.
    fn revoked_by_hand(&mut self, key: &Key, before: Option<&Anchor>) {
        let gone = before.filter(|_| self.anchors.get(key).is_none());
        let Some((anchor, owner)) = gone.and_then(|anchor| Some((anchor, of_anchor(key, anchor)?))) else { return };
        let retiring =
            self.grants.get(&owner).is_some_and(|grant| grant.retiring.iter().any(|name| **name == *key.name));
        let governed = self.policy(&owner.policy_key()).is_some_and(|policy| !policy.terminating);
        let token = self.facts(&owner).and_then(|facts| facts.token_of(&key.name, &anchor.uid));
        if let Some(token_id) = token.filter(|_| governed && !retiring) {
            let (anchor, uid) = ((*key.name).into(), anchor.uid.clone());
            let retirement = Retirement { anchor, uid, token_id: Some(token_id), cause: Cause::ByHand };
            self.notify(&owner, What::Retired(retirement));
        }
    }

    fn policy(&self, key: &Key) -> Option<&Arc<Policy>> {
        self.policies.get(key).and_then(PolicyState::readable)
    }

    fn grants_of<'a>(&'a self, policy: &'a Key) -> impl Iterator<Item = &'a GrantKey> {
        let first = GrantKey { namespace: policy.namespace.clone(), policy: policy.name.clone(), account: "".into() };
        let of = |key: &GrantKey| key.namespace == policy.namespace && key.policy == policy.name;
        self.grants.range(first..).map(|(key, _)| key).take_while(move |key| of(key))
    }

    fn grant(&mut self, key: &GrantKey, now: Time) -> &mut Grant {
        self.grants.entry(key.clone()).or_insert_with(|| Grant {
            memory: Memory::new(now),
            targets: BTreeSet::new(),
            anchors: BTreeMap::new(),
            wanted: None,
            standing: Standing::Working,
            since: now,
            retiring: Vec::new(),
            busy: false,
            dirty: false,
        })
    }

    /// A policy that can be read selects this account. Named accounts are selected whether they exist or not.
    fn selects(&self, key: &GrantKey) -> bool {
        let account = self.accounts.get(&key.account_key());
        self.policy(&key.policy_key()).is_some_and(|policy| {
            let named = policy.selector.is_none();
            (named || account.is_some())
                && policy.selects(&key.account, account.map_or(&BTreeMap::new(), |account| &account.labels))
        })
    }

    /// Policy or account changed: selection, wanted name and due work follow.
    fn refresh(&mut self, key: &GrantKey, now: Time) {
        let selected = self.selects(key);
        if !selected && !self.grants.contains_key(key) {
            return;
        }
        self.settle(key, now);
    }

    /// Brings everything derived of a grant up to date and makes it due; forgets it when nothing is left of it.
    fn settle(&mut self, key: &GrantKey, now: Time) {
        let selected = self.selects(key);
        let readable = self.policy(&key.policy_key()).is_some();
        let known = self.policies.get(&key.policy_key()).is_some();
        let wanted = selected.then(|| self.wanted(key)).flatten();
        let grant = self.grant(key, now);
        grant.memory.unselected_since = match grant.memory.unselected_since {
            since if readable && !selected => since.or(Some(now)),
            _ => None,
        };
        grant.memory.proof.unselected &= !selected;
        grant.memory.proof.policy_absent &= !known;
        let empty = grant.targets.is_empty() && grant.anchors.is_empty() && !grant.busy;
        let before = std::mem::replace(&mut grant.wanted, wanted.clone());
        if before != wanted {
            grant.memory.proof.target_absent = false;
            self.claim(key, before, wanted);
        }
        if empty && !selected && (readable || !known) {
            self.forget(key);
        } else {
            self.wake(key);
        }
        self.statuses.mark(key.policy_key(), now);
    }

    fn wanted(&self, key: &GrantKey) -> Option<Arc<str>> {
        let policy = self.policy(&key.policy_key())?;
        select::target_name(&policy.spec.secret.name, &key.policy, &key.account).ok().map(Into::into)
    }

    /// Moves the grant's claim, and lets everybody who wants the old or the new name decide again.
    fn claim(&mut self, key: &GrantKey, before: Option<Arc<str>>, after: Option<Arc<str>>) {
        let place = |name| Key { namespace: key.namespace.clone(), name };
        let mut rivals = BTreeSet::new();
        if let Some(before) = before.map(place) {
            let claims = self.claims.entry(before.clone()).or_default();
            claims.remove(key);
            rivals.extend(claims.iter().cloned());
            if claims.is_empty() {
                self.claims.remove(&before);
            }
        }
        if let Some(after) = after.map(place) {
            let claims = self.claims.entry(after).or_default();
            rivals.extend(claims.iter().cloned());
            claims.insert(key.clone());
        }
        for rival in &rivals {
            self.wake(rival);
        }
    }

    fn forget(&mut self, key: &GrantKey) {
        if let Some(grant) = self.grants.remove(key) {
            self.claim(key, grant.wanted, None);
        }
        self.queue.remove(key);
        self.release(key, None);
    }

    /// Makes a grant ready to be decided, if its lists are complete and it is not being worked on.
    fn wake(&mut self, key: &GrantKey) {
        if !self.is_complete(&key.namespace) {
            return;
        }
        let deadline = self.deadline(key);
        match self.grants.get_mut(key) {
            Some(grant) if grant.busy => grant.dirty = true,
            Some(_) => self.queue.ready(key, deadline),
            None => {}
        }
    }

    /// Until when the grant can wait: the end of its published token, or not at all.
    fn deadline(&self, key: &GrantKey) -> Time {
        let grant = self.grants.get(key);
        let target = grant
            .and_then(|grant| grant.wanted.clone())
            .and_then(|name| self.targets.get(&Key { namespace: key.namespace.clone(), name }));
        target.and_then(|target| target.token.as_ref()).map_or(Time::MIN_UTC, |token| token.expires_at)
    }

    /// The most urgent job for one of `slots` places, if any work is ready.
    pub fn take(&mut self, slots: usize, now: Time) -> Option<Job> {
        for key in self.queue.wake(now) {
            self.wake(&key);
        }
        while let Some(key) = self.queue.take(slots) {
            if let Some(job) = self.decide(&key, now) {
                self.queue.started(&key);
                return Some(job);
            }
        }
        None
    }

    /// When [`Index::take`] has something to do again if nothing changes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.queue.next_wake().into_iter().chain(self.statuses.next_wake()).min()
    }

    /// Decides for one grant: work to do now, or sleep.
    fn decide(&mut self, key: &GrantKey, now: Time) -> Option<Job> {
        let decision = plan::decide(now, &self.facts(key)?);
        self.stand(key, &decision, now);
        let grant = self.grants.get_mut(key)?;
        if decision.drop_attempt {
            grant.memory.attempt = None;
        }
        match &decision.act {
            Act::Idle(until) if decision.retire.is_empty() => {
                if let Some(until) = until {
                    // A due time in the past would spin: whatever it is, a second later is soon enough.
                    self.queue.sleep(key, (*until).max(now + TimeDelta::seconds(1)));
                }
                None
            }
            _ => {
                grant.retiring = decision.retire.iter().map(|retirement| retirement.anchor.clone()).collect();
                grant.busy = true;
                grant.dirty = false;
                Some(Job { grant: key.clone(), decision })
            }
        }
    }

    /// Notes how the grant stands, and tells when it began or ceased to fail.
    fn stand(&mut self, key: &GrantKey, decision: &Decision, now: Time) {
        let Some(grant) = self.grants.get_mut(key) else {
            return;
        };
        let settled = decision.standing == Standing::Ready && matches!(decision.act, Act::Idle(_));
        let recovered = settled && grant.memory.failing.take_if(|failing| failing.retry_at <= now).is_some();
        if grant.standing == decision.standing {
            return;
        }
        let before = std::mem::replace(&mut grant.standing, decision.standing.clone());
        let reason = |standing: &Standing| match standing {
            Standing::Failing(failure) => Some(failure.reason),
            _ => None,
        };
        let (was, is) = (reason(&before), reason(&decision.standing));
        if was != is || was.is_none() {
            grant.since = now;
        }
        match (&decision.standing, was) {
            (Standing::Failing(failure), was) if was != Some(failure.reason) => {
                self.notify(key, What::Failing(failure.clone()));
            }
            (Standing::Ready, Some(_)) => self.notify(key, What::Recovered),
            _ => {}
        }
        if recovered || was.is_some() && is != was {
            self.release(key, is);
        }
        self.statuses.mark(key.policy_key(), now);
    }

    fn notify(&mut self, key: &GrantKey, what: What) {
        let policy_uid = self.policies.get(&key.policy_key()).map(|policy| policy.uid().into()).unwrap_or_default();
        let target = self.grants.get(key).and_then(|grant| grant.wanted.as_ref().or(grant.targets.first()));
        let target = target.map(ToString::to_string);
        self.notices.push(Notice { grant: key.clone(), policy_uid, target, what });
    }

    /// What happened since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Gathers what a decision is made of.
    fn facts<'a>(&'a self, key: &'a GrantKey) -> Option<Facts<'a>> {
        let grant = self.grants.get(key)?;
        let place = |name: &Arc<str>| Key { namespace: key.namespace.clone(), name: name.clone() };
        let old = grant.targets.iter().filter(|name| Some(*name) != grant.wanted.as_ref());
        let anchors =
            grant.anchors.iter().filter_map(|(name, seen)| Some((&**name, (self.anchors.get(&place(name))?, *seen))));
        Some(Facts {
            key,
            site: &self.site,
            policy: self.policies.get(&key.policy_key()),
            account: self.accounts.get(&key.account_key()),
            name: self.claimed_name(key, grant),
            occupant: grant.wanted.as_ref().and_then(|name| self.targets.get(&place(name))),
            old: old.filter_map(|name| Some((&**name, self.targets.get(&place(name))?))).collect(),
            anchors: anchors.collect(),
            memory: &grant.memory,
        })
    }

    /// The wanted name, unless it is illegal or another policy has the better claim.
    fn claimed_name(&self, key: &GrantKey, grant: &Grant) -> Result<String, Failure> {
        let invalid = |what: &str| Failure::new(Reason::TargetNameInvalid, what);
        let policy = self.policy(&key.policy_key()).ok_or_else(|| invalid("no policy"))?;
        let name =
            select::target_name(&policy.spec.secret.name, &key.policy, &key.account).map_err(|what| invalid(&what))?;
        let Some(wanted) = &grant.wanted else {
            return Ok(name);
        };
        let place = Key { namespace: key.namespace.clone(), name: wanted.clone() };
        let claims: Vec<Claim<'_>> =
            self.claims.get(&place).into_iter().flatten().filter_map(|claimant| self.claim_of(claimant)).collect();
        match select::holder(&claims, self.targets.get(&place)) {
            Some(holder) if (holder.policy_name, holder.account) != (&*key.policy, &*key.account) => {
                let what = format!(
                    "Secret {place} is claimed by policy {} for account {}",
                    holder.policy_name, holder.account
                );
                Err(Failure::new(Reason::TargetConflict, &what))
            }
            _ => Ok(name),
        }
    }

    fn claim_of<'a>(&'a self, key: &'a GrantKey) -> Option<Claim<'a>> {
        let policy = self.policy(&key.policy_key())?;
        Some(Claim { policy_name: &key.policy, policy, account: &key.account })
    }
}

fn named(policy: &Policy) -> impl Iterator<Item = Arc<str>> {
    policy.spec.service_accounts.names.iter().flatten().map(|name| name.as_str().into())
}

fn of_target(key: &Key, target: &Target) -> GrantKey {
    GrantKey {
        namespace: key.namespace.clone(),
        policy: (*target.policy).into(),
        account: (*target.service_account).into(),
    }
}

fn of_anchor(key: &Key, anchor: &Anchor) -> Option<GrantKey> {
    let known = !anchor.policy.is_empty() && !anchor.service_account.is_empty();
    known.then(|| GrantKey {
        namespace: key.namespace.clone(),
        policy: (*anchor.policy).into(),
        account: (*anchor.service_account).into(),
    })
}
