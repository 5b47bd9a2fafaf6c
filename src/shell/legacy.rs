//! The loop of Secrets with legacy tokens.

use std::{fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    api::Api,
    core::{PartialObjectMeta, Resource},
    runtime::watcher::Config,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    events::Reporter,
    metrics::Metrics,
    optional,
    turn::{Host, Input},
    watch::{Watch, WatchClient},
};
use crate::{
    api::legacy_token_policy::LegacyTokenPolicy,
    core::{
        Time,
        failure::Failure,
        kernel::controller::Outcome,
        legacy::{
            SECRET_TYPE, TRACKING, TRACKING_NAMESPACE,
            controller::{Legacy, LegacyChange},
            event::LegacyEvent,
            policy::LegacyPolicy,
            references::{AccountReferences, PodReferences, Refers},
            token::{LegacyToken, day_end},
        },
        meta::version,
    },
};

/// Tells and counts; lets everything be watched while there is a policy.
pub struct LegacyHost {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The way to people.
    pub reporter: Reporter,
    /// Whether there is a policy.
    pub needed: watch::Sender<bool>,
}

impl Host<Legacy> for LegacyHost {
    fn decided(&self, count: usize, took: Duration) {
        self.metrics.decided("legacy", count, took);
    }

    fn answered(&self, outcome: &Outcome) {
        self.metrics.answered(outcome);
    }

    fn report(&self, news: LegacyEvent) {
        self.reporter.report_legacy(&news);
    }

    fn watch_health(&self, kind: &'static str, failure: Option<&Failure>) {
        optional::watch_health::<LegacyPolicy>("legacy-token-policy", kind, failure);
    }

    fn turned(&mut self, legacy: &mut Legacy, _: Time) {
        optional::need(&self.needed, legacy.is_needed());
    }
}

/// Starts the watches.
pub fn watch(
    tasks: &mut JoinSet<()>,
    client: &WatchClient,
    metrics: &Arc<Metrics>,
    needed: &watch::Receiver<bool>,
    inputs: &mpsc::Sender<Input<Legacy>>,
) {
    let watch = |kind, namespace: Option<&str>| Watch {
        kind,
        number: 0,
        scope: namespace.map(Into::into),
        inputs: inputs.clone(),
        metrics: Some(metrics.clone()),
        absent_pause: None,
        needed: Some(needed.clone()),
    };
    let policies = optional::policies::<LegacyTokenPolicy, _, _>(client.clone(), inputs.clone(), LegacyChange::Policy);
    tasks.spawn(policies);
    tasks.spawn(watch("secrets (legacy tokens)", None).follow(
        client.clone(),
        Api::<PartialObjectMeta<Secret>>::all,
        Config::default().fields(&format!("type={SECRET_TYPE}")),
        |object| Some((version(&object.metadata), LegacyToken::read(object.metadata))),
        LegacyChange::Token,
    ));
    tasks.spawn(watch("namespaces", None).follow(
        client.clone(),
        Api::<PartialObjectMeta<Namespace>>::all,
        Config::default(),
        |object| Some((version(&object.metadata), object.metadata.labels.unwrap_or_default())),
        LegacyChange::Namespace,
    ));
    tasks.spawn(watch("configmaps (legacy tokens)", Some(TRACKING_NAMESPACE)).follow(
        client.clone(),
        |client| Api::<ConfigMap>::namespaced(client, TRACKING_NAMESPACE),
        Config::default().fields(&format!("metadata.name={TRACKING}")),
        |map| Some((version(&map.metadata), map.data.as_ref().and_then(|data| day_end(data.get("since")?)))),
        LegacyChange::Tracking,
    ));
    tasks.spawn(references::<PodReferences>(watch("pods", None), client));
    tasks.spawn(references::<AccountReferences>(watch("serviceaccounts (legacy tokens)", None), client));
}

/// Follows those objects of a kind that refer to a Secret.
fn references<K>(watch: Watch<Legacy>, client: &WatchClient) -> impl Future<Output = ()> + use<K>
where
    K: Refers + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let read = |object: K| Some((version(object.meta()), object.secrets())).filter(|(_, secrets)| !secrets.is_empty());
    let change = |event| LegacyChange::References(K::BY, event);
    watch.follow(client.clone(), Api::<K>::all, Config::default(), read, change)
}
