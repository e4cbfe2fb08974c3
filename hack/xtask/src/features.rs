//! docs/features.md and the tree: each row says where a feature is and names tests that exist and
//! run. A row is a line of a table with three columns: what, where, test. Files below where are
//! given with their path from the root and must be there; tests are functions of the suites, or
//! of any crate's own tests.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::checks::Violation;
use crate::contract::{self, SUITES, Tests};

const DOCUMENT: &str = "docs/features.md";

/// Where tests may lie beside the suites.
const CRATES: [&str; 7] = ["cni", "config", "conmon", "e2e/src", "hack/xtask/src", "proto", "src"];

/// Checks the tree at `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let mut tests = contract::suites(root, |_| true)?;
    for directory in CRATES {
        of_crates(root, &root.join(directory), &mut tests)?;
    }
    let text = fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("read {DOCUMENT}"))?;
    let mut found = Vec::new();
    let mut rows = 0;
    for (index, line) in text.lines().enumerate() {
        let Some(columns) = row(line) else { continue };
        rows += 1;
        let at = |what: String| Violation::at(Path::new(DOCUMENT), index + 1, what);
        let [_, place, proof] = columns.as_slice() else {
            found.push(at(format!("a row has three columns, not {}", columns.len())));
            continue;
        };
        if place.is_empty() {
            found.push(at("a row that does not say where".to_owned()));
        }
        for file in quoted(place).filter(|word| word.contains('/') && word.ends_with(".rs")) {
            if !root.join(file).is_file() {
                found.push(at(format!("there is no file {file}")));
            }
        }
        let mut names = quoted(proof).peekable();
        if names.peek().is_none() {
            found.push(at("a row without a test".to_owned()));
        }
        for name in names {
            match tests.get(name) {
                None => found.push(at(format!("there is no test {name}"))),
                Some(test) => {
                    if let Some(why) = &test.idle {
                        found.push(at(format!("{name} does not run: {why}")));
                    }
                }
            }
        }
    }
    if rows == 0 {
        found.push(Violation::at(Path::new(DOCUMENT), 0, "has no rows"));
    }
    Ok(found)
}

/// The columns of a table's line, but for its head and the line below it.
fn row(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    let columns: Vec<&str> = inner.split('|').map(str::trim).collect();
    let is_head = columns.first() == Some(&"What") || columns.iter().all(|column| column.starts_with("---"));
    (!is_head).then_some(columns)
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests of the crates below a directory.
fn of_crates(root: &Path, directory: &Path, tests: &mut Tests) -> anyhow::Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            of_crates(root, &path, tests)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.starts_with(root.join(SUITES)) {
            contract::of_file(root, &path, None, |_| true, tests)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture;

    #[test]
    fn what_the_bad_document_has_is_caught() {
        let found: Vec<String> = check(&fixture("features/bad"))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "docs/features.md:9: a row without a test",
                "docs/features.md:10: there is no test was_removed",
                "docs/features.md:11: is_ignored does not run: it is left out by an attribute",
                "docs/features.md:12: is_not_run does not run: hack/test does not run unrun",
                "docs/features.md:13: there is no file src/one/src/gone.rs",
                "docs/features.md:14: a row that does not say where",
                "docs/features.md:15: a row has three columns, not 2",
                "docs/features.md:16: is_no_test does not run: it has no #[test]",
            ]
        );
    }
}
