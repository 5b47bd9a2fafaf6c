//! The order of decisions, and their effect on the grant.

use std::cell::OnceCell;

use chrono::TimeDelta;

use super::{GrantCall, Grants, Work, trouble::Kind};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        failure::Failure,
        grant::{
            Failing, Grant, Rare, Retirement,
            call::{Call, Step},
            checks::Case,
            event::GrantNews,
            look::Look,
            next::{self, Act, Decision},
            status::{Counted, Standing},
            view::{Placed, PlacedAnchor, View},
        },
        id::{GrantKey, Name, Secs},
        kernel::queue::Lane,
        names,
        place::{
            record::Token,
            secret::{Author, Owners, Target},
        },
        policy::{Policy, PolicyState},
        reason::FailureReason,
        request::Request,
        schedule,
    },
};

/// A first issue counts as urgent as a token that expires in so long: a consumer waits for it, but has nothing to lose yet.
const FIRST_WITHIN: TimeDelta = TimeDelta::seconds(60);
/// A token that is being renewed should be done this long before it expires.
const BEFORE_EXPIRY: TimeDelta = TimeDelta::seconds(60);

/// Sleepers that are woken before the next call: a crowd that wakes in one second holds the loop up no longer.
const MAX_WOKEN: usize = 4096;

/// Retirements of one grant at once; the next decision goes on. Somebody may have made thousands of anchors.
const MAX_RETIRING: usize = 8;

/// Kinds of work, which share the slots of their namespace.
mod kind {
    /// A person asked for it, or somebody undid our work.
    pub const ASKED: u8 = 0;
    /// A token is dead, and its consumer is refused.
    pub const DEAD: u8 = 1;
    /// A token is to be renewed.
    pub const RENEWAL: u8 = 2;
    /// There has been no token yet.
    pub const FIRST: u8 = 3;
    /// A Secret follows the address of the cluster; renewals have slots beside thousands of these.
    pub const FOLLOWING: u8 = 4;
}

impl Grants {
    /// Makes a grant ready to be decided, if the lists that this reads are complete.
    pub(super) fn wake(&mut self, id: u32, now: Time) {
        let Some(grant) = self.grants.get(id) else { return };
        let (namespace, scope) = self.place(grant);
        if self.is_open(scope) || self.knows_secrets(scope) && self.is_revoked(grant) {
            let (kind, deadline) = self.urgency(grant, now);
            self.queue.ready(id, Lane { namespace, kind }, deadline);
        }
    }

    /// Whether somebody wants tokens of it dead: by annotation of its policy or a target, or by deleting one of these.
    fn is_revoked(&self, grant: &Grant) -> bool {
        let ends = self.policies.get(grant.policy).is_some_and(|state| state.head().terminating);
        let deleted = |anchor: u32| self.left.get(&anchor).is_some_and(|left| left.with_target);
        let policy = self.policies.get(grant.policy).is_some_and(|state| state.head().revocation.is_some());
        let asked = |target: u32| self.targets.get(target).is_some_and(|target| target.revocation().is_some());
        ends || policy || self.targets_of(grant).any(asked) || self.anchors_of(grant).any(deleted)
    }

    /// The kind of a grant's work, and until when it should be done.
    fn urgency(&self, grant: &Grant, now: Time) -> (u8, Time) {
        let state = self.policies.get(grant.policy);
        let head = state.map(PolicyState::head);
        let target = self.targets_of(grant).next().and_then(|target| self.targets.get(target));
        let Some((target, token)) = target.and_then(|target| Some((target, target.token.as_ref()?))) else {
            return if grant.published { (kind::ASKED, now) } else { (kind::FIRST, now + FIRST_WITHIN) };
        };
        let rotate = head.and_then(|policy| policy.rotate.as_deref()).is_some_and(|value| value != target.rotate());
        let revoke = head.and_then(|policy| policy.revocation.as_ref()).or(target.revocation());
        let revoke = revoke.and_then(|asked| asked.as_ref().ok());
        let revoke = revoke.is_some_and(|asked| token.issued.time() < asked.before);
        if rotate || revoke {
            return (kind::ASKED, now);
        }
        let asks = state.and_then(PolicyState::readable);
        if asks.is_some_and(|policy| self.is_dead(grant, policy, target, token, now)) {
            return (kind::DEAD, now);
        }
        let told = asks.is_none_or(|policy| target.layout.tells(self.prints.told_by(&policy.spec.secret.format)));
        let kind = if told || grant.counted.due.time() <= now { kind::RENEWAL } else { kind::FOLLOWING };
        (kind, token.expires.time() - BEFORE_EXPIRY)
    }

    /// Whether the consumer of a Secret is refused. The checks find more, for a decision; a wake must not cost as much. Tokens
    /// whose key is gone are renewed by their expiry: all die at once.
    fn is_dead(&self, grant: &Grant, policy: &Policy, target: &Target, token: &Token, now: Time) -> bool {
        let account = self.accounts.get(grant.account).filter(|_| grant.selected && !policy.terminating);
        let Some(account) = account else { return false };
        let bound = |id: u32| self.anchors.get(id).is_some_and(|anchor| anchor.uid == token.bond.uid);
        let unbound = policy.binding() == Binding::Anchor && !self.anchors_of(grant).any(bound);
        let as_written =
            target.layout.follows(&policy.layout, &policy.spec.secret, &policy.demanded, &self.address.address);
        let edited = as_written && target.applied.data != policy.applied.data;
        unbound || edited || account.uid.digest() != target.account_uid || token.expires.time() <= now
    }

    /// The most urgent call for a free slot, if any is due; `decisions` is what may still be decided in this turn.
    pub(super) fn next_call(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        if schedule::went_back(&mut self.latest, now) {
            self.rewind(now);
        }
        for _ in 0..MAX_WOKEN {
            let Some(id) = self.queue.woken(now) else { break };
            self.wake(id, now);
        }
        loop {
            if let Some(call) = self.pending.pop_front() {
                return Some(call);
            }
            if *decisions == 0 {
                return None;
            }
            let (id, lane) = self.queue.take()?;
            *decisions -= 1;
            self.decide(id, lane, now);
            self.forget_empty(id, now);
        }
    }

    /// Pauses are short: when the clock goes back, none is waited for twice, and no proof is from later than now.
    fn rewind(&mut self, now: Time) {
        for id in self.policies.iter().map(|(id, ..)| id).collect::<Vec<_>>() {
            self.policies.link_mut(id).into_iter().for_each(|link| link.proof.seen = None);
        }
        for id in self.grants.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.grants.get_mut(id).into_iter().for_each(|grant| grant.rewind(now));
            self.wake(id, now);
        }
    }

    /// When there is something to do if nothing changes. `free` says whether a call could begin now, `writes` how many
    /// statuses may be written at once.
    pub(super) fn wakes_at(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        let ready = free && (self.queue.ready_count() > 0 || !self.pending.is_empty());
        // Without a free slot nobody is decided: to wake for a sleeper would be to spin.
        let woken = self.queue.next_wake().filter(|_| free);
        ready
            .then_some(now)
            .into_iter()
            .chain(woken)
            .chain(self.outbox.next_wake(writes, now))
            .chain(self.told_at(now))
            .min()
    }

    /// Decides for one grant: calls to begin, or sleep.
    pub(super) fn decide(&mut self, id: u32, lane: Lane, now: Time) {
        #[cfg(test)]
        {
            self.decisions += 1;
        }
        let fresh = names::anchor(self.seed, self.drawn);
        let open = self.grants.get(id).is_some_and(|grant| self.is_open(self.place(grant).1));
        self.find_holder(id);
        let Some((decision, mut counted)) = self.view(id, fresh, now).map(|view| {
            let decision = next::decide(&view, open);
            let counted = counted(&view, &decision);
            (decision, counted)
        }) else {
            return;
        };
        if self.is_revoked_at_last(id, &decision.retire, now) {
            counted.unrevoked = decision.standing.is_unheard();
        }
        self.stand(id, &decision, now);
        self.count(id, &counted, now);
        if decision.drop_attempt {
            self.drop_attempt(id);
        }
        // The end of a token is told, and the end of a pause taken down, also where nothing else is due by then.
        let ends = Some(counted.expires.time()).filter(|_| counted.valid);
        let paused = self.grants.get(id).and_then(Grant::failing).map(|failing| failing.retry_at);
        let wake = [decision.wake, ends, paused].into_iter().flatten().filter(|at| *at > now).min();
        let busy = self.grants.get(id).is_some_and(|grant| grant.busy);
        self.retire(id, lane, decision.retire, now);
        match decision.act {
            Act::Idle(until) if !busy => self.sleep(id, until.into_iter().chain(wake).min(), now),
            // What else becomes due does not wait for the end of a call.
            Act::Call(call) if !busy => {
                self.begin(id, lane, *call);
                self.sleep(id, wake, now);
            }
            _ => self.sleep(id, wake, now),
        }
        if let Some(retirement) = decision.unanswered {
            self.tell_unanswered(id, &retirement, now);
        }
        if let Some(grant) = self.grants.get_mut(id) {
            grant.tidy();
        }
    }

    fn drop_attempt(&mut self, id: u32) {
        self.held.remove(&id);
        if let Some(rare) = self.grants.get_mut(id).and_then(|grant| grant.rare.as_mut()) {
            rare.attempt = None;
        }
    }

    fn sleep(&mut self, id: u32, until: Option<Time>, now: Time) {
        if let Some(until) = until {
            // A due time in the past would spin: whatever it is, a second later is soon enough.
            self.queue.sleep(id, until.max(now + TimeDelta::seconds(1)));
        }
    }

    /// Begins retirements, unless their last failure was a moment ago.
    fn retire(&mut self, id: u32, lane: Lane, mut due: Vec<Retirement>, now: Time) {
        let Some(grant) = self.grants.get(id) else { return };
        let key = self.key(grant);
        let unrevoked = grant.rare.as_ref().and_then(|rare| rare.unrevoked.as_ref());
        if unrevoked.is_some_and(|failing| now < failing.retry_at) {
            return;
        }
        // Others come first in each round, so that some that are always refused hold up none.
        let rounds = unrevoked.map_or(0, |failing| failing.count as usize);
        let refused = (rounds * MAX_RETIRING).checked_rem(due.len()).unwrap_or_default();
        due.rotate_left(refused);
        let under_way = self.grants.get(id).and_then(|grant| grant.rare.as_ref()).map_or(0, |rare| rare.retiring.len());
        for retirement in due.into_iter().take(MAX_RETIRING.saturating_sub(under_way)) {
            let Retirement { secret, uid, version, .. } = &retirement;
            let request = Request::delete_secret(&key.namespace, secret, *uid, *version);
            if let Some(grant) = self.grants.get_mut(id) {
                grant.rare().retiring.push(retirement.clone());
            }
            self.begin(id, lane, Call::of(Step::Retire(Box::new(retirement)), request));
        }
    }

    /// Whether nothing is left of a revocation that failed until now.
    fn is_revoked_at_last(&mut self, id: u32, due: &[Retirement], now: Time) -> bool {
        let over = |rare: &&mut Box<Rare>| {
            let tried = rare.unrevoked.as_ref().is_some_and(|failing| failing.retry_at <= now);
            tried && due.is_empty() && rare.retiring.is_empty()
        };
        let Some(rare) = self.grants.get_mut(id).and_then(|grant| grant.rare.as_mut()).filter(over) else {
            return false;
        };
        rare.unrevoked = None;
        self.report(id, GrantNews::RevocationDone);
        self.release(id, |_, kind| kind == Kind::Issue, now);
        true
    }

    /// Puts a call on its way.
    fn begin(&mut self, id: u32, lane: Lane, call: Call) {
        let Some(key) = self.grants.get(id).map(|grant| self.key(grant)) else { return };
        let Some(grant) = self.grants.get_mut(id) else { return };
        let retires = matches!(call.step, Step::Retire(_));
        grant.calls += 1;
        grant.busy |= !retires;
        if let Some(attempt) = call.attempt {
            grant.rare().attempt = Some(attempt);
        }
        let policy = grant.policy;
        if let Step::Look(Look::Policy) = call.step
            && let Some(link) = self.policies.link_mut(policy)
        {
            link.proof.looking = true;
        }
        if matches!(call.step, Step::CreateAnchor) {
            self.drawn += 1;
        }
        let known = self.known(self.policies.scope(policy));
        let Call { request, step, .. } = call;
        let what = request.what.clone();
        let ticket = self.calls.insert(Work::Grant(GrantCall { grant: id, key, step, lane, known, what }));
        self.queue.started(lane);
        self.pending.push_back((ticket, request));
    }

    /// Gathers all that a decision is made of.
    pub(in crate::core::grant) fn view(&self, id: u32, fresh: Name, now: Time) -> Option<View<'_>> {
        let grant = self.grants.get(id)?;
        let (namespace, scope) = self.place(grant);
        let place = self.namespaces.get(namespace)?;
        let key = self.key(grant);
        let home = self.home(grant);
        let wanted = home.as_ref().filter(|_| grant.claims);
        let occupant = wanted.and_then(|name| self.targets.find(scope, &place.name, name));
        let old = self.targets_of(grant).filter(|target| Some(*target) != occupant);
        let owner = occupant.and_then(|target| self.targets.link(target)?.grant.get());
        let other = owner.filter(|owner| *owner != id).and_then(|owner| self.grants.get(owner));
        let leaver = other.filter(|other| occupant.is_some_and(|target| self.leaves(other, grant, target)));
        let anchors = self.anchors_of(grant).chain(leaver.into_iter().flat_map(|leaver| self.anchors_of(leaver)));
        Some(View {
            now,
            address: &self.address.address,
            prints: &self.prints,
            keys: &self.keys,
            policy: self.policies.get(grant.policy),
            policy_proof: self.policies.link(grant.policy).map(|link| link.proof).unwrap_or_default(),
            living: Some(&place.uids),
            account: self.accounts.get(grant.account),
            name: self.claimed_name(id, grant, home.as_ref()),
            occupant: occupant.and_then(|target| self.placed(target)),
            occupied_by: other.filter(|_| leaver.is_none()).map(|other| self.key(other)),
            makes_way_for: other.and_then(|other| self.home(other)).filter(|home| Some(home) != wanted),
            leaver: leaver.map(|leaver| self.key(leaver).account),
            succeeded: !grant.selected && home.as_ref().is_some_and(|name| self.is_succeeded(grant, namespace, name)),
            old: old.filter_map(|target| self.placed(target)).collect(),
            by_name: OnceCell::new(),
            anchors: anchors.enumerate().filter_map(|(nth, anchor)| self.placed_anchor(nth, anchor)).collect(),
            key,
            home,
            grant,
            fresh,
        })
    }

    /// Whether a grant leaves its target to another one that wants the name: to the next account of its policy, or to the
    /// next policy for the same account where the Secret was let go. Nobody else's hand may have been on it.
    fn leaves(&self, leaver: &Grant, heir: &Grant, target: u32) -> bool {
        let policy = self.policies.get(heir.policy).and_then(PolicyState::readable);
        // A policy that cannot be read has let nothing go.
        let gone = self.policies.get(leaver.policy).is_none_or(|state| state.readable().is_some()) && !leaver.selected;
        let target = self.targets.get(target).filter(|target| target.written() && gone);
        let Some((policy, target)) = policy.zip(target) else { return false };
        if leaver.policy == heir.policy {
            return target.policy_uid == policy.uid.digest();
        }
        let let_go = target.author == Author::Operator && target.owners == Owners { policy: 0, foreign: false };
        leaver.account == heir.account && let_go && target.applied.data == policy.applied.data
    }

    /// Whether another account of the policy wants the name that an account had.
    fn is_succeeded(&self, grant: &Grant, namespace: u32, name: &Name) -> bool {
        let mut claimants = self.claimants(namespace, name).filter_map(|id| self.grants.get(id));
        claimants.any(|heir| heir.policy == grant.policy)
    }

    fn placed(&self, id: u32) -> Option<Placed<'_, Target>> {
        Some(Placed { name: self.target_name(id), version: self.targets.version(id), object: self.targets.get(id)? })
    }

    fn placed_anchor(&self, nth: usize, id: u32) -> Option<PlacedAnchor<'_>> {
        let (link, version) = (self.anchors.link(id)?, self.anchors.version(id));
        let anchor = Placed { name: link.name.clone(), version, object: self.anchors.get(id)? };
        let left = self.left.get(&id);
        Some(PlacedAnchor {
            anchor,
            seen: link.seen,
            nth,
            token_id: left.map(|left| left.token_id),
            target_deleted: left.is_some_and(|left| left.with_target),
        })
    }

    /// The wanted name, unless it is illegal or another policy has the better claim.
    fn claimed_name(&self, id: u32, grant: &Grant, home: Option<&Name>) -> Result<Name, Failure> {
        let key = self.key(grant);
        let invalid = |what: &str| {
            let what = format!("TokenPolicy {} for account {}: {what}", key.policy_key(), key.account);
            Failure::new(FailureReason::TargetNameInvalid, &what)
        };
        let policy = self.policies.get(grant.policy).and_then(PolicyState::readable);
        let policy = policy.ok_or_else(|| invalid("no policy"))?;
        let Some(name) = home else {
            let name = names::target_name(&policy.spec.secret.name, &key.policy, &key.account);
            return name.map(Into::into).map_err(|what| invalid(&what));
        };
        let (namespace, _) = self.place(grant);
        let holder = self.holders.get(&(namespace, name.clone())).filter(|holder| grant.claims && **holder != id);
        let Some(holder) = holder.and_then(|holder| self.grants.get(*holder)) else { return Ok(name.clone()) };
        let GrantKey { policy, account, .. } = self.key(holder);
        let what = format!("Secret {}/{name} is claimed by policy {policy} for account {account}", key.namespace);
        Err(Failure::new(FailureReason::TargetConflict, &what))
    }

    /// Notes how the grant stands, and reports when it began or ceased to fail.
    fn stand(&mut self, id: u32, decision: &Decision, now: Time) {
        let Some(grant) = self.grants.get_mut(id) else { return };
        let idle = matches!(decision.act, Act::Idle(_)) && !grant.busy;
        let failure = decision.standing.failure().cloned();
        let waits = failure.as_ref().map(|failure| failure.reason);
        let ended =
            |failing: &mut Box<Failing>| idle && failing.retry_at <= now && waits != Some(failing.failure.reason);
        let over = |rare: &mut Box<Rare>| rare.failing.take_if(ended).is_some();
        let recovered = grant.rare.as_mut().is_some_and(over);
        let before = grant.rare.as_mut().and_then(|rare| rare.failure.take());
        if failure.is_some() {
            grant.rare().failure.clone_from(&failure);
        }
        let reported = grant.reported();
        let news = match &decision.standing {
            // That a policy does not parse is reported once for the policy, not for each of its accounts.
            Standing::Failing(failure) if failure.reason == FailureReason::PolicyUnreadable => None,
            Standing::Failing(failure) => {
                (reported != Some(failure.reason)).then(|| GrantNews::Failing(failure.clone()))
            }
            Standing::Ready => reported.map(|_| GrantNews::Recovered),
            Standing::Working | Standing::Unselected => None,
        };
        if let Some(what) = news {
            grant.rare().reported = what.failure().map(|failure| (failure.reason, Secs::of(now)));
            self.report(id, what);
        }
        if recovered || reported.is_some() {
            let still = self.grants.get(id).and_then(Grant::reported).filter(|_| !recovered);
            self.release(id, |reason, kind| kind == Kind::Revoke || Some(reason) == still, now);
        }
        if before != failure
            && let Some(policy) = self.grants.get(id).map(|grant| grant.policy)
        {
            self.mark(policy, now);
        }
    }

    /// Counts a grant for the status of its policy.
    pub(super) fn count(&mut self, id: u32, counted: &Counted, now: Time) {
        let Some(grant) = self.grants.get_mut(id).filter(|grant| grant.counted != *counted) else { return };
        let (policy, before) = (grant.policy, std::mem::replace(&mut grant.counted, counted.clone()));
        let Some(link) = self.policies.link_mut(policy) else { return };
        link.totals.remove(id, &before);
        link.totals.add(id, counted);
        if before.signer != counted.signer {
            counted.signer.iter().for_each(|signer| self.keys.count(signer));
            before.signer.iter().for_each(|signer| self.keys.uncount(signer));
        }
        self.mark(policy, now);
    }

    /// Takes down a retirement that has ended.
    pub(super) fn retirement_ended(&mut self, id: u32, retirement: &Retirement) {
        if let Some(rare) = self.grants.get_mut(id).and_then(|grant| grant.rare.as_mut()) {
            rare.retiring.retain(|one| one.uid != retirement.uid);
        }
    }
}

fn counted(view: &View<'_>, decision: &Decision) -> Counted {
    let unrevoked =
        decision.standing.is_unheard() || view.grant.rare.as_ref().is_some_and(|rare| rare.unrevoked.is_some());
    let case = Case::of(view);
    // Who is selected by a policy that cannot be read is not known; those that have a Secret of it count.
    let frozen = view.old.first().filter(|_| view.is_frozen());
    if !view.grant.selected && frozen.is_none() {
        return Counted { unrevoked, ..Counted::default() };
    }
    let target = view.target().or(frozen).map(|target| target.object);
    let alive = frozen.map(|target| view.is_alive(target));
    let token = target.and_then(|target| target.token.as_ref()).filter(|_| alive != Some(false));
    let due = target.and_then(|target| view.due(target));
    // Only a Secret that we wrote, and a token that can have been issued by now, says anything about keys in use.
    let signer = target.filter(|target| token.is_some() && target.written()).and_then(|target| target.signer.clone());
    Counted {
        selected: true,
        undecided: false,
        valid: alive.unwrap_or_else(|| case.is_valid()),
        working: decision.standing == Standing::Working,
        failing: matches!(decision.standing, Standing::Failing(_)),
        irrevocable: target.is_some_and(|target| target.irrevocable(view.now).next().is_some()),
        unrevoked,
        outside: due.is_some_and(|due| due.outside),
        expires: token.map(|token| token.expires).unwrap_or_default(),
        issued: token.map(|token| token.issued).unwrap_or_default(),
        due: due.map(|due| Secs::of(due.at)).unwrap_or_default(),
        signer,
    }
}
