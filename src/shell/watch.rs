//! kube-runtime's watchers, turned into one stream of changes.

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Client,
    api::Api,
    core::{DeserializeGuard, PartialObjectMeta, Resource, ResourceExt as _},
    runtime::watcher::{self, Config},
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    core::{
        facts::{Account, Anchor, PolicyState, Site, Target, version},
        failure::Failure,
        index::{Change, KINDS},
        keys,
        table::{Event, Key, Scope},
    },
    crd::token_policy::TokenPolicy,
};

/// A policy, or what is wrong with it: one bad object must not stop the watch.
pub type GuardedPolicy = DeserializeGuard<TokenPolicy>;

/// A watch that is silent for so many seconds is renewed: a dead connection must not go unnoticed for minutes.
const RENEW_SECONDS: u32 = 60;
/// Pause after the first error of a watch.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: what comes back (the CRD, a right, the server) is seen within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Errors in a row after which a watch begins anew with a list: its resourceVersion may be too old to resume.
const ERRORS_BEFORE_LIST: u32 = 4;

/// What a watch reports.
#[derive(Debug)]
pub enum Report<C = Change> {
    /// One step.
    Change(Scope, C),
    /// The watch of this kind fails, or works again.
    Health(Scope, &'static str, Option<Failure>),
}

/// Starts the four watches over every scope.
pub fn start(client: &Client, site: &Arc<Site>, scopes: &[Scope], reports: &mpsc::Sender<Report>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for scope in scopes {
        let watch = |kind| Watch { kind, scope: scope.clone(), reports: reports.clone(), absent_pause: None };
        let site = site.clone();
        tasks.spawn(watch(KINDS[0]).follow(
            api::<GuardedPolicy>(client, scope),
            Config::default(),
            move |policy: GuardedPolicy| Some(self::policy(policy, &site)),
            Change::Policy,
        ));
        tasks.spawn(watch(KINDS[1]).follow(
            api::<PartialObjectMeta<ServiceAccount>>(client, scope),
            Config::default(),
            |object| Some((version(&object.metadata), Account::read(&object.metadata))),
            Change::Account,
        ));
        tasks.spawn(watch(KINDS[2]).follow(
            api::<PartialObjectMeta<Secret>>(client, scope),
            Config::default().labels(&format!("{}={}", keys::ROLE, keys::TARGET_ROLE)),
            |object| Some((version(&object.metadata), Target::read(&object.metadata)?)),
            Change::Target,
        ));
        tasks.spawn(watch(KINDS[3]).follow(
            api::<PartialObjectMeta<Secret>>(client, scope),
            Config::default().fields(&format!("type={}", keys::ANCHOR_TYPE)),
            |object| Some((version(&object.metadata), Anchor::read(&object.metadata)?)),
            Change::Anchor,
        ));
    }
    tasks
}

fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Reads a policy as a watch or a GET delivers it, with its resourceVersion.
#[must_use]
pub fn policy(policy: GuardedPolicy, site: &Site) -> (u64, PolicyState) {
    let at = version(policy.meta());
    let (uid, generation) = (policy.uid().unwrap_or_default(), policy.meta().generation.unwrap_or_default());
    let state = match policy.0 {
        Ok(policy) => PolicyState::read(policy, site),
        Err(invalid) => PolicyState::Unreadable { uid: uid.into(), generation, error: invalid.error },
    };
    (at, state)
}

/// One watch.
pub struct Watch<C> {
    /// What is watched, for messages.
    pub kind: &'static str,
    /// Where.
    pub scope: Scope,
    /// Who wants to know.
    pub reports: mpsc::Sender<Report<C>>,
    /// Pause after the answer that there is no such kind, or not for us; `None`: as after any other error.
    pub absent_pause: Option<Duration>,
}

impl<C> Watch<C> {
    /// Follows for ever; ends only when nobody reads the reports any more.
    pub async fn follow<K, V>(
        self,
        api: Api<K>,
        config: Config,
        read: impl Fn(K) -> Option<(u64, V)>,
        change: fn(Event<V>) -> C,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = config.timeout(RENEW_SECONDS);
        let mut errors = 0;
        loop {
            let mut stream = pin!(watcher::watcher(api.clone(), config.clone()));
            while let Some(step) = stream.next().await {
                // Init comes before the API server is asked for a list.
                let works = !matches!(step, Ok(watcher::Event::Init) | Err(_));
                let (report, pause) = match step {
                    Ok(step) => {
                        (step_event(step, &read).map(|event| Report::Change(self.scope.clone(), change(event))), None)
                    }
                    Err(error) => (Some(self.failure(&error)), Some(self.pause(&error, errors))),
                };
                if errors > 0 && works {
                    let healthy = Report::Health(self.scope.clone(), self.kind, None);
                    if self.reports.send(healthy).await.is_err() {
                        return;
                    }
                }
                errors = match pause {
                    Some(_) => errors + 1,
                    None if works => 0,
                    None => errors,
                };
                if let Some(report) = report
                    && self.reports.send(report).await.is_err()
                {
                    return;
                }
                let Some(pause) = pause else { continue };
                tokio::time::sleep(pause).await;
                if errors % ERRORS_BEFORE_LIST == 0 {
                    break;
                }
            }
        }
    }

    fn pause(&self, error: &watcher::Error, errors: u32) -> Duration {
        let absent = api_error(error).is_some_and(|status| matches!(status.code, Some(403 | 404)));
        let usual = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(errors)).min(LONGEST_PAUSE);
        self.absent_pause.filter(|_| absent).unwrap_or(usual)
    }

    fn failure(&self, error: &watcher::Error) -> Report<C> {
        let place = self.scope.as_deref().unwrap_or("all namespaces");
        let what = format!("watch {} in {place}", self.kind);
        let failure = api_error(error)
            .map_or_else(|| Failure::unanswered(&what, &error.to_string()), |status| Failure::refused(&what, &status));
        Report::Health(self.scope.clone(), self.kind, Some(failure))
    }
}

fn step_event<K: Resource, V>(step: watcher::Event<K>, read: &impl Fn(K) -> Option<(u64, V)>) -> Option<Event<V>> {
    let key = |object: &K| {
        Key::new(
            object.meta().namespace.as_deref().unwrap_or_default(),
            object.meta().name.as_deref().unwrap_or_default(),
        )
    };
    Some(match step {
        watcher::Event::Init => Event::Listing,
        watcher::Event::InitApply(object) => {
            let key = key(&object);
            let (version, value) = read(object)?;
            Event::Item(key, version, value)
        }
        watcher::Event::InitDone => Event::Listed,
        watcher::Event::Apply(object) => {
            let (key, at) = (key(&object), version(object.meta()));
            // What is not ours any more is to us as if it were deleted.
            read(object).map_or(Event::Deleted(key.clone(), at), |(version, value)| Event::Applied(key, version, value))
        }
        watcher::Event::Delete(object) => Event::Deleted(key(&object), version(object.meta())),
    })
}

/// The API server's own refusal inside a watcher's error.
fn api_error(error: &watcher::Error) -> Option<Status> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return None;
    };
    Some(Status { code: Some(i32::from(status.code)), message: Some(status.message.clone()), ..Status::default() })
}
