//! How the operator under test is installed, and how it is run, shown with a stand-in for the program.

use anyhow::Result;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokenward_e2e::control_plane::shared;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, garbage_collector_knows, install, token};
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, Proxy, eventually, target_dir};

const STAND_IN: &str = "#!/bin/sh
trap 'echo asked to end; exit 3' TERM
echo \"started with $* and $(basename $KUBECONFIG) $GIVEN\"
while :; do sleep 0.02; done
";

#[tokio::test]
async fn starts_stops_and_restarts() -> Result<()> {
    let plane = shared().await?;
    let proxy = Proxy::start(plane)?;
    let dir = plane.dir().join("stand-in");
    std::fs::create_dir_all(&dir)?;
    let program = dir.join("stand-in");
    std::fs::write(&program, STAND_IN)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let options = Options {
        name: "one".to_owned(),
        dir,
        via: Some(&proxy),
        namespaces: vec!["a".to_owned(), "b".to_owned()],
        env: vec![("GIVEN".to_owned(), "value".to_owned())],
        program: Some(program),
        token: Some(token(plane, "default", "default", Duration::from_mins(10)).await?),
        ..Options::default()
    };
    let operator = Operator::start(plane, options).await?;
    let started = async |times: usize| {
        let count = operator.log()?.matches("started with run --namespace=a --namespace=b --metrics").count();
        anyhow::ensure!(count == times, "{count} starts");
        Ok(())
    };
    eventually(Duration::from_secs(5), "the first start", async || started(1).await).await?;
    assert!(operator.log()?.contains("one.kubeconfig value"));
    assert!(operator.rss_kib()? > 0 && operator.peak_rss_kib()? > 0);
    assert!(operator.readyz().await.is_err());
    let pid = operator.pid();
    operator.restart()?;
    assert_ne!(operator.pid(), pid);
    eventually(Duration::from_secs(5), "the second start", async || started(2).await).await?;
    operator.sigstop()?;
    operator.sigcont()?;
    let (status, took) = operator.terminate().await?;
    assert_eq!(status.code(), Some(3));
    assert!(took < Duration::from_secs(5));
    assert!(operator.log()?.ends_with("asked to end\n"));
    let error = operator.ready().await.unwrap_err();
    assert!(format!("{error:#}").contains("asked to end"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn installs_what_is_shipped() -> Result<()> {
    let plane = ControlPlane::start(Profile::default(), target_dir().join("e2e/operator-install")).await?;
    install(&plane).await?;
    token(&plane, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    // A second time nothing is in the way, as for a user who upgrades.
    install(&plane).await?;
    garbage_collector_knows(&plane, "tokenward.dev/v1alpha1", "TokenPolicy").await
}
