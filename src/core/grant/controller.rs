//! Everything known of policies, accounts, targets and anchors, by grant: a plain struct that one task owns. A change marks
//! exactly the grants and policies that it concerns.

mod answers;
mod health;
mod observe;
mod relations;
mod statuses;
mod trouble;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use chrono::TimeDelta;
use hashbrown::HashTable;

use super::{
    Account, Grant, Retirement,
    call::Step,
    event::{GrantEvent, GrantNews},
    status::Totals,
    view::PolicyProof,
};
use crate::{
    api::token_policy::TokenPolicyStatus,
    core::{
        Time,
        address::KnownAddress,
        credential::keys::TokenKeys,
        failure::Failure,
        id::{GrantKey, Key, Name, Ref, Secs, Uid},
        kernel::{
            controller::{Controller, Outcome},
            outbox::Outbox,
            queue::{Lane, Queue},
            slab::Slab,
            store::{self, Scope, Store},
        },
        layout::AddressPrints,
        place::{
            applied::Demanded,
            record::Record,
            secret::{Anchor, Make, Target},
        },
        policy::PolicyState,
        pool::Pool,
        request::{Answer, Request},
    },
};
pub use health::Readiness;
use trouble::Troubles;

/// One step of one of the four watches. An object that is not of the watched sort counts as deleted.
#[derive(Clone, Debug)]
pub enum Change {
    /// TokenPolicies.
    Policy(store::WatchEvent<PolicyState>),
    /// ServiceAccounts.
    Account(store::WatchEvent<Account>),
    /// Secrets labelled as targets.
    Target(store::WatchEvent<Box<(Record, Target)>>),
    /// Secrets of the anchors' type, with the names of policy and account.
    Anchor(store::WatchEvent<Box<(Name, Name, Anchor)>>),
}

/// The four watches.
pub const KINDS: [&str; 4] = ["tokenpolicies", "serviceaccounts", "secrets (targets)", "secrets (anchors)"];

/// A namespace with policies or accounts.
#[derive(Debug)]
struct Namespace {
    name: Name,
    scope: u16,
    policies: HashSet<u32>,
    /// Policies that select by labels.
    selecting: HashSet<u32>,
    /// Digests of the UIDs of its policies.
    uids: HashSet<u32>,
    accounts: HashSet<u32>,
}

/// The state beside a policy, also beside one that is gone while it has grants.
#[derive(Debug)]
struct PolicyLink {
    namespace: u32,
    name: Name,
    /// The template by which its grants claim names.
    template: Name,
    /// Its grants, found by their account.
    members: HashTable<u32>,
    totals: Totals,
    proof: PolicyProof,
    /// The status that is being written.
    written: Option<Box<TokenPolicyStatus>>,
    /// This process has judged it.
    judged: bool,
    /// What was reported last: a concern, and a revocation that is not carried out.
    reported: [Option<String>; 2],
}

/// The state beside an account, also beside one that does not exist while it has grants.
#[derive(Debug)]
struct AccountLink {
    namespace: u32,
    name: Name,
    /// The first of its grants.
    grants: Ref,
}

/// The state beside a target.
#[derive(Clone, Copy, Debug)]
struct TargetLink {
    grant: Ref,
    next: Ref,
}

/// The state beside an anchor.
#[derive(Debug)]
struct AnchorLink {
    name: Name,
    grant: Ref,
    next: Ref,
    /// When this process first saw it.
    seen: Secs,
}

/// A token that its target no longer names: its end is still reported by its id.
#[derive(Clone, Copy, Debug)]
struct Left {
    token_id: Uid,
    /// The target was deleted.
    with_target: bool,
}

/// The row of a Secret that is gone.
#[derive(Clone, Copy, Debug)]
enum Buried {
    Target(u32),
    Anchor(u32),
}

/// A call that waits to be sent or is under way.
#[derive(Debug)]
enum Work {
    Grant(GrantCall),
    /// Of the policy in this row, which has this UID.
    Status(u32, Uid),
}

#[derive(Debug)]
struct GrantCall {
    grant: u32,
    key: GrantKey,
    step: Step,
    lane: Lane,
    known: Known,
    what: String,
}

/// The newest resourceVersions when a call began: an answer may come later than news of what has happened since.
#[derive(Clone, Copy, Debug)]
struct Known {
    policies: u64,
    accounts: u64,
    targets: u64,
    anchors: u64,
}

/// The scope of some watches.
#[derive(Debug, Default)]
struct Watched {
    name: Scope,
    /// Its first lists are complete, and its grants were decided after that.
    opened: bool,
    /// Watches that fail.
    unhealthy: BTreeMap<&'static str, Failure>,
    /// One of its watches was refused, once at least.
    refused: bool,
}

/// Everything known.
#[expect(clippy::struct_field_names, reason = "the grants are one table beside four others")]
#[derive(Debug)]
pub struct Grants {
    address: KnownAddress,
    prints: AddressPrints,
    demanded: Demanded,
    /// The limits refuse every token for the API server, and the cure.
    audience_refused: Option<String>,
    seed: u64,
    /// Names drawn for anchors so far.
    drawn: u64,
    scopes: Vec<Watched>,
    by_scope: HashMap<Name, u16>,
    namespaces: Slab<Namespace>,
    by_name: HashMap<Name, u32>,
    policies: Store<PolicyState, PolicyLink>,
    accounts: Store<Account, AccountLink>,
    targets: Store<Target, TargetLink>,
    anchors: Store<Anchor, AnchorLink>,
    grants: Slab<Grant>,
    /// Grants by a hash of the name that they want.
    claims: HashTable<u32>,
    /// Grants that have a name, by namespace and name, where several want it and none of them has to look again.
    holders: HashMap<(u32, Name), u32>,
    troubles: Troubles,
    queue: Queue<Secs>,
    outbox: Outbox,
    calls: Slab<Work>,
    pending: VecDeque<(u32, Request)>,
    events: Vec<GrantEvent>,
    keys: TokenKeys,
    makes: Pool<Make>,
    /// Tokens whose anchors no target names any more, by anchor.
    left: HashMap<u32, Left>,
    /// Rows that are kept until the calls of a grant have ended.
    buried: Vec<(u32, Buried)>,
    /// Grants with a token that waits to be published.
    held: HashSet<u32>,
    /// When work was last asked for.
    latest: Time,
    /// How far the local clock is ahead of the API server's.
    skew: TimeDelta,
    /// When this process began to act, and whether the first lists should be complete by now.
    started: Option<Time>,
    late: bool,
    /// Whether [`Grants::readiness`] may have changed.
    readiness_changed: bool,
    #[cfg(test)]
    pub(super) decisions: usize,
    #[cfg(test)]
    pub(super) matched: std::cell::Cell<usize>,
    /// Claims that were compared with others.
    #[cfg(test)]
    pub(super) compared: std::cell::Cell<usize>,
}

impl Controller for Grants {
    type Change = Change;
    type News = GrantEvent;

    fn observe(&mut self, scope: u16, change: Change, now: Time) {
        self.step(scope, change, now);
    }

    fn watch_health(&mut self, scope: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        self.health(scope, kind, failure.as_ref(), now)
    }

    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        self.next_call(decisions, now)
    }

    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        self.next_status(most, now)
    }

    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        self.take_answer(ticket, answer, now)
    }

    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        self.wakes_at(free, writes, now)
    }

    fn news(&mut self) -> Vec<GrantEvent> {
        std::mem::take(&mut self.events)
    }

    fn lead(&mut self, now: Time) {
        self.begin_to_lead(now);
    }
}

impl Grants {
    /// Nothing known, under these scopes: one `None`, or one for each watched namespace. `seed` is random, and secret.
    #[must_use]
    pub fn new(address: KnownAddress, demanded: Demanded, scopes: Vec<Scope>, seed: u64) -> Self {
        let numbered = (0..).zip(&scopes).filter_map(|(number, scope)| Some((scope.clone()?, number)));
        let (by_scope, count) = (numbered.collect(), scopes.len());
        Self {
            prints: AddressPrints::of(&address.address),
            address,
            demanded,
            audience_refused: None,
            seed,
            drawn: 0,
            scopes: scopes.into_iter().map(|name| Watched { name, ..Watched::default() }).collect(),
            by_scope,
            namespaces: Slab::default(),
            by_name: HashMap::new(),
            policies: Store::new(count, seed),
            accounts: Store::new(count, seed),
            targets: Store::new(count, seed),
            anchors: Store::new(count, seed),
            grants: Slab::default(),
            claims: HashTable::new(),
            holders: HashMap::new(),
            troubles: Troubles::default(),
            queue: Queue::default(),
            outbox: Outbox::default(),
            calls: Slab::default(),
            pending: VecDeque::new(),
            events: Vec::new(),
            keys: TokenKeys::default(),
            makes: Pool::default(),
            left: HashMap::new(),
            buried: Vec::new(),
            held: HashSet::new(),
            skew: TimeDelta::zero(),
            started: None,
            latest: Time::MIN_UTC,
            late: false,
            readiness_changed: true,
            #[cfg(test)]
            decisions: 0,
            #[cfg(test)]
            matched: std::cell::Cell::new(0),
            #[cfg(test)]
            compared: std::cell::Cell::new(0),
        }
    }

    /// The names of a grant.
    fn key(&self, grant: &Grant) -> GrantKey {
        let Key { namespace, name: policy } = self.policy_key(grant.policy);
        let account = self.accounts.link(grant.account).map(|account| account.name.clone()).unwrap_or_default();
        GrantKey { namespace, policy, account }
    }

    /// Number of a grant's namespace, and its scope.
    fn place(&self, grant: &Grant) -> (u32, u16) {
        let namespace = self.policies.link(grant.policy).map_or(0, |policy| policy.namespace);
        (namespace, self.namespaces.get(namespace).map_or(0, |namespace| namespace.scope))
    }

    /// Takes one poll of the API server's keys and issuer in; `None` for an answer that was none. When one is gone, every
    /// grant is decided again, the most urgent first.
    pub fn observe_keys(&mut self, keys: Option<&std::collections::BTreeSet<String>>, issuer: Option<&str>, now: Time) {
        if self.keys.observe(keys, issuer, now) {
            let grants: Vec<u32> = self.grants.iter().map(|(id, _)| id).collect();
            for id in grants {
                self.doubt(id, now);
                self.wake(id, now);
            }
            self.mark_all(now);
        }
    }

    /// Takes another look at the address of the cluster in. Where it has changed, every grant is decided again, the most
    /// urgent first.
    pub fn observe_address(&mut self, address: KnownAddress, now: Time) {
        let moved = self.address.address != address.address;
        self.address = address;
        if moved {
            self.prints = AddressPrints::of(&self.address.address);
            let grants: Vec<u32> = self.grants.iter().map(|(id, _)| id).collect();
            for id in grants {
                self.wake(id, now);
            }
        }
        self.mark_all(now);
    }

    /// Takes in whether the limits refuse every token for the API server.
    pub fn observe_audience(&mut self, refusal: Option<String>, now: Time) {
        self.audience_refused = refusal;
        self.readiness_changed = true;
        self.mark_all(now);
    }

    /// The difference between the local clock and the API server's.
    pub fn set_skew(&mut self, skew: TimeDelta, now: Time) {
        let most = super::status::MAX_SKEW;
        let flips = (self.skew.abs() > most) != (skew.abs() > most);
        self.skew = skew;
        if flips {
            self.mark_all(now);
        }
    }

    /// Reports something about a grant and its target.
    fn report(&mut self, id: u32, what: GrantNews) {
        let target = self.grants.get(id).and_then(|grant| {
            let wanted = grant.claims.then(|| self.home(grant)).flatten();
            wanted.or_else(|| grant.targets.get().map(|target| self.target_name(target)))
        });
        self.report_about(id, target, what);
    }

    /// Reports something about a grant and the Secret of this name.
    fn report_about(&mut self, id: u32, target: Option<Name>, what: GrantNews) {
        let Some(grant) = self.grants.get(id) else { return };
        let (key, policy) = (self.key(grant), self.policies.get(grant.policy));
        let (policy_uid, generation) =
            policy.map(|policy| (policy.uid(), policy.head().generation)).unwrap_or_default();
        let account = match &what {
            GrantNews::Retired(Retirement { account: Some(account), .. }) => account.clone(),
            _ => key.account.clone(),
        };
        let grant = GrantKey { account, ..key };
        self.events.push(GrantEvent { grant, policy_uid, generation, target: target.map(Into::into), what });
    }

    /// Tokens that were issued and wait to be published.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.held.len()
    }

    /// Grants that wait for a decision, and policies that wait for the write of their status.
    #[must_use]
    pub fn queue_lengths(&self) -> [(&'static str, usize); 2] {
        [("grants", self.queue.ready_count()), ("statuses", self.outbox.ready_count())]
    }

    /// Anchors there are.
    #[must_use]
    pub fn anchor_count(&self) -> usize {
        self.anchors.len()
    }

    /// How many published tokens each key has signed; those of keys that are not published have no name.
    pub fn tokens_by_key(&self) -> impl Iterator<Item = (Option<&str>, usize)> {
        self.keys.tokens()
    }

    /// Policies whose status waits to be written.
    #[cfg(test)]
    pub(super) fn statuses_waiting(&self) -> usize {
        self.outbox.waiting()
    }

    /// Signers that are held.
    #[cfg(test)]
    pub(super) fn signers(&self) -> impl Iterator<Item = &crate::core::credential::keys::Signer> {
        self.keys.signers()
    }

    fn known(&self, scope: u16) -> Known {
        Known {
            policies: self.policies.newest(scope),
            accounts: self.accounts.newest(scope),
            targets: self.targets.newest(scope),
            anchors: self.anchors.newest(scope),
        }
    }
}

/// The rows of a chain.
fn chain(first: Ref, next: impl Fn(u32) -> Ref) -> impl Iterator<Item = u32> {
    std::iter::successors(first.get(), move |id| next(*id).get())
}
