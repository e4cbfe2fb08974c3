//! docs/kubelet.md and the tests: each sentence names tests that exist and run, and each
//! test of a sentence is named there. A sentence without a test is a hope, and a test that
//! nobody can find by its sentence is not read before the sentence is changed.
//!
//! A sentence is a list item below `## E1 …` to `## E9 …` that ends with its tests' names in
//! backticks; they begin with the section's number. A test runs if it has `#[test]` and no
//! `#[ignore]`, its file is a module of the suites, and `hack/test` runs its suite.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::checks::Violation;

const DOCUMENT: &str = "docs/kubelet.md";
pub(crate) const SUITES: &str = "e2e/tests/suites";
const SECTIONS: u32 = 9;

/// A test function.
pub(crate) struct Test {
    path: PathBuf,
    line: usize,
    /// Why it does not run.
    pub(crate) idle: Option<String>,
}

/// By name.
pub(crate) type Tests = BTreeMap<String, Test>;

/// Checks the tree at `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let tests = suites(root, is_name)?;
    let text = fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("read {DOCUMENT}"))?;
    let mut found = Vec::new();
    let mut named = Vec::new();
    let mut section = 0;
    for (index, line) in text.lines().enumerate() {
        let at = |what: String| Violation::at(Path::new(DOCUMENT), index + 1, what);
        if let Some(title) = line.strip_prefix("## ") {
            section += 1;
            if !title.starts_with(&format!("E{section} ")) {
                found.push(at(format!("section E{section} is wanted here")));
            }
        } else if let Some(sentence) = line.strip_prefix("- ") {
            let names: Vec<&str> = sentence
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| is_name(word))
                .collect();
            if names.is_empty() {
                found.push(at("a sentence without a test".to_owned()));
            }
            for name in names {
                match tests.get(name) {
                    _ if !name.starts_with(&format!("e{section}_")) => {
                        found.push(at(format!("{name} does not begin with e{section}_")));
                    }
                    None => found.push(at(format!("there is no test {name}"))),
                    Some(Test { idle: Some(why), .. }) => found.push(at(format!("{name} does not run: {why}"))),
                    Some(_) if named.contains(&name) => found.push(at(format!("{name} stands for two sentences"))),
                    Some(_) => named.push(name),
                }
            }
        }
    }
    if section != SECTIONS {
        found.push(Violation::at(
            Path::new(DOCUMENT),
            0,
            format!("has {section} sections, not {SECTIONS}"),
        ));
    }
    for (name, test) in &tests {
        if !named.contains(&name.as_str()) {
            found.push(Violation::at(
                &test.path,
                test.line,
                format!("{name} is no sentence of {DOCUMENT}"),
            ));
        }
    }
    Ok(found)
}

/// `e4_stop_…`
fn is_name(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next() == Some('e')
        && chars.next().is_some_and(|digit| digit.is_ascii_digit())
        && chars.next() == Some('_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The tests of the suites, as far as `is_wanted` takes their names.
pub(crate) fn suites(root: &Path, is_wanted: fn(&str) -> bool) -> anyhow::Result<Tests> {
    let runner = fs::read_to_string(root.join("hack/test")).context("read hack/test")?;
    let mut tests = BTreeMap::new();
    let mut directories = vec![root.join(SUITES)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let idle = idle(root, &path, &runner)?;
                of_file(root, &path, idle.as_deref(), is_wanted, &mut tests)?;
            }
        }
    }
    Ok(tests)
}

/// The tests of one file; one that runs goes before one of the same name that does not.
pub(crate) fn of_file(
    root: &Path,
    path: &Path,
    idle: Option<&str>,
    is_wanted: fn(&str) -> bool,
    tests: &mut Tests,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut attributes: Vec<&str> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        let name = name.and_then(|rest| rest.split('(').next());
        if let Some(name) = name.filter(|name| is_wanted(name)) {
            let why = if !attributes
                .iter()
                .any(|it| *it == "#[test]" || it.starts_with("#[tokio::test"))
            {
                Some("it has no #[test]".to_owned())
            } else if attributes
                .iter()
                .any(|it| it.starts_with("#[ignore") || it.starts_with("#[cfg"))
            {
                Some("it is left out by an attribute".to_owned())
            } else {
                idle.map(str::to_owned)
            };
            let test = Test {
                path: path.strip_prefix(root)?.to_owned(),
                line: index + 1,
                idle: why,
            };
            if test.idle.is_none() || !tests.contains_key(name) {
                tests.insert(name.to_owned(), test);
            }
        }
        attributes.clear();
    }
    Ok(())
}

/// Why the tests of a file do not run, if they do not.
fn idle(root: &Path, path: &Path, runner: &str) -> anyhow::Result<Option<String>> {
    let below = path.strip_prefix(root.join(SUITES))?;
    let mut modules: Vec<String> = below
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if modules.last().is_some_and(|last| last == "mod") {
        modules.pop();
    }
    if modules == ["main"] {
        return Ok(None);
    }
    let mut parent = root.join(SUITES);
    for (depth, module) in modules.iter().enumerate() {
        let file = if depth == 0 { "main.rs" } else { "mod.rs" };
        let text = fs::read_to_string(parent.join(file)).unwrap_or_default();
        if !text.lines().any(|line| line.trim() == format!("mod {module};")) {
            return Ok(Some(format!("no module declares {module}")));
        }
        parent.push(module);
    }
    let suite = modules.first().map_or("", String::as_str);
    let is_run = runner.lines().any(|line| {
        let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        words.windows(2).any(|pair| pair[0] == "system" && pair[1] == suite)
    });
    Ok((!is_run).then(|| format!("hack/test does not run {suite}")))
}

#[cfg(test)]
mod tests_of_this {
    use super::*;
    use crate::checks::fixture;

    #[test]
    fn what_the_bad_fixture_has_is_caught() {
        let found: Vec<String> = check(&fixture("contract/bad"))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "docs/kubelet.md:6: a sentence without a test",
                "docs/kubelet.md:7: there is no test e1_nowhere",
                "docs/kubelet.md:8: e1_ignored does not run: it is left out by an attribute",
                "docs/kubelet.md:9: e1_alone does not run: no module declares orphan",
                "docs/kubelet.md:10: e1_unrun does not run: hack/test does not run unrun",
                "docs/kubelet.md:11: e1_no_attribute does not run: it has no #[test]",
                "docs/kubelet.md:12: e1_good stands for two sentences",
                "docs/kubelet.md:13: e2_other does not begin with e1_",
                "docs/kubelet.md:15: section E2 is wanted here",
                "docs/kubelet.md: has 2 sections, not 9",
                "e2e/tests/suites/orphan.rs:2: e1_alone is no sentence of docs/kubelet.md",
                "e2e/tests/suites/good.rs:10: e1_ignored is no sentence of docs/kubelet.md",
                "e2e/tests/suites/good.rs:13: e1_no_attribute is no sentence of docs/kubelet.md",
                "e2e/tests/suites/unrun.rs:2: e1_unrun is no sentence of docs/kubelet.md",
                "e2e/tests/suites/good.rs:5: e2_other is no sentence of docs/kubelet.md",
            ]
        );
    }
}
