//! The CA of the API server is rotated as Kubernetes' documentation says, under a running operator and its consumers: the file
//! with both, then a certificate of the new one, then the file with the new one alone.

use crate::{FOLLOWED, follows, scraped};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokenward_e2e::operator::{NAMESPACE, install};
use tokenward_e2e::scene::{Bearer, SOON, Scene, Target, limits, metrics::Scrape, spec};
use tokenward_e2e::{ControlPlane, NextCa, Operator, Options, Profile, Proxy, eventually, target_dir};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// As the kubelet changes a mounted file.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}

/// A way to the API server whose connections can be cut. It passes encrypted bytes on, and ends none of them itself.
struct Wire {
    url: String,
    cut: watch::Sender<()>,
}

impl Wire {
    async fn to(plane: &ControlPlane) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let server = plane.url().trim_start_matches("https://").to_owned();
        let (cut, cuts) = watch::channel(());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), cuts.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await?;
                    tokio::select! {
                        copied = copy_bidirectional(&mut near, &mut far) => copied.map(drop),
                        _ = cut.changed() => Ok(()),
                    }
                });
            }
        });
        Ok(Self { url, cut })
    }

    /// Ends all connections there are; the next ones begin with a handshake of their own.
    fn cut(&self) {
        self.cut.send_replace(());
    }
}

/// An operator that leads, and knows the API server by a file with its CA, in a namespace with the policies `p` and `k`.
async fn scene(plane: &'static ControlPlane, wire: &Wire, ca_file: &Path) -> Result<Scene> {
    plane.create_namespace("ci").await?;
    limits::widen(&plane.client().await?, "ci").await?;
    let options = Options {
        dir: plane.dir().join("operators"),
        server: Some(wire.url.clone()),
        ca_file: Some(ca_file.to_owned()),
        home: NAMESPACE.to_owned(),
        args: vec!["--leader-elect".to_owned()],
        ..Options::default()
    };
    let operator = Operator::start(plane, options).await?;
    operator.ready().await?;
    let scene = Scene::around(plane, "ci", Proxy::start(plane)?, operator).await?;
    scene.deployer(json!({})).await?;
    scene.policy("k", &spec(&["deployer"], json!({"secret": {"format": {"type": "Kubeconfig"}}}))).await?;
    scene.ready("k").await?;
    Ok(scene)
}

/// Uses of a Secret so far, and how they failed.
#[derive(Default)]
struct Uses {
    count: usize,
    failures: Vec<String>,
}

/// Consumers that trust what their Secret says and nothing else, each time with a connection of its own.
struct Consumers {
    task: JoinHandle<Result<()>>,
    uses: Arc<Mutex<Uses>>,
}

impl Consumers {
    fn start(scene: &Scene) -> Self {
        let uses = Arc::new(Mutex::default());
        let (secrets, noted) = (scene.secrets(), uses.clone());
        let task = tokio::spawn(async move {
            loop {
                note(&noted, by_files(secrets.get("p-deployer").await?).await);
                note(&noted, by_kubeconfig(secrets.get("k-deployer").await?).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { task, uses }
    }

    /// None has failed, and each goes on.
    async fn are_well(&self) -> Result<()> {
        let uses = || {
            let Uses { count, failures } = &*self.uses.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(failures.is_empty(), "{} of {count} uses failed: {}", failures.len(), failures[0]);
            Ok(*count)
        };
        ensure!(!self.task.is_finished(), "the consumers ended");
        let before = uses()?;
        let check = async || {
            ensure!(uses()? > before + 10, "{before} uses");
            Ok(())
        };
        eventually(SOON, "the consumers go on", check).await
    }
}

fn note(uses: &Mutex<Uses>, use_of_it: Result<()>) {
    let mut uses = uses.lock().unwrap_or_else(PoisonError::into_inner);
    uses.count += 1;
    uses.failures.extend(use_of_it.err().map(|error| format!("{error:#}")));
}

async fn by_files(secret: Secret) -> Result<()> {
    let target = Target::read(secret)?;
    let bearer = Bearer::at(target.value("server"), target.value("ca.crt"), target.token()).await?;
    bearer.lives().await.context("by files")
}

async fn by_kubeconfig(secret: Secret) -> Result<()> {
    let target = Target::read(secret)?;
    let config = Kubeconfig::from_yaml(target.value("config"))?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    kube::Client::try_from(config)?.apiserver_version().await.context("by kubeconfig")?;
    Ok(())
}

/// Waits until the API server shows the certificate of the next CA.
async fn serves(plane: &ControlPlane, next: &NextCa) -> Result<()> {
    let check = async || match Bearer::at(&plane.url(), &next.pem, "none").await?.get("/version").await {
        Ok(401) => Ok(()),
        other => bail!("{other:?}"),
    };
    eventually(FOLLOWED, "the API server has the next certificate", check).await
}

/// How often the lease went from one to another, and who has it.
async fn lease(plane: &ControlPlane) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}";
    plane.kubectl_ok(["-n", NAMESPACE, "get", "lease", "tokenward", "-o", path]).await
}

fn ca_file(plane: &ControlPlane) -> Result<PathBuf> {
    let file = plane.dir().join("own-ca.crt");
    fs::write(&file, plane.ca_pem())?;
    Ok(file)
}

/// The operator says that it cannot use this CA file.
async fn is_contested(scene: &Scene, file: &Path) -> Result<()> {
    let check = async || {
        let contested = scraped(scene).await?.2;
        ensure!(contested == ["CaFileUnreadable"], "{contested:?}");
        Ok(())
    };
    eventually(FOLLOWED, "half a file is told", check).await.with_context(|| scene.log_end())?;
    let (_, contested) = scene.condition("p", "ClusterAddressContested", "True").await?;
    assert!(contested.message.contains(&file.display().to_string()), "{}", contested.message);
    Ok(())
}

#[tokio::test]
async fn the_ca_is_rotated_and_no_consumer_fails() -> Result<()> {
    let dir = target_dir().join("e2e").join("address-rotation");
    let plane: &ControlPlane = Box::leak(Box::new(ControlPlane::start(Profile::default(), dir).await?));
    install(plane).await?;
    let next = plane.next_ca().await?;
    let file = ca_file(plane)?;
    let wire = Wire::to(plane).await?;
    let scene = scene(plane, &wire, &file).await?;
    let (pid, leads) = (scene.operator.pid(), lease(plane).await?);
    let consumers = Consumers::start(&scene);
    let first = scene.target("p-deployer").await?;
    assert_eq!((first.value("server"), first.value("ca.crt")), (&*wire.url, plane.ca_pem()));

    let both = format!("{}{}", plane.ca_pem(), next.pem);
    replace(&file, &both[..both.len() - 40])?;
    is_contested(&scene, &file).await?;
    assert_eq!(scene.target("p-deployer").await?.version(), first.version(), "the CA last known stays");

    replace(&file, &both)?;
    follows(&scene, &first, &wire.url, &both).await?;
    for policy in ["p", "k"] {
        scene.told(policy, "SecretRepaired", "(AddressChanged)").await?;
    }
    // Each has read its Secret again by then, as whoever rotates a CA waits for.
    consumers.are_well().await?;
    plane.serve_with(&next)?;
    serves(plane, &next).await?;
    consumers.are_well().await?;
    let rotated = scene.rotated("during", &first).await?;
    assert_eq!(rotated.value("ca.crt"), both);

    replace(&file, &next.pem)?;
    let last = follows(&scene, &rotated, &wire.url, &next.pem).await?;
    consumers.are_well().await?;
    consumers.task.abort();
    // No old connection is left: the operator's own trusts the new one.
    wire.cut();
    let fresh = scene.rotated("after", &last).await?;
    assert_eq!(fresh.value("ca.crt"), next.pem);
    assert_eq!((scene.operator.pid(), scene.operator.exited()?, lease(plane).await?), (pid, None, leads));
    let scrape = Scrape::parse(scene.operator.metrics().await?)?;
    let repairs = scrape.value("secrets_repaired_total", &[("reason", "AddressChanged")]);
    assert_eq!(repairs, Some(4.0), "two Secrets followed twice");
    assert!(scrape.value("cluster_address_changed_timestamp_seconds", &[]).is_some_and(|at| at > 0.0));
    assert!(scraped(&scene).await?.2.is_empty());
    Ok(())
}
