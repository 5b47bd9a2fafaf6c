//! Of two operators with `--leader-elect` one acts, whatever becomes of it, of its calls and of the lease.

mod rollout;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::process::ExitStatus;
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, token};
use tokenward_e2e::scene::metrics::Scrape;
use tokenward_e2e::scene::{SOON, Scene, Target, claims, operator, plane, spec};
use tokenward_e2e::{Act, AuditEvent, Call, ControlPlane, Operator, Options, Rule, eventually};

const ROLE: &str = "tokenward-leader-election";
const TARGET: &str = "p-deployer";

/// The operator's rights over leases, as they are shipped, in another namespace as well.
async fn grant(plane: &ControlPlane, namespace: &str) -> Result<()> {
    let client = plane.client().await?;
    let shipped = Api::<Role>::namespaced(client.clone(), NAMESPACE).get(ROLE).await?;
    let role = json!({"metadata": {"name": ROLE}, "rules": shipped.rules});
    let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let binding = json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(client, namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    Ok(())
}

/// A token of the operator's account, and the id by which the audit log tells its bearer from the others.
async fn credential(plane: &ControlPlane) -> Result<(SecretString, String)> {
    let token = token(plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    let id = claims(token.expose_secret())?["jti"].as_str().context("a token without jti")?.to_owned();
    Ok((token, id))
}

fn candidate(pod: &str, home: &str, token: SecretString) -> Options<'static> {
    Options {
        home: home.to_owned(),
        token: Some(token),
        args: vec!["--leader-elect".to_owned()],
        env: vec![("HOSTNAME".to_owned(), pod.to_owned())],
        ..Options::default()
    }
}

/// Operator `a`, that of the scene, and operator `b`, which started when `a` led.
struct Pair {
    scene: Scene,
    b: Operator,
    /// The namespace of their lease.
    home: String,
    ids: [String; 2],
}

impl Pair {
    async fn start(namespace: &str) -> Result<Self> {
        let (plane, home) = (plane().await?, format!("{namespace}-home"));
        plane.create_namespace(&home).await?;
        grant(plane, &home).await?;
        let ((token_a, a), (token_b, b)) = (credential(plane).await?, credential(plane).await?);
        let scene = Scene::start_with(namespace, candidate("a", &home, token_a)).await?;
        leads(&scene.operator, &lease(&scene, &home), "a").await?;
        let options = Options { name: format!("{namespace}-b"), ..candidate("b", &home, token_b) };
        let second = operator(plane, namespace, &scene.proxy, options).await?;
        second.ready().await?;
        Ok(Self { scene, b: second, home, ids: [a, b] })
    }

    fn a(&self) -> &Operator {
        &self.scene.operator
    }

    fn lease(&self) -> Api<Lease> {
        lease(&self.scene, &self.home)
    }

    async fn leads(&self, pod: &str) -> Result<()> {
        let operator = if pod == "a" { self.a() } else { &self.b };
        leads(operator, &self.lease(), pod).await
    }

    /// Asks for a rotation, and waits until it is done.
    async fn rotated(&self, value: &str) -> Result<Target> {
        self.scene.rotate("p", value).await?;
        let check = async || {
            let target = self.scene.target(TARGET).await?;
            ensure!(target.says("rotate") == value, "still {:?}", target.says("rotate"));
            Ok(target)
        };
        eventually(SOON, &format!("the rotation to {value:?}"), check).await.with_context(|| self.logs())
    }

    /// Everything that `a` (0) or `b` (1) wrote, or tried to.
    fn writes(&self, who: usize) -> Result<Vec<AuditEvent>> {
        let mut events = self.scene.plane.audit()?;
        let writes =
            |event: &AuditEvent| event.is_complete() && !["get", "list", "watch"].contains(&event.verb.as_str());
        events.retain(|event| event.credential_id() == Some(&self.ids[who]) && writes(event));
        events.sort_by_key(|event| event.received);
        Ok(events)
    }

    /// Who acted, in turns: who wrote anything but the lease, and was allowed to.
    fn turns(&self) -> Result<Vec<&'static str>> {
        let mut acts = Vec::new();
        for (who, name) in ["a", "b"].into_iter().enumerate() {
            let writes = self.writes(who)?.into_iter().filter(|write| write.resource != "leases" && write.code < 300);
            acts.extend(writes.map(|write| (write.received, name)));
        }
        acts.sort_unstable();
        let mut turns: Vec<&str> = acts.into_iter().map(|(_, name)| name).collect();
        turns.dedup();
        Ok(turns)
    }

    /// That `b` wrote nothing before the lease was its own.
    fn stood_by(&self) -> Result<()> {
        let writes = self.writes(1)?;
        let first = writes.first().context("it never led")?;
        ensure!((first.resource.as_str(), first.code) == ("leases", 200), "its first write: {first:?}");
        Ok(())
    }

    /// Waits until this operator has ended by itself.
    async fn ended(&self, operator: &Operator) -> Result<ExitStatus> {
        let check = async || operator.exited()?.context("it runs");
        eventually(SOON, "the process ends", check).await.with_context(|| self.logs())
    }

    /// Waits until `a` has ended for having lost leadership.
    async fn a_lost(&self, why: &str) -> Result<()> {
        let status = self.ended(self.a()).await?;
        let log = self.a().log()?;
        ensure!(status.code() == Some(1), "{status}: {log}");
        let last = log.lines().last().unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(last).with_context(|| last.to_owned())?;
        let said = said["message"].as_str().unwrap_or_default();
        ensure!(said.starts_with("leadership is lost: ") && said.contains(why), "{last}");
        Ok(())
    }

    fn logs(&self) -> String {
        let tail = |operator: &Operator| {
            let log = operator.log().unwrap_or_default();
            log.lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>().join("\n")
        };
        format!("a, newest first:\n{}\nb:\n{}", tail(self.a()), tail(&self.b))
    }
}

fn lease(scene: &Scene, home: &str) -> Api<Lease> {
    Api::namespaced(scene.client.clone(), home)
}

async fn holder(lease: &Api<Lease>) -> Result<String> {
    let lease = lease.get("tokenward").await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// Waits until this operator leads, and knows it.
async fn leads(operator: &Operator, lease: &Api<Lease>, pod: &str) -> Result<()> {
    let check = async || {
        let holder = holder(lease).await?;
        ensure!(holder.starts_with(&format!("{pod}_")), "{holder:?} leads");
        let leads = Scrape::parse(operator.metrics().await?)?.value("leader", &[]);
        ensure!(leads == Some(1.0), "it says {leads:?}");
        Ok(())
    };
    let waited = eventually(SOON, &format!("{pod} leads"), check).await;
    waited.with_context(|| operator.log().unwrap_or_default())
}

async fn change(lease: &Api<Lease>, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": spec}));
    lease.patch("tokenward", &PatchParams::default(), &patch).await?;
    Ok(())
}

fn publishes(call: &Call) -> bool {
    call.is("PATCH", &format!("/secrets/{TARGET}"))
}

/// A bootstrap token that expired long ago.
async fn expired_bootstrap_token(scene: &Scene, id: &str) -> Result<Api<Secret>> {
    let secrets: Api<Secret> = Api::namespaced(scene.client.clone(), "kube-system");
    let secret = json!({
        "metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "expiration": "2020-01-01T00:00:00Z"},
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    Ok(secrets)
}

#[tokio::test]
async fn one_acts_and_the_other_takes_over_when_it_is_killed() -> Result<()> {
    let pair = Pair::start("killed").await?;
    let scene = &pair.scene;
    let first = scene.deployer(json!({})).await?;
    pair.rotated("1").await?;
    let bootstrap = expired_bootstrap_token(scene, "killed").await?;
    let gone = async || {
        ensure!(bootstrap.get_metadata_opt("bootstrap-token-killed").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the expired bootstrap token goes", gone).await?;
    for operator in [pair.a(), &pair.b] {
        assert_eq!(operator.readyz().await?.0, 200);
    }
    let (a, b) = (Scrape::parse(pair.a().metrics().await?)?, Scrape::parse(pair.b.metrics().await?)?);
    assert_eq!([a.value("leader", &[]), b.value("leader", &[])], [Some(1.0), Some(0.0)]);
    assert_eq!((a.value("anchors", &[]), b.value("anchors", &[])), (Some(2.0), Some(0.0)));
    assert_eq!((a.of("policy_accounts").count(), b.of("policy_accounts").count()), (3, 0));
    assert_eq!(b.of("tokens_revoked_total").count(), 0, "what it sees is the leader's doing");

    let failing = failing_policy(scene).await?;
    pair.a().kill9()?;
    let second = scene.target(TARGET).await?;
    let third = pair.rotated("2").await?;
    let passed = |scrape: &Scrape| scrape.value("lease_transitions_total", &[]);
    assert_eq!(passed(&Scrape::parse(pair.b.metrics().await?)?), passed(&a).map(|before| before + 1.0));
    pair.leads("b").await?;
    scene.fence("after").await?;
    for token in [&first, &second, &third] {
        scene.bearer(token.token()).await?.lives().await?;
    }
    assert_eq!(scene.mints_of("deployer"), 3);
    assert_eq!(pair.turns()?, ["a", "b"]);
    let told = scene.events("p").await?;
    ensure!(!told.iter().any(|told| told.note.contains("by hand")), "{told:?}");
    let still = scene.policies().get("q").await?;
    assert_eq!(still.metadata.resource_version, failing, "what goes on failing is no news: {:?}", still.data["status"]);
    pair.stood_by()
}

/// Policy `q`, whose Secret has the name of another one; its resourceVersion when its status says so.
async fn failing_policy(scene: &Scene) -> Result<Option<String>> {
    let taken = json!({"metadata": {"name": "q-taken"}});
    scene.secrets().create(&PostParams::default(), &serde_json::from_value(taken)?).await?;
    scene.account("taken", &[]).await?;
    scene.policy("q", &spec(&["taken"], json!({}))).await?;
    scene.not_ready("q", "TargetNotOwned").await?;
    Ok(scene.policies().get("q").await?.metadata.resource_version)
}

#[tokio::test]
async fn who_is_asked_to_end_finishes_its_work_and_then_hands_over() -> Result<()> {
    let pair = Pair::start("asked").await?;
    let scene = &pair.scene;
    let first = scene.deployer(json!({})).await?;
    scene.ages(&first).await?;
    // The successor sleeps, so that the lease can be seen as it was left.
    pair.b.sigstop()?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold).nth(1));
    scene.rotate("p", "1").await?;
    held.reached_times(1, SOON).await?;
    let noticed = async || {
        ensure!(pair.a().log()?.contains("stopping: calls under way"), "it has not noticed yet");
        Ok(())
    };
    let release = async {
        eventually(SOON, "it is asked to end", noticed).await?;
        held.release();
        anyhow::Ok(())
    };
    let ((status, _), ()) = tokio::try_join!(pair.a().terminate(), release)?;
    ensure!(status.success(), "{status}\n{}", pair.logs());
    let left = pair.lease().get("tokenward").await?.spec.context("no spec")?;
    assert_eq!((left.holder_identity, left.renew_time), (None, None));
    let published = scene.target(TARGET).await?;
    assert_eq!(published.says("rotate"), "1", "what was under way is done");
    pair.b.sigcont()?;
    pair.leads("b").await?;
    scene.fence("after").await?;
    assert_eq!(scene.target(TARGET).await?.version(), published.version());
    assert_eq!(scene.mints_of("deployer"), 2);
    let last = pair.writes(0)?.into_iter().rfind(|write| write.resource != "events").context("no write")?;
    assert_eq!((last.resource.as_str(), last.verb.as_str()), ("leases", "patch"), "the lease goes last");
    assert_eq!(pair.turns()?, ["a", "b"]);
    pair.stood_by()
}

#[tokio::test]
async fn a_sleeping_leader_wakes_up_to_write_nothing() -> Result<()> {
    let pair = Pair::start("asleep").await?;
    let scene = &pair.scene;
    scene.ages(&scene.deployer(json!({})).await?).await?;
    let held = scene.proxy.add(Rule::before(publishes, Act::Hold).nth(1));
    scene.rotate("p", "1").await?;
    held.reached_times(1, SOON).await?;
    pair.a().sigstop()?;
    pair.leads("b").await?;
    scene.ages(&pair.rotated("1").await?).await?;
    let newest = pair.rotated("2").await?;
    held.release();
    let stale = async || {
        let writes = pair.writes(0)?;
        writes.into_iter().rfind(|write| write.name == TARGET && write.code == 409).context("no answer yet")
    };
    eventually(SOON, "the stale write is refused", stale).await?;
    let before = pair.writes(0)?.len();
    pair.a().sigcont()?;
    pair.a_lost("").await?;
    scene.fence("after").await?;
    assert_eq!(pair.writes(0)?.len(), before, "it wrote after it woke up");
    assert_eq!(scene.target(TARGET).await?.version(), newest.version());
    // The first token, that of the sleeper, and two of its successor.
    assert_eq!(scene.mints_of("deployer"), 4);
    assert_eq!(pair.turns()?, ["a", "b"]);
    pair.stood_by()
}

#[tokio::test]
async fn a_leader_that_cannot_renew_ends_while_its_other_calls_work() -> Result<()> {
    let pair = Pair::start("blocked").await?;
    let scene = &pair.scene;
    let first = scene.deployer(json!({})).await?;
    let renews = |call: &Call| call.is("PATCH", "/leases/") && call.says("\"a_");
    let _blocked = scene.proxy.add(Rule::before(renews, Act::Hold));
    let second = pair.rotated("1").await?;
    pair.a_lost("was not renewed for 10 s").await?;
    let third = pair.rotated("2").await?;
    pair.leads("b").await?;
    scene.fence("after").await?;
    for token in [&first, &second, &third] {
        scene.bearer(token.token()).await?.lives().await?;
    }
    assert_eq!(scene.mints_of("deployer"), 3);
    assert_eq!(pair.turns()?, ["a", "b"]);
    pair.stood_by()
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_is_back_with_its_holder() -> Result<()> {
    let pair = Pair::start("deleted").await?;
    let scene = &pair.scene;
    scene.deployer(json!({})).await?;
    for round in ["1", "2"] {
        pair.lease().delete("tokenward", &DeleteParams::default()).await?;
        pair.leads("a").await?;
        pair.rotated(round).await?;
    }
    assert_eq!(pair.turns()?, ["a"]);
    assert!(pair.writes(1)?.is_empty(), "{:?}", pair.writes(1)?);
    Ok(())
}

#[tokio::test]
async fn a_lease_is_not_believed_what_it_says_about_time_be_it_past_or_future() -> Result<()> {
    let pair = Pair::start("absurd").await?;
    let scene = &pair.scene;
    scene.deployer(json!({})).await?;
    let absurd = json!({
        "leaseDurationSeconds": i32::MAX, "leaseTransitions": i32::MAX,
        "renewTime": "2999-01-01T00:00:00.000000Z", "acquireTime": "2999-01-01T00:00:00.000000Z",
    });
    // The past is as good: a living lease is not taken.
    let past = json!({"leaseDurationSeconds": 1, "renewTime": "1999-01-01T00:00:00.000000Z", "leaseTransitions": 0});
    for (round, lie) in [("1", absurd.clone()), ("2", past)] {
        change(&pair.lease(), lie).await?;
        pair.leads("a").await?;
        pair.rotated(round).await?;
    }
    assert!(pair.writes(1)?.is_empty(), "{:?}", pair.writes(1)?);
    pair.a().kill9()?;
    change(&pair.lease(), absurd).await?;
    pair.rotated("3").await?;
    pair.leads("b").await?;
    let taken = pair.lease().get("tokenward").await?.spec.context("no spec")?;
    assert_eq!(taken.lease_duration_seconds, Some(15));
    assert_eq!(pair.turns()?, ["a", "b"]);
    pair.stood_by()
}

/// Waits until the leader has renewed the lease twice more.
async fn renewed(lease: &Api<Lease>) -> Result<Lease> {
    let mut seen = Vec::new();
    let check = async || {
        let now = lease.get("tokenward").await?;
        let time = now.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        if !seen.contains(&time) {
            seen.push(time);
        }
        ensure!(seen.len() > 2, "it was renewed {} times", seen.len() - 1);
        Ok(now)
    };
    eventually(SOON, "the lease is renewed", check).await
}

#[tokio::test]
async fn what_others_put_on_the_lease_stays_when_it_is_renewed_and_handed_over() -> Result<()> {
    let pair = Pair::start("labelled").await?;
    let marks = json!({"labels": {"team": "platform"}, "annotations": {"example.com/note": "kept"}});
    let patch = Patch::Merge(json!({"metadata": marks}));
    pair.lease().patch("tokenward", &PatchParams::default(), &patch).await?;
    let kept = |lease: &Lease| {
        let metadata = json!({"labels": lease.metadata.labels, "annotations": lease.metadata.annotations});
        ensure!(metadata == marks, "{metadata}");
        Ok(())
    };
    kept(&renewed(&pair.lease()).await?)?;
    pair.a().terminate().await?;
    pair.leads("b").await?;
    kept(&renewed(&pair.lease()).await?)
}

#[tokio::test]
async fn who_starts_right_after_the_lease_was_deleted_waits_for_its_holder() -> Result<()> {
    let pair = Pair::start("fresh").await?;
    let scene = &pair.scene;
    scene.deployer(json!({})).await?;
    // The holder cannot make it anew, and may act for up to 10 s.
    let renews = |call: &Call| call.path.contains("/leases") && call.method != "GET" && call.says("\"a_");
    let blocked = scene.proxy.add(Rule::before(renews, Act::Hold));
    blocked.reached().await?;
    pair.lease().delete("tokenward", &DeleteParams::default()).await?;
    pair.b.restart()?;
    pair.b.ready().await?;
    pair.rotated("1").await?;
    pair.a_lost("was not renewed for 10 s").await?;
    pair.rotated("2").await?;
    pair.leads("b").await?;
    assert_eq!(pair.turns()?, ["a", "b"]);
    let writes = pair.writes(1)?;
    let first = writes.first().context("it never led")?;
    ensure!((first.resource.as_str(), first.code) == ("leases", 201), "its first write: {first:?}");
    Ok(())
}

#[tokio::test]
async fn a_lease_in_the_name_of_a_stranger_stops_the_leader_and_is_taken_when_it_expires() -> Result<()> {
    let pair = Pair::start("stranger").await?;
    let scene = &pair.scene;
    scene.deployer(json!({})).await?;
    change(&pair.lease(), json!({"holderIdentity": "mallory"})).await?;
    pair.a_lost("is held by \"mallory\"").await?;
    pair.rotated("1").await?;
    pair.leads("b").await?;
    // As the kubelet does.
    pair.a().restart()?;
    pair.a().ready().await?;
    // Merely without a name it is not released: its holder does not know of that yet.
    change(&pair.lease(), json!({"holderIdentity": ""})).await?;
    let status = pair.ended(&pair.b).await?;
    assert_eq!(status.code(), Some(1), "{}", pair.logs());
    pair.rotated("2").await?;
    pair.leads("a").await?;
    assert_eq!(scene.mints_of("deployer"), 3);
    assert_eq!(pair.turns()?, ["a", "b", "a"]);
    Ok(())
}

#[tokio::test]
async fn without_rights_over_leases_nobody_leads_until_they_are_granted() -> Result<()> {
    let (plane, home) = (plane().await?, "no-rights-home");
    plane.create_namespace(home).await?;
    let (token, _) = credential(plane).await?;
    let scene = Scene::start_with("no-rights", candidate("a", home, token)).await?;
    let told = async || {
        let log = scene.operator.log()?;
        ensure!(log.contains("get Lease no-rights-home/tokenward") && log.contains("forbidden"), "{log}");
        Ok(())
    };
    eventually(SOON, "it says what it may not do", told).await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    let mark = scene.proxy.mark();
    let looked = async || {
        ensure!(scene.proxy.calls_since(mark, "GET", "/leases/").len() > 1, "not yet");
        Ok(())
    };
    eventually(SOON, "it looks again", looked).await?;
    assert_eq!((scene.mints(), scene.operator.readyz().await?.0), (0, 200));
    grant(plane, home).await?;
    scene.ready("p").await?;
    leads(&scene.operator, &lease(&scene, home), "a").await
}
