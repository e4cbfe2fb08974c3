//! File, drop-ins and flags become a `Config`. Order: defaults, file, drop-ins in lexical
//! order of their names, flags; what comes later wins, key by key.
//!
//! Each file is read on its own into the typed twin of `Config` (see `section`), so that
//! what is wrong in it is told with file, line and key. What only shows when all is merged
//! (a certificate without its key) is told with the place that set the value.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::locate::key_at;
use crate::origin::{Origin, Origins};
use crate::section::{Field, Place};
use crate::value::LogLevel;
use crate::{Config, GivenConfig};

/// The main file, where no other is named.
pub const DEFAULT_FILE: &str = "/etc/bulkhead/config.yaml";

/// The directory of drop-ins, where no other is named.
pub const DEFAULT_DIR: &str = "/etc/bulkhead/config.d";

/// A larger file is refused: no configuration comes near, and `/dev/zero` has no end.
const LARGEST: u64 = 1 << 20;

/// Values of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<PathBuf>,
    /// `--cni-conf-dir`
    pub cni_conf_dir: Option<PathBuf>,
    /// `--cni-bin-dir`, any number; none leaves the list as it is.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// `--hosts-dir`
    pub hosts_dir: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
}

/// Where a configuration is to come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// `--config`: must be there. Without it [`DEFAULT_FILE`], which may be absent.
    pub file: Option<PathBuf>,
    /// `--config-dir`: must be there. Without it [`DEFAULT_DIR`], which may be absent.
    pub dir: Option<PathBuf>,
    /// The other flags.
    pub flags: Flags,
}

/// A configuration, and where each value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration; valid.
    pub config: Config,
    /// Where its values came from.
    pub origins: Origins,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
}

/// Reads all sources.
///
/// # Errors
/// When a named file is not there or cannot be read, or says something that cannot be.
pub fn load(sources: &Sources) -> Result<Loaded, Error> {
    let mut loaded = Loaded {
        config: Config::default(),
        origins: Origins::default(),
        files: Vec::new(),
    };
    for path in files(sources)? {
        let given = parse(&path, &read(&path)?)?;
        loaded.config.merge(
            given,
            &Place {
                file: &path,
                key: String::new(),
            },
            &mut loaded.origins,
        );
        loaded.files.push(path);
    }
    apply(&sources.flags, &mut loaded);
    match loaded.config.problems().into_iter().next() {
        None => Ok(loaded),
        Some(problem) => {
            let origin = loaded.origins.of(&problem.key);
            Err(Error::Value {
                origin,
                key: problem.key,
                message: problem.message,
            })
        }
    }
}

/// The main file and the drop-ins that are there, in order.
fn files(sources: &Sources) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    match &sources.file {
        Some(file) => files.push(file.clone()),
        None if Path::new(DEFAULT_FILE).exists() => files.push(DEFAULT_FILE.into()),
        None => {}
    }
    let dir = sources.dir.as_deref().unwrap_or(Path::new(DEFAULT_DIR));
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && sources.dir.is_none() => return Ok(files),
        Err(source) => {
            return Err(Error::Read {
                path: dir.to_owned(),
                source,
            });
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|source| Error::Read {
                path: dir.to_owned(),
                source,
            })?
            .file_name();
        if Path::new(&name).extension() == Some(OsStr::new("yaml")) && !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    files.extend(names.into_iter().map(|name| dir.join(name)));
    Ok(files)
}

fn read(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let refuse = |why: &str| fail(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    // Asked before opening, because opening a FIFO waits for a writer.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(fail)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > LARGEST {
        return Err(refuse("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        refuse(&format!("line {line} is not UTF-8"))
    })
}

fn parse(path: &Path, text: &str) -> Result<GivenConfig, Error> {
    // A file of comments alone says nothing, which the parser would call a missing document.
    if text
        .lines()
        .all(|line| matches!(line.trim_start().bytes().next(), None | Some(b'#')))
    {
        return Ok(GivenConfig::default());
    }
    serde_saphyr::from_str::<GivenConfig>(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let message = plain(error.without_snippet());
        Error::Syntax {
            path: path.to_owned(),
            line,
            key: named(&message, text, line),
            message,
        }
    })
}

/// The parser's message in one line, without its own idea of the place, and without the
/// hints that are for the programmer.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default().trim();
    let text = text.split_once(" at line ").map_or(text, |(message, _)| message);
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = text
        .split_once(", set DuplicateKeyPolicy")
        .map_or(text, |(message, _)| message);
    match text {
        "invalid u64" | "invalid u32" | "invalid usize" => "a whole number is wanted, 0 or more".to_owned(),
        "expected mapping start" => "a mapping (key: value) is wanted".to_owned(),
        "expected sequence start" => "a list is wanted".to_owned(),
        "cannot deserialize null into string; use Option<String>" => "null is not possible here".to_owned(),
        other => other.to_owned(),
    }
}

/// The key an error is about.
fn named(message: &str, text: &str, line: u64) -> String {
    let key = key_at(text, line);
    if key.is_empty() {
        format!("({})", if message.is_empty() { "file" } else { "top" })
    } else {
        key
    }
}

fn apply(flags: &Flags, loaded: &mut Loaded) {
    let Loaded { config, origins, .. } = loaded;
    let mut set = |key: &str, flag: &'static str| origins.insert(key.to_owned(), Origin::Flag(flag));
    if let Some(root) = &flags.root {
        config.root.clone_from(root);
        set("root", "--root");
    }
    if let Some(state) = &flags.state {
        config.state.clone_from(state);
        set("state", "--state");
    }
    if let Some(listen) = &flags.listen {
        config.listen = Some(listen.clone());
        set("listen", "--listen");
    }
    if let Some(dir) = &flags.cni_conf_dir {
        config.cni.conf_dir.clone_from(dir);
        set("cni.conf_dir", "--cni-conf-dir");
    }
    if !flags.cni_bin_dirs.is_empty() {
        config.cni.bin_dirs.clone_from(&flags.cni_bin_dirs);
        set("cni.bin_dirs", "--cni-bin-dir");
    }
    if let Some(dir) = &flags.hosts_dir {
        config.image.hosts_dir.clone_from(dir);
        set("image.hosts_dir", "--hosts-dir");
    }
    if let Some(level) = flags.log_level {
        config.log_level = level;
        set("log_level", "--log-level");
    }
}

#[cfg(test)]
mod tests;
