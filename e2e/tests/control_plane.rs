//! The control plane and the fault proxy themselves, on the real thing.

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use secrecy::ExposeSecret;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokenward_e2e::control_plane::shared;
use tokenward_e2e::operator::{garbage_collector_knows, token};
use tokenward_e2e::{Act, Component, ControlPlane, Profile, Proxy, Rule, eventually, kubeconfig, target_dir};

/// A client of `default/default` in this namespace that talks through the proxy, allowed everything.
async fn through(proxy: &Proxy, plane: &ControlPlane, namespace: &str) -> Result<kube::Client> {
    plane.create_namespace(namespace).await?;
    let account = format!("{namespace}:default");
    let binding = format!("{namespace}-admin");
    let bind = ["create", "clusterrolebinding", &binding, "--clusterrole=cluster-admin"];
    plane.kubectl_ok(bind.into_iter().chain(["--serviceaccount", &account])).await?;
    let token = token(plane, namespace, "default", Duration::from_hours(1)).await?;
    let text = kubeconfig::with_token(proxy.url(), proxy.ca_pem(), token.expose_secret());
    let path = plane.dir().join(format!("{namespace}.kubeconfig"));
    std::fs::write(&path, text)?;
    kubeconfig::client(&path).await
}

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn mint(client: &kube::Client, namespace: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = json!({"spec": {"audiences": [], "expirationSeconds": 600}});
    let request = serde_json::from_value(request)?;
    let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    Ok(answer.status.context("no status")?.token)
}

#[tokio::test]
async fn the_server_is_the_pinned_release() -> Result<()> {
    let plane = shared().await?;
    let version = plane.kubectl_ok(["version"]).await?;
    assert_eq!(version.matches("Version: v1.36.3").count(), 2, "{version}");
    Ok(())
}

#[tokio::test]
async fn controllers_work_and_calls_are_audited() -> Result<()> {
    let plane = shared().await?;
    plane.create_namespace("audited").await?;
    garbage_collector_knows(plane, "v1", "Secret").await?;
    let logged = async || {
        let events = plane.audit()?;
        let ours = |verb: &str, resource: &str| {
            events.iter().filter(|e| e.verb == verb && e.resource == resource && e.name == "audited").count()
        };
        ensure!(ours("create", "namespaces") == 1, "{} events, none is ours", events.len());
        Ok(())
    };
    eventually(Duration::from_secs(5), "an audit event", logged).await
}

#[tokio::test]
async fn a_token_request_is_recorded() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let client = through(&proxy, plane, "minted").await?;
    let mark = proxy.mark();
    let token = mint(&client, "minted").await?;
    let minted = proxy.minted();
    let [only] = minted.as_slice() else { bail!("{} tokens", minted.len()) };
    assert_eq!((only.token(), only.passed_on), (token.as_str(), true));
    assert_eq!((only.namespace.as_str(), only.account.as_str()), ("minted", "default"));
    assert!(!format!("{only:?}").contains(&token));
    let calls = proxy.calls_since(mark, "POST", "/token");
    assert_eq!(calls.iter().map(|call| call.status).collect::<Vec<_>>(), [Some(201)]);
    Ok(())
}

#[tokio::test]
async fn a_held_call_goes_on_when_released() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let client = through(&proxy, plane, "held").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "held");
    let rule = proxy.add(Rule::before(|call| call.is("POST", "/configmaps"), Act::Hold).nth(2));
    maps.create(&PostParams::default(), &config_map("first")).await?;
    let create = tokio::spawn({
        let maps = maps.clone();
        async move { maps.create(&PostParams::default(), &config_map("second")).await }
    });
    rule.reached().await?;
    assert!(maps.get_opt("second").await?.is_none());
    assert!(!create.is_finished());
    rule.release();
    create.await??;
    assert!(maps.get_opt("second").await?.is_some());
    assert_eq!(rule.hits(), 2);
    Ok(())
}

#[tokio::test]
async fn what_is_cut_before_forwarding_never_happens_and_a_lost_answer_did() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let client = through(&proxy, plane, "lost").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "lost");
    let create = |name: &'static str| {
        let maps = maps.clone();
        tokio::spawn(async move { maps.create(&PostParams::default(), &config_map(name)).await })
    };
    let held = proxy.add(Rule::before(|call| call.is("POST", "/configmaps"), Act::Hold));
    let never = create("never");
    held.reached().await?;
    held.cut();
    assert!(never.await?.is_err());
    assert!(maps.get_opt("never").await?.is_none());
    let lost = proxy.add(Rule::after(|call| call.is("POST", "/configmaps"), Act::Drop));
    assert!(create("there").await?.is_err());
    assert!(maps.get_opt("there").await?.is_some());
    lost.remove();
    let lost = proxy.add(Rule::after(tokenward_e2e::Call::is_mint, Act::Drop));
    assert!(mint(&client, "lost").await.is_err());
    let minted = proxy.minted();
    assert_eq!(minted.iter().map(|minted| minted.passed_on).collect::<Vec<_>>(), [false]);
    assert_eq!(lost.acted(), 1);
    Ok(())
}

#[tokio::test]
async fn answers_can_be_replaced() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let client = through(&proxy, plane, "replaced").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "replaced");
    let quota = Act::fail(403, "Forbidden", "exceeded quota");
    let rule = proxy.add(Rule::before(|call| call.says("\"refused\""), quota));
    let refused = maps.create(&PostParams::default(), &config_map("refused")).await;
    let Err(kube::Error::Api(status)) = refused else { bail!("{refused:?}") };
    assert_eq!((status.code, status.message.as_str()), (403, "exceeded quota"));
    rule.remove();
    let other = serde_json::to_string(&config_map("other"))?;
    let rule = proxy.add(Rule::after(|call| call.is("GET", "/configmaps/kube-root-ca.crt"), Act::Replace(other)));
    let answer = maps.get("kube-root-ca.crt").await?;
    assert_eq!(answer.metadata.name.as_deref(), Some("other"));
    rule.remove();
    Ok(())
}

#[tokio::test]
async fn a_watch_streams_and_can_be_cut() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let client = through(&proxy, plane, "watched").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "watched");
    let version = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a version")?;
    let mut events = maps.watch(&WatchParams::default(), &version).await?.boxed();
    for name in ["one", "two"] {
        maps.create(&PostParams::default(), &config_map(name)).await?;
        let event = tokio::time::timeout(Duration::from_secs(5), events.try_next()).await??;
        let Some(WatchEvent::Added(added)) = event else { bail!("{event:?}") };
        assert_eq!(added.metadata.name.as_deref(), Some(name));
    }
    proxy.cut_connections();
    let end = tokio::time::timeout(Duration::from_secs(5), events.next()).await?;
    assert!(end.is_none_or(|event| event.is_err()));
    Ok(())
}

#[tokio::test]
async fn stops_starts_clamps_and_leaves_nothing_behind() -> Result<()> {
    let apiserver = vec!["--service-account-max-token-expiration=1h".to_owned()];
    let profile = Profile { apiserver, ..Profile::default() };
    let plane = ControlPlane::start(profile, target_dir().join("e2e/stop-and-start")).await?;
    let started = Instant::now();
    plane.apiserver_stop().await?;
    assert!(plane.pid(Component::ApiServer).is_err());
    assert!(!plane.kubectl(["get", "namespaces"]).await?.status.success());
    eprintln!("stopping the API server took {:?}", started.elapsed());
    plane.apiserver_start().await?;
    eprintln!("both took {:?}", started.elapsed());
    plane.create_namespace("after").await?;
    let day = token(&plane, "after", "default", Duration::from_hours(24)).await?;
    let life = lifetime(day.expose_secret())?;
    assert_eq!(life, 3600);
    let mut proc = Vec::new();
    for component in [Component::Etcd, Component::ApiServer, Component::ControllerManager] {
        proc.push(PathBuf::from(format!("/proc/{}", plane.pid(component)?)));
    }
    assert!(proc.iter().all(|path| path.exists()));
    drop(plane);
    assert!(!proc.iter().any(|path| path.exists()));
    Ok(())
}

fn lifetime(token: &str) -> Result<i64> {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).context("no payload")?)?;
    let claims: serde_json::Value = serde_json::from_slice(&payload)?;
    let claim = |name: &str| claims[name].as_i64().context("no number");
    Ok(claim("exp")? - claim("iat")?)
}
