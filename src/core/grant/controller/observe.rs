//! The one way in: an object as a watch or an answer shows it, and what follows for the grants that it concerns.

use super::{
    AnchorLink, Buried, Change, Grants, Left, TargetLink,
    relations::{account_link, policy_link},
    trouble::Kind,
};
use crate::core::{
    Time,
    grant::{Account, Grant, Retirement, event::GrantNews, retire, status::Counted, view::PolicyProof},
    id::{Key, Name, Ref, Secs, Uid},
    kernel::store::{Changed, WatchEvent},
    place::{
        record::{Bond, Record},
        secret::{Anchor, Owners, Target},
    },
    policy::PolicyState,
    reason::{FailureReason, RetireReason},
    revocation,
};

impl Grants {
    /// Takes one step of a watch in.
    pub(super) fn step(&mut self, scope: u16, change: Change, now: Time) {
        match change {
            Change::Policy(event) => self.policy_event(scope, event, now),
            Change::Account(event) => self.account_event(scope, event, now),
            Change::Target(event) => self.target_event(scope, event, now),
            Change::Anchor(event) => self.anchor_event(scope, event, now),
        }
    }

    fn listed(&mut self, scope: u16, now: Time) {
        self.readiness_changed = true;
        self.open_for_revoking(scope, now);
        self.open(scope, now);
    }

    pub(super) fn policy_event(&mut self, scope: u16, event: WatchEvent<PolicyState>, now: Time) {
        let listed = matches!(event, WatchEvent::Listed);
        let row = event.key().map(|key| {
            let namespace = self.namespace(&key.namespace);
            (namespace, self.policy_row(namespace, &key.name))
        });
        let namespace = row.map_or(u32::MAX, |(namespace, _)| namespace);
        for Changed { id, before } in self.policies.apply(scope, event, |key| policy_link(namespace, &key.name)) {
            self.policy_changed(id, before.as_ref(), now);
        }
        if let Some((_, id)) = row {
            self.release_policy(id);
        }
        if listed {
            // What was written and is not in the list is lost, as after a restore.
            for id in self.policies_in(scope) {
                self.policies.link_mut(id).into_iter().for_each(|link| link.written = None);
            }
            self.listed(scope, now);
        }
    }

    /// A policy came, changed or went. One that only got another status concerns nobody.
    pub(super) fn policy_changed(&mut self, id: u32, before: Option<&PolicyState>, now: Time) {
        self.policies.link_mut(id).into_iter().for_each(|link| link.written = None);
        let after = self.policies.get(id);
        if let (Some(before), Some(after)) = (before, after)
            && before.asks_as(after)
        {
            // Ours or somebody else's: the next look at it tells.
            if before.head().status != after.head().status {
                self.mark(id, now);
            }
            return;
        }
        self.report_idle_revocation(id, before, now);
        self.register(id, before, now);
        let revoked_anew = {
            let (before, after) = (before.map(PolicyState::head), self.policies.get(id).map(PolicyState::head));
            before.map(|head| (head.terminating, &head.revocation))
                != after.map(|head| (head.terminating, &head.revocation))
        };
        for grant in self.grants_of_policy(id) {
            self.doubt(grant, now);
            self.reselect(grant, now);
            if revoked_anew {
                self.revoke_anew(grant, now);
            }
        }
        for account in self.newly_selected(id) {
            let grant = self.grant_of(id, account, now);
            self.settle(grant, now);
        }
        self.mark(id, now);
        self.release_policy(id);
    }

    /// Reports a revocation that does nothing now, when somebody asks for it.
    fn report_idle_revocation(&mut self, id: u32, before: Option<&PolicyState>, now: Time) {
        let asked = |state: Option<&PolicyState>| revocation::instant(state?.head().revocation.as_ref());
        let at = asked(self.policies.get(id)).filter(|at| Some(*at) != asked(before));
        let news = at.and_then(|at| self.idle_revocation(at, before.is_some(), &self.grants_of_policy(id), now));
        if let Some(news) = news {
            self.report_policy(id, news);
        }
    }

    /// The news that a revocation does nothing now: a mistaken zone or day must not look like one that is done. An instant
    /// that was there at the first sight has had its news from the process before.
    fn idle_revocation(&self, at: Time, anew: bool, grants: &[u32], now: Time) -> Option<GrantNews> {
        if at > now {
            return Some(GrantNews::RevocationScheduled(at));
        }
        let grants = || grants.iter().filter_map(|id| self.grants.get(*id));
        let known = anew && grants().all(|grant| self.knows_secrets(self.place(grant).1));
        let anchors = || grants().flat_map(|grant| self.anchors_of(grant)).filter_map(|id| self.anchors.get(id));
        let targets = || grants().flat_map(|grant| self.targets_of(grant)).filter_map(|id| self.targets.get(id));
        let older = || {
            anchors().any(|anchor| anchor.created.time() < at) || targets().any(|target| target.issued_before(at, now))
        };
        (known && !older()).then_some(GrantNews::NothingToRevoke(at))
    }

    /// Brings everything that is known of the policy as such up to date.
    fn register(&mut self, id: u32, before: Option<&PolicyState>, now: Time) {
        let state = self.policies.get(id);
        let (uid, was) = (state.map(PolicyState::uid), before.map(PolicyState::uid));
        let readable = state.and_then(PolicyState::readable);
        let selects = readable.is_some_and(|policy| policy.selector.is_some());
        let template = readable.map(|policy| policy.spec.secret.name.clone());
        let Some(link) = self.policies.link_mut(id) else { return };
        if was.is_some() && uid != was {
            (link.reported, link.judged) = ([None, None], false);
            self.outbox.forget(id);
        }
        if uid.is_some() {
            link.proof = PolicyProof { absent: false, ..link.proof };
        }
        let rename = template.filter(|template| **template != *link.template);
        if let Some(place) = self.namespaces.get_mut(link.namespace) {
            was.map(|uid| place.uids.remove(&uid.digest()));
            uid.map(|uid| place.uids.insert(uid.digest()));
            let _ = if selects { place.selecting.insert(id) } else { place.selecting.remove(&id) };
        }
        if let Some(template) = rename {
            self.rename(id, &template, now);
        }
        if was.is_some() && uid != was {
            self.contend_again(id, now);
        }
    }

    /// Accounts that a policy selects and has no grant for.
    fn newly_selected(&mut self, id: u32) -> Vec<u32> {
        let Some(policy) = self.policies.get(id).and_then(PolicyState::readable) else { return Vec::new() };
        let Some(link) = self.policies.link(id) else { return Vec::new() };
        let namespace = link.namespace;
        if policy.selector.is_none() {
            let names = policy.names().to_vec();
            return names.iter().map(|name| self.account_row(namespace, name)).collect();
        }
        let Some(place) = self.namespaces.get(namespace) else { return Vec::new() };
        let others = place.accounts.iter().copied().filter(|account| self.member(id, *account).is_none());
        others.filter(|account| self.selects(id, *account)).collect()
    }

    /// Whether a policy that can be read selects this account. Named accounts are selected whether they exist or not.
    pub(super) fn selects(&self, policy: u32, account: u32) -> bool {
        #[cfg(test)]
        self.matched.set(self.matched.get() + 1);
        let Some(policy) = self.policies.get(policy).and_then(PolicyState::readable) else { return false };
        let name = self.accounts.link(account).map(|link| link.name.clone()).unwrap_or_default();
        let labels = policy.selector.as_ref().and_then(|_| self.accounts.get(account)).map(Account::labels);
        policy.selects(&name, labels.as_ref())
    }

    pub(super) fn account_event(&mut self, scope: u16, event: WatchEvent<Account>, now: Time) {
        let listed = matches!(event, WatchEvent::Listed);
        let row = event.key().map(|key| {
            let namespace = self.namespace(&key.namespace);
            (namespace, self.account_row(namespace, &key.name))
        });
        let namespace = row.map_or(u32::MAX, |(namespace, _)| namespace);
        for Changed { id, before } in self.accounts.apply(scope, event, |key| account_link(namespace, &key.name)) {
            self.account_changed(id, before.as_ref(), now);
        }
        if let Some((_, id)) = row {
            self.release_account(id);
        }
        if listed {
            self.listed(scope, now);
        }
    }

    /// An account came, changed or went.
    pub(super) fn account_changed(&mut self, id: u32, before: Option<&Account>, now: Time) {
        let grants = self.grants_of_account(id);
        let doubted = |id: &u32| self.grants.get(*id).is_some_and(|grant| grant.proof.account_doubtful);
        let doubted: Vec<u32> = grants.iter().copied().filter(doubted).collect();
        if before.is_some() && before == self.accounts.get(id) && doubted.is_empty() {
            return;
        }
        for grant in doubted {
            if let Some(grant) = self.grants.get_mut(grant) {
                grant.proof.account_doubtful = false;
            }
        }
        for grant in grants {
            self.reselect(grant, now);
        }
        for policy in self.newly_selecting(id) {
            let grant = self.grant_of(policy, id, now);
            self.settle(grant, now);
        }
        self.release_account(id);
    }

    /// Policies that select an account by its labels and have no grant for it.
    fn newly_selecting(&self, account: u32) -> Vec<u32> {
        let place = self.accounts.link(account).and_then(|link| self.namespaces.get(link.namespace));
        let selecting = place.map(|place| &place.selecting).into_iter().flatten().copied();
        let unknown = |policy: &u32| self.member(*policy, account).is_none();
        selecting.filter(unknown).filter(|policy| self.selects(*policy, account)).collect()
    }

    pub(super) fn target_event(&mut self, scope: u16, event: WatchEvent<Box<(Record, Target)>>, now: Time) {
        match event {
            WatchEvent::Item(key, version, seen) => {
                let (owner, target) = self.seen_target(&key, *seen, now);
                let event = WatchEvent::Item(key, version, target);
                self.target_step(scope, event, Some(owner), now);
            }
            WatchEvent::Applied(key, version, seen) => {
                let (owner, target) = self.seen_target(&key, *seen, now);
                let event = WatchEvent::Applied(key, version, target);
                self.target_step(scope, event, Some(owner), now);
            }
            WatchEvent::Deleted(key, version) => {
                self.target_step(scope, WatchEvent::Deleted(key.clone(), version), None, now);
                self.end_of_target(&key, now);
            }
            WatchEvent::Listing => self.target_step(scope, WatchEvent::Listing, None, now),
            WatchEvent::Listed => {
                self.target_step(scope, WatchEvent::Listed, None, now);
                self.listed(scope, now);
            }
            // Only watches of optional kinds stop.
            WatchEvent::Stopped => {}
        }
    }

    /// A Secret that is being deleted counts as gone at once. Whoever waits for its end looks again.
    fn end_of_target(&mut self, key: &Key, now: Time) {
        let Some(namespace) = self.by_name.get(&key.namespace).copied() else { return };
        for id in self.claimants(namespace, &key.name).collect::<Vec<_>>() {
            let failing = self.grants.get(id).and_then(Grant::failing);
            if failing.is_some_and(|failing| failing.failure.reason == FailureReason::TargetTerminating) {
                self.try_now(id, Kind::Issue, now);
            }
        }
    }

    fn seen_target(&mut self, key: &Key, (record, target): (Record, Target), now: Time) -> (u32, Target) {
        let namespace = self.namespace(&key.namespace);
        let (policy, account) =
            (self.policy_row(namespace, &record.policy), self.account_row(namespace, &record.service_account));
        let owner = self.grant_of(policy, account, now);
        let target = self.compact(owner, target);
        (owner, target)
    }

    fn target_step(&mut self, scope: u16, event: WatchEvent<Target>, owner: Option<u32>, now: Time) {
        let unused = TargetLink { grant: Ref::NONE, next: Ref::NONE };
        for Changed { id, before } in self.targets.apply(scope, event, |_| unused) {
            self.target_changed(id, before.as_ref(), owner, now);
        }
        if let Some(owner) = owner {
            self.forget_empty(owner, now);
        }
    }

    /// A target came, changed or went.
    pub(super) fn target_changed(&mut self, id: u32, before: Option<&Target>, owner: Option<u32>, now: Time) {
        let known = self.targets.link(id).map_or(Ref::NONE, |link| link.grant);
        let after = owner.filter(|_| self.targets.get(id).is_some()).map_or(Ref::NONE, Ref::to);
        if let Some(before) = before {
            self.remember_tokens(id, before);
        }
        if known != after {
            if let Some(grant) = known.get().and_then(|grant| self.grants.get_mut(grant)) {
                // A target stopped naming its anchors. It is looked at again before one counts as not named.
                grant.target_seen = Secs::default();
            }
            self.move_target(id, after);
            known.get().into_iter().for_each(|grant| self.revoke_anew(grant, now));
        }
        if let Some(grant) = after.get().and_then(|grant| self.grants.get_mut(grant)) {
            grant.published |= self.targets.get(id).is_some_and(|target| target.token.is_some());
        }
        self.adopt_named(id, now);
        if let Some(grant) = after.get() {
            let owners = |target: &Target| target.owners;
            self.doubt_policy(grant, before.map(owners), self.targets.get(id).map(owners));
        }
        let name = match (self.targets.get(id), before) {
            (Some(target), _) => self.name_of(target, after),
            (None, Some(before)) => self.name_of(before, known),
            (None, None) => Name::default(),
        };
        let namespace = known.get().or(after.get()).and_then(|grant| self.grants.get(grant));
        let namespace = namespace.map(|grant| self.place(grant).0);
        if self.targets.get(id).is_none() {
            self.bury(known, Buried::Target(id));
        }
        let occupied = |target: &Target| target.make.clone();
        let as_before = known == after && before.map(occupied) == self.targets.get(id).map(occupied);
        for grant in [known.get().filter(|_| known != after), after.get()].into_iter().flatten() {
            self.settle(grant, now);
        }
        let asks = self.targets.get(id).and_then(Target::revocation);
        let anew = before.and_then(Target::revocation) != asks;
        let at = revocation::instant(asks);
        if let Some(grant) = after.get().filter(|_| anew) {
            self.revoke_anew(grant, now);
            if let Some(news) = at.and_then(|at| self.idle_revocation(at, before.is_some(), &[grant], now)) {
                self.report(grant, news);
            }
        }
        // A fresh token in the Secret of the incumbent is nothing to those who want its name.
        if let Some(namespace) = namespace.filter(|_| !as_before) {
            self.name_changed(namespace, &name, now);
        }
    }

    /// Somebody took the reference to the policy off a Secret: what was seen of the policy before proves nothing.
    fn doubt_policy(&mut self, grant: u32, before: Option<Owners>, after: Option<Owners>) {
        let had = |owners: Option<Owners>| owners.is_some_and(|owners| owners.policy != 0);
        let policy = self.grants.get(grant).map(|grant| grant.policy).filter(|_| had(before) && !had(after));
        if let Some(link) = policy.and_then(|policy| self.policies.link_mut(policy)) {
            link.proof.seen = None;
        }
    }

    /// Everybody who wants a name looks again whether it is free.
    fn name_changed(&mut self, namespace: u32, name: &Name, now: Time) {
        for id in self.claimants(namespace, name).collect::<Vec<_>>() {
            self.grants.get_mut(id).into_iter().for_each(|grant| grant.proof.target_absent = false);
        }
        self.wake_claimants(namespace, name, now);
    }

    /// Keeps the id of a token that the target no longer names beside its anchor, so that its end is reported by it.
    fn remember_tokens(&mut self, id: u32, before: &Target) {
        let Some(grant) = self.targets.link(id).and_then(|link| self.grants.get(link.grant.get()?)) else { return };
        let named =
            |bond: &Bond| self.targets.get(id).is_some_and(|target| target.bonds().any(|(known, ..)| known == bond));
        let gone: Vec<(Uid, Uid)> =
            before.bonds().filter(|(bond, ..)| !named(bond)).map(|(bond, id, _)| (bond.uid, id)).collect();
        let (anchors, with_target): (Vec<u32>, bool) =
            (self.anchors_of(grant).collect(), self.targets.get(id).is_none());
        for anchor in anchors {
            let uid = self.anchors.get(anchor).map(|anchor| anchor.uid);
            if let Some((_, token_id)) = gone.iter().find(|(bond, _)| Some(*bond) == uid) {
                self.left.insert(anchor, Left { token_id: *token_id, with_target });
            }
        }
    }

    pub(super) fn anchor_event(&mut self, scope: u16, event: WatchEvent<Box<(Name, Name, Anchor)>>, now: Time) {
        match event {
            WatchEvent::Item(key, version, seen) => {
                let (owner, anchor) = self.seen_anchor(&key, *seen, now);
                self.anchor_step(scope, WatchEvent::Item(key, version, anchor), owner, now);
            }
            WatchEvent::Applied(key, version, seen) => {
                let (owner, anchor) = self.seen_anchor(&key, *seen, now);
                self.anchor_step(scope, WatchEvent::Applied(key, version, anchor), owner, now);
            }
            WatchEvent::Deleted(key, version) => self.anchor_step(scope, WatchEvent::Deleted(key, version), None, now),
            WatchEvent::Listing => self.anchor_step(scope, WatchEvent::Listing, None, now),
            WatchEvent::Listed => {
                self.anchor_step(scope, WatchEvent::Listed, None, now);
                self.listed(scope, now);
            }
            // Only watches of optional kinds stop.
            WatchEvent::Stopped => {}
        }
    }

    pub(super) fn seen_anchor(
        &mut self,
        key: &Key,
        (policy, account, mut anchor): (Name, Name, Anchor),
        now: Time,
    ) -> (Option<u32>, Anchor) {
        if policy.is_empty() || account.is_empty() {
            return (None, anchor);
        }
        let namespace = self.namespace(&key.namespace);
        let (policy, account) = (self.policy_row(namespace, &policy), self.account_row(namespace, &account));
        let owner = self.grant_of(policy, account, now);
        let home = self.grants.get(owner).and_then(|grant| self.home(grant));
        anchor.leave_out(home.as_ref());
        (Some(owner), anchor)
    }

    pub(super) fn anchor_step(&mut self, scope: u16, event: WatchEvent<Anchor>, owner: Option<u32>, now: Time) {
        let seen = Secs::not_before(now);
        let link = |key: &Key| AnchorLink { name: key.name.clone(), grant: Ref::NONE, next: Ref::NONE, seen };
        for Changed { id, before } in self.anchors.apply(scope, event, link) {
            self.anchor_changed(id, before.as_ref(), owner, now);
        }
        if let Some(owner) = owner {
            self.forget_empty(owner, now);
        }
    }

    /// An anchor came, changed or went. It belongs to the grant whose target names it, else to the one that its annotations
    /// name, else to the one that it was known to belong to.
    pub(super) fn anchor_changed(&mut self, id: u32, before: Option<&Anchor>, owner: Option<u32>, now: Time) {
        let known = self.anchors.link(id).map_or(Ref::NONE, |link| link.grant);
        if self.anchors.get(id).is_none() {
            return self.anchor_gone(id, before, known, now);
        }
        let owner = if self.is_named(id) { known } else { owner.map_or(known, Ref::to) };
        if owner != known {
            self.move_anchor(id, owner);
        }
        if let Some(grant) = owner.get() {
            self.doubt_policy(grant, before.map(Anchor::owners), self.anchors.get(id).map(Anchor::owners));
        }
        for grant in [known.get().filter(|_| known != owner), owner.get()].into_iter().flatten() {
            self.settle(grant, now);
        }
    }

    fn anchor_gone(&mut self, id: u32, before: Option<&Anchor>, owner: Ref, now: Time) {
        if let (Some(anchor), Some(grant)) = (before, owner.get()) {
            self.revoked_by_hand(id, anchor, grant, now);
            if let Some(rare) = self.grants.get_mut(grant).and_then(|grant| grant.rare.as_mut())
                && let Some(attempt) = &mut rare.attempt
                && attempt.bond.as_ref().is_some_and(|bond| bond.uid == anchor.uid)
            {
                attempt.spent = true;
            }
        }
        self.move_anchor(id, Ref::NONE);
        self.left.remove(&id);
        self.bury(owner, Buried::Anchor(id));
        owner.get().into_iter().for_each(|grant| self.settle(grant, now));
    }

    /// Frees the row of a Secret that is gone. While a call of its grant is under way, the row keeps the version of the end: an
    /// answer from before it must not revive the Secret.
    fn bury(&mut self, grant: Ref, row: Buried) {
        match grant.get().filter(|id| self.grants.get(*id).is_some_and(|grant| grant.calls > 0)) {
            Some(grant) => self.buried.push((grant, row)),
            None => self.free(row),
        }
    }

    /// Frees what was kept for the answers to the calls of this grant.
    pub(super) fn calls_ended(&mut self, grant: u32) {
        for (_, row) in self.buried.extract_if(.., |(of, _)| *of == grant).collect::<Vec<_>>() {
            self.free(row);
        }
    }

    fn free(&mut self, row: Buried) {
        match row {
            Buried::Target(id) => self.targets.release(id),
            Buried::Anchor(id) => self.anchors.release(id),
        }
    }

    /// Reports that somebody else deleted an anchor that one of our targets names. The end of a policy takes them
    /// all, and is no news; nor is an end that was due: our own deletion may have had no answer.
    fn revoked_by_hand(&mut self, id: u32, anchor: &Anchor, owner: u32, now: Time) {
        let Some(grant) = self.grants.get(owner) else { return };
        let retiring = grant.rare.as_ref().is_some_and(|rare| rare.retiring.iter().any(|one| one.uid == anchor.uid));
        let governed = self.policies.get(grant.policy).is_some_and(|state| !state.head().terminating);
        let Some(link) = self.anchors.link(id).filter(|_| governed && !retiring) else { return };
        let named = self.targets_of(grant).filter_map(|target| self.targets.get(target)).flat_map(Target::bonds);
        let mut named = named.filter(|(bond, ..)| bond.uid == anchor.uid && bond.name == link.name);
        let token = named.next().map(|(_, token, account)| (token, account.cloned()));
        let token = token.or(self.left.get(&id).map(|left| (left.token_id, None)));
        let (secret, uid) = (link.name.clone(), anchor.uid);
        drop(named);
        if let Some((token, account)) = token {
            let view = self.view(owner, Name::default(), now);
            let planned = view.and_then(|view| retire::planned_end(&view, &secret, uid));
            let cause = planned.unwrap_or(RetireReason::ByHand);
            let token_id = Some(token);
            let retirement =
                Retirement { secret, uid, version: None, token_id, cause, reason: None, since: now, account };
            self.report(owner, GrantNews::Retired(retirement));
        }
    }

    /// Policy or account changed: selection, wanted name and due work follow.
    fn reselect(&mut self, id: u32, now: Time) {
        self.select(id, now);
        self.settle(id, now);
    }

    /// Brings selection and wanted name of a grant up to date.
    pub(super) fn select(&mut self, id: u32, now: Time) {
        let Some(grant) = self.grants.get(id) else { return };
        let (policy, account, claimed) = (grant.policy, grant.account, grant.claims);
        let selected = self.selects(policy, account);
        let readable = self.policies.get(policy).and_then(PolicyState::readable).is_some();
        let claims = selected && self.home(grant).is_some();
        let Some(grant) = self.grants.get_mut(id) else { return };
        let changed = std::mem::replace(&mut grant.selected, selected) != selected;
        grant.proof.unselected &= !selected;
        if readable && !selected {
            grant.rare().unselected_since.get_or_insert(now);
        } else if let Some(rare) = &mut grant.rare {
            rare.unselected_since = None;
        }
        grant.tidy();
        if changed {
            self.doubt(id, now);
        }
        if claims && !claimed {
            self.claim(id, now);
        } else if claimed && !claims {
            self.unclaim(id, now);
        }
    }

    /// A grant is counted as it was decided last, which says nothing of what its policy asks for now.
    pub(super) fn doubt(&mut self, id: u32, now: Time) {
        let Some(grant) = self.grants.get(id).filter(|grant| self.is_open(self.place(grant).1)) else { return };
        let published =
            self.targets_of(grant).any(|id| self.targets.get(id).is_some_and(|target| target.token.is_some()));
        let frozen = matches!(self.policies.get(grant.policy), Some(PolicyState::Unreadable(..)));
        let before = grant.counted.clone();
        let counted = if grant.selected || frozen && published {
            Counted { selected: true, undecided: published, working: !published, ..before }
        } else {
            Counted { unrevoked: before.unrevoked, ..Counted::default() }
        };
        self.count(id, &counted, now);
    }

    /// Makes a grant due; forgets it when nothing is left of it.
    pub(super) fn settle(&mut self, id: u32, now: Time) {
        if self.is_over(id) {
            self.forget(id, now);
        } else {
            self.wake(id, now);
        }
    }

    /// Forgets a grant that only old news told of.
    pub(super) fn forget_empty(&mut self, id: u32, now: Time) {
        if self.is_over(id) {
            self.forget(id, now);
        }
    }

    fn is_over(&self, id: u32) -> bool {
        let Some(grant) = self.grants.get(id) else { return false };
        let state = self.policies.get(grant.policy);
        let unreadable = state.is_some_and(|state| state.readable().is_none());
        grant.is_empty() && !grant.selected && !unreadable
    }
}
