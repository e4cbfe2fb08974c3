//! Images by id and by name, as one immutable value that readers share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use spec::image::ImageConfiguration;
use spec::{Digest, ImageId, Kind};

use crate::error::Error;
use crate::reference::Reference;
use crate::store::db::Record;
use crate::store::fixups::Fixup;

/// An image that is there, whole.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its configuration.
    pub id: ImageId,
    /// `domain/path:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `domain/path@digest` of what the registry calls it (index or manifest), sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk, layers that other images share included.
    pub size: u64,
    /// The OCI configuration: entrypoint, user, environment, labels, …
    pub config: ImageConfiguration,
    /// The configuration as it came.
    pub raw_config: Arc<[u8]>,
    /// The platform's manifest as it came.
    pub manifest: Arc<[u8]>,
    /// Its digest.
    pub manifest_digest: Digest,
    /// Not to be collected as garbage.
    pub pinned: bool,
    /// When it was pulled first, nanoseconds since the epoch.
    pub pulled_ns: i64,
    /// DiffIDs, bottom first.
    pub chain: Arc<[Digest]>,
    pub(crate) fixups: Arc<[Fixup]>,
}

/// All images at one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Catalog {
    pub(crate) images: BTreeMap<ImageId, Arc<Image>>,
    pub(crate) names: HashMap<String, ImageId>,
}

impl Catalog {
    /// Adds an image without names.
    pub(crate) fn insert(&mut self, record: &Record) -> Result<(), Error> {
        let bad = |e| Error::caused(Kind::DataLoss, format!("stored image {}", record.id), e);
        let config = serde_json::from_slice(&record.config).map_err(bad)?;
        let fixups: Vec<Fixup> = serde_json::from_str(&record.fixups).map_err(bad)?;
        let image = Image {
            id: record.id.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: record.size,
            config,
            raw_config: record.config.clone().into(),
            manifest: record.manifest.clone().into(),
            manifest_digest: record.manifest_digest,
            pinned: false,
            pulled_ns: record.pulled_ns,
            chain: record.chain.clone().into(),
            fixups: fixups.into(),
        };
        self.images.insert(record.id.clone(), Arc::new(image));
        Ok(())
    }

    /// Moves names to an image; then [`Self::refresh`] what changed.
    pub(crate) fn name(&mut self, id: &ImageId, names: &[String], pinned: &HashSet<String>) {
        let mut touched: HashSet<ImageId> = HashSet::from([id.clone()]);
        for name in names {
            touched.extend(self.names.insert(name.clone(), id.clone()));
        }
        for id in touched {
            self.refresh(&id, pinned);
        }
    }

    fn refresh(&mut self, id: &ImageId, pinned: &HashSet<String>) {
        let Some(image) = self.images.get(id) else { return };
        let mut image = Image::clone(image);
        let mut names: Vec<&String> = self
            .names
            .iter()
            .filter(|(_, of)| *of == id)
            .map(|(name, _)| name)
            .collect();
        names.sort();
        image.pinned = names.iter().any(|name| pinned.contains(*name));
        (image.repo_digests, image.repo_tags) = names.into_iter().cloned().partition(|name| name.contains('@'));
        self.images.insert(id.clone(), Arc::new(image));
    }

    pub(crate) fn remove(&mut self, id: &ImageId) {
        self.images.remove(id);
        self.names.retain(|_, of| of != id);
    }

    /// The layers of all images.
    pub(crate) fn layers(&self) -> HashSet<Digest> {
        self.images
            .values()
            .flat_map(|image| image.chain.iter().copied())
            .collect()
    }

    /// The layers of all images but one.
    pub(crate) fn layers_without(&self, id: &ImageId) -> HashSet<Digest> {
        self.images
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, image)| image.chain.iter().copied())
            .collect()
    }

    /// By id, `sha256:id`, name, digest reference, or at least three digits of an id.
    pub(crate) fn resolve(&self, text: &str) -> Result<Option<Arc<Image>>, Error> {
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = ImageId::parse(bare) {
            return Ok(self.images.get(&id).cloned());
        }
        let hex = bare.len() >= 3 && bare.len() < 64 && bare.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let named = if bare.len() == text.len() {
            Reference::parse(text)
        } else {
            Err(Error::new(
                Kind::InvalidArgument,
                format!("image id {text:?} is no sha256 digest"),
            ))
        };
        match &named {
            Ok(reference) => {
                let name = match reference.digest() {
                    Some(digest) => reference.with_digest(digest),
                    None => reference.to_string(),
                };
                if let Some(id) = self.names.get(&name) {
                    return Ok(self.images.get(id).cloned());
                }
            }
            Err(error) if !hex => return Err(error.clone()),
            Err(_) => {}
        }
        if !hex {
            return Ok(None);
        }
        let Ok(first) = ImageId::parse(&format!("{bare:0<64}")) else {
            return Ok(None);
        };
        let mut matching = self
            .images
            .range(first..)
            .take_while(|(id, _)| id.as_str().starts_with(bare));
        let found = matching.next().map(|(_, image)| Arc::clone(image));
        if matching.next().is_some() {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("{text:?} begins the ids of several images: give more digits"),
            ));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (start, names) in [
            (
                "abc1",
                vec!["docker.io/library/one:latest", "docker.io/library/one@sha256:X"],
            ),
            ("abc2", vec!["docker.io/library/fee:1"]),
        ] {
            let id = ImageId::parse(&format!("{start:0<64}")).unwrap();
            let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
            let record = Record {
                id: id.clone(),
                config: config.as_bytes().to_vec(),
                manifest: Vec::new(),
                manifest_digest: crate::content::sha256(b""),
                size: 1,
                pulled_ns: 0,
                fixups: "[]".into(),
                chain: Vec::new(),
            };
            catalog.insert(&record).unwrap();
            let names: Vec<String> = names.iter().map(|n| n.replace('X', &"d".repeat(64))).collect();
            catalog.name(&id, &names, &HashSet::from(["docker.io/library/fee:1".to_owned()]));
        }
        catalog
    }

    #[test]
    fn every_way_to_name_an_image() {
        let catalog = catalog();
        let full = format!("{:0<64}", "abc1");
        let digest = format!("one@sha256:{}", "d".repeat(64));
        let both = format!("one:whatever@sha256:{}", "d".repeat(64));
        for name in [
            "one",
            "one:latest",
            "docker.io/one",
            "library/one",
            &full,
            &format!("sha256:{full}"),
            "abc1",
            "sha256:abc1",
            &digest,
            &both,
        ] {
            assert_eq!(catalog.resolve(name).unwrap().expect(name).id.as_str(), full, "{name}");
        }
        // A name wins over digits that would begin an id.
        assert_eq!(
            catalog.resolve("fee:1").unwrap().unwrap().id.as_str(),
            format!("{:0<64}", "abc2")
        );
        for none in ["two", "ab", "def", "abc3", &"e".repeat(64), "fee", "one:1"] {
            assert!(catalog.resolve(none).unwrap().is_none(), "{none}");
        }
        assert!(catalog.resolve("abc").unwrap_err().to_string().contains("several"));
        for bad in ["", "UPPER", "a b", "sha256:xyz", "a:b:c"] {
            assert_eq!(
                catalog.resolve(bad).map(|_| ()).map_err(|e| e.kind()),
                Err(Kind::InvalidArgument),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_tag_that_moves_leaves_the_old_image() {
        let mut catalog = catalog();
        let (one, two) = (
            ImageId::parse(&format!("{:0<64}", "abc1")).unwrap(),
            ImageId::parse(&format!("{:0<64}", "abc2")).unwrap(),
        );
        assert!(!catalog.images[&one].pinned && catalog.images[&two].pinned);
        catalog.name(&two, &["docker.io/library/one:latest".into()], &HashSet::new());
        assert!(catalog.images[&one].repo_tags.is_empty());
        assert_eq!(catalog.images[&one].repo_digests.len(), 1);
        assert_eq!(
            catalog.images[&two].repo_tags,
            ["docker.io/library/fee:1", "docker.io/library/one:latest"]
        );
        catalog.remove(&two);
        assert!(catalog.resolve("one").unwrap().is_none());
    }
}
