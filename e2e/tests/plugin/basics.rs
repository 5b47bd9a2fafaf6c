//! The habits of kubectl.

use super::{error, ok, said};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokenward_e2e::eventually;
use tokenward_e2e::plugin::{program, search_path};
use tokenward_e2e::scene::caller::grant;
use tokenward_e2e::scene::{SOON, Scene, spec};
use tokenward_e2e::target_dir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_wrong_command_line_ends_with_1_and_says_what_is_right() -> Result<()> {
    let scene = Scene::start("plugin-usage").await?;
    for (line, hint) in [
        ("stats", "unrecognized subcommand 'stats'"),
        ("status --outptu json", "unexpected argument '--outptu'"),
        ("status -o table", "[possible values: wide, json, yaml]"),
        ("revoke", "<POLICY|--selector <LABELS>|--secret <NAME>|--account <NAME>|--token-id <ID>|--all>"),
        ("status --kubeconfig /none", "check --kubeconfig and --context"),
        ("status --context none", "check --kubeconfig and --context"),
        ("revoke --all --yes --as ", "a value is required for '--as <USER>'"),
        ("status nobody", "there is no TokenPolicy nobody in namespace plugin-usage"),
    ] {
        let told = error(&scene, line).await?;
        ensure!(told.contains(hint), "{line}: {told}");
    }
    let none = said(&scene, "status").await?;
    ensure!(
        none.code == Some(0) && none.aside.contains("No TokenPolicies found in namespace plugin-usage."),
        "{none:?}"
    );
    ensure!(ok(&scene, "--help").await?.contains("Usage: kubectl tokenward"));
    Ok(())
}

/// A proxy that connects whoever asks, and counts them.
async fn proxy(asked: Arc<AtomicUsize>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(tunnel(client));
        }
    });
    Ok(url)
}

async fn tunnel(client: TcpStream) -> Result<()> {
    let mut client = BufReader::new(client);
    let (mut line, mut first) = (String::new(), String::new());
    while client.read_line(&mut line).await? > 2 {
        first = if first.is_empty() { line.clone() } else { first };
        line.clear();
    }
    let mut server = TcpStream::connect(first.split(' ').nth(1).context("no host")?).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn proxies_are_those_that_kubectl_takes() -> Result<()> {
    let scene = Scene::start("plugin-proxy").await?;
    let asked = Arc::new(AtomicUsize::new(0));
    let proxy = proxy(asked.clone()).await?;
    let text = std::fs::read_to_string(scene.plane.kubeconfig())?;
    let named = |url: &str| -> Result<PathBuf> {
        let mut config: Value = serde_saphyr::from_str(&text)?;
        config["clusters"][0]["cluster"]["proxy-url"] = url.into();
        let path = target_dir().join("e2e").join(format!("proxy-{}.kubeconfig", url.len()));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    };
    let gone = "http://127.0.0.1:1";
    // This machine is reached without the proxy of the environment; the kubeconfig's counts, whatever NO_PROXY says.
    for (config, environment, works, through) in [
        (scene.plane.kubeconfig().clone(), gone, true, false),
        (named(&proxy)?, gone, true, true),
        (named(gone)?, "", false, false),
    ] {
        let before = asked.load(Ordering::Relaxed);
        let mut plugin = tokio::process::Command::new(program()?);
        plugin.args(["status", "-n", &scene.namespace, "--kubeconfig"]).arg(&config);
        let output = plugin.env("HTTPS_PROXY", environment).env("NO_PROXY", "127.0.0.1").output().await?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() == works, "{}: {told}", config.display());
        ensure!((asked.load(Ordering::Relaxed) > before) == through, "{}: {told}", config.display());
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_named() -> Result<()> {
    let scene = Scene::start("plugin-rights").await?;
    scene.deployer(json!({})).await?;
    let told = error(&scene, "status --as nobody").await?;
    ensure!(told.contains("`kubectl auth can-i list tokenpolicies.tokenward.dev -n plugin-rights` says no"), "{told}");
    let told = error(&scene, "status -A --as nobody").await?;
    ensure!(told.contains("`kubectl auth can-i list tokenpolicies.tokenward.dev -A` says no"), "{told}");

    let rules = json!([{"apiGroups": ["tokenward.dev"], "resources": ["tokenpolicies"], "verbs": ["list", "patch"]}]);
    grant(scene.plane, &scene.namespace, "viewer", &rules).await?;
    let partly = async || {
        let shown = said(&scene, "status --as viewer").await?;
        ensure!(shown.code == Some(0) && shown.out.starts_with("plugin-rights/p  ready  1/1\n"), "{shown:?}");
        ensure!(!shown.out.contains("p-deployer"), "{shown:?}");
        for right in ["list secrets", "list events.events.k8s.io"] {
            ensure!(
                shown.aside.contains(&format!("`kubectl auth can-i {right} -n plugin-rights` says no")),
                "{shown:?}"
            );
        }
        Ok(())
    };
    eventually(SOON, "policies without Secrets", partly).await?;
    // Who may only annotate policies, may revoke them.
    let revoked = said(&scene, "revoke p --yes --as viewer").await?;
    ensure!(revoked.out == "tokenpolicy.tokenward.dev/p annotated\n" && revoked.code == Some(0), "{revoked:?}");
    let told = "It is not known which tokens this concerns.";
    ensure!(revoked.aside.contains("Tokens are not shown") && revoked.aside.contains(told), "{revoked:?}");
    // Nothing is claimed about tokens that were not seen.
    let told = error(&scene, "revoke p --yes --wait --as viewer").await?;
    ensure!(told.contains("`kubectl auth can-i list secrets -n plugin-rights` says no"), "{told}");
    let told = error(&scene, "print p-deployer --as viewer").await?;
    ensure!(told.contains("`kubectl auth can-i get secrets -n plugin-rights` says no"), "{told}");
    Ok(())
}

#[tokio::test]
async fn the_namespace_is_that_of_the_flag_or_of_all() -> Result<()> {
    let scene = Scene::start("plugin-here").await?;
    scene.deployer(json!({})).await?;
    let config = scene.plane.kubeconfig();
    let elsewhere = format!("status -n default --kubeconfig {}", config.display());
    ensure!(ok(&scene, &elsewhere).await?.is_empty());
    ensure!(ok(&scene, "status -A").await?.contains("plugin-here/p  ready  1/1"));
    scene.policy("q", &spec(&["deployer"], json!({"secret": {"name": "q"}}))).await?;
    scene.plane.kubectl_ok(["-n", "plugin-here", "label", "tokenpolicy", "q", "team=a"]).await?;
    let selected: Value = serde_json::from_str(&ok(&scene, "status -l team=a -o json").await?)?;
    ensure!(selected.as_array().is_some_and(|all| all.len() == 1) && selected[0]["name"] == "q", "{selected}");
    Ok(())
}

#[tokio::test]
async fn the_files_of_kubeconfig_are_those_of_kubectl_and_never_quoted() -> Result<()> {
    let scene = Scene::start("plugin-files").await?;
    scene.deployer(json!({})).await?;
    let (there, broken) = (scene.plane.kubeconfig(), scene.plane.dir().join("broken.kubeconfig"));
    std::fs::write(&broken, "users: [{name: u, user: hidden-text}]")?;
    for (files, words, code) in [
        (format!("/none:{}:/nowhere", there.display()), "plugin-files/p  ready  1/1", 0),
        ("/none".to_owned(), "there is no kubeconfig, and this is no Pod", 1),
        ("/dev/null".to_owned(), "/dev/null is no regular file", 1),
        (format!("{}:{}", there.display(), broken.display()), "the YAML is not as expected at line 1", 1),
    ] {
        let mut plugin = std::process::Command::new(program()?);
        let output = plugin.args(["status", "-n", "plugin-files"]).env("KUBECONFIG", &files).output()?;
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        ensure!(output.status.code() == Some(code) && told.contains(words), "{files}: {told}");
        ensure!(!told.contains("hidden-text"), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn shells_complete_it() -> Result<()> {
    let scene = Scene::start("plugin-completion").await?;
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(&scene, &format!("completion {shell}")).await?;
        ensure!(script.contains("kubectl-tokenward") && script.contains("token-id"), "{shell}: {script}");
    }
    // kubectl looks for a program of this name in the PATH.
    let folder = scene.plane.dir().join("completer");
    std::fs::create_dir_all(&folder)?;
    std::os::unix::fs::symlink(program()?, folder.join("kubectl_complete-tokenward"))?;
    let path = format!("{}:{}", folder.display(), search_path().to_string_lossy());
    let asked = ["__complete", "tokenward", "revoke", "--tok"];
    let answer = std::process::Command::new(scene.plane.kubectl_path()).args(asked).env("PATH", path).output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer == "--token-id\tOne token, by its jti\n:4\n", "{answer}");
    Ok(())
}
