//! Commands as a person types them: what is shown is what runs.

use crate::screen::Screen;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokenward_e2e::{Cluster, workspace_dir};
use tokio::process::Command;

/// Lines of a command's output that are shown.
const LINES: usize = 12;
/// How every token starts; none may reach the screen.
const TOKEN: &str = "eyJ";

/// `sh` with kubectl and the cluster's kubeconfig, in the root of the repository.
#[derive(Clone)]
pub struct Shell {
    screen: Screen,
    path: OsString,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Shell {
    /// A shell of the administrator of this cluster.
    pub fn new(screen: &Screen, cluster: &Cluster) -> Result<Self> {
        // kubectl is typed without its folder, which is none when the `PATH` has it.
        let folder = cluster.kubectl_path().parent().filter(|folder| folder.is_absolute());
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folder.map(Path::to_owned).into_iter().chain(std::env::split_paths(&others)))?;
        let cache = cluster.dir().join("kubectl-cache");
        Ok(Self { screen: screen.clone(), path, kubeconfig: cluster.kubeconfig(), cache })
    }

    /// Where its commands are shown.
    pub fn screen(&self) -> &Screen {
        &self.screen
    }

    /// The same shell for details, which a brief demo does not show.
    pub fn details(&self) -> Self {
        Self { screen: self.screen.details(), ..self.clone() }
    }

    /// Shows and runs a command that must succeed; returns what it printed.
    pub async fn run(&self, command: &str) -> Result<String> {
        self.run_shortened(command, LINES).await
    }

    /// As [`Shell::run`], showing at most so many lines.
    pub async fn run_shortened(&self, command: &str, lines: usize) -> Result<String> {
        let (succeeded, text) = self.show(command, lines).await?;
        ensure!(succeeded, "this command failed: {command}");
        Ok(text)
    }

    /// Shows and runs a command that the API server must refuse with these words.
    pub async fn refused(&self, command: &str, words: &str) -> Result<()> {
        let (succeeded, text) = self.show(command, LINES).await?;
        ensure!(!succeeded && text.contains(words), "not refused with \"{words}\": {command}");
        Ok(())
    }

    async fn show(&self, command: &str, lines: usize) -> Result<(bool, String)> {
        self.screen.command(command);
        let mut shell = Command::new("sh");
        shell.args(["-ec", command]).current_dir(workspace_dir()).stdin(Stdio::null()).kill_on_drop(true);
        shell.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig);
        shell.env("KUBERC", "off").env("KUBECACHEDIR", &self.cache);
        let output = shell.output().await.context("starting sh")?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if text.contains(TOKEN) {
            bail!("a token would have been printed by: {command}");
        }
        self.screen.output(&text, lines);
        Ok((output.status.success(), text))
    }
}

/// A path as it is typed in the root of the repository.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(workspace_dir()).unwrap_or(path).display().to_string()
}
