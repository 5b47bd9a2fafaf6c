//! The bootstrap tokens' loop. It shares nothing with the loop of the grants but the clock and the API server, so that
//! neither waits for the other.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Client,
    api::Api as KubeApi,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher::Config,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use super::{
    events::Reporter,
    metrics::Metrics,
    turn::{Host, Input},
    watch::Watch,
};
use crate::{
    api::bootstrap_token_policy::BootstrapTokenPolicy,
    core::{
        Time,
        bootstrap::{
            NAMESPACE, SECRET_TYPE, cluster_info,
            controller::{Bootstrap, BootstrapChange, TOKENS},
            event::BootstrapEvent,
            policy::BootstrapPolicyState,
            token::{BootstrapSecret, BootstrapToken},
        },
        failure::Failure,
        kernel::{controller::Outcome, store::WatchEvent},
        meta::version,
        reason::FailureReason,
    },
};

const POLICIES: &str = "bootstraptokenpolicies";
/// The kind is optional: whether it has been installed meanwhile is looked up this often.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Calls under way at once.
pub const SLOTS: usize = 32;

/// Tells and counts; lets the tokens be watched when they are needed.
pub struct BootstrapHost {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The way to people.
    pub reporter: Reporter,
    /// Whether the tokens have to be watched.
    pub needed: watch::Sender<bool>,
}

impl Host<Bootstrap> for BootstrapHost {
    fn decided(&self, count: usize, took: Duration) {
        self.metrics.decided("bootstrap", count, took);
    }

    /// The controller counts by itself what its answers bring.
    fn answered(&self, _: &Outcome) {}

    fn report(&self, news: BootstrapEvent) {
        self.reporter.report_bootstrap(&news);
    }

    /// The optional kind is not installed, or not for this operator: that is no fault. The API server tells a stranger
    /// that it may not look before it tells that there is nothing.
    fn watch_health(&self, kind: &'static str, failure: Option<&Failure>) {
        match failure {
            Some(failure)
                if kind == POLICIES && matches!(failure.reason, FailureReason::Forbidden | FailureReason::Conflict) =>
            {
                info!(kind, "no BootstrapTokenPolicy is read: the component bootstrap-token-policy is not installed");
            }
            Some(failure) => warn!(kind, "{}", failure.message),
            None => info!(kind, "the watch works again"),
        }
    }

    fn turned(&mut self, bootstrap: &mut Bootstrap, _: Time) {
        for count in bootstrap.counts() {
            self.metrics.bootstrap.count(count);
        }
        if bootstrap.needs_tokens() {
            self.needed.send_if_modified(|needed| !std::mem::replace(needed, true));
        }
    }
}

/// Starts the watches: that of the tokens when they are needed, that of the ConfigMap if it is signed.
pub fn watch(
    tasks: &mut JoinSet<()>,
    client: &Client,
    metrics: &Arc<Metrics>,
    signs: bool,
    mut needed: watch::Receiver<bool>,
    inputs: &mpsc::Sender<Input<Bootstrap>>,
) {
    let watch = |kind, scope: Option<&str>| Watch {
        kind,
        number: 0,
        scope: scope.map(Into::into),
        inputs: inputs.clone(),
        metrics: scope.map(|_| metrics.clone()),
        absent_pause: scope.is_none().then_some(LOOK_AGAIN),
    };
    tasks.spawn(watch(POLICIES, None).follow(
        KubeApi::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<BootstrapTokenPolicy>(&())),
        Config::default(),
        |policy: DynamicObject| Some((version(&policy.metadata), BootstrapPolicyState::parse(policy))),
        BootstrapChange::Policy,
    ));
    let tokens = watch(TOKENS, Some(NAMESPACE)).follow(
        KubeApi::<BootstrapSecret>::namespaced(client.clone(), NAMESPACE),
        Config::default().fields(&format!("type={SECRET_TYPE}")),
        |secret: BootstrapSecret| Some((version(&secret.metadata), BootstrapToken::read(secret))),
        BootstrapChange::Token,
    );
    tasks.spawn(async move {
        // Without anybody left to need them nothing is watched.
        if needed.wait_for(|needed| *needed).await.is_ok() {
            tokens.await;
        }
    });
    if signs {
        tasks.spawn(watch("configmaps (cluster-info)", Some(cluster_info::NAMESPACE)).follow(
            KubeApi::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), cluster_info::NAMESPACE),
            Config::default().fields(&format!("metadata.name={}", cluster_info::NAME)),
            |object| Some((version(&object.metadata), ())),
            |_: WatchEvent<()>| BootstrapChange::ClusterInfo,
        ));
    }
}
