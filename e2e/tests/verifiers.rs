//! `docs/how-to/other-verifiers.md`: a token of cluster A is a login at cluster B, a second API server.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::Utc;
use hyper::http::Request;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokenward_e2e::operator::{install, token};
use tokenward_e2e::pages::{blocks, manifests, read};
use tokenward_e2e::scene::follower::Follower;
use tokenward_e2e::scene::{Bearer, SOON, Scene, Target, claims};
use tokenward_e2e::{ControlPlane, Options, Profile, Signing, eventually, kubeconfig, oidc, target_dir};

const PAGE: &str = "docs/how-to/other-verifiers.md";
const AUDIENCE: &str = "cluster-b";
/// The issuer on the page.
const ISSUER: &str = "https://api.cluster-a.example.com:6443";
/// What the account may read in cluster B.
const PATH: &str = "/api/v1/namespaces/apps/configmaps";
/// The user that B knows the account by.
const USER: &str = "cluster-a:system:serviceaccount:ci:deployer";

/// A folder for the files of B.
fn file(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("e2e/verifiers");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// Which of these keys counts at A: the first signs.
fn signing(a: &ControlPlane, keys: &[&str]) -> Signing {
    Signing { keys: keys.iter().map(ToString::to_string).collect(), issuers: vec![a.url()] }
}

/// Runs the command of the page that begins like this, with more arguments, on A.
async fn run(a: &ControlPlane, page: &str, command: &str, more: &str) -> Result<()> {
    let line = page.lines().find(|line| line.starts_with(command)).context(format!("no {command} on the page"))?;
    let line = line.replace(ISSUER, &a.url()).replace('\'', "") + more;
    a.kubectl_ok(line.split(' ').skip(1)).await?;
    Ok(())
}

/// Cluster A, whose issuer everybody reads, and its operator with the policy of the page.
async fn issuer(name: &str) -> Result<Scene> {
    let a = ControlPlane::start(Profile::default(), target_dir().join("e2e").join(name)).await?;
    a.sign_with(signing(&a, &["sa"])).await?;
    install(&a).await?;
    let page = read(PAGE)?;
    for command in ["kubectl create clusterrolebinding", "kubectl -n tokenward-system patch"] {
        run(&a, &page, command, "").await?;
    }
    let scene = Scene::on(Box::leak(Box::new(a)), "ci", Options::default()).await?;
    scene.operator.ready().await?;
    run(scene.plane, &page, "kubectl annotate namespace", " --overwrite").await?;
    scene.reader("deployer").await?;
    scene.plane.apply(manifests(&page).next().context("no policy on the page")?).await?;
    scene.ready("cluster-b").await?;
    Ok(scene)
}

/// Cluster B with these flags, and a namespace where this user may read.
async fn relying(name: &str, apiserver: Vec<String>, user: &str) -> Result<ControlPlane> {
    let b =
        ControlPlane::start(Profile { apiserver, ..Profile::default() }, target_dir().join("e2e").join(name)).await?;
    b.create_namespace("apps").await?;
    let binding = ["-n", "apps", "create", "rolebinding", "deployer", "--clusterrole=view", &format!("--user={user}")];
    b.kubectl_ok(binding).await?;
    Ok(b)
}

/// The file on the page, with the address and the CA of A.
struct Configuration {
    path: PathBuf,
    content: Value,
}

impl Configuration {
    fn of_page(a: &ControlPlane) -> Result<Self> {
        let page = read(PAGE)?;
        let block = blocks(&page, "yaml").find(|block| block.contains("kind: AuthenticationConfiguration"));
        let mut content: Value = serde_saphyr::from_str(block.context("no AuthenticationConfiguration on the page")?)?;
        content["jwt"][0]["issuer"]["url"] = a.url().into();
        content["jwt"][0]["issuer"]["certificateAuthority"] = a.ca_pem().into();
        let configuration = Self { path: file("authentication.yaml")?, content };
        configuration.write()?;
        Ok(configuration)
    }

    fn write(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, format!("{:#}\n", self.content))?;
        Ok(fs::rename(new, &self.path)?)
    }

    /// Lets B refuse the token with this id.
    fn refuse(&mut self, id: &str) -> Result<()> {
        let rules = self.content["jwt"][0]["claimValidationRules"].as_array_mut().context("no rules on the page")?;
        rules.push(json!({"expression": format!("!(claims.jti in ['{id}'])"), "message": "the token is revoked"}));
        self.write()
    }

    /// Changes the file in some way, and waits until B has read it, and the keys of A.
    async fn touch(&mut self, scene: &Scene, b: &ControlPlane) -> Result<()> {
        let before = reloads(b).await?;
        self.refuse(&format!("nobody-{before}"))?;
        let check = async || {
            ensure!(reloads(b).await? > before, "not read yet");
            Ok(())
        };
        // B looks at least once a minute.
        eventually(2 * SOON, "B reads its configuration again", check).await?;
        // It reads the keys for the first token that it does not remember.
        let fresh = at(b, &fresh(scene, &[]).await?).await?;
        eventually(SOON, "B knows the keys", async || fresh.lives().await).await
    }
}

/// How often B has read its configuration again, by its own metric.
async fn reloads(b: &ControlPlane) -> Result<u64> {
    let metrics = b.client().await?.request_text(Request::get("/metrics").body(Vec::new())?).await?;
    let count = |line: &str| {
        let is_it = line.starts_with("apiserver_authentication_config_controller_automatic_reloads_total{")
            && line.contains("status=\"success\"");
        is_it.then(|| line.rsplit(' ').next()?.parse().ok()).flatten()
    };
    Ok(metrics.lines().find_map(count).unwrap_or(0))
}

async fn at(b: &ControlPlane, token: &str) -> Result<Bearer> {
    Bearer::at(&b.url(), b.ca_pem(), token).await
}

/// A token of A for the audience, which no policy knows.
async fn fresh(scene: &Scene, more: &[&str]) -> Result<String> {
    let create = ["-n", "ci", "create", "token", "deployer", "--audience=cluster-b"];
    Ok(scene.plane.kubectl_ok(create.iter().chain(more)).await?.trim().to_owned())
}

/// Waits until A refuses a token for its audience.
async fn dead_at_a(scene: &Scene, token: &str) -> Result<()> {
    let check = async || {
        let review = scene.review(token, &[AUDIENCE]).await?;
        ensure!(review["authenticated"] != true, "A accepts it");
        Ok(())
    };
    eventually(SOON, "A refuses the token", check).await
}

async fn target(scene: &Scene) -> Result<Target> {
    scene.target("cluster-b-deployer").await
}

/// Asks for a rotation, and waits for the new token.
async fn rotated(scene: &Scene, value: &str) -> Result<Target> {
    let before = target(scene).await?;
    scene.rotate("cluster-b", value).await?;
    scene.next_target("cluster-b-deployer", &before).await
}

/// Revokes a token that B has never seen, so that no cache can answer, and the current one. B learns of neither.
async fn revoked(scene: &Scene, b: &ControlPlane) -> Result<String> {
    scene.plane.kubectl_ok(["-n", "ci", "create", "secret", "generic", "anchor"]).await?;
    let unseen = fresh(scene, &["--bound-object-kind=Secret", "--bound-object-name=anchor"]).await?;
    let current = target(scene).await?;
    for anchor in ["anchor", current.anchor()] {
        scene.delete_secret(anchor).await?;
    }
    for token in [&unseen, current.token()] {
        dead_at_a(scene, token).await?;
        at(b, token).await?.lives().await.context("B learns of a revocation at A")?;
    }
    scene.next_target("cluster-b-deployer", &current).await?;
    Ok(unseen)
}

/// Lets A sign with another key, as the page says.
async fn signed_anew(scene: &Scene, b: &ControlPlane, file: &mut Configuration) -> Result<()> {
    let before = target(scene).await?;
    scene.plane.sign_with(signing(scene.plane, &["sa", "next"])).await?;
    file.touch(scene, b).await?;
    scene.plane.sign_with(signing(scene.plane, &["next", "sa"])).await?;
    let after = rotated(scene, "2").await?;
    ensure!(after.says("key-id") != before.says("key-id"), "the old key signed");
    Ok(())
}

/// Rotation, revocation, a refused id and a new signing key, while the consumer works.
async fn under_load(scene: &Scene, b: &ControlPlane, file: &mut Configuration, consumer: &Follower) -> Result<()> {
    consumer.served().await?;
    let first = target(scene).await?;
    ensure!(scene.bearer(first.token()).await?.whoami().await?.is_none(), "it is a login at A");
    ensure!(at(b, first.token()).await?.whoami().await?.as_deref() == Some(USER), "another user at B");
    rotated(scene, "1").await?;
    consumer.served().await?;
    let dead = revoked(scene, b).await?;
    consumer.served().await?;
    file.refuse(claims(&dead)?["jti"].as_str().context("no jti")?)?;
    at(b, &dead).await?.dies().await?;
    consumer.served().await?;
    signed_anew(scene, b, file).await?;
    consumer.served().await
}

/// A key that signs as soon as it is published, and takes the place of another: B refuses tokens of the new one, and takes
/// those of the old one, until it reads the keys again.
async fn a_sudden_key_is_refused(scene: &Scene, b: &ControlPlane, file: &mut Configuration) -> Result<()> {
    let old = at(b, &fresh(scene, &[]).await?).await?;
    scene.plane.write_key("sudden")?;
    scene.plane.sign_with(signing(scene.plane, &["sudden", "sa"])).await?;
    let new = at(b, &fresh(scene, &[]).await?).await?;
    ensure!(new.whoami().await?.is_none(), "B knows a key that was published a moment ago");
    old.lives().await.context("B has read the keys again")?;
    file.touch(scene, b).await?;
    new.lives().await?;
    old.dies().await
}

/// A token as A would sign it, with this end.
fn signed(a: &ControlPlane, end: i64) -> Result<String> {
    let pem = fs::read_to_string(a.dir().join("sudden.key"))?;
    let der = BASE64_STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>())?;
    let claims = json!({"iss": a.url(), "aud": [AUDIENCE], "sub": "system:serviceaccount:ci:deployer", "jti": "short",
        "iat": Utc::now().timestamp(), "exp": end});
    oidc::sign(&oidc::key(&der)?, &json!({"alg": "ES256"}), &claims)
}

/// A lifetime of ten minutes is the least that A grants, so this one is signed here.
async fn an_expired_token_is_refused(a: &ControlPlane, b: &ControlPlane) -> Result<()> {
    let end = Utc::now().timestamp() + 5;
    let short = at(b, &signed(a, end)?).await?;
    ensure!(short.whoami().await?.as_deref() == Some(USER), "B does not take a token that is signed here");
    short.dies().await?;
    ensure!(Utc::now().timestamp() >= end, "refused before its end");
    let long = at(b, &signed(a, Utc::now().timestamp() + 7200)?).await?;
    ensure!(long.whoami().await?.is_none(), "the rule on the page does not limit the lifetime");
    Ok(())
}

#[tokio::test]
async fn a_token_of_one_cluster_is_a_login_at_another_until_it_expires() -> Result<()> {
    let scene = issuer("verifiers-a").await?;
    scene.plane.write_key("next")?;
    let mut file = Configuration::of_page(scene.plane)?;
    let flag = format!("--authentication-config={}", file.path.display());
    let b = relying("verifiers-b", vec![flag], USER).await?;
    let first = target(&scene).await?;
    // B reads the keys of A after it has begun to serve.
    eventually(SOON, "B knows the issuer", async || at(&b, first.token()).await?.lives().await).await?;
    let (consumer, secrets) = (Follower::new("cluster-b-deployer"), scene.secrets());
    tokio::select! {
        refused = consumer.run(&secrets, &b, PATH) => refused?,
        done = under_load(&scene, &b, &mut file, &consumer) => done?,
    }
    a_sudden_key_is_refused(&scene, &b, &mut file).await?;
    an_expired_token_is_refused(scene.plane, &b).await
}

/// The flags on the page, with the files of this test.
async fn asking(scene: &Scene) -> Result<Vec<String>> {
    let page = read(PAGE)?;
    scene.plane.kubectl_ok(["-n", "ci", "create", "serviceaccount", "reviewer"]).await?;
    let binding = ["create", "clusterrolebinding", "reviewer", "--clusterrole=system:auth-delegator"];
    scene.plane.kubectl_ok(binding.iter().chain(&["--serviceaccount=ci:reviewer"])).await?;
    let (config, token_file) = (file("reviewer.kubeconfig")?, file("reviewer.token")?);
    let credential = token(scene.plane, "ci", "reviewer", Duration::from_hours(1)).await?;
    fs::write(&token_file, credential.expose_secret())?;
    let server = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", scene.plane.url());
    fs::write(&config, kubeconfig::with_token_file(&server, scene.plane.ca_pem(), &token_file, ""))?;
    let flags = page.lines().filter(|line| line.starts_with("--"));
    let flags: Vec<String> = flags.map(|flag| flag.replace("reviewer.kubeconfig", &config.to_string_lossy())).collect();
    ensure!(flags.len() == 4, "{flags:?}");
    Ok(flags)
}

/// Somebody who may create accounts in `kube-system` of A has the rights of B's controllers.
async fn is_a_controller_of_b(scene: &Scene, b: &ControlPlane) -> Result<()> {
    let kubectl =
        async |args: &str| scene.plane.kubectl_ok(["-n", "kube-system"].into_iter().chain(args.split(' '))).await;
    kubectl("create serviceaccount namespace-controller").await?;
    let token = kubectl("create token namespace-controller --audience=cluster-b").await?;
    ensure!(at(b, token.trim()).await?.get("/api/v1/namespaces").await? == 200, "a name of B has no rights at B");
    let ordinary = kubectl("create token namespace-controller").await?;
    ensure!(at(b, ordinary.trim()).await?.get("/api/v1/namespaces").await? == 401, "A's own audience is a login at B");
    Ok(())
}

#[tokio::test]
async fn a_server_that_asks_the_issuer_refuses_a_revoked_token() -> Result<()> {
    let scene = issuer("verifiers-asked").await?;
    let user = "system:serviceaccount:ci:deployer";
    let b = relying("verifiers-asking", asking(&scene).await?, user).await?;
    let (consumer, secrets) = (Follower::new("cluster-b-deployer"), scene.secrets());
    let revoked = async || {
        consumer.served().await?;
        let first = target(&scene).await?;
        // A webhook has no prefix.
        let bearer = at(&b, first.token()).await?;
        ensure!(bearer.whoami().await?.as_deref() == Some(user), "another user at B");
        ensure!(bearer.get("/api/v1/namespaces").await? == 403, "it may do anything at B");
        is_a_controller_of_b(&scene, &b).await?;
        rotated(&scene, "1").await?;
        at(&b, first.token()).await?.lives().await?;
        scene.delete_secret(first.anchor()).await?;
        at(&b, first.token()).await?.dies().await?;
        consumer.served().await
    };
    tokio::select! {
        refused = consumer.run(&secrets, &b, PATH) => refused,
        done = revoked() => done,
    }
}
