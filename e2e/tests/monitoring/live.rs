//! A real Prometheus scrapes a real operator: a rotation that fails is told of before the token dies, and what is deleted is
//! not spoken of any more.

use crate::alerts::{ALERTS, text};
use crate::dashboard::Dashboard;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::operator::install;
use tokenward_e2e::pages::read;
use tokenward_e2e::prometheus::{Prometheus, server};
use tokenward_e2e::scene::{SOON, Scene, Target, spec};
use tokenward_e2e::{ControlPlane, Options, Profile, eventually, target_dir};

/// By so much every time in the rules is divided: the shortest `maxAge` is a minute, and a test must not wait for hours.
const HURRY: u64 = 10;
/// The longest wait: until a token of `maxAge: 1m` is due, and as late as the alert wants it.
const DUE: Duration = Duration::from_mins(3);

/// A word of a rule in a hurry: a duration like `15m`, or from 60 on a number of seconds. All others stay.
fn hurried(word: &str) -> String {
    let unit = |word: &str| match word.chars().last()? {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        _ => None,
    };
    let seconds = match (word.parse::<u64>(), unit(word)) {
        (Ok(seconds), _) if seconds >= 60 => return (seconds / HURRY).to_string(),
        (_, Some(unit)) => word[..word.len() - 1].parse::<u64>().ok().map(|count| count * unit),
        _ => None,
    };
    seconds.map_or_else(|| word.to_owned(), |seconds| format!("{}ms", seconds * 1000 / HURRY))
}

/// The rule file with every time divided by [`HURRY`], but for the texts.
fn in_a_hurry() -> Result<String> {
    let mut alerts: Value = serde_saphyr::from_str(&read(ALERTS)?)?;
    let group = &mut alerts["groups"][0];
    group["interval"] = hurried(text(group, "interval")).into();
    for rule in group["rules"].as_array_mut().context("no rules")? {
        for field in ["expr", "for"] {
            if let Some(old) = rule[field].as_str() {
                rule[field] = words(old).into();
            }
        }
    }
    Ok(alerts.to_string())
}

/// A text with each of its words in a hurry.
fn words(text: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let pieces = text.split_inclusive(|c: char| !part(c));
    pieces
        .map(|piece| {
            let word = piece.trim_end_matches(|c: char| !part(c));
            hurried(word) + &piece[word.len()..]
        })
        .collect()
}

#[test]
fn hurrying_divides_times_and_nothing_else() {
    assert_eq!(
        words("sum(increase(x_total{a=\"b\"}[15m])) > 0 and clamp_max(x / 4, 300)"),
        "sum(increase(x_total{a=\"b\"}[90000ms])) > 0 and clamp_max(x / 4, 30)"
    );
    assert_eq!((words("1h"), words("30s")), ("360000ms".to_owned(), "3000ms".to_owned()));
}

/// A scene that Prometheus scrapes.
struct Watched {
    scene: Scene,
    prometheus: Prometheus,
}

impl Watched {
    async fn start(namespace: &str) -> Result<Self> {
        // Its first build takes both cores for minutes.
        let (program, dir) = (server().await?, target_dir().join("e2e/monitoring-live"));
        // Scenes want one that lives as long as the test binary.
        let plane: &'static ControlPlane =
            Box::leak(Box::new(ControlPlane::start(Profile::default(), dir.clone()).await?));
        install(plane).await?;
        let scene = Scene::on(plane, namespace, Options::default()).await?;
        scene.operator.ready().await?;
        let (metrics, _) = scene.operator.ports();
        let prometheus = Prometheus::start(&program, &dir.join("prometheus"), metrics, &in_a_hurry()?).await?;
        Ok(Self { scene, prometheus })
    }

    /// The alerts that fire, about this policy or about none.
    async fn firing(&self, policy: &str) -> Result<Vec<String>> {
        let expression = format!("ALERTS{{alertstate=\"firing\",policy=~\"{policy}|\"}}");
        let alerts = self.prometheus.query(&expression).await?;
        Ok(alerts.iter().map(|alert| text(&alert["metric"], "alertname").to_owned()).collect())
    }

    /// Waits until exactly these alerts fire, as far as this policy is concerned.
    async fn fires(&self, policy: &str, wanted: &[&str], within: Duration) -> Result<()> {
        let check = async || {
            let firing = self.firing(policy).await?;
            ensure!(firing == wanted, "{firing:?}");
            Ok(())
        };
        let fired = eventually(within, &format!("{wanted:?} fire"), check).await;
        fired.with_context(|| self.scene.log_end())
    }

    /// Waits until this expression gives something, or nothing.
    async fn gives(&self, expression: &str, something: bool) -> Result<()> {
        let check = async || {
            let found = self.prometheus.query(expression).await?;
            ensure!(found.is_empty() != something, "{found:?}");
            Ok(())
        };
        eventually(SOON, expression, check).await.with_context(|| self.scene.log_end())
    }

    /// A policy that rotates every minute.
    async fn minutely(&self) -> Result<Target> {
        let rotation = json!({"maxAge": "1m", "overlap": "1m"});
        self.scene.deployer(json!({"token": {"duration": "10m"}, "rotation": rotation})).await
    }

    /// Waits until the policy's token is another one.
    async fn replaced(&self, before: &Target) -> Result<Target> {
        let check = async || {
            let target = self.scene.target("p-deployer").await?;
            ensure!(target.token_id() != before.token_id(), "still {}", target.token_id());
            Ok(target)
        };
        eventually(DUE, "the token is replaced", check).await.with_context(|| self.scene.log_end())
    }

    /// Takes the right to mint from the operator.
    async fn forbid_mints(&self) -> Result<()> {
        let roles: Api<ClusterRole> = Api::all(self.scene.client.clone());
        let mut role = roles.get("tokenward").await?;
        let mints =
            |resources: &Option<Vec<String>>| resources.iter().flatten().any(|name| name == "serviceaccounts/token");
        role.rules
            .iter_mut()
            .flatten()
            .filter(|rule| mints(&rule.resources))
            .for_each(|rule| rule.verbs = vec!["get".into()]);
        role.metadata.managed_fields = None;
        roles.replace("tokenward", &PostParams::default(), &role).await?;
        Ok(())
    }

    /// All that the dashboard shows and a healthy operator does not have.
    async fn trouble(&self) -> Result<()> {
        self.scene.policy("failing", &spec(&["nobody"], json!({}))).await?;
        self.scene.not_ready("failing", "AccountNotFound").await?;
        self.scene.account("suspended", &[]).await?;
        self.scene.policy("suspended", &spec(&["suspended"], json!({"suspend": true}))).await?;
        let secrets: Api<Secret> = Api::namespaced(self.scene.client.clone(), "kube-system");
        let token = json!({"metadata": {"name": "bootstrap-token-dashbd"}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": "dashbd", "token-secret": "0123456789abcdef"}});
        secrets.create(&PostParams::default(), &serde_json::from_value(token)?).await?;
        let expired = Patch::Merge(json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}}));
        secrets.patch("bootstrap-token-dashbd", &PatchParams::default(), &expired).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_rotation_that_fails_is_told_of_before_the_token_dies() -> Result<()> {
    let watched = Watched::start("watched").await?;
    let scene = &watched.scene;
    let first = watched.minutely().await?;
    let second = watched.replaced(&first).await?;
    watched.gives("tokenward_rotation_lateness_seconds_count == 1", true).await?;
    watched.fires("p", &[], SOON).await?;

    watched.forbid_mints().await?;
    watched.trouble().await?;
    watched.fires("p", &["TokenwardRotationLate"], DUE).await?;
    assert_eq!(scene.target("p-deployer").await?.token_id(), second.token_id());
    scene.bearer(second.token()).await?.lives().await?;

    Dashboard::read()?.shows_data(&watched.prometheus, "watched").await?;

    scene.delete_policy("p").await?;
    watched.gives("{__name__=~\"tokenward_.*\",policy=\"p\"}", false).await?;
    watched.fires("p", &[], SOON).await?;
    scene.operator.kill9()?;
    watched.fires("p", &["TokenwardNoLeader"], SOON).await?;
    scene.plane.stop().await
}
