//! OCI images of one layer, written without a container engine.
//! <https://github.com/opencontainers/image-spec/blob/main/spec.md>

use crate::workspace_dir;
use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

/// The name of the operator's image, as `config/manager` has it.
pub const NAME: &str = concat!("tokenward:v", env!("CARGO_PKG_VERSION"));

/// A file of an image.
pub struct File {
    /// Where it is, without the leading slash.
    pub path: String,
    /// What it holds.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// An image.
pub struct Image {
    /// `name:tag`, of Docker Hub's library where it names no registry, as every engine takes it.
    pub name: String,
    /// `uid:gid`
    pub user: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Everything in it.
    pub files: Vec<File>,
}

impl Image {
    /// The operator's image with this binary, the same that `Containerfile` describes.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn operator(binary: &Path) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let file = |path: &str, content, mode| File { path: path.to_owned(), content, mode };
        let image = workspace_dir().join("image");
        let files = vec![
            file("etc/passwd", read(&image.join("passwd"))?, 0o644),
            file("etc/group", read(&image.join("group"))?, 0o644),
            file("tokenward", read(binary)?, 0o755),
        ];
        Ok(Self { name: NAME.into(), user: "65532:65532".into(), entrypoint: vec!["/tokenward".into()], files })
    }

    /// The image as an archive that engines load, and its digest in every registry. Without times and other chance: equal
    /// contents have equal archives.
    ///
    /// # Errors
    /// When it does not fit into an archive.
    pub fn archive(&self) -> Result<(Vec<u8>, String)> {
        let layer = tar(&self.files)?;
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
        gzip.write_all(&layer)?;
        let packed = Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish()?);
        let config = Blob::json("application/vnd.oci.image.config.v1+json", &self.config(&digest(&layer)));
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
            "layers": [packed.descriptor()]});
        let manifest = Blob::json(MANIFEST, &manifest);
        let digest = digest(&manifest.content);
        let mut entry = manifest.descriptor();
        let (_, tag) = self.name.rsplit_once(':').context("the image's name has no tag")?;
        entry["annotations"] =
            json!({"io.containerd.image.name": self.full_name(), "org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        let file =
            |path: &str, value: Value| File { path: path.into(), content: value.to_string().into(), mode: 0o644 };
        let head = [file("oci-layout", json!({"imageLayoutVersion": "1.0.0"})), file("index.json", index)];
        let files: Vec<File> = head.into_iter().chain([config, manifest, packed].map(Blob::file)).collect();
        Ok((tar(&files)?, digest))
    }

    fn full_name(&self) -> String {
        if self.name.contains('/') { self.name.clone() } else { format!("docker.io/library/{}", self.name) }
    }

    fn config(&self, layer: &str) -> Value {
        json!({"architecture": architecture(), "os": "linux",
            "config": {"User": self.user, "Entrypoint": self.entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [layer]}})
    }
}

/// The architecture of this machine, as Go and OCI name it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Blob {
    media_type: &'static str,
    content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        Self { media_type, content }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into())
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": digest(&self.content), "size": self.content.len()})
    }

    fn file(self) -> File {
        let path = format!("blobs/{}", digest(&self.content).replace(':', "/"));
        File { path, content: self.content, mode: 0o644 }
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

/// The SHA-256 of this, in hexadecimal digits.
#[must_use]
pub fn sha256(content: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, content);
    hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// An archive of these files, without owners and times.
///
/// # Errors
/// When one does not fit.
pub fn tar(files: &[File]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for File { path, content, mode } in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len().try_into()?);
        header.set_mode(*mode);
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image::operator(&workspace_dir().join("Cargo.toml")).unwrap()
    }

    fn text_of(archive: &[u8], path: &str) -> String {
        let mut archive = tar::Archive::new(archive);
        let mut entry =
            archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap() == Path::new(path));
        let mut text = String::new();
        std::io::Read::read_to_string(entry.as_mut().unwrap(), &mut text).unwrap();
        text
    }

    fn containerfile() -> String {
        fs::read_to_string(workspace_dir().join("Containerfile")).unwrap()
    }

    #[test]
    fn equal_contents_have_equal_archives() {
        let mut other = image();
        assert_eq!(image().archive().unwrap(), other.archive().unwrap());
        other.files[2].content.push(b'\n');
        assert_ne!(image().archive().unwrap(), other.archive().unwrap());
    }

    #[test]
    fn every_blob_has_the_digest_of_its_name_and_is_named() {
        let (archive, manifest) = image().archive().unwrap();
        assert!(text_of(&archive, "index.json").contains(&manifest));
        let mut found = 0;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&content), format!("sha256:{name}"));
                found += 1;
            }
        }
        assert_eq!(found, 3, "config, manifest and layer");
    }

    #[test]
    fn is_what_the_containerfile_says() {
        let (image, text) = (image(), containerfile());
        assert!(text.contains(&format!("\nUSER {}\n", image.user)));
        assert!(text.contains(&format!("\nENTRYPOINT {}\n", json!(image.entrypoint))));
        let last = text.split("FROM scratch\n").nth(1).unwrap();
        let copied: Vec<&str> = last.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
        let binary = "--from=build --chmod=755 /src/target/release/tokenward /tokenward";
        assert_eq!(copied, ["image/passwd image/group /etc/", binary]);
        let paths: Vec<&str> = image.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["etc/passwd", "etc/group", "tokenward"]);
    }

    #[test]
    fn is_named_and_run_as_the_deployment_says() {
        let deployment = fs::read_to_string(workspace_dir().join("config/manager/deployment.yaml")).unwrap();
        assert!(deployment.contains(&format!("image: {NAME}\n")));
        let user = image().user;
        let (uid, gid) = user.split_once(':').unwrap();
        assert!(deployment.contains(&format!("runAsUser: {uid}\n")));
        assert!(deployment.contains(&format!("runAsGroup: {gid}\n")));
    }
}
