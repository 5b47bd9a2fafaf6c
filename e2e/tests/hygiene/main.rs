//! `kubectl tokenward hygiene` on real control planes: each situation is made and found, and a clean cluster has no
//! finding.

mod certificates;
mod clean;
mod files;
mod flags;
mod managed;
mod objects;
mod structured;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokenward_e2e::https::Https;
use tokenward_e2e::oidc::Issuer;
use tokenward_e2e::pki::Authority;
use tokenward_e2e::scene::SOON;
use tokenward_e2e::{Component, ControlPlane, Profile, eventually, kubeconfig, target_dir};
use tokio::sync::OnceCell;

/// What the plugin said.
struct Report {
    rows: Value,
    text: String,
    /// What it said besides.
    aside: String,
    code: Option<i32>,
}

/// Runs `kubectl tokenward hygiene` as the administrator of a control plane.
async fn report(plane: &ControlPlane, more: &[&str]) -> Result<Report> {
    let args = ["tokenward", "hygiene", "-o", "json"];
    let output = plane.kubectl(args.iter().chain(more)).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let aside = String::from_utf8_lossy(&output.stderr).into_owned();
    let rows = serde_json::from_str(&text).with_context(|| format!("{more:?}: {text} {aside}"))?;
    let secret = ["eyJ", "PRIVATE", "BEGIN"].iter().any(|word| text.contains(word) || aside.contains(word));
    ensure!(!secret, "a credential in {text} {aside}");
    Ok(Report { rows, text, aside, code: output.status.code() })
}

impl Report {
    fn row(&self, strategy: &str) -> Result<&Value> {
        let mut rows = self.rows.as_array().into_iter().flatten();
        rows.find(|row| row["strategy"] == strategy).with_context(|| format!("no row {strategy}"))
    }

    /// Expects this state, and these words among evidence and what was not checked.
    fn shows(&self, strategy: &str, found: &str, words: &[&str]) -> Result<()> {
        let row = self.row(strategy)?;
        ensure!(row["found"] == found, "{row:#}");
        let texts = format!("{}{}", row["evidence"], row["notChecked"]);
        let missing: Vec<&&str> = words.iter().filter(|words| !texts.contains(**words)).collect();
        ensure!(missing.is_empty(), "no {missing:?} in {row:#}");
        Ok(())
    }

    /// Expects a finding with these words.
    fn finds(&self, strategy: &str, severity: &str, words: &str) -> Result<()> {
        let row = self.row(strategy)?;
        let mut findings = row["findings"].as_array().into_iter().flatten();
        let is = |finding: &Value| {
            finding["severity"] == severity
                && finding["problem"].as_str().is_some_and(|problem| problem.contains(words))
        };
        ensure!(findings.any(is), "no {severity} finding {words:?} in {row:#}");
        Ok(())
    }

    /// Expects no finding with these words.
    fn finds_no(&self, strategy: &str, words: &str) -> Result<()> {
        let findings = self.row(strategy)?["findings"].to_string();
        ensure!(!findings.contains(words), "{words:?} in {findings}");
        Ok(())
    }
}

/// A folder for the files that flags name: that of a control plane is emptied when it starts.
fn file(name: &str, text: &str) -> Result<PathBuf> {
    let dir = target_dir().join("e2e/hygiene-files");
    fs::create_dir_all(&dir)?;
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Starts a control plane with these flags of kube-apiserver, and shows its flags as static pods do: in a Pod of
/// kube-system.
async fn start(name: &str, apiserver: Vec<String>, controller_manager: Vec<String>) -> Result<ControlPlane> {
    let profile = Profile { apiserver, controller_manager, ..Profile::default() };
    let plane = ControlPlane::start(profile, target_dir().join("e2e").join(name)).await?;
    let running = fs::read_to_string(format!("/proc/{}/cmdline", plane.pid(Component::ApiServer)?))?;
    let command: Vec<&str> = running.split_terminator('\0').collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "kube-apiserver-node", "namespace": "kube-system", "labels": {"component": "kube-apiserver"}},
        "spec": {"containers": [{"name": "kube-apiserver", "image": "kube-apiserver", "command": command}]},
    });
    // Once kube-system has its account.
    eventually(SOON, "the Pod", async || plane.apply(&pod.to_string()).await.map(drop)).await?;
    Ok(plane)
}

/// The control plane that is configured in every wrong way, and what its flags name.
struct Open {
    plane: ControlPlane,
    issuer: Issuer,
    webhook: PathBuf,
    /// The CA of authenticating proxies.
    proxies: Authority,
}

/// The token in the static token file, and the one that the webhook accepts.
const STATIC: &str = "static-secret-token";
const HOOKED: &str = "hooked-secret-token";

async fn open() -> Result<&'static Open> {
    static OPEN: OnceCell<Open> = OnceCell::const_new();
    OPEN.get_or_try_init(async || {
        let (issuer, hook) = (Issuer::start()?, webhook()?);
        let webhook = file("webhook.kubeconfig", &kubeconfig::with_token(&hook.url, &hook.ca_pem, "own-secret-token"))?;
        let (signer, proxies) = (Authority::new("signer")?, Authority::new("proxies")?);
        let mut flags = oidc(&issuer)?;
        flags.extend([
            flag("token-auth-file", &file("tokens.csv", &format!("{STATIC},static,1,\"ops\"\n"))?),
            flag("authentication-token-webhook-config-file", &webhook),
            "--authentication-token-webhook-version=v1".to_owned(),
            "--authentication-token-webhook-cache-ttl=30m".to_owned(),
            flag("requestheader-client-ca-file", &file("proxies-of-any-name.crt", &proxies.pem())?),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
        ]);
        let controllers = vec![
            "--controllers=certificatesigningrequest-signing-controller".to_owned(),
            flag("cluster-signing-cert-file", &file("signer.crt", &signer.pem())?),
            flag("cluster-signing-key-file", &file("signer.key", &signer.key())?),
        ];
        Ok(Open { plane: start("hygiene-open", flags, controllers).await?, issuer, webhook, proxies })
    })
    .await
}

fn oidc(issuer: &Issuer) -> Result<Vec<String>> {
    Ok(vec![
        format!("--oidc-issuer-url={}", issuer.https.url),
        "--oidc-client-id=kubernetes".to_owned(),
        "--oidc-groups-claim=groups".to_owned(),
        "--oidc-signing-algs=ES256".to_owned(),
        flag("oidc-ca-file", &file("issuer.crt", &issuer.https.ca_pem)?),
    ])
}

/// A service that says who has a token.
fn webhook() -> Result<Https> {
    Https::start(|_| {
        |_: &str, review: &Value| {
            let known = review["spec"]["token"] == HOOKED;
            let status = json!({"authenticated": known, "user": {"username": "hooked"}});
            Some(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
        }
    })
}

/// Who the API server takes the holder of a token for.
async fn whoami(plane: &ControlPlane, token: &str) -> Result<String> {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let name = format!("token-{}.kubeconfig", ASKED.fetch_add(1, Ordering::Relaxed));
    let config = file(&name, &kubeconfig::with_token(&plane.url(), plane.ca_pem(), token))?;
    let me = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}", "--kubeconfig"];
    plane.kubectl_ok(me.map(std::ffi::OsStr::new).into_iter().chain([config.as_os_str()])).await
}
