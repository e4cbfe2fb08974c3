//! Manifests, indexes and image configurations, parsed with suspicion.
//!
//! Every digest is checked for its form while it is parsed, so that no text from the wire ever
//! becomes a path or an URL (CVE-2024-3727). A document that could be read both as an index
//! and as a manifest is refused (CVE-2021-41190). `urls` of foreign layers are not even
//! parsed: nothing fetches them (CVE-2020-15157).

use serde::Deserialize;
use spec::image::ImageConfiguration;
use spec::{Digest, Kind};

use crate::error::Error;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What a request for a manifest says that it takes.
pub(crate) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json";

/// More layers than overlayfs can stack (`OVL_MAX_STACK` is 500).
const MAX_LAYERS: usize = 500;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// One of the two documents a manifest request can answer.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, what)
}

/// Reads a document whose bytes were verified already.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Error> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| {
        Error::caused(
            Kind::InvalidArgument,
            "the manifest is not what an image manifest looks like",
            e,
        )
    })?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(bad(
            "a docker schema 1 manifest, which is obsolete and is not supported: push the image again",
        ));
    }
    let known = |t: &&str| [DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX].contains(t);
    let content_type = content_type
        .map(|t| t.split(';').next().unwrap_or(t).trim())
        .filter(known);
    let media_type = raw.media_type.as_deref();
    if let (Some(said), Some(written)) = (content_type, media_type)
        && said != written
    {
        return Err(bad(format!(
            "the manifest calls itself {written:?}, the registry calls it {said:?}"
        )));
    }
    let kind = media_type.or(content_type);
    match (raw.manifests, raw.config, raw.layers) {
        (Some(_), _, Some(_)) | (Some(_), Some(_), _) => {
            Err(bad("the document is an index and a manifest at once (CVE-2021-41190)"))
        }
        (Some(manifests), None, None) => {
            if kind.is_some_and(|k| k != DOCKER_INDEX && k != OCI_INDEX) {
                return Err(bad(format!("the document is an index, but of type {kind:?}")));
            }
            Ok(Document::Index(manifests))
        }
        (None, Some(config), Some(layers)) => {
            if kind.is_some_and(|k| k != DOCKER_MANIFEST && k != OCI_MANIFEST) {
                return Err(bad(format!("the document is a manifest, but of type {kind:?}")));
            }
            if layers.len() > MAX_LAYERS {
                return Err(bad(format!(
                    "the manifest has {} layers; at most {MAX_LAYERS} can be stacked",
                    layers.len()
                )));
            }
            if !config.media_type.is_empty() && config.media_type != DOCKER_CONFIG && config.media_type != OCI_CONFIG {
                return Err(bad(format!(
                    "an artifact of type {:?}, not a container image",
                    config.media_type
                )));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        _ => Err(bad("the document has neither manifests nor a config with layers")),
    }
}

/// This host's architecture in the words of Go and of OCI.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The entry of an index that runs on this host.
pub(crate) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, Error> {
    let wanted = architecture();
    let mut matching = entries.iter().filter(|entry| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == wanted)
    });
    let first = matching.next();
    // Plain amd64 before amd64/v3: every machine runs the first.
    let plain = entries.iter().find(|entry| {
        entry.platform.as_ref().is_some_and(|p| {
            p.os == "linux" && p.architecture == wanted && matches!(p.variant.as_str(), "" | "v1" | "v8")
        })
    });
    if let Some(found) = plain.or(first) {
        return Ok(found);
    }
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let offered: Vec<String> = entries
        .iter()
        .filter_map(|e| e.platform.as_ref())
        .take(20)
        .map(|p| format!("{}/{}", p.os.escape_default(), p.architecture.escape_default()))
        .collect();
    Err(Error::new(
        Kind::NotFound,
        format!(
            "the index has no image for linux/{wanted}; it offers {}",
            offered.join(", ")
        ),
    ))
}

/// Reads a verified image configuration; answers it with its layers' DiffIDs.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<(ImageConfiguration, Vec<Digest>), Error> {
    let config: ImageConfiguration = serde_json::from_slice(bytes)
        .map_err(|e| Error::caused(Kind::InvalidArgument, "the image configuration cannot be read", e))?;
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| {
            id.parse::<Digest>()
                .map_err(|e| Error::caused(Kind::InvalidArgument, "DiffID", e))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if diff_ids.len() != layers {
        return Err(bad(format!(
            "the configuration names {} layers, the manifest {layers}",
            diff_ids.len()
        )));
    }
    let (os, arch) = (config.os().to_string(), config.architecture().to_string());
    if !(os.is_empty() || os == "linux") || !(arch.is_empty() || arch == architecture()) {
        return Err(Error::new(
            Kind::NotFound,
            format!("the image is for {os}/{arch}, this host is linux/{}", architecture()),
        ));
    }
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(c: char) -> String {
        format!(
            r#"{{"mediaType":"x","digest":"sha256:{}","size":3}}"#,
            c.to_string().repeat(64)
        )
    }

    #[test]
    fn an_index_that_is_also_a_manifest_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[{0}],"config":{0},"layers":[{0}]}}"#,
            descriptor('a')
        );
        assert!(
            parse(both.as_bytes(), None)
                .unwrap_err()
                .to_string()
                .contains("CVE-2021-41190")
        );
    }

    #[test]
    fn the_content_type_must_agree() {
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"sha256:{}","size":1}},"layers":[]}}"#,
            "a".repeat(64)
        );
        assert!(matches!(
            parse(manifest.as_bytes(), Some(OCI_MANIFEST)).unwrap(),
            Document::Manifest(_)
        ));
        assert!(matches!(
            parse(manifest.as_bytes(), Some("application/json; charset=x")).unwrap(),
            Document::Manifest(_)
        ));
        assert!(parse(manifest.as_bytes(), Some(DOCKER_MANIFEST)).is_err());
        let lying = manifest.replace(OCI_MANIFEST, OCI_INDEX);
        assert!(parse(lying.as_bytes(), None).is_err());
    }

    #[test]
    fn hostile_digests_and_documents_are_errors_never_panics() {
        let deep = "[".repeat(100_000);
        for digest in ["sha256:../../x", "sha256:", "sha512:aa", "../etc", "sha256:AAAA"] {
            let text = format!(r#"{{"config":{{"digest":"{digest}","size":1}},"layers":[]}}"#);
            assert!(parse(text.as_bytes(), None).is_err(), "{digest}");
        }
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "<html>",
            "{\"layers\":[]}",
            "{\"manifests\":{}}",
            deep.as_str(),
            "{\"schemaVersion\":1}",
        ] {
            assert!(parse(text.as_bytes(), None).is_err());
        }
        let negative = format!(
            r#"{{"config":{{"digest":"sha256:{}","size":-1}},"layers":[]}}"#,
            "a".repeat(64)
        );
        assert!(parse(negative.as_bytes(), None).is_err());
    }

    #[test]
    fn the_platform_of_this_host_is_chosen() {
        let entry = |c: char, os: &str, arch: &str, variant: &str| {
            format!(
                r#"{{"digest":"sha256:{}","size":1,"platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}}}"#,
                c.to_string().repeat(64)
            )
        };
        let own = architecture();
        let index = format!(
            r#"{{"manifests":[{},{},{},{}]}}"#,
            entry('a', "windows", own, ""),
            entry('b', "linux", "s390y", ""),
            entry('c', "linux", own, "v3"),
            entry('d', "linux", own, "")
        );
        let Document::Index(entries) = parse(index.as_bytes(), None).unwrap() else {
            panic!("an index")
        };
        assert_eq!(choose(&entries).unwrap().digest.to_hex(), "d".repeat(64));
        assert_eq!(choose(&entries[..3]).unwrap().digest.to_hex(), "c".repeat(64));
        let error = choose(&entries[..2]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("linux/s390y"), "{error}");
    }

    #[test]
    fn a_config_must_name_every_layer() {
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
            architecture(),
            "b".repeat(64)
        );
        assert_eq!(parse_config(config.as_bytes(), 1).unwrap().1.len(), 1);
        assert!(parse_config(config.as_bytes(), 2).is_err());
        let other = config.replace(architecture(), "s390x");
        assert_eq!(parse_config(other.as_bytes(), 1).unwrap_err().kind(), Kind::NotFound);
    }
}
