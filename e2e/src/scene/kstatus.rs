//! What generic tools make of a status: the rules of kstatus (sigs.k8s.io/cli-utils), and a record of every status.

use super::{Scene, condition};
use anyhow::{Result, ensure};
use futures::StreamExt;
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// What an object is doing, for those who know nothing of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kstatus {
    Terminating,
    InProgress,
    Failed,
    Current,
}

/// kstatus of a custom resource.
pub fn kstatus(object: &DynamicObject) -> Kstatus {
    let observed = object.data["status"]["observedGeneration"].as_i64();
    let is = |kind: &str, status: &str| condition(object, kind).is_some_and(|found| found.status == status);
    if object.metadata.deletion_timestamp.is_some() {
        Kstatus::Terminating
    } else if observed.is_some() && observed != object.metadata.generation || is("Reconciling", "True") {
        Kstatus::InProgress
    } else if is("Stalled", "True") {
        Kstatus::Failed
    } else if condition(object, "Ready").is_some() && !is("Ready", "True") {
        Kstatus::InProgress
    } else {
        Kstatus::Current
    }
}

/// Whether nobody has written a status yet, and the API server shows the one of the schema.
pub fn is_pending(object: &DynamicObject) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready.status == "Unknown" && ready.reason == "Pending")
        && object.data["status"].as_object().is_some_and(|status| status.len() == 1)
}

/// That a status is pending, or says one thing and is about a generation that it names.
pub fn is_consistent(object: &DynamicObject) -> Result<()> {
    let status = &object.data["status"];
    if is_pending(object) {
        return Ok(());
    }
    let (observed, generation) = (status["observedGeneration"].as_i64(), object.metadata.generation);
    ensure!(observed.is_some(), "no observedGeneration in {status}");
    ensure!(observed <= generation, "observed {observed:?} of {generation:?}");
    for condition in status["conditions"].as_array().into_iter().flatten() {
        ensure!(condition["observedGeneration"].as_i64() == observed, "of {observed:?}: {condition}");
        ensure!(is_complete(condition), "{condition}");
    }
    let true_ones: Vec<&str> = ["Ready", "Reconciling", "Stalled"]
        .into_iter()
        .filter(|kind| condition(object, kind).is_some_and(|found| found.status == "True"))
        .collect();
    for kind in ["Reconciling", "Stalled"] {
        let idle = condition(object, kind).is_some() && !true_ones.contains(&kind);
        ensure!(!idle, "{kind} is there and not true: {status}");
    }
    ensure!(condition(object, "Ready").is_some(), "no Ready in {status}");
    ensure!(!true_ones.contains(&"Stalled") || true_ones == ["Stalled"], "{true_ones:?} in {status}");
    Ok(())
}

fn is_complete(condition: &Value) -> bool {
    ["type", "status", "reason", "message", "lastTransitionTime"]
        .iter()
        .all(|field| condition[field].as_str().is_some_and(|text| !text.is_empty()))
}

/// Every version of the policies of a namespace, from its start on.
pub struct Record {
    seen: Arc<Mutex<Vec<DynamicObject>>>,
    task: JoinHandle<()>,
}

impl Scene {
    /// Watches the policies from now on.
    pub async fn record(&self) -> Result<Record> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut changes = self.policies().watch(&WatchParams::default(), "0").await?.boxed();
        let into = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(change)) = changes.next().await {
                if let WatchEvent::Added(object) | WatchEvent::Modified(object) = change {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(object);
                }
            }
        });
        Ok(Record { seen, task })
    }
}

impl Record {
    /// Every version so far.
    pub fn versions(&self) -> Result<Vec<DynamicObject>> {
        ensure!(!self.task.is_finished(), "the watch ended");
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}
