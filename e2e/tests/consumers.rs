//! Each consumer's page in `docs/consumers`: its manifest is applied as it stands, and the Secret is read by the rules
//! that the consumer's own source has, before and after a rotation. A test binary of its own, as the pages' namespaces
//! are those of the consumers.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tokenward_e2e::control_plane::binaries;
use tokenward_e2e::pages::{FORMATS, apply, blocks, consumers, documents, files, manifests, read};
use tokenward_e2e::scene::consumers::{ArgoCdCluster, Mount};
use tokenward_e2e::scene::{Bearer, Scene, Target};
use tokenward_e2e::workspace_dir;
use tokio::process::Command;

/// A test for each page, which has the function of the same name read what the page's policy writes.
macro_rules! readers {
    ($($reader:ident: $page:literal,)*) => {
        const READERS: &[&str] = &[$($page),*];

        mod reads {
            $(#[tokio::test]
            async fn $reader() -> anyhow::Result<()> {
                let shown = super::Shown::start($page).await?;
                let first = shown.target().await?;
                super::$reader(&shown, &first).await?;
                super::$reader(&shown, &shown.rotated(&first).await?).await
            })*
        }
    };
}

readers! {
    argo_cd: "argocd-cluster",
    argo_workflows: "argo-workflows",
    flux: "flux",
    gitlab_ci: "gitlab-ci",
    headlamp: "headlamp",
    istio: "istio-remote-secret",
    jenkins: "jenkins",
    linkerd: "linkerd",
    multikueue: "multikueue",
    prometheus: "prometheus",
    terraform: "terraform",
    vault: "vault",
}

/// The only manifest of a page.
fn manifest(text: &str) -> Result<&str> {
    let [manifest] = manifests(text).collect::<Vec<_>>()[..] else { anyhow::bail!("a page has one manifest") };
    Ok(manifest)
}

/// The only policy of a page.
fn policy(text: &str) -> Result<Value> {
    let mut policies = documents(manifest(text)?)?.into_iter().filter(|document| document["kind"] == "TokenPolicy");
    let policy = policies.next().context("no policy")?;
    ensure!(policies.next().is_none(), "a page has one policy");
    Ok(policy)
}

#[test]
fn each_page_is_in_the_table_and_has_a_manifest_and_a_reader() -> Result<()> {
    let mut listed = BTreeSet::new();
    for consumer in consumers()? {
        let policy = policy(&read(&format!("{FORMATS}/{}.md", consumer.page))?).context(consumer.page.clone())?;
        let format = policy["spec"]["secret"]["format"]["type"].as_str().unwrap_or("Token");
        assert_eq!(consumer.format, format, "{}", consumer.page);
        listed.insert(consumer.page);
    }
    assert_eq!(listed, READERS.iter().map(ToString::to_string).collect());
    for page in files(&workspace_dir().join(FORMATS), "md")? {
        let (name, text) = (page.file_stem().unwrap_or_default().to_string_lossy(), std::fs::read_to_string(&page)?);
        let known = name == "README" || text.starts_with("# Format `") || listed.contains(&*name);
        ensure!(known, "{name} is on no format, and the table of consumers does not have it");
    }
    Ok(())
}

async fn promtool() -> Result<PathBuf> {
    tokio::task::spawn_blocking(binaries::promtool).await?
}

/// A page whose manifest is applied, with an operator for its namespace.
struct Shown {
    text: String,
    policy: String,
    scene: Scene,
}

impl Shown {
    async fn start(page: &str) -> Result<Self> {
        // Its first build takes both cores for minutes, so nothing else is begun before it is there.
        promtool().await?;
        let text = read(&format!("{FORMATS}/{page}.md"))?;
        let metadata = policy(&text)?["metadata"].clone();
        let must = |field: &str| metadata[field].as_str().with_context(|| format!("{page}: the policy has no {field}"));
        let (namespace, policy) = (must("namespace")?, must("name")?.to_owned());
        let scene = Scene::start(namespace).await?;
        apply(page, manifest(&text)?, &[]).await?;
        scene.ready(&policy).await?;
        Ok(Self { text, policy, scene })
    }

    /// The policy's Secret, of which the page tells each key, and the name outside of the manifest.
    async fn target(&self) -> Result<Target> {
        let (name, target) = self.scene.targets().await?.pop_first().context("no Secret")?;
        for key in target.data.keys() {
            ensure!(self.text.contains(&format!("`{key}`")), "the page does not tell of the key {key}");
        }
        let told = self.text.replace(manifest(&self.text)?, "");
        ensure!(told.contains(&name), "the page does not say who reads {name}");
        Ok(target)
    }

    async fn rotated(&self, before: &Target) -> Result<Target> {
        self.scene.rotate(&self.policy, "once").await?;
        self.scene.next_target(before.name(), before).await
    }

    /// The first YAML document of the page that has this at this place.
    fn document(&self, pointer: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let all = blocks(&self.text, "yaml").map(documents).collect::<Result<Vec<_>>>()?.concat();
        let found = all.into_iter().find(|document| document.pointer(pointer).is_some_and(&is));
        found.with_context(|| format!("no YAML of the page has {pointer}"))
    }

    fn object(&self, kind: &str) -> Result<Value> {
        self.document("/kind", |found| found == kind)
    }

    fn block(&self, language: &str) -> Result<&str> {
        blocks(&self.text, language).next().with_context(|| format!("the page has no block of {language}"))
    }

    /// That kubectl works with a kubeconfig that holds all it needs, and nothing that a consumer would refuse: no path,
    /// no program, no password, and TLS is checked.
    async fn reaches(&self, config: &str, args: &[&str]) -> Result<()> {
        let parsed: Value = serde_json::from_str(config)?;
        let keys = |value: &Value| value.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>());
        let (cluster, user) = (keys(&parsed["clusters"][0]["cluster"]), keys(&parsed["users"][0]["user"]));
        assert_eq!(cluster, Some(vec!["certificate-authority-data".to_owned(), "server".to_owned()]));
        assert_eq!(user, Some(vec!["token".to_owned()]));
        let answer = self.scene.kubectl_with(config, args).await?;
        ensure!(answer.status.success(), "{args:?}: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(())
    }

    /// Runs the page's shell block with the Secret mounted at `folder`, and a function in the place of the consumer's
    /// program; returns what that prints, which it ends with a zero byte each.
    async fn runs(&self, mount: &Mount, folder: &str, program: &str) -> Result<Vec<String>> {
        let block = self.block("sh")?;
        ensure!(block.contains(folder), "the block does not read {folder}");
        let block = block.replace(folder, &mount.path().to_string_lossy());
        let answer = Command::new("sh").args(["-euc", &format!("{program}\n{block}")]).output().await?;
        ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        let printed = String::from_utf8(answer.stdout)?;
        Ok(printed.split_terminator('\0').map(str::to_owned).collect())
    }

    fn mounted(&self, target: &Target) -> Result<Mount> {
        let mount = Mount::new(&self.scene)?;
        mount.write(target)?;
        Ok(mount)
    }
}

/// Argo CD lists the Secrets with this label, and reads these keys of them.
async fn argo_cd(shown: &Shown, target: &Target) -> Result<()> {
    assert_eq!(target.label("argocd.argoproj.io/secret-type"), Some("cluster"));
    let status = ArgoCdCluster::read(target)?.bearer().await?.get(&shown.scene.config_maps()).await?;
    assert_eq!(status, 200);
    Ok(())
}

/// Argo Workflows takes the Secret that the account's annotation names, else the one of this name; its executor is a
/// client that finds `token` and `ca.crt` where a pod's are.
async fn argo_workflows(shown: &Shown, target: &Target) -> Result<()> {
    let account = &shown.object("ServiceAccount")?["metadata"];
    let name = account["name"].as_str().context("no account")?;
    let annotated = account["annotations"]["workflows.argoproj.io/service-account-token.name"].as_str();
    let secret = annotated.map_or_else(|| format!("{name}.service-account-token"), str::to_owned);
    assert_eq!(target.name(), secret);
    let workflow = shown.document("/spec/executor/serviceAccountName", |executor| executor == name)?;
    assert_eq!(workflow["spec"]["automountServiceAccountToken"], false);
    let executor = shown.mounted(target)?.bearer().await?;
    assert_eq!(executor.whoami().await?, Some(format!("system:serviceaccount:{}:{name}", target.value("namespace"))));
    Ok(())
}

/// Flux reads the key that `secretRef` names, else `value`, else `value.yaml`.
async fn flux(shown: &Shown, target: &Target) -> Result<()> {
    let reference = &shown.object("Kustomization")?["spec"]["kubeConfig"]["secretRef"];
    assert_eq!(reference["name"], target.name());
    let default = if target.data.contains_key("value") { "value" } else { "value.yaml" };
    let key = reference["key"].as_str().unwrap_or(default);
    shown.reaches(target.value(key), &["get", "deployments"]).await
}

/// The text in quotes that a line of a TOML block sets a key to.
fn quoted<'a>(block: &'a str, key: &str) -> Result<&'a str> {
    let value = block.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
    value.with_context(|| format!("the block does not set {key}"))
}

/// The runner mounts the Secret of this name at this path, and the job names a file below it.
async fn gitlab_ci(shown: &Shown, target: &Target) -> Result<()> {
    let volume = shown.block("toml")?;
    assert_eq!(quoted(volume, "name")?, target.name());
    let job = shown.document("/deploy/script/0", Value::is_string)?;
    let command = job["deploy"]["script"][0].as_str().context("no command")?;
    let path = command.split("--kubeconfig=").nth(1).and_then(|rest| rest.split(' ').next()).context("no path")?;
    let key = path.strip_prefix(quoted(volume, "mount_path")?).and_then(|rest| rest.strip_prefix('/'));
    shown.reaches(target.value(key.context("the job reads another folder")?), &["get", "deployments"]).await
}

/// Headlamp in a cluster reads the file `config` of this folder.
async fn headlamp(shown: &Shown, target: &Target) -> Result<()> {
    let values = shown.document("/volumes/0/secret/secretName", |name| name == target.name())?;
    assert_eq!(values["volumeMounts"][0]["mountPath"], "/home/headlamp/.config/Headlamp/kubeconfigs");
    assert_eq!(values["volumeMounts"][0]["name"], values["volumes"][0]["name"]);
    shown.reaches(target.value("config"), &["get", "pods", "-A"]).await
}

/// Istiod lists the Secrets with this label, and takes each key for the name of a cluster.
async fn istio(shown: &Shown, target: &Target) -> Result<()> {
    assert_eq!(target.label("istio/multiCluster"), Some("true"));
    let cluster = target.annotation("networking.istio.io/cluster").context("no cluster")?;
    assert_eq!(target.data.keys().collect::<Vec<_>>(), [cluster]);
    shown.reaches(target.value(cluster), &["get", "services,endpointslices,nodes", "-A"]).await
}

/// The plugin lists the Secrets with this label; `secretText` demands this key, in UTF-8.
async fn jenkins(shown: &Shown, target: &Target) -> Result<()> {
    assert_eq!(target.label("jenkins.io/credentials-type"), Some("secretText"));
    ensure!(target.annotation("jenkins.io/credentials-description").is_some_and(|text| !text.is_empty()));
    ensure!(shown.block("groovy")?.contains(&format!("credentialsId: '{}'", target.name())));
    shown.scene.bearer(target.value("text")).await?.lives().await
}

/// The Link's controller reads the key of the Secret that the Link names; the destination controller takes Secrets of
/// this type with this label, and refuses them without both annotations.
async fn linkerd(shown: &Shown, target: &Target) -> Result<()> {
    let link = &shown.object("Link")?["spec"];
    assert_eq!(link["clusterCredentialsSecret"], target.name());
    assert_eq!(target.secret.type_.as_deref(), Some("mirror.linkerd.io/remote-kubeconfig"));
    assert_eq!(link["targetClusterName"].as_str(), target.label("multicluster.linkerd.io/cluster-name"));
    for domain in ["trust-domain", "cluster-domain"] {
        ensure!(target.annotation(&format!("multicluster.linkerd.io/{domain}")).is_some(), "no {domain}");
    }
    shown.reaches(target.value("kubeconfig"), &["auth", "whoami"]).await
}

/// Kueue reads this key of the Secret that the `MultiKueueCluster` names.
async fn multikueue(shown: &Shown, target: &Target) -> Result<()> {
    let reference = &shown.object("MultiKueueCluster")?["spec"]["clusterSource"]["kubeConfig"];
    assert_eq!((&reference["locationType"], &reference["location"]), (&"Secret".into(), &target.name().into()));
    shown.reaches(target.value("kubeconfig"), &["get", "jobs,pods", "-A"]).await
}

/// Whether Prometheus' own checker accepts a configuration, and finds the files that it names.
async fn checked(shown: &Shown, config: &str) -> Result<bool> {
    let path = shown.scene.plane.dir().join("prometheus.yml");
    std::fs::write(&path, config)?;
    let answer = Command::new(promtool().await?).args(["check", "config"]).arg(&path).output().await?;
    println!("{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    Ok(answer.status.success())
}

/// Prometheus reads the files that its configuration names.
async fn prometheus(shown: &Shown, target: &Target) -> Result<()> {
    let mount = shown.mounted(target)?;
    let folder = format!("/etc/prometheus/secrets/{}", target.name());
    let config = blocks(&shown.text, "yaml").find(|block| block.starts_with("scrape_configs:")).context("no config")?;
    ensure!(!checked(shown, config).await?, "promtool does not look for the files");
    ensure!(checked(shown, &config.replace(&folder, &mount.path().to_string_lossy())).await?);
    assert_eq!(mount.bearer().await?.get("/metrics").await?, 200);
    Ok(())
}

/// The provider takes these three from the environment.
async fn terraform(shown: &Shown, target: &Target) -> Result<()> {
    let program = "terraform() { printf '%s\\0' \"$KUBE_HOST\" \"$KUBE_CLUSTER_CA_CERT_DATA\" \"$KUBE_TOKEN\"; }";
    let told = shown.runs(&shown.mounted(target)?, &format!("/etc/{}", target.name()), program).await?;
    let [host, ca, token] = &told[..] else { anyhow::bail!("{} variables", told.len()) };
    assert_eq!(token, target.token());
    assert_eq!(Bearer::at(host, ca, token).await?.get(&shown.scene.config_maps()).await?, 200);
    Ok(())
}

/// The value that Vault's command line takes for a field: the text itself, or after `@` that of a file.
fn field(told: &[String], mount: &Mount, name: &str) -> Result<String> {
    let value = told.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let value = value.with_context(|| format!("no field {name}"))?;
    value.strip_prefix('@').map_or_else(|| Ok(value.to_owned()), |file| mount.read(file))
}

/// The auth method reviews the token of whoever logs in, with the token that it was given for that.
async fn vault(shown: &Shown, target: &Target) -> Result<()> {
    let mount = shown.mounted(target)?;
    let told = shown.runs(&mount, &format!("/etc/{}", target.name()), "vault() { printf '%s\\0' \"$@\"; }").await?;
    assert_eq!(told[..2], ["write", "auth/kubernetes/config"]);
    let value = |name: &str| field(&told, &mount, name);
    let (host, ca, token) = (value("kubernetes_host")?, value("kubernetes_ca_cert")?, value("token_reviewer_jwt")?);
    Bearer::at(&host, &ca, &token).await?.lives().await?;
    // Not through the scene's proxy, which holds a token in a body for a leak.
    let answer = shown.scene.bearer(&token).await?.review(target.token(), &[]).await?;
    assert_eq!(answer["authenticated"], true, "{answer}");
    Ok(())
}
