//! Shapes that are a policy's own: what Jenkins, Vault, forklift, Linkerd and git read, and the labels that an
//! administrator demands.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::api::PostParams;
use serde_json::{Value, json};
use tokenward_e2e::scene::{Bearer, SOON, Scene, Target, operator, spec};
use tokenward_e2e::{Options, eventually};

fn custom(data: &Value) -> Value {
    json!({"secret": {"format": {"type": "Custom", "custom": {"data": data}}}})
}

fn labels(target: &Target) -> Value {
    json!(target.secret.metadata.labels)
}

fn kind(target: &Target) -> Option<&str> {
    target.secret.type_.as_deref()
}

#[tokio::test]
async fn jenkins_finds_its_label_and_its_key() -> Result<()> {
    let scene = Scene::start("jenkins").await?;
    let mut more = custom(&json!({"text": "{token}"}));
    more["secret"]["labels"] = json!({"jenkins.io/credentials-type": "secretText", "app.kubernetes.io/part-of": "ci"});
    more["secret"]["annotations"] = json!({"jenkins.io/credentials-description": "deployer"});
    let first = scene.deployer(more).await?;
    let second = scene.rotated("1", &first).await?;
    for target in [&first, &second] {
        assert_eq!(target.data.keys().collect::<Vec<_>>(), ["text"]);
        assert_eq!(
            (kind(target), &labels(target)["jenkins.io/credentials-type"]),
            (Some("Opaque"), &json!("secretText"))
        );
        scene.bearer(target.value("text")).await?.lives().await?;
    }
    assert_eq!((second.version().0, scene.mints()), (first.version().0, 2));
    Ok(())
}

#[tokio::test]
async fn forklift_finds_url_token_and_cacert() -> Result<()> {
    let scene = Scene::start("forklift").await?;
    let data = json!({"url": "{server}", "token": "{token}", "cacert": "{ca}"});
    let target = scene.deployer(custom(&data)).await?;
    assert_eq!(target.value("url"), scene.proxy.url());
    let forklift = Bearer::at(target.value("url"), target.value("cacert"), target.value("token")).await?;
    assert_eq!(forklift.get(&scene.config_maps()).await?, 200);
    Ok(())
}

#[tokio::test]
async fn vault_secrets_operator_finds_a_token_for_vault() -> Result<()> {
    let scene = Scene::start("vault").await?;
    let mut more = custom(&json!({"jwt": "{token}"}));
    more["token"] = json!({"audiences": ["vault"]});
    let target = scene.deployer(more).await?;
    let answer = scene.review(target.value("jwt"), &["vault"]).await?;
    assert_eq!(answer["authenticated"], true, "{answer}");
    Ok(())
}

const LINKERD: &str = "mirror.linkerd.io/remote-kubeconfig";

#[tokio::test]
async fn linkerd_finds_its_type_which_stays_with_the_name() -> Result<()> {
    let scene = Scene::start("linkerd").await?;
    let options = json!({"secretType": LINKERD, "key": "kubeconfig"});
    let more = json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": options}}});
    let target = scene.deployer(more).await?;
    assert_eq!(kind(&target), Some(LINKERD));
    assert_eq!(target.data.keys().collect::<Vec<_>>(), ["kubeconfig"]);
    let listed = scene.kubectl_with(target.value("kubeconfig"), &["get", "configmaps", "-n", "linkerd"]).await?;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let message = scene.refusal("p", &spec(&["deployer"], custom(&json!({"text": "{token}"})))).await?;
    let advice = format!("cannot change from \"{LINKERD}\" to \"Opaque\"; choose another secret.name");
    assert!(message.contains(&advice), "{message}");
    // Another format with the same type is written into the same Secret.
    let mut same = custom(&json!({"kubeconfig": "token: {token}"}));
    same["secret"]["format"]["custom"]["secretType"] = LINKERD.into();
    scene.policy("p", &spec(&["deployer"], same)).await?;
    scene.ready("p").await?;
    let after = scene.target("p-deployer").await?;
    assert_eq!(after.value("kubeconfig"), format!("token: {}", scene.proxy.minted()[0].token()));
    assert_eq!((after.version().0, scene.mints()), (target.version().0, 1));
    Ok(())
}

#[tokio::test]
async fn a_netrc_is_mended_with_the_token_that_is_in_it() -> Result<()> {
    let scene = Scene::start("netrc").await?;
    let text = "# until {expiresAt}\nmachine git.example.com login {serviceAccount} password {token}\n";
    let first = scene.deployer(custom(&json!({".netrc": text, "note": "{{x} } of {namespace}"}))).await?;
    let (token, end) = (scene.proxy.minted()[0].token().to_owned(), first.says("expires-at"));
    let wanted = format!("# until {end}\nmachine git.example.com login deployer password {token}\n");
    assert_eq!((first.value(".netrc"), first.value("note")), (wanted.as_str(), "{x} } of netrc"));
    scene.patch_secret("p-deployer", json!({"metadata": {"annotations": {"tokenward.dev/layout": null}}})).await?;
    scene.told("p", "SecretRepaired", "p-deployer").await?;
    let mended = scene.target("p-deployer").await?;
    assert_eq!((mended.data, scene.mints()), (first.data, 1));
    Ok(())
}

#[tokio::test]
async fn a_login_that_its_token_is_bound_to_begins_empty() -> Result<()> {
    let scene = Scene::start("login").await?;
    let mut more = custom(&json!({"username": "{serviceAccount}", "password": "{token}"}));
    more["secret"]["format"]["custom"]["secretType"] = "kubernetes.io/basic-auth".into();
    more["token"] = json!({"binding": "Target"});
    let target = scene.deployer(more).await?;
    assert_eq!((kind(&target), target.value("username")), (Some("kubernetes.io/basic-auth"), "deployer"));
    assert_eq!((target.says("anchor"), scene.anchors().await?.len()), ("p-deployer", 0));
    scene.bearer(target.value("password")).await?.lives().await
}

#[tokio::test]
async fn a_server_of_the_policys_own_is_believed_by_the_ca_that_the_policy_gives() -> Result<()> {
    let scene = Scene::start("own-ca").await?;
    scene.limit("servers", Some(scene.proxy.url())).await?;
    let kubeconfig = |options: Value| json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": options}}});
    let first = scene.deployer(kubeconfig(json!({}))).await?;
    let known: Value = serde_json::from_str(first.value("config"))?;
    let ca = &known["clusters"][0]["cluster"]["certificate-authority-data"];
    let with = async |options: Value| {
        scene.policy("p", &spec(&["deployer"], kubeconfig(options))).await?;
        scene.ready("p").await?;
        let target = scene.target("p-deployer").await?;
        let output = scene.kubectl_with(target.value("config"), &["get", "configmaps", "-n", "own-ca"]).await?;
        Ok::<_, anyhow::Error>((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (works, complaint) = with(json!({"server": scene.proxy.url(), "caBundle": ca})).await?;
    assert!(works, "{complaint}");
    let (works, complaint) = with(json!({"server": scene.proxy.url(), "systemRoots": true})).await?;
    assert!(!works && complaint.contains("certificate signed by unknown authority"), "{complaint}");
    let other = tokenward_e2e::scene::limits::OTHER_SERVER;
    let asked = spec(&["deployer"], kubeconfig(json!({"server": other, "caBundle": ca})));
    let message = scene.refusal("p", &asked).await?;
    assert!(message.contains("is not among those allowed"), "{message}");
    let not_pem = spec(&["deployer"], kubeconfig(json!({"server": other, "caBundle": BASE64_STANDARD.encode("x")})));
    assert!(scene.refusal("p", &not_pem).await?.contains("caBundle holds no PEM certificate"));
    assert_eq!(scene.mints(), 1);
    Ok(())
}

/// An admission policy that demands the label `team` on every Secret of the scene's namespace. Returns when it is in
/// force.
async fn demand_team(scene: &Scene) -> Result<()> {
    let has =
        json!({"expression": "'team' in object.metadata.?labels.orValue({})", "message": "every Secret needs a team"});
    scene.validate_secrets(&["CREATE"], &has).await?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let probe = serde_json::from_value(json!({"metadata": {"name": "probe"}}))?;
    let refused = async || {
        ensure!(scene.secrets().create(&dry, &probe).await.is_err(), "not yet in force");
        Ok(())
    };
    eventually(SOON, "a Secret without a team is refused", refused).await
}

/// Ends the scene's operator; the next one is started with these flags.
async fn replaced(scene: &Scene, name: &str, flags: &[&str]) -> Result<tokenward_e2e::Operator> {
    scene.operator.kill9()?;
    let args = flags.iter().map(ToString::to_string).collect();
    let options = Options { name: name.to_owned(), args, ..Options::default() };
    let next = operator(scene.plane, &scene.namespace, &scene.proxy, options).await?;
    next.ready().await?;
    Ok(next)
}

#[tokio::test]
async fn a_label_that_admission_demands_is_on_every_secret() -> Result<()> {
    let scene = Scene::start("demanded").await?;
    demand_team(&scene).await?;
    scene.reader("deployer").await?;
    let secret = json!({"secret": {"labels": {"team": "mine"}}});
    scene.policy("p", &spec(&["deployer"], secret)).await?;
    let message = scene.not_ready("p", "AdmissionDenied").await?;
    let out = "start the operator with --secret-labels, or choose token.binding Target";
    assert!(message.contains("every Secret needs a team") && message.contains(out), "{message}");
    // One way out needs nobody but the author.
    let bound = json!({"token": {"binding": "Target"}, "secret": {"labels": {"team": "mine"}}});
    scene.policy("q", &spec(&["deployer"], bound)).await?;
    scene.ready("q").await?;
    let _next = replaced(&scene, "demanded-labels", &["--secret-labels=team=platform"]).await?;
    scene.ready("p").await?;
    let target = scene.target("p-deployer").await?;
    let anchor = scene.secrets().get_metadata(target.anchor()).await?;
    assert_eq!(labels(&target)["team"], "platform", "the administrator's wins");
    let team = anchor.metadata.labels.as_ref().and_then(|labels| labels.get("team"));
    assert_eq!(team.map(String::as_str), Some("platform"));
    Ok(())
}

#[tokio::test]
async fn another_flag_labels_targets_again_with_the_same_token() -> Result<()> {
    let scene = Scene::start("relabelled").await?;
    let first = scene.deployer(json!({})).await?;
    let anchor = scene.secrets().get_metadata(first.anchor()).await?.metadata.resource_version;
    let _next = replaced(&scene, "relabelled-labels", &["--secret-labels=team=platform,cost=1"]).await?;
    let relabelled = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(labels(&target)["team"] == "platform" && labels(&target)["cost"] == "1", "{}", labels(&target));
        Ok(target)
    };
    let target = eventually(SOON, "the target has the labels", relabelled).await?;
    assert_eq!((target.data, target.secret.metadata.uid), (first.data.clone(), first.secret.metadata.uid.clone()));
    scene.told("p", "SecretRepaired", "LayoutChanged").await?;
    let after = scene.secrets().get_metadata(first.anchor()).await?.metadata.resource_version;
    assert_eq!((after, scene.mints()), (anchor.context("no version").map(Some)?, 1), "anchors stay as they are");
    Ok(())
}

#[tokio::test]
async fn a_secret_beyond_one_mebibyte_is_told_before_a_token_is_issued() -> Result<()> {
    let scene = Scene::start("beyond-one-mebibyte").await?;
    let (ca, file) = (scene.proxy.ca_pem(), scene.plane.dir().join("too-large.crt"));
    std::fs::write(&file, ca.repeat(109_000_usize.div_ceil(ca.len())))?;
    let (server, file) = (format!("--cluster-server={}", scene.proxy.url()), file.display());
    let _next = replaced(&scene, "too-large-ca", &[&server, &format!("--cluster-ca-file={file}")]).await?;
    scene.reader("deployer").await?;
    let filled = |times| spec(&["deployer"], custom(&json!({"token": "{token}", "ca": "{ca} ".repeat(times)})));
    scene.policy("p", &filled(15)).await?;
    let message = scene.not_ready("p", "Invalid").await?;
    for told in
        ["spec.secret.format would give Secret beyond-one-mebibyte/p-deployer 16", "at most 1048576 (1 MiB); use {ca}"]
    {
        assert!(message.contains(told), "{message}");
    }
    assert_eq!((scene.mints(), scene.anchors().await?.len()), (0, 0));
    scene.policy("p", &filled(1)).await?;
    scene.ready("p").await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn a_bundle_is_read_as_base64_writes_it_and_one_that_no_consumer_could_use_is_told() -> Result<()> {
    let scene = Scene::start("bundles").await?;
    scene.limit("servers", Some(scene.proxy.url())).await?;
    scene.reader("deployer").await?;
    let given = |pem: &str| {
        let lines = BASE64_STANDARD.encode(pem).as_bytes().chunks(76).collect::<Vec<_>>().join(&b'\n');
        let options = json!({"server": scene.proxy.url(), "caBundle": String::from_utf8_lossy(&lines)});
        spec(&["deployer"], json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": options}}}))
    };
    let commented = format!("# ours <a@b.c> ~~~???\n{}", scene.proxy.ca_pem());
    scene.policy("p", &given(&commented)).await?;
    scene.ready("p").await?;
    let target = scene.target("p-deployer").await?;
    let output = scene.kubectl_with(target.value("config"), &["get", "configmaps", "-n", "bundles"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nQUFB\n-----END CERTIFICATE REQUEST-----\n";
    let garbage = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
    for (beside, found) in [(request, "holds something else than certificates"), (garbage, "does not parse")] {
        scene.policy("p", &given(&format!("{commented}{beside}"))).await?;
        let message = scene.not_ready("p", "PolicyUnreadable").await?;
        assert!(message.contains("spec.secret.format.kubeconfig: caBundle ") && message.contains(found), "{message}");
    }
    Ok(())
}
