//! The start and the end of the operator: connect, start every task, stop in order.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::Utc;
use kube::Config;
use rand::Rng as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    address::{self, Places},
    admin::{self, Scrape},
    api::{self, Api},
    bootstrap::{self, BootstrapHost},
    connection::{self, ConnectionError},
    events::{self, Reporter},
    lease::{Candidate, Lost},
    legacy::{self, LegacyHost},
    limits,
    metrics::Metrics,
    optional::SLOTS,
    signers,
    tasks::{join_all, joined},
    turn::{BATCH, Host, Input, Turns},
    watch::WatchClient,
};
use crate::{
    cli::Settings,
    core::{
        Time,
        address::{Contest, KnownAddress},
        bootstrap::{Cleaner, controller::Bootstrap},
        grant::{
            controller::{Grants, Readiness},
            event::GrantEvent,
        },
        kernel::{controller::Outcome, store::Scope},
        legacy::controller::Legacy,
        place::applied::Demanded,
        reason::AddressReason,
        request::Request,
    },
};

/// Pause between two tries to reach the API server at start.
const CONNECT_AGAIN: Duration = Duration::from_secs(2);
/// How often the local clock is compared with the monotonic one.
const CLOCK: Duration = Duration::from_secs(1);
/// Events that wait when the loops have ended may take so long.
const EVENTS: Duration = Duration::from_secs(5);

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
    /// The CA that is to stand in Secrets cannot be had.
    #[error(transparent)]
    Address(#[from] Contest),
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
    let mut tasks = JoinSet::new();
    let stop = stop_signal(&mut tasks).map_err(RunError::Signal)?;
    let config = connection::infer().await?;
    let metrics = Arc::new(Metrics::default());
    let (waiting, readiness) = watch::channel(unconnected(&config, ""));
    let (grants, bootstrap) = (mpsc::channel(BATCH), bootstraps(settings).then(|| mpsc::channel(BATCH)));
    // Legacy tokens are governed cluster-wide, or not at all.
    let legacy = settings.namespaces.is_empty().then(|| mpsc::channel(BATCH));
    let scrape = Scrape {
        metrics: metrics.clone(),
        grants: grants.0.clone(),
        bootstrap: bootstrap.as_ref().map(|(inputs, _)| inputs.clone()),
        legacy: legacy.as_ref().map(|(inputs, _)| inputs.clone()),
    };
    serve(&mut tasks, settings, readiness, scrape).await?;
    let (candidate, api) = apis(&config, &metrics, settings)?;
    let places = Places::new(api.clone(), &config, settings);
    let mut stopped = stop.clone();
    let address = tokio::select! {
        address = connect(&places, &config, &waiting) => address?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        () = join_all(&mut tasks) => return Ok(()),
    };
    let (server, source): (_, &str) = (&address.address.server, address.source.into());
    let namespaces = if settings.namespaces.is_empty() { "all".to_owned() } else { settings.namespaces.join(",") };
    info!(server, source, namespaces, version = env!("CARGO_PKG_VERSION"), "started");
    let (reporter, sending) = events::reporter(api.clone(), metrics.clone());
    let operator = Operator { api, config, metrics, reporter, settings, stop };
    let mut loops = JoinSet::new();
    operator.serve_grants(grants, (places, address), waiting, &mut loops, &mut tasks)?;
    if let Some(bootstrap) = bootstrap {
        operator.serve_bootstrap(bootstrap, &mut loops, &mut tasks)?;
    }
    if let Some(legacy) = legacy {
        operator.serve_legacy(legacy, &mut loops, &mut tasks)?;
    }
    drop(operator);
    let work = finish(loops, tokio::spawn(sending));
    tokio::select! {
        ended = lead(candidate, work) => ended?,
        () = join_all(&mut tasks) => {}
    }
    info!("stopped");
    Ok(())
}

/// Whether there is anything to do about bootstrap tokens: caps are cluster-wide, so an operator of some namespaces has
/// them only together with the cleaner or the signer.
fn bootstraps(settings: &Settings) -> bool {
    settings.namespaces.is_empty() || settings.bootstrap_token_cleaner != Cleaner::Off || settings.bootstrap_signer
}

/// Serves health and metrics.
async fn serve(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    readiness: watch::Receiver<Readiness>,
    scrape: Scrape,
) -> Result<(), RunError> {
    let listen = |address| move |error| RunError::Listen(address, error);
    let (health, metrics) = (settings.health_probe_bind_address, settings.metrics_bind_address);
    tasks.spawn(admin::health(health, readiness).await.map_err(listen(health))?);
    tasks.spawn(admin::metrics(metrics, scrape).await.map_err(listen(metrics))?);
    Ok(())
}

/// The candidate of the election, if there is one, and the client that writes only while that leads.
fn apis(config: &Config, metrics: &Arc<Metrics>, settings: &Settings) -> Result<(Option<Candidate>, Api), kube::Error> {
    let clock = Arc::default();
    let new = || Api::new(config.clone(), Arc::clone(&clock), &metrics.calls);
    if !settings.leader_elect {
        return Ok((None, new()?));
    }
    let (candidate, leadership) = Candidate::new(new()?, config, metrics.clone());
    Ok((Some(candidate), new()?.led_by(leadership)))
}

/// Turns true at the first SIGTERM or SIGINT.
fn stop_signal(tasks: &mut JoinSet<()>) -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tasks.spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("stopping: calls under way are finished, and no new ones begin");
        sender.send_replace(true);
    });
    Ok(receiver)
}

/// Waits until the API server answers.
async fn connect(
    places: &Places,
    config: &Config,
    waiting: &watch::Sender<Readiness>,
) -> Result<KnownAddress, Contest> {
    loop {
        match places.look().await {
            Err(Contest { reason: AddressReason::ClusterInfoUnknown, message }) => {
                warn!("{message}");
                waiting.send_replace(unconnected(config, &format!(": {message}")));
                sleep(CONNECT_AGAIN).await;
            }
            found => return found,
        }
    }
}

fn unconnected(config: &Config, why: &str) -> Readiness {
    Readiness { ready: false, lacks: vec![format!("waiting for the API server at {}{why}", config.cluster_url)] }
}

/// Joins the loops, and then the task that sends the events that they reported; whether each call has ended.
async fn finish(mut loops: JoinSet<bool>, mut sending: JoinHandle<()>) -> bool {
    let mut finished = true;
    while let Some(ended) = loops.join_next().await {
        finished &= joined(ended).unwrap_or(false);
    }
    if let Ok(ended) = timeout(EVENTS, &mut sending).await {
        joined(ended);
    } else {
        error!("stopped with events that could not be sent; the log has them");
        sending.abort();
        joined(sending.await);
    }
    finished
}

/// Campaigns while the work goes on, in a task of its own: a turn of a loop is short, and its end far away. The lease is
/// released when nothing is under way any more; after a call without an end it is left to run out.
async fn lead(candidate: Option<Candidate>, work: impl Future<Output = bool>) -> Result<(), Lost> {
    let Some(candidate) = candidate else {
        work.await;
        return Ok(());
    };
    let (done, ended) = oneshot::channel();
    let mut campaign = tokio::spawn(candidate.campaign(ended));
    let lost = tokio::select! {
        lost = &mut campaign => lost,
        finished = work => {
            if finished {
                drop(done);
            } else {
                campaign.abort();
            }
            campaign.await
        }
    };
    joined(lost).unwrap_or(Ok(()))
}

/// All that the loops share.
struct Operator<'a> {
    api: Api,
    config: Config,
    metrics: Arc<Metrics>,
    reporter: Reporter,
    settings: &'a Settings,
    stop: watch::Receiver<bool>,
}

/// Asks the API server for the time whenever the local clock has moved: any answer tells it, and everybody may ask for
/// its version.
async fn follow_clock(api: Api) {
    let version = Request::read("get /version to learn the time".into(), "/version".into());
    loop {
        sleep(CLOCK).await;
        if api.clock().has_stepped(Utc::now())
            && let Err(refusal) = api.send(&version).await
        {
            warn!("the local clock has moved: {}", refusal.failure.message);
        }
    }
}

type Inputs<C> = (mpsc::Sender<Input<C>>, mpsc::Receiver<Input<C>>);

impl Operator<'_> {
    fn serve_grants(
        &self,
        (inputs, receiver): Inputs<Grants>,
        (places, address): (Places, KnownAddress),
        readiness: watch::Sender<Readiness>,
        loops: &mut JoinSet<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), RunError> {
        let scopes = scopes(self.settings);
        let client = WatchClient::new(api::client(self.config.clone(), &self.metrics.calls)?);
        let demanded = Demanded::new(self.settings.secret_labels.iter().cloned().collect());
        super::watch::start(tasks, &client, &self.metrics, &demanded, &scopes, &inputs);
        tasks.spawn(address::follow(places, address.clone(), self.metrics.clone(), inputs.clone()));
        tasks.spawn(limits::follow(self.api.clone(), self.config.clone(), inputs.clone()));
        tasks.spawn(signers::follow(self.api.clone(), inputs));
        tasks.spawn(follow_clock(self.api.clone()));
        let grants = Grants::new(address, demanded, scopes, rand::rng().random());
        let (metrics, reporter) = (self.metrics.clone(), self.reporter.clone());
        let host = GrantHost { api: self.api.clone(), metrics, reporter, readiness };
        let turns = Turns::new(grants, host, self.api.clone(), self.settings.concurrency.into());
        loops.spawn(turns.serve(receiver, self.stop.clone()));
        Ok(())
    }

    fn serve_bootstrap(
        &self,
        (inputs, receiver): Inputs<Bootstrap>,
        loops: &mut JoinSet<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), RunError> {
        let (cleaner, signs) = (self.settings.bootstrap_token_cleaner, self.settings.bootstrap_signer);
        let client = WatchClient::new(api::client(self.config.clone(), &self.metrics.calls)?);
        let (sender, needed) = watch::channel(false);
        bootstrap::watch(tasks, &client, &self.metrics, signs, needed, &inputs);
        let (metrics, reporter) = (self.metrics.clone(), self.reporter.clone());
        let host = BootstrapHost { metrics, reporter, needed: sender };
        let bootstrap = Bootstrap::new(cleaner, signs, rand::rng().random());
        let turns = Turns::new(bootstrap, host, self.api.clone(), SLOTS);
        loops.spawn(turns.serve(receiver, self.stop.clone()));
        Ok(())
    }

    fn serve_legacy(
        &self,
        (inputs, receiver): Inputs<Legacy>,
        loops: &mut JoinSet<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), RunError> {
        let client = WatchClient::new(api::client(self.config.clone(), &self.metrics.calls)?);
        let (sender, needed) = watch::channel(false);
        legacy::watch(tasks, &client, &self.metrics, &needed, &inputs);
        let (metrics, reporter) = (self.metrics.clone(), self.reporter.clone());
        let host = LegacyHost { metrics, reporter, needed: sender };
        let turns = Turns::new(Legacy::new(rand::rng().random()), host, self.api.clone(), SLOTS);
        loops.spawn(turns.serve(receiver, self.stop.clone()));
        Ok(())
    }
}

fn scopes(settings: &Settings) -> Vec<Scope> {
    let namespaces: BTreeSet<&String> = settings.namespaces.iter().collect();
    let named: Vec<Scope> = namespaces.into_iter().map(|namespace| Some(namespace.as_str().into())).collect();
    if named.is_empty() { vec![None] } else { named }
}

struct GrantHost {
    api: Api,
    metrics: Arc<Metrics>,
    reporter: Reporter,
    readiness: watch::Sender<Readiness>,
}

impl Host<Grants> for GrantHost {
    fn decided(&self, count: usize, took: Duration) {
        self.metrics.decided("grants", count, took);
    }

    fn answered(&self, outcome: &Outcome) {
        self.metrics.answered(outcome);
    }

    fn report(&self, news: GrantEvent) {
        self.reporter.report(&news);
    }

    fn turned(&mut self, grants: &mut Grants, now: Time) {
        let skew = self.api.clock().skew();
        grants.set_skew(skew, now);
        self.metrics.turned(self.api.leadership().leads(), skew);
        if let Some(readiness) = grants.readiness() {
            self.readiness.send_replace(readiness);
        }
    }
}
