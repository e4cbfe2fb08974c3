//! Which network: the files of the configuration directory, in lexical order, the first usable
//! one (of the wanted name).
//!
//! A file that cannot be read or parsed is passed over and its error kept for the status. The
//! one exception is the file the current network came from: while it is there but broken, as it
//! is for a moment when somebody writes it in place, the network stays what it was. So whoever
//! looks sees the old configuration or the new one, never none in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cni_types::{NetworkList, PluginConf};

const FILE_MAX: u64 = 4 << 20;

/// A network and the file it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its configuration, with every plugin inlined.
    pub list: NetworkList,
    /// Where it was read.
    pub file: PathBuf,
}

/// What one look at the directory found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    found: Option<Network>,
    broken: BTreeMap<PathBuf, String>,
    /// The directory itself could not be read, for another reason than being missing.
    unreadable: Option<String>,
}

/// The choice, kept from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct State {
    current: Option<Arc<Network>>,
    problems: Vec<String>,
}

impl State {
    pub(crate) fn current(&self) -> Option<Arc<Network>> {
        self.current.clone()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    pub(crate) fn update(&mut self, scan: Scan) {
        let half_written = self.current.as_ref().is_some_and(|current| {
            let outranked = scan.found.as_ref().is_some_and(|found| found.file < current.file);
            scan.broken.contains_key(&current.file) && !outranked
        });
        if !half_written && scan.unreadable.is_none() && self.current.as_deref() != scan.found.as_ref() {
            self.current = scan.found.map(Arc::new);
        }
        let of_files = scan
            .broken
            .into_iter()
            .map(|(file, error)| format!("{}: {error}", file.display()));
        self.problems = scan.unreadable.into_iter().chain(of_files).collect();
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|ext| ext.to_str()).unwrap_or_default()
}

/// The content of a file that holds still: two readings must agree. One reading may begin in the
/// old content and end in the new, and be good JSON of neither.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut last = read_once(path)?;
    for _ in 0..10 {
        let again = read_once(path)?;
        if again == last {
            return Ok(last);
        }
        last = again;
    }
    Err("keeps changing while it is read".to_owned())
}

fn read_once(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("larger than {FILE_MAX} bytes"));
    }
    Ok(bytes)
}

fn parse(path: &Path) -> Result<NetworkList, String> {
    let bytes = read(path)?;
    let parsed = if extension(path) == "conflist" {
        NetworkList::parse(&bytes)
    } else {
        NetworkList::parse_single(&bytes)
    };
    let mut list = parsed.map_err(|error| error.to_string())?;
    if !list.load_only_inlined {
        list.plugins.extend(plugins_of(path, &list.name)?);
    }
    if list.plugins.is_empty() {
        return Err("the network has no plugins".to_owned());
    }
    Ok(list)
}

/// CNI 1.1: more plugins of a network, one file each, in a folder of its name beside it.
fn plugins_of(path: &Path, name: &str) -> Result<Vec<PluginConf>, String> {
    let Some(dir) = path.parent().map(|dir| dir.join(name)) else {
        return Ok(Vec::new());
    };
    let files = match files(&dir, &["conf"]) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(|error| format!("{}: {error}", dir.display()))?,
    };
    let one = |file: PathBuf| {
        let conf = read(&file).and_then(|bytes| PluginConf::parse(&bytes).map_err(|error| error.to_string()));
        conf.map_err(|error| format!("{}: {error}", file.display()))
    };
    files.into_iter().map(one).collect()
}

fn files(dir: &Path, extensions: &[&str]) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if extensions.contains(&extension(&path)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Looks at every file of `dir`.
pub(crate) fn scan(dir: &Path, wanted: Option<&str>) -> Scan {
    let mut scan = Scan::default();
    let files = match files(dir, &["conflist", "conf", "json"]) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return scan,
        Err(error) => {
            scan.unreadable = Some(format!("{}: {error}", dir.display()));
            return scan;
        }
    };
    for file in files {
        match parse(&file) {
            Ok(list) => {
                if scan.found.is_none() && wanted.is_none_or(|name| name == list.name) {
                    scan.found = Some(Network { list, file });
                }
            }
            Err(error) => {
                scan.broken.insert(file, error);
            }
        }
    }
    scan
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"cniVersion":"1.1.0","name":"one","plugins":[{"type":"bridge"}]}"#;
    const TWO: &str = r#"{"cniVersion":"1.0.0","name":"two","type":"ptp"}"#;

    fn name(state: &State) -> Option<String> {
        state.current().map(|network| network.list.name.clone())
    }

    #[test]
    fn the_first_usable_file_wins_and_errors_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        write("05-broken.conflist", "{");
        write("10-one.conflist", ONE);
        write("20-two.conf", TWO);
        write("00-ignored.txt", "{");
        let mut state = State::default();
        state.update(scan(dir.path(), None));
        assert_eq!(name(&state).as_deref(), Some("one"));
        assert_eq!(state.problems().len(), 1);
        assert!(
            state.problems()[0].contains("05-broken.conflist"),
            "{:?}",
            state.problems()
        );
        state.update(scan(dir.path(), Some("two")));
        assert_eq!(name(&state).as_deref(), Some("two"));
        state.update(scan(dir.path(), Some("three")));
        assert_eq!(name(&state), None);
    }

    #[test]
    fn a_half_written_file_keeps_the_network() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("10.conflist");
        std::fs::write(&file, ONE).unwrap();
        std::fs::write(dir.path().join("20.conf"), TWO).unwrap();
        let mut state = State::default();
        state.update(scan(dir.path(), None));
        for half in ["", "{", &ONE[..20]] {
            std::fs::write(&file, half).unwrap();
            state.update(scan(dir.path(), None));
            assert_eq!(name(&state).as_deref(), Some("one"), "{half:?}");
            assert_eq!(state.problems().len(), 1);
        }
        std::fs::remove_file(&file).unwrap();
        state.update(scan(dir.path(), None));
        assert_eq!(name(&state).as_deref(), Some("two"));
        std::fs::remove_dir_all(dir.path()).unwrap();
        state.update(scan(dir.path(), None));
        assert_eq!(name(&state), None);
    }

    #[test]
    fn plugins_of_the_folder_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("one")).unwrap();
        std::fs::write(dir.path().join("10.conflist"), ONE).unwrap();
        std::fs::write(dir.path().join("one/b.conf"), r#"{"type":"portmap"}"#).unwrap();
        std::fs::write(dir.path().join("one/a.conf"), r#"{"type":"firewall"}"#).unwrap();
        let found = scan(dir.path(), None).found.unwrap();
        let types: Vec<_> = found.list.plugins.iter().map(|plugin| plugin.plugin.as_str()).collect();
        assert_eq!(types, ["bridge", "firewall", "portmap"]);
        let only = ONE.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
        std::fs::write(dir.path().join("10.conflist"), only).unwrap();
        assert_eq!(scan(dir.path(), None).found.unwrap().list.plugins.len(), 1);
    }

    #[test]
    fn a_path_as_plugin_type_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.conflist"), ONE.replace("bridge", "../../bin/sh")).unwrap();
        let scan = scan(dir.path(), None);
        assert!(scan.found.is_none() && scan.broken.len() == 1);
    }
}
