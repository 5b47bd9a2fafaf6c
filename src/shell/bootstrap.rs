//! The loop of the bootstrap tokens: changes in, due work out, outcomes back in. It shares nothing with the loop of
//! the grants but the clock and the API server, so that neither waits for the other.

mod act;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::{Either, pending};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Client,
    api::Api as KubeApi,
    core::{DeserializeGuard, PartialObjectMeta, Resource as _, ResourceExt as _},
    runtime::watcher::Config,
};
use tokio::{
    sync::{mpsc, watch as channel},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    api::Api,
    events::Reporter,
    metrics::Metrics,
    status,
    watch::{self, Watch},
};
use crate::{
    cli::Settings,
    core::{
        bootstrap::{
            Act, Cleaner, NAMESPACE, SECRET_TYPE,
            index::{Change, Index, Job, Outcome, StatusWrite, TOKENS},
            policy::PolicyState,
            signer::{self, Pass},
            token::{BootstrapSecret, Token},
        },
        facts::version,
        failure::{Failure, Reason},
        table::{Event, Key},
    },
    crd::bootstrap_token_policy::BootstrapTokenPolicy,
};

type Report = watch::Report<Change>;

const POLICIES: &str = "bootstraptokenpolicies";
/// The kind is optional: whether it has been installed meanwhile is looked up this often.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Calls under way at once.
const SLOTS: usize = 32;
/// Steps of watches that are taken in at once.
const BATCH: usize = 256;
/// How often gauges are refreshed, and the longest sleep: the clock may be set meanwhile.
const REFRESH: Duration = Duration::from_secs(1);
/// Calls under way at the end may take so long.
const GRACE: Duration = Duration::from_secs(5);

/// What a finished job was about and what came of it.
enum Done {
    Token(Key, Token, Outcome),
    Signed(Pass),
}

/// Follows the bootstrap tokens until `stop`.
pub struct Bootstrap {
    api: Api,
    client: Client,
    metrics: Arc<Metrics>,
    reporter: Reporter,
    index: Index,
    signs: bool,
    watches: JoinSet<()>,
    watches_tokens: bool,
    unhealthy: BTreeMap<&'static str, Failure>,
    jobs: JoinSet<Done>,
    statuses: JoinSet<(Key, bool)>,
    refreshed: Instant,
}

impl Bootstrap {
    /// Nothing is watched yet. `None` when the settings leave nothing to do: caps are cluster-wide, so an operator of
    /// some namespaces has them only together with the cleaner or the signer.
    #[must_use]
    pub fn new(
        api: &Api,
        client: &Client,
        metrics: &Arc<Metrics>,
        reporter: &Reporter,
        settings: &Settings,
    ) -> Option<Self> {
        let (cleaner, signs) = (settings.bootstrap_token_cleaner, settings.bootstrap_signer);
        let wanted = settings.namespaces.is_empty() || cleaner != Cleaner::Off || signs;
        wanted.then(|| Self {
            api: api.clone(),
            client: client.clone(),
            metrics: metrics.clone(),
            reporter: reporter.clone(),
            index: Index::new(cleaner, signs),
            signs,
            watches: JoinSet::new(),
            watches_tokens: false,
            unhealthy: BTreeMap::new(),
            jobs: JoinSet::new(),
            statuses: JoinSet::new(),
            refreshed: Instant::now(),
        })
    }

    /// Runs until `stop` turns true.
    pub async fn serve(mut self, mut stop: channel::Receiver<bool>) {
        let (sender, mut reports) = mpsc::channel(BATCH);
        self.watch_policies(&sender);
        if self.signs {
            self.watch_cluster_info(&sender);
        }
        let mut batch = Vec::with_capacity(BATCH);
        let mut leadership = self.api.leadership().clone();
        while !*stop.borrow() {
            if self.index.needs_tokens() && !self.watches_tokens {
                self.watch_tokens(&sender);
            }
            let wake = self.wake();
            tokio::select! {
                _ = stop.changed() => {}
                () = leadership.changed() => {}
                _ = reports.recv_many(&mut batch, BATCH) => batch.drain(..).for_each(|report| self.report(report)),
                Some(done) = self.jobs.join_next() => self.finished(done),
                Some(Ok((policy, written))) = self.statuses.join_next() => self.status_written(&policy, written),
                () = wake => {}
                () = sleep(REFRESH) => {}
            }
            self.work();
        }
        self.drain().await;
    }

    fn watch_policies(&mut self, reports: &mpsc::Sender<Report>) {
        let watch = Watch { kind: POLICIES, scope: None, reports: reports.clone(), absent_pause: Some(LOOK_AGAIN) };
        self.watches.spawn(watch.follow(
            KubeApi::<DeserializeGuard<BootstrapTokenPolicy>>::all(self.client.clone()),
            Config::default(),
            |policy| Some(self::policy(policy)),
            Change::Policy,
        ));
    }

    fn watch_tokens(&mut self, reports: &mpsc::Sender<Report>) {
        self.watches_tokens = true;
        self.watches.spawn(in_namespace(TOKENS, NAMESPACE, reports).follow(
            KubeApi::<BootstrapSecret>::namespaced(self.client.clone(), NAMESPACE),
            Config::default().fields(&format!("type={SECRET_TYPE}")),
            |secret: BootstrapSecret| Some((version(&secret.metadata), Token::read(secret))),
            Change::Token,
        ));
    }

    fn watch_cluster_info(&mut self, reports: &mpsc::Sender<Report>) {
        let watch = in_namespace("configmaps (cluster-info)", signer::NAMESPACE, reports);
        self.watches.spawn(watch.follow(
            KubeApi::<PartialObjectMeta<ConfigMap>>::namespaced(self.client.clone(), signer::NAMESPACE),
            Config::default().fields(&format!("metadata.name={}", signer::NAME)),
            |object| Some((version(&object.metadata), ())),
            |_: Event<()>| Change::ClusterInfo,
        ));
    }

    /// Resolves when the index has something to do without a change.
    fn wake(&self) -> impl Future<Output = ()> + use<> {
        match self.index.next_wake().filter(|_| self.jobs.len() < SLOTS && self.api.leadership().leads()) {
            Some(at) => {
                let pause = (at - self.api.clock().now()).to_std().unwrap_or_default();
                Either::Left(sleep_until(Instant::now() + pause.min(REFRESH)))
            }
            None => Either::Right(pending()),
        }
    }

    fn report(&mut self, report: Report) {
        let now = self.api.clock().now();
        match report {
            Report::Change(_, change) => self.index.apply(change, now),
            Report::Health(_, kind, Some(failure)) => {
                if self.unhealthy.get(kind) != Some(&failure) {
                    tell_unhealthy(kind, &failure);
                }
                self.index.health(kind, Some(failure.clone()), now);
                self.unhealthy.insert(kind, failure);
            }
            Report::Health(_, kind, None) => {
                self.index.health(kind, None, now);
                self.unhealthy.remove(kind);
            }
        }
    }

    /// Starts due work, writes due statuses, tells what happened. A standby does none of that.
    fn work(&mut self) {
        if !self.api.leadership().leads() {
            return drop(self.index.notices());
        }
        let now = self.api.clock().now();
        while self.jobs.len() < SLOTS
            && let Some(job) = self.index.take(now)
        {
            self.start(job);
        }
        for write in self.index.statuses(now) {
            self.write_status(write);
        }
        for notice in self.index.notices() {
            self.reporter.report_bootstrap(&notice);
        }
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            self.metrics.bootstrap.refresh(&self.index, now);
        }
    }

    fn start(&mut self, job: Job) {
        let (api, metrics) = (self.api.clone(), self.metrics.clone());
        self.jobs.spawn(async move {
            match job {
                Job::Token { key, token, act } => {
                    let deletes = matches!(act, Act::Delete(_));
                    let outcome = act::perform(&api, &key, &token, act).await;
                    if deletes {
                        metrics.bootstrap.deletion(outcome.as_str());
                    }
                    Done::Token(key, token, outcome)
                }
                Job::Sign { write } => Done::Signed(act::sign(&api, write).await),
            }
        });
    }

    fn finished(&mut self, done: Result<Done, JoinError>) {
        let now = self.api.clock().now();
        match done {
            Ok(Done::Token(key, token, outcome)) => self.index.finish(&key, &token, outcome, now),
            Ok(Done::Signed(pass)) => {
                self.metrics.bootstrap.signing(pass.as_str());
                self.index.signed(pass, now);
            }
            // A bug in one job must not pass for success: the process ends, and starts again from what is stored.
            Err(bug) => std::panic::resume_unwind(bug.into_panic()),
        }
    }

    fn write_status(&mut self, write: StatusWrite) {
        let api = self.api.clone();
        self.statuses.spawn(async move {
            let StatusWrite { policy, uid, status } = write;
            let object = status::Object { kind: "BootstrapTokenPolicy", plural: POLICIES, key: &policy, uid: &uid };
            let written = status::apply(&api, object, &status).await;
            (policy, written)
        });
    }

    fn status_written(&mut self, policy: &Key, written: bool) {
        if !written {
            self.index.status_failed(policy, self.api.clock().now());
        }
    }

    /// Finishes the calls under way, so that what they did is told.
    async fn drain(&mut self) {
        let finish = async {
            while let Some(done) = self.jobs.join_next().await {
                self.finished(done);
            }
            for notice in self.index.notices() {
                self.reporter.report_bootstrap(&notice);
            }
        };
        if timeout(GRACE, finish).await.is_err() {
            warn!("stopped with calls for bootstrap tokens unanswered; the next start looks at these again");
        }
    }
}

fn in_namespace(kind: &'static str, namespace: &str, reports: &mpsc::Sender<Report>) -> Watch<Change> {
    Watch { kind, scope: Some(namespace.into()), reports: reports.clone(), absent_pause: None }
}

/// The optional kind is not installed, or not for this operator: that is no fault. The API server tells a stranger
/// that it may not look before it tells that there is nothing.
fn tell_unhealthy(kind: &'static str, failure: &Failure) {
    if kind == POLICIES && matches!(failure.reason, Reason::Forbidden | Reason::Conflict) {
        info!(kind, "no BootstrapTokenPolicy is read: config/components/bootstrap-token-policy is not installed");
    } else {
        warn!(kind, "{}", failure.message);
    }
}

/// Reads a policy as the watch delivers it, with its resourceVersion.
fn policy(policy: DeserializeGuard<BootstrapTokenPolicy>) -> (u64, PolicyState) {
    let at = version(policy.meta());
    let uid = policy.uid().unwrap_or_default();
    let state = match policy.0 {
        Ok(policy) => PolicyState::read(policy),
        Err(invalid) => PolicyState::Unreadable { uid: uid.into(), error: invalid.error },
    };
    (at, state)
}
