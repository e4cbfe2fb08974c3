//! What was attached, on disk: `results/<network>-<container>-<interface>`, in the format of
//! libcni (`cniCacheV1`), so that other tools read it and we read theirs.
//!
//! The record is written before the first plugin runs, without a result, and again with it:
//! whatever may have been attached can be detached, also after a crash in between, and with the
//! configuration as it was then. It goes when DEL has succeeded.
//!
//! Nothing in it is believed blindly: a record that cannot be read, or whose names do not match
//! its file, counts as missing; DEL goes on without it.

use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cni_types::NetworkList;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Attachment;
use crate::error::Error;

const KIND: &str = "cniCacheV1";

/// A record as libcni writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    container_id: String,
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

/// One attachment as it was made.
#[derive(Debug, Clone)]
pub(crate) struct Cached {
    pub(crate) network: String,
    pub(crate) list: NetworkList,
    pub(crate) attachment: Attachment,
    pub(crate) result: Option<Value>,
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self {
            dir: cache_dir.join("results"),
        }
    }

    /// The names are checked (`cni_types::name`) before they come here: none holds a slash.
    fn path(&self, network: &str, attachment: &Attachment) -> PathBuf {
        self.dir
            .join(Self::name(network, &attachment.container_id, &attachment.ifname))
    }

    /// Writes the record of `attachment`.
    pub(crate) fn put(&self, list: &NetworkList, attachment: &Attachment, result: Option<Value>) -> Result<(), Error> {
        let record = Record {
            kind: KIND.to_owned(),
            container_id: attachment.container_id.clone(),
            config: STANDARD.encode(list.to_value().to_string()),
            if_name: attachment.ifname.clone(),
            network_name: list.name.clone(),
            netns: attachment
                .netns
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            cni_args: (!attachment.args.is_empty()).then(|| attachment.args.clone()),
            capability_args: (!attachment.capabilities.is_empty()).then(|| attachment.capabilities.clone()),
            result,
        };
        let path = self.path(&list.name, attachment);
        let failed = |op| Error::io(op, path.clone());
        let bytes = serde_json::to_vec(&record).map_err(|error| failed("encode")(error.into()))?;
        // In place, in one write: a process killed here has written all of it or nothing. A new
        // file and a rename would free the old one's block, for which a file system that
        // discards waits for the disk. After a power cut the pods are gone, and a damaged
        // record counts as missing.
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.write_all(&bytes)?;
            file.set_len(bytes.len() as u64)
        };
        match write() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.dir)
                    .map_err(Error::io("create", &self.dir))?;
                write().map_err(failed("write"))
            }
            other => other.map_err(failed("write")),
        }
    }

    /// The name of a record: two records with one name are one file.
    pub(crate) fn name(network: &str, container_id: &str, ifname: &str) -> String {
        format!("{network}-{container_id}-{ifname}")
    }

    /// The records of a container's interface, of whatever network; usually one.
    pub(crate) fn find(&self, container_id: &str, ifname: &str) -> Vec<Cached> {
        let suffix = format!("-{container_id}-{ifname}");
        let mut found = self.read_all(|name| name.ends_with(&suffix));
        found.retain(|cached| cached.attachment.container_id == container_id && cached.attachment.ifname == ifname);
        found
    }

    /// Every record whose name is not among `known`: those are not even read.
    pub(crate) fn all_but(&self, known: &HashSet<String>) -> Vec<Cached> {
        self.read_all(|name| !name.starts_with('.') && !known.contains(name))
    }

    fn read_all(&self, wanted: impl Fn(&str) -> bool) -> Vec<Cached> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter(|name| wanted(name))
            .filter_map(|name| self.read(&name))
            .collect()
    }

    fn read(&self, name: &str) -> Option<Cached> {
        let bytes = std::fs::read(self.dir.join(name)).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let list = NetworkList::parse_single(&STANDARD.decode(&record.config).ok()?).ok()?;
        let attachment = Attachment {
            container_id: record.container_id,
            netns: (!record.netns.is_empty()).then(|| PathBuf::from(record.netns)),
            ifname: record.if_name,
            args: record.cni_args.unwrap_or_default(),
            capabilities: record.capability_args.unwrap_or_default(),
        };
        let matches = self.path(&record.network_name, &attachment) == self.dir.join(name);
        (record.kind == KIND && matches && list.name == record.network_name).then_some(Cached {
            network: record.network_name,
            list,
            attachment,
            result: record.result,
        })
    }

    /// Removes a record; none is fine.
    pub(crate) fn remove(&self, network: &str, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(network, attachment);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_damaged_one_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let list = NetworkList::parse(br#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#).unwrap();
        let attachment = Attachment {
            container_id: "abc".into(),
            netns: Some("/run/netns/x".into()),
            ifname: "eth0".into(),
            args: vec![("A".into(), "B".into())],
            capabilities: Map::new(),
        };
        cache.put(&list, &attachment, None).unwrap();
        cache
            .put(&list, &attachment, Some(serde_json::json!({"cniVersion": "1.0.0"})))
            .unwrap();
        let found = cache.find("abc", "eth0");
        assert_eq!((found.len(), cache.all_but(&HashSet::new()).len()), (1, 1));
        assert!(cache.all_but(&[Cache::name("net", "abc", "eth0")].into()).is_empty());
        assert_eq!(
            (&found[0].list.plugins, &found[0].attachment.args),
            (&list.plugins, &attachment.args)
        );
        assert!(found[0].result.is_some());
        assert!(cache.find("bc", "eth0").is_empty() && cache.find("abc", "eth1").is_empty());

        let path = dir.path().join("results/net-abc-eth0");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"abc\"", "\"evil\"")).unwrap();
        assert!(
            cache.all_but(&HashSet::new()).is_empty(),
            "a record must not speak for another container"
        );
        std::fs::write(&path, &text[..30]).unwrap();
        assert!(cache.all_but(&HashSet::new()).is_empty());
        cache.remove("net", &attachment).unwrap();
        cache.remove("net", &attachment).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("results")).unwrap().count(), 0);
    }
}
