//! The fail points that the product has, read from its sources, so that a new step can not
//! be left out of the matrix: `failpoint("verb", "step")`, and `.push("step"` or
//! `.pass("step"` in a file that has `Undo::new("verb")`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::places;

/// Every `(verb, step)`.
pub(crate) fn all() -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for directory in ["src/cri/src", "src/image/src"] {
        visit(&places::tree().join(directory), &mut found)?;
    }
    Ok(found)
}

fn visit(directory: &Path, found: &mut BTreeSet<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("undo.rs") {
            scan(&fs::read_to_string(&path)?, found);
        }
    }
    Ok(())
}

fn scan(text: &str, found: &mut BTreeSet<(String, String)>) {
    for call in after(text, "failpoint(") {
        let words = strings(call);
        if let [verb, step, ..] = words.as_slice() {
            found.insert((verb.clone(), step.clone()));
        }
    }
    let verbs: Vec<String> = after(text, "Undo::new(")
        .filter_map(|call| strings(call).into_iter().next())
        .collect();
    if let Some(verb) = verbs.first() {
        for call in after(text, "undo.push(").chain(after(text, "undo.pass(")) {
            if let Some(step) = strings(call).into_iter().next() {
                found.insert((verb.clone(), step));
            }
        }
    }
}

/// What follows each occurrence of `needle`.
fn after<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(needle)
        .map(move |(at, _)| &text[at + needle.len()..])
}

/// The string literals at the beginning of a call's arguments.
fn strings(call: &str) -> Vec<String> {
    let mut rest = call.trim_start();
    let mut words = Vec::new();
    while let Some(inner) = rest.strip_prefix('"') {
        let Some((word, after)) = inner.split_once('"') else {
            break;
        };
        words.push(word.to_owned());
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    words
}

#[test]
fn the_scanner_sees_both_ways_of_writing_a_step() {
    let mut found = BTreeSet::new();
    scan(
        "let mut undo = Undo::new(\"run_pod\");\n undo.push(\"network\", move || x).await?;\n undo::failpoint(\n  \"stop_pod\",\n  \"files\").await?;",
        &mut found,
    );
    let expected =
        [("run_pod", "network"), ("stop_pod", "files")].map(|(verb, step)| (verb.to_owned(), step.to_owned()));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}
