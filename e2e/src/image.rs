//! Makes images and writes them in the storage layout of docker-registry (`distribution`
//! 2.x, filesystem driver), so that a registry started on that directory serves them: no
//! push, no second client.
//!
//! `blobs/sha256/ab/<hex>/data` holds every blob and manifest; a repository holds links:
//! `_layers/sha256/<hex>/link`, `_manifests/revisions/sha256/<hex>/link`,
//! `_manifests/tags/<tag>/current/link`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    Plain,
    /// gzip.
    Gzip,
    /// zstd (OCI only).
    Zstd,
}

/// Which family of media types a manifest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// `application/vnd.oci.image.*`
    Oci,
    /// `application/vnd.docker.*`, schema 2.
    Docker,
}

/// A layer, ready to be stored.
#[derive(Debug, Clone)]
pub struct Layer {
    bytes: Vec<u8>,
    diff_id: String,
    compression: Compression,
}

impl Layer {
    /// Compresses an archive.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub fn new(archive: &[u8], compression: Compression) -> Result<Self> {
        let bytes = match compression {
            Compression::Plain => archive.to_vec(),
            Compression::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                gzip.write_all(archive)?;
                gzip.finish()?
            }
            Compression::Zstd => zstd::encode_all(archive, 3)?,
        };
        Ok(Self {
            bytes,
            diff_id: digest(archive),
            compression,
        })
    }

    /// A layer whose bytes are what they are, whatever `diff_id` says.
    #[must_use]
    pub fn raw(bytes: Vec<u8>, diff_id: String, compression: Compression) -> Self {
        Self {
            bytes,
            diff_id,
            compression,
        }
    }

    /// The same layer cut in half on its way.
    #[must_use]
    pub fn truncated(mut self) -> Self {
        self.bytes.truncate(self.bytes.len() / 2);
        self
    }

    /// The digest of the archive.
    #[must_use]
    pub fn diff_id(&self) -> &str {
        &self.diff_id
    }

    fn media_type(&self, flavor: Flavor) -> &'static str {
        match (flavor, self.compression) {
            (Flavor::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Flavor::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (_, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Flavor::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Flavor::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Image {
    /// Media types.
    pub flavor: Flavor,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// The `config` object of the image configuration (Cmd, Env, User, …).
    pub config: Value,
}

/// `sha256:<hex>` of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A registry's storage directory.
#[derive(Debug, Clone)]
pub struct Storage {
    root: PathBuf,
}

/// What [`Storage::put`] stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the configuration: the image's id.
    pub config: String,
    /// Length of the manifest.
    pub size: usize,
    /// Media type of the manifest.
    pub media_type: &'static str,
}

impl Storage {
    /// The storage in `root` (docker-registry's `rootdirectory`).
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn base(&self) -> PathBuf {
        self.root.join("docker/registry/v2")
    }

    /// Stores an image under `repository:tag`.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) -> Result<Stored> {
        let (config_type, manifest_type) = match image.flavor {
            Flavor::Oci => (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
            ),
            Flavor::Docker => (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            ),
        };
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": image.layers.iter().map(Layer::diff_id).collect::<Vec<_>>()},
            "history": image.layers.iter().map(|_| json!({"created_by": "e2e"})).collect::<Vec<_>>(),
        }))?;
        let config_digest = self.put_layer(repository, &config)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let digest = self.put_layer(repository, &layer.bytes)?;
            layers.push(
                json!({"mediaType": layer.media_type(image.flavor), "digest": digest, "size": layer.bytes.len()}),
            );
        }
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
            "layers": layers,
        }))?;
        let digest = self.put_manifest(repository, Some(tag), &manifest)?;
        Ok(Stored {
            manifest: digest,
            config: config_digest,
            size: manifest.len(),
            media_type: manifest_type,
        })
    }

    /// Stores an index whose entries are `(manifest, architecture)`; answers its digest.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn put_index(
        &self,
        repository: &str,
        tag: &str,
        flavor: Flavor,
        entries: &[(&Stored, &str)],
    ) -> Result<String> {
        let media_type = match flavor {
            Flavor::Oci => "application/vnd.oci.image.index.v1+json",
            Flavor::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        let manifests: Vec<Value> = entries
            .iter()
            .map(|(stored, architecture)| {
                json!({"mediaType": stored.media_type, "digest": stored.manifest, "size": stored.size,
                       "platform": {"architecture": architecture, "os": "linux"}})
            })
            .collect();
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}))?;
        self.put_manifest(repository, Some(tag), &index)
    }

    /// Stores a manifest as it is, with a tag or reachable by digest only.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, manifest: &[u8]) -> Result<String> {
        let digest = self.put_blob(manifest)?;
        let manifests = self.base().join("repositories").join(repository).join("_manifests");
        let hex = digest.trim_start_matches("sha256:");
        write(
            &manifests.join("revisions/sha256").join(hex).join("link"),
            digest.as_bytes(),
        )?;
        if let Some(tag) = tag {
            let tag = manifests.join("tags").join(tag);
            write(&tag.join("current/link"), digest.as_bytes())?;
            write(&tag.join("index/sha256").join(hex).join("link"), digest.as_bytes())?;
        }
        Ok(digest)
    }

    /// Stores a blob and links it into a repository.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn put_layer(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = self.put_blob(bytes)?;
        let hex = digest.trim_start_matches("sha256:");
        write(
            &self
                .base()
                .join("repositories")
                .join(repository)
                .join("_layers/sha256")
                .join(hex)
                .join("link"),
            digest.as_bytes(),
        )?;
        Ok(digest)
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        write(&self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.base().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// The bytes of a blob or manifest by digest.
    ///
    /// # Errors
    /// Where there is none.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The digest that a tag stands for.
    ///
    /// # Errors
    /// Where there is no such tag.
    pub fn tag(&self, repository: &str, tag: &str) -> Result<String> {
        let path = self
            .base()
            .join("repositories")
            .join(repository)
            .join("_manifests/tags")
            .join(tag)
            .join("current/link");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().context("a path without parent")?;
    fs::create_dir_all(parent)?;
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
