//! The house rules that neither rustc nor clippy knows (CONTRIBUTING.md names them). One
//! file a rule; each works on the texts of the tree, so that fixtures are plain files.

mod changelog;
mod code;
mod headers;
mod names;
mod safety;
mod sizes;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    place: String,
    what: String,
}

impl Violation {
    /// In a file; line 0 where the file as a whole is meant.
    pub(crate) fn at(path: &Path, line: usize, what: impl Into<String>) -> Self {
        let line = if line == 0 { String::new() } else { format!(":{line}") };
        Self {
            place: format!("{}{line}", path.display()),
            what: what.into(),
        }
    }

    /// In a crate.
    pub(crate) fn of_crate(name: &str, what: &str) -> Self {
        Self {
            place: name.to_owned(),
            what: what.to_owned(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A file of the tree.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl File {
    /// Whether it is a test as a whole.
    pub(crate) fn is_test(&self) -> bool {
        self.path.file_stem().is_some_and(|stem| stem == "tests")
            || self.path.components().any(|part| part.as_os_str() == "tests")
            || self.path.starts_with("e2e")
    }
}

/// Checks all rules on the tree at `root`.
pub(crate) fn all(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let files = rust_files(root)?;
    let changelog = root.join("CHANGELOG.md");
    let changelog = fs::read_to_string(&changelog).with_context(|| format!("read {}", changelog.display()))?;
    Ok([
        safety::check(&files),
        sizes::check(&files),
        names::check(&files),
        headers::check(&files),
        changelog::check(&changelog),
    ]
    .concat())
}

/// All Rust files below `root`, sorted; without what is built, fetched or a fixture.
pub(crate) fn rust_files(root: &Path) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                let is_hidden = name.as_encoded_bytes().starts_with(b".");
                if !is_hidden && name != "target" && name != "fixtures" {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                files.push(File {
                    path: path.strip_prefix(root)?.to_owned(),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The directory of a fixture.
#[cfg(test)]
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// What `check` says of a fixture, line by line.
#[cfg(test)]
pub(crate) fn of_fixture(name: &str, check: fn(&[File]) -> Vec<Violation>) -> Vec<String> {
    let files = rust_files(&fixture(name)).unwrap();
    assert!(!files.is_empty(), "fixture {name} is empty");
    check(&files).iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixtures_and_built_files_are_not_part_of_the_tree() {
        let files = rust_files(&crate::root().unwrap()).unwrap();
        assert!(files.iter().any(|file| file.path.ends_with("hack/xtask/src/main.rs")));
        assert!(
            !files
                .iter()
                .any(|file| file.path.components().any(|part| part.as_os_str() == "fixtures"))
        );
    }
}
