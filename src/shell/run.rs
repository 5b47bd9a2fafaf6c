//! The loop: changes in, due work out, outcomes back in, until somebody says stop. One task owns the index.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{Either, OptionFuture, join, pending},
};
use http::Method;
use kube::{Client, Config};
use secrecy::SecretString;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{
    act,
    admin::{self, Scrape},
    api::{self, Api, Call, JSON},
    bootstrap::Bootstrap,
    connection::{self, ConnectionError},
    events::Reporter,
    lease::{Candidate, Lost},
    metrics::Metrics,
    signers::{self, Poll},
    site, status,
    watch::Report,
};
use crate::{
    cli::Settings,
    core::{
        Time,
        facts::Site,
        grant::GrantKey,
        index::{Index, Job, Outcome, Readiness, StatusWrite},
        table::{Key, Scope},
    },
};

/// Work under way at SIGTERM may go on for so long; the pod's grace period is 30 s.
const GRACE: Duration = Duration::from_secs(8);
/// Steps of watches that are taken in at once before due work is looked for.
const BATCH: usize = 256;
/// Pause between two tries to reach the API server at start.
const CONNECT_AGAIN: Duration = Duration::from_secs(2);
/// Scrapes that may wait for the loop; further ones are served as it was.
const SCRAPES: usize = 4;
/// How often the clock is looked at.
const REFRESH: Duration = Duration::from_secs(1);

/// The operator cannot start, or must not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server, or none that is safe.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The client configuration cannot be used.
    #[error("the configuration of the API server cannot be used: {0}")]
    Client(#[from] kube::Error),
    /// An address is taken or not ours.
    #[error("cannot listen on {0}: {1}; choose another address")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// The CA bundle cannot be read.
    #[error("cannot read the CA bundle of the API server: {0}")]
    Ca(std::io::Error),
    /// Signals cannot be handled.
    #[error("cannot listen for signals: {0}")]
    Signal(std::io::Error),
    /// Another process leads now, or may.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or has lost leadership. Nothing else that the API server does ends it.
pub async fn run(settings: &Settings) -> Result<(), RunError> {
    let stop = stop_signal().map_err(RunError::Signal)?;
    let config = connection::infer().await?;
    let metrics = Arc::new(Metrics::default());
    let (waiting, readiness) = watch::channel(unconnected(&config, ""));
    let listen = |address| move |error| RunError::Listen(address, error);
    admin::health(settings.health_probe_bind_address, readiness)
        .await
        .map_err(listen(settings.health_probe_bind_address))?;
    let (ask, scrapes) = mpsc::channel(SCRAPES);
    admin::metrics(settings.metrics_bind_address, metrics.clone(), ask)
        .await
        .map_err(listen(settings.metrics_bind_address))?;
    let ca = site::ca_bundle(&config).map_err(RunError::Ca)?;
    let (candidate, api) = apis(&config, &metrics, settings)?;
    let client = api::client(config.clone(), &metrics.calls)?;
    let mut stopped = stop.clone();
    let site = tokio::select! {
        site = connect(&api, &config, ca, settings, &waiting) => site,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    info!(server = site.server, namespaces = ?settings.namespaces, version = env!("CARGO_PKG_VERSION"), "started");
    let reporter = Reporter::new(api.clone(), metrics.clone());
    let bootstrap = Bootstrap::new(&api, &client, &metrics, &reporter, settings);
    let bootstrap = OptionFuture::from(bootstrap.map(|bootstrap| tokio::spawn(bootstrap.serve(stop.clone()))));
    let operator = Operator::new(api, metrics, reporter, site, settings, waiting).serve(&client, scrapes, stop);
    let work = join(operator, bootstrap.map(unwound));
    match candidate {
        Some(candidate) => campaign(candidate, work).await?,
        None => drop(work.await),
    }
    info!("stopped");
    Ok(())
}

/// What takes part in the election, if there is one, and what writes only while that leads.
fn apis(config: &Config, metrics: &Metrics, settings: &Settings) -> Result<(Option<Candidate>, Api), kube::Error> {
    let clock = Arc::default();
    let new = || Api::new(config.clone(), Arc::clone(&clock), &metrics.calls);
    if !settings.leader_elect {
        return Ok((None, new()?));
    }
    let (candidate, leadership) = Candidate::new(new()?, config);
    Ok((Some(candidate), new()?.led_by(leadership)))
}

/// Campaigns while the work goes on, in a task of its own as the loops may be busy. The lease is released when nothing
/// is under way any more.
async fn campaign(candidate: Candidate, work: impl Future) -> Result<(), Lost> {
    let (done, ended) = oneshot::channel();
    let mut campaign = tokio::spawn(candidate.campaign(ended));
    let lost = tokio::select! {
        lost = &mut campaign => lost,
        _ = work => {
            drop(done);
            campaign.await
        }
    };
    lost.unwrap_or_else(|bug| std::panic::resume_unwind(bug.into_panic()))
}

/// A bug in one loop must end the process, also while the other goes on.
fn unwound(ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(bug)) = ended {
        std::panic::resume_unwind(bug.into_panic());
    }
}

/// Turns true at the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("stopping: what is under way is finished, and nothing new begins");
        sender.send_replace(true);
    });
    Ok(receiver)
}

/// Waits until the API server answers.
async fn connect(
    api: &Api,
    config: &Config,
    ca: Vec<u8>,
    settings: &Settings,
    waiting: &watch::Sender<Readiness>,
) -> Site {
    loop {
        match site::discover(api, config, ca.clone(), settings.cluster_server.as_deref()).await {
            Ok(site) => return site,
            Err(failure) => {
                warn!("{}", failure.message);
                waiting.send_replace(unconnected(config, &format!(": {}", failure.message)));
                sleep(CONNECT_AGAIN).await;
            }
        }
    }
}

fn unconnected(config: &Config, why: &str) -> Readiness {
    Readiness { ready: false, lacks: vec![format!("waiting for the API server at {}{why}", config.cluster_url)] }
}

struct Operator {
    api: Api,
    site: Arc<Site>,
    scopes: Vec<Scope>,
    slots: usize,
    index: Index,
    metrics: Arc<Metrics>,
    reporter: Reporter,
    readiness: watch::Sender<Readiness>,
    refreshed: Instant,
    /// Whether it was so at the last turn.
    leading: bool,
    jobs: JoinSet<(GrantKey, Vec<Outcome>)>,
    statuses: JoinSet<(Key, bool)>,
}

impl Operator {
    fn new(
        api: Api,
        metrics: Arc<Metrics>,
        reporter: Reporter,
        site: Site,
        settings: &Settings,
        readiness: watch::Sender<Readiness>,
    ) -> Self {
        let namespaces: BTreeSet<&String> = settings.namespaces.iter().collect();
        let named: Vec<Scope> = namespaces.into_iter().map(|namespace| Some(namespace.as_str().into())).collect();
        let scopes = if named.is_empty() { vec![None] } else { named };
        Self {
            reporter,
            leading: api.leadership().leads(),
            api,
            site: Arc::new(site.clone()),
            index: Index::new(site, scopes.clone()),
            scopes,
            slots: settings.concurrency.into(),
            metrics,
            readiness,
            refreshed: Instant::now(),
            jobs: JoinSet::new(),
            statuses: JoinSet::new(),
        }
    }

    async fn serve(mut self, client: &Client, mut scrapes: mpsc::Receiver<Scrape>, mut stop: watch::Receiver<bool>) {
        let (sender, mut reports) = mpsc::channel(BATCH);
        let mut tasks = super::watch::start(client, &self.site, &self.scopes, &sender);
        let (sender, mut polls) = mpsc::channel(1);
        tasks.spawn(signers::follow(self.api.clone(), sender));
        let mut batch = Vec::with_capacity(BATCH);
        let mut leadership = self.api.leadership().clone();
        while !*stop.borrow() {
            let wake = self.wake();
            tokio::select! {
                _ = stop.changed() => {}
                () = leadership.changed() => {}
                _ = reports.recv_many(&mut batch, BATCH) => batch.drain(..).for_each(|report| self.report(report)),
                Some(done) = self.jobs.join_next() => self.finished(done, true),
                Some(done) = self.statuses.join_next() => self.status_written(done),
                Some(poll) = polls.recv() => self.polled(&poll),
                Some(scrape) = scrapes.recv() => self.scraped(scrape),
                () = wake => {}
                () = sleep(REFRESH) => {}
            }
            self.work();
        }
        self.drain().await;
    }

    /// Resolves when the index has something to do without a change.
    fn wake(&self) -> impl Future<Output = ()> + use<> {
        match self.index.next_wake().filter(|_| self.leading) {
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
            Report::Change(scope, change) => {
                self.metrics.watched(change.kind(), now);
                self.index.apply(&scope, change, now);
            }
            Report::Health(scope, kind, failure) => {
                self.metrics.watch_health(&scope, kind, failure.is_some());
                let before = self.index.watch_health(&scope, kind, failure.clone(), now);
                match failure {
                    Some(failure) if before.as_ref() != Some(&failure) => warn!(kind, "{}", failure.message),
                    None if before.is_some() => info!(kind, namespace = scope.as_deref(), "the watch works again"),
                    _ => {}
                }
            }
        }
    }

    fn work(&mut self) {
        let now = self.api.clock().now();
        if self.leads(now) {
            self.act(now);
        } else {
            // What a standby sees is the leader's doing, and the leader tells it.
            drop(self.index.notices());
        }
        self.publish_readiness();
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            if self.api.clock().has_stepped(chrono::Utc::now()) {
                tokio::spawn(ask_the_time(self.api.clone()));
            }
            self.index.set_skew(self.api.clock().skew(), now);
        }
    }

    /// Whether this process acts; when that begins, the index begins anew.
    fn leads(&mut self, now: Time) -> bool {
        let before = std::mem::replace(&mut self.leading, self.api.leadership().leads());
        if self.leading && !before {
            self.index.lead(now);
        }
        self.leading
    }

    /// Starts due work, writes due statuses, tells what happened.
    fn act(&mut self, now: Time) {
        while self.jobs.len() < self.slots
            && let Some(job) = self.index.take(self.slots, now)
        {
            self.start(job);
        }
        while let Some(status) = self.index.take_status(now) {
            self.write_status(status);
        }
        for notice in self.index.notices() {
            self.reporter.report(&notice);
        }
    }

    fn polled(&mut self, poll: &Poll) {
        self.index.observe_signers(poll.keys.as_ref(), poll.issuer.as_deref(), self.api.clock().now());
    }

    fn scraped(&self, scrape: Scrape) {
        self.metrics.refresh(self.leading.then_some(&self.index), self.api.clock().skew());
        // Who asked may have given up.
        let _ = scrape.send(());
    }

    fn publish_readiness(&self) {
        let readiness = self.index.readiness();
        self.readiness.send_if_modified(|current| {
            let changed = *current != readiness;
            *current = readiness;
            changed
        });
    }

    fn start(&mut self, job: Job) {
        let (api, site) = (self.api.clone(), self.site.clone());
        self.jobs.spawn(async move {
            let key = job.grant.clone();
            (key, act::perform(&api, &site, job).await)
        });
    }

    /// Takes outcomes in; a grant in the middle of its work goes on at once.
    fn finished(&mut self, done: Result<(GrantKey, Vec<Outcome>), tokio::task::JoinError>, go_on: bool) {
        let (key, outcomes) = match done {
            Ok(done) => done,
            // A bug in one job must not pass for success: the process ends, and starts again from what is stored.
            Err(bug) => std::panic::resume_unwind(bug.into_panic()),
        };
        self.metrics.outcomes(&outcomes);
        if let Some(job) = self.index.finish(&key, outcomes, self.api.clock().now())
            && go_on
        {
            self.start(job);
        }
    }

    fn write_status(&mut self, write: StatusWrite) {
        let api = self.api.clone();
        self.statuses.spawn(async move {
            let StatusWrite { policy, uid, status } = write;
            let object = status::Object { kind: "TokenPolicy", plural: "tokenpolicies", key: &policy, uid: &uid };
            let written = status::apply(&api, object, &status).await;
            (policy, written)
        });
    }

    fn status_written(&mut self, done: Result<(Key, bool), tokio::task::JoinError>) {
        if let Ok((key, done)) = done {
            self.index.status_written(&key, done, self.api.clock().now());
        }
    }

    /// Finishes what is under way, token by token, but begins nothing new.
    async fn drain(&mut self) {
        let deadline = Instant::now() + GRACE;
        let finish = async {
            while let Some(done) = self.jobs.join_next().await {
                self.finished(done, Instant::now() < deadline);
            }
            for notice in self.index.notices() {
                self.reporter.report(&notice);
            }
            while self.statuses.join_next().await.is_some() {}
        };
        if timeout(GRACE, finish).await.is_err() {
            error!("stopped with calls unanswered; the next start puts them right");
        }
    }
}

/// Any answer of the API server tells its time; everybody may ask for its version.
async fn ask_the_time(api: Api) {
    let what = "get /version to learn the time";
    let body = SecretString::default();
    let call = Call { what, method: &Method::GET, path: "/version", accept: JSON, content: JSON, body: &body };
    if let Err(error) = api.call(call).await {
        warn!("the local clock has moved: {}", error.failure.message);
    }
}
