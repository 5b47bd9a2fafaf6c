//! Which object belongs to which grant, and which grants a policy has.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use hashbrown::HashTable;

use super::{AccountLink, Grants, Namespace, PolicyLink, chain};
use crate::core::{
    Time,
    grant::{
        Grant,
        claims::Claim,
        event::GrantNews,
        status::{Counted, Totals},
        view::PolicyProof,
    },
    id::{Name, Ref, short_hash},
    names,
    place::secret::{Target, owner_digest},
};

/// The template of policies that name none, and of those that are not known yet.
const TEMPLATE: &str = "{policy}-{serviceAccount}";

impl Grants {
    /// The number of a namespace.
    pub(super) fn namespace(&mut self, name: &str) -> u32 {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let name = Name::from(name);
        let scope = self.by_scope.get(&name).copied().unwrap_or_default();
        let namespace = Namespace {
            name: name.clone(),
            scope,
            policies: HashSet::default(),
            selecting: HashSet::default(),
            uids: HashSet::default(),
            accounts: HashSet::default(),
        };
        let id = self.namespaces.insert(namespace);
        self.by_name.insert(name, id);
        id
    }

    /// The row of a policy, whether it exists or not.
    pub(super) fn policy_row(&mut self, namespace: u32, name: &str) -> u32 {
        let Some(place) = self.namespaces.get_mut(namespace) else { return u32::MAX };
        let id = self.policies.ensure(place.scope, &place.name, name, || policy_link(namespace, name));
        place.policies.insert(id);
        id
    }

    /// The row of an account, whether it exists or not.
    pub(super) fn account_row(&mut self, namespace: u32, name: &str) -> u32 {
        let Some(place) = self.namespaces.get_mut(namespace) else { return u32::MAX };
        let id = self.accounts.ensure(place.scope, &place.name, name, || account_link(namespace, name));
        place.accounts.insert(id);
        id
    }

    /// The grant of this policy and account.
    pub(super) fn grant_of(&mut self, policy: u32, account: u32, now: Time) -> u32 {
        if let Some(id) = self.member(policy, account) {
            return id;
        }
        let id = self.grants.insert(Grant::new(policy, account, now));
        let place = |id: &u32| self.grants.get(*id).map_or(0, |grant| spread(grant.account));
        if let Some(link) = self.policies.link_mut(policy) {
            link.members.insert_unique(spread(account), id, place);
        }
        if let Some(link) = self.accounts.link_mut(account) {
            let next = std::mem::replace(&mut link.grants, Ref::to(id));
            if let Some(grant) = self.grants.get_mut(id) {
                grant.next_of_account = next;
            }
        }
        self.select(id, now);
        id
    }

    /// The grant of this policy and account, if there is one.
    pub(super) fn member(&self, policy: u32, account: u32) -> Option<u32> {
        let of_account = |id: &u32| self.grants.get(*id).is_some_and(|grant| grant.account == account);
        self.policies.link(policy)?.members.find(spread(account), of_account).copied()
    }

    /// The grants of an account.
    pub(super) fn grants_of_account(&self, account: u32) -> Vec<u32> {
        let first = self.accounts.link(account).map_or(Ref::NONE, |link| link.grants);
        chain(first, |id| self.grants.get(id).map_or(Ref::NONE, |grant| grant.next_of_account)).collect()
    }

    /// The grants of a policy.
    pub(super) fn grants_of_policy(&self, policy: u32) -> Vec<u32> {
        self.policies.link(policy).map(|link| link.members.iter().copied().collect()).unwrap_or_default()
    }

    /// Forgets a grant of which nothing is left.
    pub(super) fn forget(&mut self, id: u32, now: Time) {
        if self.grants.get(id).is_some_and(|grant| grant.rare.as_ref().is_some_and(|rare| rare.unrevoked.is_some())) {
            self.report(id, GrantNews::RevocationDone);
        }
        self.unclaim(id, now);
        self.count(id, &Counted::default(), now);
        self.queue.remove(id);
        self.held.remove(&id);
        self.release(id, |_, _| false, now);
        let Some(grant) = self.grants.get(id) else { return };
        let (policy, account, next) = (grant.policy, grant.account, grant.next_of_account);
        let before = self
            .grants_of_account(account)
            .into_iter()
            .find(|other| self.grants.get(*other).is_some_and(|other| other.next_of_account == Ref::to(id)));
        match before.and_then(|before| self.grants.get_mut(before)) {
            Some(before) => before.next_of_account = next,
            None => drop(self.accounts.link_mut(account).map(|link| link.grants = next)),
        }
        if let Some(link) = self.policies.link_mut(policy)
            && let Ok(entry) = link.members.find_entry(spread(account), |member| *member == id)
        {
            entry.remove();
        }
        self.grants.remove(id);
        self.release_policy(policy);
        self.release_account(account);
    }

    /// Frees the row of a policy that is gone and has no grants any more.
    pub(super) fn release_policy(&mut self, id: u32) {
        let used = self.policies.get(id).is_some();
        let Some(link) = self.policies.link(id).filter(|link| !used && link.members.is_empty()) else { return };
        let namespace = link.namespace;
        self.outbox.forget(id);
        self.policies.release(id);
        if let Some(place) = self.namespaces.get_mut(namespace) {
            place.policies.remove(&id);
            place.selecting.remove(&id);
        }
        self.release_namespace(namespace);
    }

    /// Frees the row of an account that does not exist and has no grants any more.
    pub(super) fn release_account(&mut self, id: u32) {
        let used = self.accounts.get(id).is_some();
        let Some(link) = self.accounts.link(id).filter(|link| !used && link.grants == Ref::NONE) else { return };
        let namespace = link.namespace;
        self.accounts.release(id);
        if let Some(place) = self.namespaces.get_mut(namespace) {
            place.accounts.remove(&id);
        }
        self.release_namespace(namespace);
    }

    fn release_namespace(&mut self, id: u32) {
        let unused = |place: &&Namespace| place.policies.is_empty() && place.accounts.is_empty();
        if self.namespaces.get(id).as_ref().is_some_and(unused)
            && let Some(place) = self.namespaces.remove(id)
        {
            self.by_name.remove(&place.name);
        }
    }

    /// The name that its policy's template gives to a grant's target, if it is a legal one.
    pub(super) fn home(&self, grant: &Grant) -> Option<Name> {
        let (policy, account) = (self.policies.link(grant.policy)?, self.accounts.link(grant.account)?);
        names::target_name(&policy.template, &policy.name, &account.name).ok().map(Into::into)
    }

    /// The name of a target.
    pub(super) fn target_name(&self, id: u32) -> Name {
        let owner = self.targets.link(id).map_or(Ref::NONE, |link| link.grant);
        self.targets.get(id).map(|target| self.name_of(target, owner)).unwrap_or_default()
    }

    /// The name of a target that belongs to this grant.
    pub(super) fn name_of(&self, target: &Target, owner: Ref) -> Name {
        let named = target.more.as_ref().and_then(|more| more.name.clone());
        named.or_else(|| self.home(self.grants.get(owner.get()?)?)).unwrap_or_default()
    }

    /// Gives a target to a grant, or to none.
    pub(super) fn move_target(&mut self, id: u32, owner: Ref) {
        let Some(link) = self.targets.link(id).copied() else { return };
        if let Some(grant) = link.grant.get() {
            let first = self.grants.get(grant).map_or(Ref::NONE, |grant| grant.targets);
            let next = |id: u32| self.targets.link(id).map_or(Ref::NONE, |link| link.next);
            let before = chain(first, next).find(|other| next(*other) == Ref::to(id));
            match before {
                Some(before) => drop(self.targets.link_mut(before).map(|before| before.next = link.next)),
                None => drop(self.grants.get_mut(grant).map(|grant| grant.targets = link.next)),
            }
        }
        let owner_row = owner.get().and_then(|owner| self.grants.get_mut(owner));
        let next = owner_row.map_or(Ref::NONE, |grant| std::mem::replace(&mut grant.targets, Ref::to(id)));
        if let Some(link) = self.targets.link_mut(id) {
            (link.grant, link.next) = (owner, next);
        }
    }

    /// Gives an anchor to a grant, or to none.
    pub(super) fn move_anchor(&mut self, id: u32, owner: Ref) {
        let Some((grant, after)) = self.anchors.link(id).map(|link| (link.grant, link.next)) else { return };
        if let Some(grant) = grant.get() {
            let first = self.grants.get(grant).map_or(Ref::NONE, |grant| grant.anchors);
            let next = |id: u32| self.anchors.link(id).map_or(Ref::NONE, |link| link.next);
            let before = chain(first, next).find(|other| next(*other) == Ref::to(id));
            match before {
                Some(before) => drop(self.anchors.link_mut(before).map(|before| before.next = after)),
                None => drop(self.grants.get_mut(grant).map(|grant| grant.anchors = after)),
            }
        }
        let owner_row = owner.get().and_then(|owner| self.grants.get_mut(owner));
        let next = owner_row.map_or(Ref::NONE, |grant| std::mem::replace(&mut grant.anchors, Ref::to(id)));
        if let Some(link) = self.anchors.link_mut(id) {
            (link.grant, link.next) = (owner, next);
        }
    }

    /// The targets of a grant.
    pub(super) fn targets_of(&self, grant: &Grant) -> impl Iterator<Item = u32> {
        chain(grant.targets, |id| self.targets.link(id).map_or(Ref::NONE, |link| link.next))
    }

    /// The anchors of a grant.
    pub(super) fn anchors_of(&self, grant: &Grant) -> impl Iterator<Item = u32> {
        chain(grant.anchors, |id| self.anchors.link(id).map_or(Ref::NONE, |link| link.next))
    }

    /// A target as it is kept: without the name that its policy gives to it, and with parts that others share.
    pub(super) fn compact(&mut self, grant: u32, mut target: Target) -> Target {
        let home = self.grants.get(grant).and_then(|grant| self.home(grant));
        if let Some(more) = &mut target.more {
            more.name.take_if(|name| Some(&*name) == home.as_ref());
            let unused = more.name.is_none() && more.rotate.is_empty() && more.previous.is_empty();
            if unused && more.revocation.is_none() {
                target.more = None;
            }
        }
        let signer = target.signer.clone().map(|signer| self.keys.share(signer));
        Arc::make_mut(&mut target.make).signer = signer;
        target.make = self.makes.share(target.make);
        target
    }

    /// Whether the anchor is named by a target of the grant that it belongs to.
    pub(super) fn is_named(&self, id: u32) -> bool {
        let Some(link) = self.anchors.link(id) else { return false };
        let Some(grant) = link.grant.get().and_then(|grant| self.grants.get(grant)) else { return false };
        let uid = self.anchors.get(id).map(|anchor| anchor.uid);
        self.targets_of(grant)
            .filter_map(|target| self.targets.get(target))
            .any(|target| target.bonds().any(|(bond, ..)| Some(bond.uid) == uid && bond.name == link.name))
    }

    /// Whether this is the name of an anchor.
    pub(super) fn is_called(&self, anchor: u32, name: &str) -> bool {
        self.anchors.link(anchor).is_some_and(|link| link.name == name)
    }

    /// Whether a grant may have an anchor that its target names: it was made for the grant, or we wrote the target, and no target
    /// of another grant names the anchor. Somebody may have forged the target.
    fn may_adopt(&self, anchor: u32, target: u32, grant: &Grant) -> bool {
        let key = self.key(grant);
        let made_for_it =
            self.anchors.get(anchor).map(|anchor| anchor.owner) == Some(owner_digest(&key.policy, &key.account));
        made_for_it || !self.is_named(anchor) && self.targets.get(target).is_some_and(Target::written)
    }

    /// The anchors that a target names belong to its grant.
    pub(super) fn adopt_named(&mut self, target: u32, now: Time) {
        let Some(owner) = self.targets.link(target).map(|link| link.grant) else { return };
        let Some(grant) = owner.get().and_then(|id| self.grants.get(id)) else { return };
        let (namespace, scope) = self.place(grant);
        let Some(namespace) = self.namespaces.get(namespace).map(|namespace| &namespace.name) else { return };
        let bonds = self.targets.get(target).into_iter().flat_map(Target::bonds);
        let named = bonds.filter_map(|(bond, ..)| Some((self.anchors.find(scope, namespace, &bond.name)?, bond.uid)));
        let others = named.filter(|(id, uid)| {
            let known = self.anchors.get(*id).is_some_and(|anchor| anchor.uid == *uid);
            known
                && self.anchors.link(*id).is_some_and(|link| link.grant != owner)
                && self.may_adopt(*id, target, grant)
        });
        for (id, _) in others.collect::<Vec<_>>() {
            let other = self.anchors.link(id).map_or(Ref::NONE, |link| link.grant);
            self.move_anchor(id, owner);
            other.get().into_iter().for_each(|other| self.settle(other, now));
        }
    }

    /// Enters the name that a grant wants.
    pub(super) fn claim(&mut self, id: u32, now: Time) {
        let Some((namespace, name)) = self.wanted(id) else { return };
        let mut claims = std::mem::take(&mut self.claims);
        claims.insert_unique(spread(name_hash(namespace, &name)), id, |id| self.claim_hash(*id).map_or(0, spread));
        self.claims = claims;
        self.set_claims(id, true);
        self.contend(id, now);
    }

    /// The claim of a grant is new, or another one: those decide again whom it concerns.
    fn contend(&mut self, id: u32, now: Time) {
        let Some((namespace, name)) = self.wanted(id) else { return };
        match self.holders.get(&(namespace, name.clone())) {
            Some(holder) if *holder != id && self.claim_of(id, &name) <= self.claim_of(*holder, &name) => {}
            Some(_) => self.wake_claimants(namespace, &name, now),
            // Several without a holder are all about to decide.
            None => {
                let rivals: Vec<u32> = self.claimants(namespace, &name).filter(|rival| *rival != id).take(2).collect();
                if let [rival] = rivals[..] {
                    self.wake(rival, now);
                }
            }
        }
    }

    /// Ends what [`Grants::claim`] began: the next in line may have the name now.
    pub(super) fn unclaim(&mut self, id: u32, now: Time) {
        let Some((namespace, name)) = self.wanted(id) else { return };
        if let Ok(entry) = self.claims.find_entry(spread(name_hash(namespace, &name)), |claim| *claim == id) {
            entry.remove();
        }
        self.set_claims(id, false);
        if self.holders.get(&(namespace, name.clone())) == Some(&id) {
            self.wake_claimants(namespace, &name, now);
        }
    }

    fn set_claims(&mut self, id: u32, claims: bool) {
        if let Some(grant) = self.grants.get_mut(id) {
            (grant.claims, grant.proof.target_absent) = (claims, false);
        }
    }

    /// A policy is another one by now, and of two claims the older wins.
    pub(super) fn contend_again(&mut self, policy: u32, now: Time) {
        for id in self.grants_of_policy(policy) {
            if self.grants.get(id).is_some_and(|grant| grant.claims) {
                self.contend(id, now);
            }
        }
    }

    /// Lets everybody who wants a name decide again about who has it.
    pub(super) fn wake_claimants(&mut self, namespace: u32, name: &Name, now: Time) {
        self.holders.remove(&(namespace, name.clone()));
        for id in self.claimants(namespace, name).collect::<Vec<_>>() {
            self.wake(id, now);
        }
    }

    /// Grants that want this name.
    pub(super) fn claimants(&self, namespace: u32, name: &Name) -> impl Iterator<Item = u32> {
        let wants =
            move |id: &u32| self.wanted(*id).is_some_and(|(place, wanted)| place == namespace && wanted == *name);
        self.near_claimants(namespace, name).filter(wants)
    }

    /// The same, and a few that want another name of the same hash.
    fn near_claimants(&self, namespace: u32, name: &str) -> impl Iterator<Item = u32> {
        self.claims.iter_hash(spread(name_hash(namespace, name))).copied()
    }

    /// The name that a grant would like to have, and its namespace.
    fn wanted(&self, id: u32) -> Option<(u32, Name)> {
        let grant = self.grants.get(id)?;
        Some((self.place(grant).0, self.home(grant)?))
    }

    fn claim_hash(&self, id: u32) -> Option<u32> {
        self.wanted(id).map(|(namespace, name)| name_hash(namespace, &name))
    }

    /// Finds out who has the name that a grant wants, if another one wants it too: once for all of them.
    pub(super) fn find_holder(&mut self, id: u32) {
        let wanted = self.wanted(id).filter(|_| self.grants.get(id).is_some_and(|grant| grant.claims));
        let Some((namespace, name)) = wanted else { return };
        // Most names are wanted by one grant, and are not even compared.
        let alone = self.near_claimants(namespace, &name).all(|rival| rival == id);
        if alone || self.holders.contains_key(&(namespace, name.clone())) {
            return;
        }
        let claimants: Vec<u32> = self.claimants(namespace, &name).collect();
        let best = claimants.iter().max_by_key(|id| self.claim_of(**id, &name)).filter(|_| claimants.len() > 1);
        if let Some(holder) = best {
            self.holders.insert((namespace, name), *holder);
        }
    }

    fn claim_of(&self, id: u32, name: &Name) -> Option<Claim> {
        #[cfg(test)]
        self.compared.set(self.compared.get() + 1);
        let grant = self.grants.get(id)?;
        let policy = self.policies.get(grant.policy)?.readable()?;
        let key = self.key(grant);
        let incumbent = self.targets_of(grant).any(|target| self.target_name(target) == *name);
        Some(Claim { incumbent, age: Reverse((policy.created, key.policy, key.account)) })
    }

    /// The template of a policy has changed: claims follow, and names that were left out are written down.
    pub(super) fn rename(&mut self, policy: u32, template: &str, now: Time) {
        let members = self.grants_of_policy(policy);
        let claiming = |this: &Self, id: &u32| this.grants.get(*id).is_some_and(|grant| grant.claims);
        let claims: Vec<u32> = members.iter().copied().filter(|id| claiming(self, id)).collect();
        for id in &members {
            self.spell_out(*id);
        }
        for id in &claims {
            self.unclaim(*id, now);
        }
        if let Some(link) = self.policies.link_mut(policy) {
            link.template = template.into();
        }
        for id in claims {
            self.claim(id, now);
        }
        for id in members {
            self.leave_out(id);
        }
    }

    /// Writes the names of a grant's targets and anchors' targets down.
    fn spell_out(&mut self, id: u32) {
        let Some(grant) = self.grants.get(id) else { return };
        let Some(home) = self.home(grant) else { return };
        let (targets, anchors): (Vec<u32>, Vec<u32>) =
            (self.targets_of(grant).collect(), self.anchors_of(grant).collect());
        for target in targets {
            if let Some(target) = self.targets.get_mut(target) {
                target.more.get_or_insert_default().name.get_or_insert_with(|| home.clone());
            }
        }
        for anchor in anchors {
            if let Some(anchor) = self.anchors.get_mut(anchor).filter(|anchor| !anchor.is_stripped()) {
                anchor.odd.get_or_insert_default().target.get_or_insert_with(|| home.clone());
            }
        }
    }

    /// Leaves out the names that the policy's template gives.
    pub(super) fn leave_out(&mut self, id: u32) {
        let Some(grant) = self.grants.get(id) else { return };
        let Some(home) = self.home(grant) else { return };
        let (targets, anchors): (Vec<u32>, Vec<u32>) =
            (self.targets_of(grant).collect(), self.anchors_of(grant).collect());
        for target in targets {
            if let Some(more) = self.targets.get_mut(target).and_then(|target| target.more.as_mut()) {
                more.name.take_if(|name| *name == home);
            }
        }
        for anchor in anchors {
            if let Some(anchor) = self.anchors.get_mut(anchor) {
                anchor.leave_out(Some(&home));
            }
        }
    }
}

pub(super) fn policy_link(namespace: u32, name: &str) -> PolicyLink {
    PolicyLink {
        namespace,
        name: name.into(),
        template: TEMPLATE.into(),
        members: HashTable::default(),
        totals: Totals::default(),
        proof: PolicyProof::default(),
        written: None,
        judged: false,
        reported: [None, None],
    }
}

pub(super) fn account_link(namespace: u32, name: &str) -> AccountLink {
    AccountLink { namespace, name: name.into(), grants: Ref::NONE }
}

fn name_hash(namespace: u32, name: &str) -> u32 {
    short_hash([namespace.to_string().as_str(), name])
}

/// A table looks at the upper and the lower bits of a hash; a product with 2⁶⁴ over the golden ratio fills both.
fn spread(number: u32) -> u64 {
    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
