//! Everything known, by grant: a plain struct that one task owns.
//!
//! ```text
//! watches ──▶ tables ──▶ grants ──▶ queue ──▶ decide ──▶ job
//!               ▲           ▲                            │
//!               └───────────┴──────── outcomes ◀─────────┘
//! ```

mod change;
mod health;
mod outcome;
mod policies;
mod signing;
mod work;

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
    notice::Notice,
    plan::{Decision, Facts, Standing},
    queue::Queue,
    select::{self, Claim},
    signers::Signers,
    table::{Event, Key, Scope, Table},
};
pub use health::Readiness;
pub use outcome::{Found, Outcome, Step};
use policies::StatusQueue;
pub use policies::StatusWrite;

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

impl Change {
    /// What is watched.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Policy(_) => KINDS[0],
            Self::Account(_) => KINDS[1],
            Self::Target(_) => KINDS[2],
            Self::Anchor(_) => KINDS[3],
        }
    }
}

/// The four watches.
pub const KINDS: [&str; 4] = ["tokenpolicies", "serviceaccounts", "secrets (targets)", "secrets (anchors)"];

/// What the index keeps of one grant. Its collections hold one or two entries each: vectors, because a tree would
/// take half a kilobyte for its first.
#[derive(Debug)]
struct Grant {
    memory: Memory,
    /// Names of Secrets whose annotations say that they are targets of this grant.
    targets: Vec<Arc<str>>,
    /// Names of its anchors, with the instant each was first seen.
    anchors: Vec<(Arc<str>, Time)>,
    /// The name it wants.
    wanted: Option<Arc<str>>,
    standing: Standing,
    /// The failure that people were told of last, until it is over.
    told: Option<Reason>,
    /// Since when it fails for that reason, or works.
    since: Time,
    /// Names of anchors that we are deleting.
    retiring: Vec<Box<str>>,
    /// What was known when the calls under way began.
    busy: Option<Box<Known>>,
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
    claims: HashMap<Key, Vec<GrantKey>>,
    /// Grants that fail for a reason that lies in their namespace: one probes, the others wait for it.
    troubles: HashMap<(Arc<str>, Reason), Trouble>,
    queue: Queue,
    statuses: StatusQueue,
    notices: Vec<Notice>,
    signers: Signers,
    /// How far the local clock is ahead of the API server's.
    skew: TimeDelta,
    /// Scopes whose first lists are complete.
    opened: BTreeSet<Scope>,
    /// Watches that fail.
    unhealthy: BTreeMap<(Scope, &'static str), Failure>,
    /// Scopes of which a watch was refused, once at least.
    refused: BTreeSet<Scope>,
}

/// The newest resourceVersion of each table: an answer may come later than news of what has happened since.
#[derive(Clone, Copy, Debug)]
struct Known {
    policies: u64,
    accounts: u64,
    targets: u64,
    anchors: u64,
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
            signers: Signers::default(),
            skew: TimeDelta::zero(),
            opened: BTreeSet::new(),
            unhealthy: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    /// What goes into every target.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    fn known(&self) -> Known {
        Known {
            policies: self.policies.newest(),
            accounts: self.accounts.newest(),
            targets: self.targets.newest(),
            anchors: self.anchors.newest(),
        }
    }

    /// What was known when the calls began of which an answer has come.
    fn known_before(&self, key: &GrantKey) -> Known {
        let busy = self.grants.get(key).and_then(|grant| grant.busy.as_deref());
        busy.copied().unwrap_or_else(|| self.known())
    }

    fn scope(&self, namespace: &Arc<str>) -> Scope {
        self.scopes.iter().find(|scope| scope.as_ref() == Some(namespace)).cloned().flatten()
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
            targets: Vec::new(),
            anchors: Vec::new(),
            wanted: None,
            standing: Standing::Working,
            told: None,
            since: now,
            retiring: Vec::new(),
            busy: None,
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
            signers: &self.signers,
            policy: self.policies.get(&key.policy_key()),
            living: self.living(key),
            account: self.accounts.get(&key.account_key()),
            name: self.claimed_name(key, grant),
            occupant: grant.wanted.as_ref().and_then(|name| self.targets.get(&place(name))),
            old: old.filter_map(|name| Some((&**name, self.targets.get(&place(name))?))).collect(),
            anchors: anchors.collect(),
            memory: &grant.memory,
        })
    }

    fn living<'a>(&'a self, key: &'a GrantKey) -> Vec<&'a str> {
        let gone = self.policies.get(&key.policy_key()).is_none();
        let policies = gone.then(|| self.policies.in_namespace(&key.namespace)).into_iter().flatten();
        policies.map(|(_, policy)| policy.uid()).collect()
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
