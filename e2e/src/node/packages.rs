//! containerd, runc and the network plugins, from the Debian packages of this machine's release, unpacked and not installed.

use super::dir;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 3] = ["containerd", "containernetworking-plugins", "runc"];

/// Where they are unpacked.
pub struct Packages(PathBuf);

impl Packages {
    /// Finds them, or downloads and unpacks them.
    ///
    /// # Errors
    /// When there is no archive that has them.
    pub fn find() -> Result<Self> {
        let packages = Self(dir().join("packages"));
        let done = packages.0.join("done");
        if !done.exists() {
            fs::create_dir_all(packages.0.join("lists/partial"))?;
            fs::create_dir_all(packages.0.join("cache/archives/partial"))?;
            packages.apt(&["update"])?;
            packages.apt(&[&["download"], &PACKAGES[..]].concat())?;
            packages.unpack()?;
            fs::write(done, "")?;
        }
        Ok(packages)
    }

    /// A file of the packages, for example `usr/bin/containerd`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join("root").join(name)
    }

    /// apt with lists and a cache of its own, so that the machine's stay as they are.
    fn apt(&self, args: &[&str]) -> Result<()> {
        let lists = format!("Dir::State::lists={}", self.0.join("lists").display());
        let cache = format!("Dir::Cache={}", self.0.join("cache").display());
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet=2", "-o", &lists, "-o", &cache, "-o", "APT::Sandbox::User=root"]).args(args);
        run(apt.current_dir(&self.0))
    }

    fn unpack(&self) -> Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(self.0.join("root")))?;
            }
        }
        Ok(())
    }
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(())
}

/// The libraries that a program needs, with the loader, as absolute paths.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", program.display(), output.status);
    let told = String::from_utf8(output.stdout)?;
    Ok(told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
