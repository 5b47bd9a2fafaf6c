//! kube-runtime's watchers, turned into changes for a controller.

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{Status, StatusDetails},
};
use kube::{
    Client,
    api::Api,
    core::{PartialObjectMeta, Resource},
    runtime::watcher::{self, Config},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{metrics::Metrics, turn::Input};
use crate::api::token_policy::TokenPolicy;
use crate::core::{
    failure::Failure,
    grant::{
        Account,
        controller::{Change, Grants, KINDS},
    },
    id::Key,
    kernel::{
        controller::Controller,
        store::{Scope, WatchEvent},
    },
    meta::version,
    names,
    object::Object,
    place::{
        applied::Demanded,
        secret::{Anchor, Target},
    },
    policy::PolicyState,
};

/// A watch that is silent for so many seconds is renewed: a dead connection must not go unnoticed for minutes.
const RENEW_SECONDS: u32 = 60;
/// Pause after the first error of a watch.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: what comes back (the CRD, a right, the server) is seen within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause that the API server may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(1);
/// Errors in a row after which a watch begins anew with a list: its resourceVersion may be too old to resume.
const ERRORS_BEFORE_LIST: u32 = 4;

/// Starts the four watches of every scope.
pub fn start(
    tasks: &mut JoinSet<()>,
    client: &Client,
    metrics: &Arc<Metrics>,
    demanded: &Demanded,
    scopes: &[Scope],
    inputs: &mpsc::Sender<Input<Grants>>,
) {
    for (number, scope) in (0..).zip(scopes) {
        let watch = |kind| Watch {
            kind,
            number,
            scope: scope.clone(),
            inputs: inputs.clone(),
            metrics: Some(metrics.clone()),
            absent_pause: None,
            needed: None,
        };
        let demanded = demanded.clone();
        tasks.spawn(watch(KINDS[0]).follow(
            api::<TokenPolicy>(client, scope),
            Config::default(),
            move |policy| Some((version(&policy.metadata), PolicyState::parse(policy, &demanded))),
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
            Config::default().labels(&format!("{}={}", names::ROLE, names::TARGET_ROLE)),
            |object| Some((version(&object.metadata), Box::new(Target::read(&object.metadata)?))),
            Change::Target,
        ));
        tasks.spawn(watch(KINDS[3]).follow(
            api::<PartialObjectMeta<Secret>>(client, scope),
            Config::default().fields(&format!("type={}", names::ANCHOR_TYPE)),
            |object| Some((version(&object.metadata), Box::new(Anchor::read(&object.metadata)?))),
            Change::Anchor,
        ));
    }
}

/// Objects of any shape: a bad one must not stop the watch.
fn api<K>(client: &Client, scope: &Scope) -> Api<Object<K>>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// One watch.
pub struct Watch<C: Controller> {
    /// The kind of object, for messages.
    pub kind: &'static str,
    /// Number of the scope.
    pub number: u16,
    /// The scope.
    pub scope: Scope,
    /// The controller's task.
    pub inputs: mpsc::Sender<Input<C>>,
    /// Shows the health of the watch, unless its kind may be absent.
    pub metrics: Option<Arc<Metrics>>,
    /// Pause after the answer that there is no such kind, or not for us; `None`: as after any other error.
    pub absent_pause: Option<Duration>,
    /// It watches only while this is true; `None`: always.
    pub needed: Option<watch::Receiver<bool>>,
}

impl<C: Controller> Watch<C> {
    /// Follows while it is needed; ends only when the controller's task has ended.
    pub async fn follow<K, V>(
        self,
        api: Api<K>,
        config: Config,
        read: impl Fn(K) -> Option<(u64, V)>,
        change: fn(WatchEvent<V>) -> C::Change,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = config.timeout(RENEW_SECONDS);
        let Some(mut needed) = self.needed.clone() else { return self.watch(&api, &config, &read, change).await };
        while needed.wait_for(|needed| *needed).await.is_ok() {
            tokio::select! {
                () = self.watch(&api, &config, &read, change) => return,
                _ = async { needed.wait_for(|needed| !needed).await.is_ok() } => {}
            }
            self.tell_health(None).await;
            if !self.tell(Input::Change(self.number, change(WatchEvent::Stopped))).await {
                return;
            }
            if let Some(metrics) = &self.metrics {
                metrics.unwatched(self.kind);
            }
        }
    }

    /// Watches for ever; ends only when the controller's task has ended.
    async fn watch<K, V>(
        &self,
        api: &Api<K>,
        config: &Config,
        read: &impl Fn(K) -> Option<(u64, V)>,
        change: fn(WatchEvent<V>) -> C::Change,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut errors = 0;
        loop {
            let mut stream = pin!(watcher::watcher(api.clone(), config.clone()));
            while let Some(step) = stream.next().await {
                let step = match step {
                    Ok(step) => step,
                    Err(error) => {
                        self.tell_health(Some(self.failure(&error))).await;
                        let absent = self.is_absent(&error);
                        if absent && !self.tell(Input::Change(self.number, change(WatchEvent::Stopped))).await {
                            return;
                        }
                        tokio::time::sleep(self.pause(&error, errors)).await;
                        errors += 1;
                        if absent || errors % ERRORS_BEFORE_LIST == 0 {
                            break;
                        }
                        continue;
                    }
                };
                // Init comes before the API server is asked for a list, and until InitDone much of the list may be missing.
                if errors > 0 && !matches!(step, watcher::Event::Init | watcher::Event::InitApply(_)) {
                    errors = 0;
                    self.tell_health(None).await;
                }
                if let Some(event) = watch_event(step, read)
                    && !self.tell(Input::Change(self.number, change(event))).await
                {
                    return;
                }
            }
        }
    }

    /// Whether anybody takes it in.
    async fn tell(&self, input: Input<C>) -> bool {
        if let Some(metrics) = &self.metrics {
            metrics.watched(self.kind);
        }
        self.inputs.send(input).await.is_ok()
    }

    async fn tell_health(&self, failure: Option<Failure>) {
        if let Some(metrics) = &self.metrics {
            metrics.watch_health(&self.scope, self.kind, failure.is_some());
        }
        // When nobody takes it in any more, the next step ends the watch.
        let _ = self.inputs.send(Input::Health(self.number, self.kind, failure)).await;
    }

    /// Whether a kind that may be absent is absent: what was known of its objects is known no more, as the end of the kind may
    /// not be seen.
    fn is_absent(&self, error: &watcher::Error) -> bool {
        let refused = || api_error(error).is_some_and(|status| matches!(status.code, Some(403 | 404)));
        self.absent_pause.is_some() && refused()
    }

    fn pause(&self, error: &watcher::Error, errors: u32) -> Duration {
        let asked = api_error(error).and_then(|status| status.details?.retry_after_seconds);
        let asked = Duration::from_secs(asked.and_then(|seconds| seconds.try_into().ok()).unwrap_or_default());
        let usual = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(errors)).min(LONGEST_PAUSE);
        self.absent_pause.filter(|_| self.is_absent(error)).unwrap_or(usual).max(asked.min(LONGEST_ASKED))
    }

    fn failure(&self, error: &watcher::Error) -> Failure {
        let place = self.scope.as_deref().unwrap_or("all namespaces");
        let what = format!("watch {} in {place}", self.kind);
        let unanswered = || Failure::unanswered(&what, &error.to_string());
        api_error(error).map_or_else(unanswered, |status| Failure::refused(&what, &status))
    }
}

fn watch_event<K: Resource, V>(
    step: watcher::Event<K>,
    read: &impl Fn(K) -> Option<(u64, V)>,
) -> Option<WatchEvent<V>> {
    let key = |object: &K| {
        Key::new(
            object.meta().namespace.as_deref().unwrap_or_default(),
            object.meta().name.as_deref().unwrap_or_default(),
        )
    };
    Some(match step {
        watcher::Event::Init => WatchEvent::Listing,
        watcher::Event::InitApply(object) => {
            let key = key(&object);
            let (version, value) = read(object)?;
            WatchEvent::Item(key, version, value)
        }
        watcher::Event::InitDone => WatchEvent::Listed,
        watcher::Event::Apply(object) => {
            let (key, at) = (key(&object), version(object.meta()));
            // An object that is not ours any more counts as deleted.
            read(object).map_or(WatchEvent::Deleted(key.clone(), at), |(version, value)| {
                WatchEvent::Applied(key, version, value)
            })
        }
        watcher::Event::Delete(object) => WatchEvent::Deleted(key(&object), version(object.meta())),
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
    let asked =
        status.details.as_ref().map(|details| details.retry_after_seconds).and_then(|asked| asked.try_into().ok());
    let details = StatusDetails { retry_after_seconds: asked, ..StatusDetails::default() };
    Some(Status {
        code: Some(i32::from(status.code)),
        message: Some(status.message.clone()),
        details: Some(details),
        ..Status::default()
    })
}
