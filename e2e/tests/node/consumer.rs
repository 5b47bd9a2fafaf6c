//! A pod that mounts a target, and uses its token ten times a second.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::node::{Node, POD_IMAGE};

/// A change of a Secret is in the pod a few seconds after; this decides nothing but when to give up.
const SOON: Duration = Duration::from_secs(90);
/// Calls after the death of the old token: for longer than the API server remembers whom it has let in (10 s).
const CALLS: u32 = 120;

pub struct Consumer<'a> {
    node: &'a Node,
}

/// What it has printed last.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    tokens: u32,
    calls: u32,
    refused: u32,
}

impl<'a> Consumer<'a> {
    /// Starts it with the target of the sample `deployers`.
    pub async fn start(node: &'a Node) -> Result<Self> {
        let ready = ["-n", "ci", "wait", "tp/deployers", "--for=condition=Ready", "--timeout=60s"];
        node.kubectl_ok(ready).await?;
        node.apply(&pod().to_string()).await?;
        let consumer = Self { node };
        let uses = async || consumer.counts().await.map(drop);
        eventually(SOON, "the consumer uses the token", uses).await?;
        Ok(consumer)
    }

    /// Rotates, waits until the pod has the new token, revokes the old one, and sees that nobody misses it.
    pub async fn rotates(&self, value: &str) -> Result<()> {
        let old = self.anchor().await?;
        let before = self.counts().await?;
        let rotate = format!("tokenward.dev/rotate={value}");
        self.kubectl(&["annotate", "--overwrite", "tp", "deployers", &rotate]).await?;
        let changed = async || {
            let now = self.counts().await?;
            ensure!(now.tokens == before.tokens + 1, "{now:?}");
            Ok(now)
        };
        let changed = eventually(SOON, "the mounted token changes", changed).await?;
        self.kubectl(&["delete", "secret", &old]).await?;
        let goes_on = async || {
            let now = self.counts().await?;
            ensure!(now.calls >= changed.calls + CALLS, "{now:?}");
            Ok(now)
        };
        let now = eventually(SOON, "it goes on", goes_on).await?;
        ensure!(now == Counts { tokens: before.tokens + 1, calls: now.calls, refused: 0 }, "{now:?}");
        Ok(())
    }

    /// The anchor that the target names.
    async fn anchor(&self) -> Result<String> {
        let secret = self.kubectl(&["get", "secret", "deployers-deployer", "-o", "json"]).await?;
        let secret: Value = serde_json::from_str(&secret)?;
        let name = secret["metadata"]["annotations"]["tokenward.dev/anchor"].as_str();
        Ok(name.context("the target names no anchor")?.to_owned())
    }

    async fn counts(&self) -> Result<Counts> {
        let log = self.kubectl(&["logs", "consumer"]).await?;
        let last = log.lines().rfind(|line| line.starts_with("tokens=")).context("it has said nothing yet")?;
        let count = |name: &str| {
            let word = last.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.and_then(|count| count.parse().ok()).with_context(|| format!("{name} in {last:?}"))
        };
        let counts = Counts { tokens: count("tokens")?, calls: count("calls")?, refused: count("refused")? };
        ensure!(counts.refused == 0, "{counts:?}\n{log}");
        Ok(counts)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.node.kubectl_ok([&["-n", "ci"], args].concat()).await
    }
}

fn pod() -> Value {
    let security = json!({"runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "consumer", "namespace": "ci"},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "consumer", "image": POD_IMAGE, "command": ["/pod", "consume"],
                "securityContext": security, "volumeMounts": [{"name": "token", "mountPath": "/etc/token"}]}],
            "volumes": [{"name": "token", "secret": {"secretName": "deployers-deployer"}}]}})
}
