//! etcd, Kubernetes' own programs, Prometheus', Helm and krew: found in `KUBEBUILDER_ASSETS`, or built once
//! with Go.

use crate::process::tail;
use crate::{target_dir, workspace_dir};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

struct Tool {
    name: &'static str,
    package: &'static str,
    module: &'static str,
    /// Build tags, separated by commas.
    tags: &'static str,
}

impl Tool {
    const fn new(name: &'static str, package: &'static str, module: &'static str) -> Self {
        Self { name, package, module, tags: "" }
    }

    /// Without service discovery, which would bring the clients of all clouds.
    const fn of_prometheus(name: &'static str, package: &'static str) -> Self {
        Self { tags: "remove_all_sd", ..Self::new(name, package, "github.com/prometheus/prometheus") }
    }
}

/// A folder with a go.mod that pins the tools.
#[derive(Clone, Copy)]
struct Module {
    folder: &'static str,
    tools: &'static [Tool],
}

const KUBERNETES: &str = "k8s.io/kubernetes";
const CONTROL_PLANE: Module = Module {
    folder: "e2e/control-plane",
    tools: &[
        Tool::new("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        Tool::new("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES),
        Tool::new("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES),
        Tool::new("kubectl", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES),
    ],
};
/// From the same module; only a real node needs them.
const NODE: Module = Module {
    folder: "e2e/control-plane",
    tools: &[
        Tool::new("kubelet", "k8s.io/kubernetes/cmd/kubelet", KUBERNETES),
        Tool::new("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", KUBERNETES),
    ],
};
const PROMTOOL: Module = Module {
    folder: "e2e/promtool",
    tools: &[Tool::of_prometheus("promtool", "github.com/prometheus/prometheus/cmd/promtool")],
};
/// From the same module; only a test that scrapes needs it.
const PROMETHEUS: Module = Module {
    folder: "e2e/promtool",
    tools: &[Tool::of_prometheus("prometheus", "github.com/prometheus/prometheus/cmd/prometheus")],
};
/// From the same module as kubectl, with which it shares most of its code: alone it takes ten times as long to build.
const HELM: Module =
    Module { folder: "e2e/control-plane", tools: &[Tool::new("helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4")] };
const KREW: Module =
    Module { folder: "e2e/krew", tools: &[Tool::new("krew", "sigs.k8s.io/krew/cmd/krew", "sigs.k8s.io/krew")] };

/// Where the programs of a control plane are.
#[derive(Clone, Debug)]
pub struct Binaries(BTreeMap<&'static str, PathBuf>);

impl Binaries {
    /// Finds all programs; builds what is missing, which takes minutes the first time.
    ///
    /// # Errors
    /// When a program is missing and Go cannot build it; the message says what to do.
    pub fn find() -> Result<Self> {
        Ok(Self(programs(CONTROL_PLANE)?))
    }

    /// As [`Binaries::find`], for the programs that a node needs besides.
    ///
    /// # Errors
    /// As there.
    pub fn find_node() -> Result<Self> {
        Ok(Self(programs(NODE)?))
    }

    /// The path of a program, by its name.
    ///
    /// # Errors
    /// When it is no program of a control plane.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("{name} is not one of ours"))
    }
}

/// Finds promtool; builds it when it is missing, which takes minutes the first time.
///
/// # Errors
/// When Go cannot build it; the message says what to do.
pub fn promtool() -> Result<PathBuf> {
    programs(PROMTOOL)?.remove("promtool").context("promtool is not one of ours")
}

/// Finds the Prometheus server, as [`promtool`] does. It has no web interface, which is built with Node.js.
///
/// # Errors
/// As there.
pub fn prometheus() -> Result<PathBuf> {
    programs(PROMETHEUS)?.remove("prometheus").context("prometheus is not one of ours")
}

/// As [`promtool`], for Helm.
///
/// # Errors
/// As there.
pub fn helm() -> Result<PathBuf> {
    programs(HELM)?.remove("helm").context("helm is not one of ours")
}

/// As [`promtool`], for krew.
///
/// # Errors
/// As there.
pub fn krew() -> Result<PathBuf> {
    programs(KREW)?.remove("krew").context("krew is not one of ours")
}

fn programs(module: Module) -> Result<BTreeMap<&'static str, PathBuf>> {
    let place = Place::new(module)?;
    let missing = place.missing();
    if !missing.is_empty() {
        place.build(&missing)?;
    }
    Ok(module.tools.iter().map(|tool| (tool.name, place.path(tool))).collect())
}

struct Place {
    tools: &'static [Tool],
    assets: Option<PathBuf>,
    module: PathBuf,
    root: PathBuf,
    go_mod: String,
}

impl Place {
    fn new(Module { folder, tools }: Module) -> Result<Self> {
        let module = workspace_dir().join(folder);
        let go_mod = fs::read_to_string(module.join("go.mod")).with_context(|| format!("reading {folder}/go.mod"))?;
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(std::path::absolute).transpose()?;
        Ok(Self { tools, assets, module, root: target_dir().join("control-plane"), go_mod })
    }

    fn asset(&self, tool: &Tool) -> Option<PathBuf> {
        self.assets.as_ref().map(|folder| folder.join(tool.name)).filter(|path| path.is_file())
    }

    fn built(&self, tool: &Tool) -> PathBuf {
        self.root.join("bin").join(tool.name)
    }

    fn path(&self, tool: &Tool) -> PathBuf {
        self.asset(tool).unwrap_or_else(|| self.built(tool))
    }

    fn stamp_path(&self, tool: &Tool) -> PathBuf {
        self.root.join("bin").join(format!("{}.stamp", tool.name))
    }

    fn missing(&self) -> Vec<&'static Tool> {
        self.tools.iter().filter(|tool| self.asset(tool).is_none() && !self.is_current(tool)).collect()
    }

    fn is_current(&self, tool: &Tool) -> bool {
        let stamp = fs::read_to_string(self.stamp_path(tool)).unwrap_or_default();
        self.built(tool).is_file() && self.stamp(tool).is_ok_and(|wanted| wanted == stamp)
    }

    /// What a built program depends on: the pinned version and the flags.
    fn stamp(&self, tool: &Tool) -> Result<String> {
        let version = pinned(&self.go_mod, tool.module)?;
        let stamp = [tool.module, version, &self.ldflags(tool)?, tool.tags].join(" ");
        Ok(format!("{}\n", stamp.trim_end()))
    }

    fn ldflags(&self, tool: &Tool) -> Result<String> {
        if tool.module != KUBERNETES {
            return Ok("-s -w".to_owned());
        }
        let version = pinned(&self.go_mod, KUBERNETES)?;
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
        Ok(["-s -w", &set("gitVersion", version), &set("gitMajor", major), &set("gitMinor", minor)].concat())
    }

    fn build(&self, missing: &[&Tool]) -> Result<()> {
        fs::create_dir_all(self.root.join("bin"))?;
        self.check_go(missing)?;
        let lock = File::create(self.root.join("lock"))?;
        if lock.try_lock().is_err() {
            say("waiting for another process that builds programs with Go…");
            lock.lock()?;
        }
        // Another process may have built them while this one waited.
        let missing = self.missing();
        for (index, tool) in missing.iter().enumerate() {
            self.build_one(tool, &format!("{} ({} of {})", tool.name, index + 1, missing.len()))?;
        }
        Ok(())
    }

    fn check_go(&self, missing: &[&Tool]) -> Result<()> {
        let wanted = go_directive(&self.go_mod)?;
        let found = self.go().args(["env", "GOVERSION"]).output();
        let found = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let have = found.as_deref().unwrap_or_default();
        let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
        ensure!(
            release(have.trim_start_matches("go")) >= wanted,
            "missing: {}. Either install Go {}.{} or newer (https://go.dev/dl; found: {}), which builds what is missing, \
             or set KUBEBUILDER_ASSETS to a folder that holds it",
            names.join(", "),
            wanted.0,
            wanted.1,
            if have.is_empty() { "none" } else { have },
        );
        Ok(())
    }

    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.current_dir(&self.module).env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-mod=readonly");
        go
    }

    fn build_one(&self, tool: &Tool, title: &str) -> Result<()> {
        let log = self.root.join(format!("{}.log", tool.name));
        // A build whose parent was killed may still be writing to its own file.
        let unfinished = self.root.join(format!("{}.{}.unfinished", tool.name, std::process::id()));
        let output = File::create(&log)?;
        let mut go = self.go();
        go.args(["build", "-trimpath", "-buildvcs=false", "-tags", tool.tags, "-ldflags", &self.ldflags(tool)?]);
        go.arg("-o").arg(&unfinished).arg(tool.package);
        go.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let status = watch_build(go.spawn().context("starting go")?, title)?;
        if !status.success() {
            bail!("go build of {} failed: {status}\n{}", tool.package, tail(&log));
        }
        // The stamp goes first, so that no moment pairs the new stamp with the old program.
        let _ = fs::remove_file(self.stamp_path(tool));
        fs::rename(unfinished, self.built(tool))?;
        Ok(fs::write(self.stamp_path(tool), self.stamp(tool)?)?)
    }
}

fn watch_build(mut go: Child, title: &str) -> Result<ExitStatus> {
    let start = Instant::now();
    let mut said = Duration::ZERO;
    say(&format!("building {title}, a few minutes the first time…"));
    loop {
        if let Some(status) = go.try_wait()? {
            say(&format!("building {title}: {}s, {status}", start.elapsed().as_secs()));
            return Ok(status);
        }
        if start.elapsed() >= said + Duration::from_secs(15) {
            said = start.elapsed();
            say(&format!("building {title}, {}s so far…", said.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn say(line: &str) {
    // Not eprintln!, which the test harness would swallow.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn pinned<'a>(go_mod: &'a str, module: &str) -> Result<&'a str> {
    let version = |line: &'a str| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix(module)?.strip_prefix(" v")?;
        line.split_whitespace().nth(1)
    };
    go_mod.lines().find_map(version).with_context(|| format!("go.mod does not pin {module}"))
}

fn go_directive(go_mod: &str) -> Result<(u32, u32)> {
    let line = go_mod.lines().find_map(|line| line.strip_prefix("go "));
    line.map(release).context("go.mod names no Go version")
}

fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module x\n\ngo 1.26.0\n\nreplace k8s.io/api => k8s.io/api v0.36.3\n\nrequire (\n\
        \tk8s.io/kubernetes v1.36.3 // indirect\n\tgo.etcd.io/etcd/server/v3 v3.7.3 // indirect\n)\n";

    #[test]
    fn reads_the_pinned_versions() {
        assert_eq!(pinned(GO_MOD, KUBERNETES).unwrap(), "v1.36.3");
        assert_eq!(pinned(GO_MOD, "go.etcd.io/etcd/server/v3").unwrap(), "v3.7.3");
        assert!(pinned(GO_MOD, "k8s.io/kube").is_err());
    }

    #[test]
    fn compares_go_versions() {
        assert_eq!(go_directive(GO_MOD).unwrap(), (1, 26));
        assert!(release("1.9.7") < release("1.26.8"));
        assert!(release("") < release("1.26.8"));
    }

    #[test]
    fn the_shipped_modules_pin_every_tool() {
        for module in [CONTROL_PLANE, NODE, PROMTOOL, PROMETHEUS, HELM, KREW] {
            let place = Place::new(module).unwrap();
            assert!(module.tools.iter().all(|tool| place.stamp(tool).is_ok()), "{}", module.folder);
        }
    }
}
