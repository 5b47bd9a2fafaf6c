//! Files that the person, the environment or a kubeconfig names.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use kube::config::{Kubeconfig, KubeconfigError};

use crate::args::ClusterArgs;

/// A cluster takes a few KiB in a kubeconfig, with the certificates of its user: this is room for a thousand of them.
const MAX: u64 = 10 << 20;

/// A pipe may never have a writer, a device never ends, and a huge file would fill the memory.
fn check(path: &Path) -> Result<()> {
    let named = || format!("reading {}", path.display());
    let meta = fs::metadata(path).with_context(named)?;
    ensure!(meta.is_file(), "{} is no regular file; save what it holds in one, and name that", path.display());
    ensure!(meta.len() <= MAX, "{} has more than {} MiB; name another file", path.display(), MAX >> 20);
    Ok(())
}

pub fn read(path: &Path) -> Result<String> {
    check(path)?;
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The text of a pipe or file that may end late or never. Bytes that are no text are replaced.
pub fn capped(from: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX + 1).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
    ensure!(bytes.len() as u64 <= MAX, "{name} has more than {} MiB; name another file", MAX >> 20);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub fn kubeconfig(path: &Path) -> Result<Kubeconfig> {
    check(path)?;
    Kubeconfig::read_from(path).map_err(concealed).with_context(|| format!("reading {}", path.display()))
}

/// The kubeconfig that kubectl would read with these flags, if there is one.
pub fn chosen(args: &ClusterArgs) -> Result<Option<Kubeconfig>> {
    args.kubeconfig.as_ref().map_or_else(|| merged(&usual()), |path| kubeconfig(path).map(Some))
}

/// The files of `KUBECONFIG`, else `~/.kube/config`.
fn usual() -> Vec<PathBuf> {
    let named = env::var_os("KUBECONFIG").unwrap_or_default();
    let named: Vec<PathBuf> = env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
    let home = || env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect();
    if named.is_empty() { home() } else { named }
}

/// Those of the files that are there, as kubectl takes them.
fn merged(paths: &[PathBuf]) -> Result<Option<Kubeconfig>> {
    let mut there = paths.iter().filter(|path| path.try_exists().unwrap_or(true));
    there.try_fold(None, |merged: Option<Kubeconfig>, path| {
        let next = kubeconfig(path)?;
        Ok(Some(merged.unwrap_or_default().merge(next)?))
    })
}

/// Where a file is wrong. The parser's own words quote the file, which may hold a token.
pub fn unquoted(why: &serde_saphyr::Error) -> anyhow::Error {
    let place = why.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    anyhow!("the YAML is not as expected{}", place.unwrap_or_default())
}

/// An error about a kubeconfig, without the text of the file.
fn concealed(why: KubeconfigError) -> anyhow::Error {
    match why {
        KubeconfigError::Parse(why) => unquoted(&why),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("kubectl-tokenward-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_never_ends_or_is_huge_is_not_read() {
        let folder = folder("endless");
        let huge = folder.join("huge");
        File::create(&huge).unwrap().set_len(MAX + 1).unwrap();
        for (path, words) in [
            (Path::new("/dev/zero"), "is no regular file"),
            (&folder, "is no regular file"),
            (&huge, "has more than 10 MiB"),
            (&folder.join("none"), "reading "),
        ] {
            let errors = [read(path).unwrap_err(), kubeconfig(path).unwrap_err()];
            assert!(errors.iter().all(|why| why.to_string().contains(words)), "{errors:?}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_pipe_that_never_ends_is_read_up_to_a_limit() {
        assert_eq!(capped(&b"a\xff"[..], "x").unwrap(), "a\u{fffd}");
        let why = capped(std::io::repeat(0), "standard input").unwrap_err().to_string();
        assert_eq!(why, "standard input has more than 10 MiB; name another file");
    }

    #[test]
    fn files_that_are_there_are_merged_and_none_is_quoted() {
        let folder = folder("merged");
        let (one, two, broken) = (folder.join("one"), folder.join("two"), folder.join("broken"));
        fs::write(&one, "current-context: one").unwrap();
        fs::write(&two, "current-context: two\nusers: [{name: u, user: {token: t}}]").unwrap();
        fs::write(&broken, "users: [{name: u, user: hidden-text}]").unwrap();
        let none = folder.join("none");
        let found = merged(&[none.clone(), one, two.clone()]).unwrap().unwrap();
        assert_eq!((found.current_context.as_deref(), found.auth_infos.len()), (Some("one"), 1));
        assert!(merged(&[none]).unwrap().is_none());
        let why = format!("{:#}", merged(&[two, broken]).unwrap_err());
        assert!(why.contains("broken: the YAML is not as expected at line 1") && !why.contains("hidden"), "{why}");
        fs::remove_dir_all(folder).unwrap();
    }
}
