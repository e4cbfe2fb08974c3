//! Images made in memory: layers in any compression, manifests of both families, indexes.

use std::collections::HashMap;
use std::io::Write as _;

use sha2::{Digest as _, Sha256};

use super::tar::Tar;

pub fn sha(bytes: &[u8]) -> String {
    format!("sha256:{}", spec::digest::hex(&Sha256::digest(bytes)))
}

#[derive(Clone, Copy, PartialEq)]
pub enum Pack {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub digest: String,
    pub diff_id: String,
    pub pack: Pack,
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

impl Layer {
    pub fn new(tar: Tar, pack: Pack) -> Self {
        Self::of(&tar.finish(), pack)
    }

    pub fn of(content: &[u8], pack: Pack) -> Self {
        let blob = match pack {
            Pack::Plain => content.to_vec(),
            Pack::Gzip => gzip(content),
            Pack::Zstd => zstd::encode_all(content, 1).unwrap(),
        };
        Self {
            digest: sha(&blob),
            diff_id: sha(content),
            blob,
            pack,
        }
    }

    fn media_type(&self, docker: bool) -> &'static str {
        match (docker, self.pack) {
            (true, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (false, Pack::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (false, Pack::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (false, Pack::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

pub const ARCH: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// An image and all its parts.
#[derive(Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
    pub manifest: Vec<u8>,
    pub docker: bool,
}

impl Image {
    pub fn new(layers: Vec<Layer>, docker: bool) -> Self {
        Self::with_config(layers, docker, r#"{"Cmd":["/bin/x"],"Env":["A=B"]}"#)
    }

    pub fn with_config(layers: Vec<Layer>, docker: bool, config: &str) -> Self {
        let ids: Vec<String> = layers.iter().map(|l| format!("{:?}", l.diff_id)).collect();
        let config = format!(
            r#"{{"architecture":"{ARCH}","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        )
        .into_bytes();
        let mut image = Self {
            config,
            layers,
            manifest: Vec::new(),
            docker,
        };
        image.manifest = image.make_manifest();
        image
    }

    pub fn make_manifest(&self) -> Vec<u8> {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|l| {
                format!(
                    r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
                    l.media_type(self.docker),
                    l.digest,
                    l.blob.len()
                )
            })
            .collect();
        let config_type = if self.docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{config_type}","digest":"{}","size":{}}},"layers":[{}]}}"#,
            self.media_type(),
            sha(&self.config),
            self.config.len(),
            layers.join(",")
        )
        .into_bytes()
    }

    pub fn media_type(&self) -> &'static str {
        if self.docker {
            "application/vnd.docker.distribution.manifest.v2+json"
        } else {
            "application/vnd.oci.image.manifest.v1+json"
        }
    }

    pub fn digest(&self) -> String {
        sha(&self.manifest)
    }

    pub fn id(&self) -> String {
        sha(&self.config)
    }

    /// An index of this image between others that do not run here.
    pub fn index(&self) -> Vec<u8> {
        let other = "a".repeat(64);
        let kind = if self.docker {
            "application/vnd.docker.distribution.manifest.list.v2+json"
        } else {
            "application/vnd.oci.image.index.v1+json"
        };
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[
            {{"mediaType":"{0}","digest":"sha256:{other}","size":10,"platform":{{"os":"linux","architecture":"s390x"}}}},
            {{"mediaType":"{0}","digest":"sha256:{other}","size":10,"platform":{{"os":"unknown","architecture":"unknown"}}}},
            {{"mediaType":"{0}","digest":"{1}","size":{2},"platform":{{"os":"linux","architecture":"{ARCH}"}}}}]}}"#,
            self.media_type(),
            self.digest(),
            self.manifest.len()
        )
        .into_bytes()
    }
}

/// What a registry holds, by path below `/v2/`.
#[derive(Clone, Default)]
pub struct Content {
    pub objects: HashMap<String, (String, Vec<u8>)>,
}

impl Content {
    /// Adds an image with all its parts under a tag.
    pub fn push(&mut self, repository: &str, tag: &str, image: &Image) {
        let mut manifest = |name: &str, kind: &str, bytes: &[u8]| {
            self.objects.insert(
                format!("{repository}/manifests/{name}"),
                (kind.to_owned(), bytes.to_vec()),
            );
        };
        manifest(tag, image.media_type(), &image.manifest);
        manifest(&image.digest(), image.media_type(), &image.manifest);
        self.blob(repository, &sha(&image.config), &image.config);
        for layer in &image.layers {
            self.blob(repository, &layer.digest, &layer.blob);
        }
    }

    /// Adds an image behind an index under a tag.
    pub fn push_index(&mut self, repository: &str, tag: &str, image: &Image) {
        self.push(repository, "direct", image);
        let index = image.index();
        let kind = if image.docker {
            "application/vnd.docker.distribution.manifest.list.v2+json"
        } else {
            "application/vnd.oci.image.index.v1+json"
        };
        for name in [tag.to_owned(), sha(&index)] {
            self.objects.insert(
                format!("{repository}/manifests/{name}"),
                (kind.to_owned(), index.clone()),
            );
        }
    }

    pub fn blob(&mut self, repository: &str, digest: &str, bytes: &[u8]) {
        self.objects.insert(
            format!("{repository}/blobs/{digest}"),
            ("application/octet-stream".into(), bytes.to_vec()),
        );
    }
}

/// A few files that tell layers apart.
pub fn small(name: &str, text: &str) -> Tar {
    Tar::new().dir("etc").file(&format!("etc/{name}"), text.as_bytes())
}

/// Bytes that do not compress.
pub fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend(seed.to_le_bytes());
    }
    out.truncate(len);
    out
}
