//! `unsafe` only in `src/sys`, and each block with a SAFETY note that says something:
//! "valid parameters" is no reason.

use std::path::Path;

use super::{File, Violation, code};

/// The one crate that may.
const HOME: &str = "src/sys";
/// A note shorter than this names no invariant.
const SHORTEST: usize = 12;
/// Notes that could stand above any block.
const FORMULAS: [&str; 5] = [
    "valid parameters",
    "valid arguments",
    "library function",
    "this is safe",
    "always safe",
];

/// Checks all files.
pub(crate) fn check(files: &[File]) -> Vec<Violation> {
    files.iter().flat_map(of_file).collect()
}

fn of_file(file: &File) -> Vec<Violation> {
    let raw: Vec<&str> = file.text.lines().collect();
    let mut violations = Vec::new();
    let code = code::lines(&file.text);
    for (index, line) in code.iter().enumerate() {
        let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        if !words.contains(&"unsafe") {
            continue;
        }
        let mut breach = |what: &str| violations.push(Violation::at(&file.path, index + 1, what));
        if !file.path.starts_with(Path::new(HOME)) {
            breach("unsafe outside src/sys: put the call there, behind a safe function");
            continue;
        }
        let is_block = line
            .split("unsafe")
            .skip(1)
            .any(|rest| rest.trim_start().starts_with('{'));
        if is_block {
            match note(&raw, &code, index) {
                None => breach("an unsafe block without a SAFETY note"),
                Some(note) if is_empty(&note) => breach("a SAFETY note that names no invariant"),
                Some(_) => {}
            }
        }
    }
    violations
}

fn is_empty(note: &str) -> bool {
    let words = note.trim_end_matches('.').to_lowercase();
    note.len() < SHORTEST || FORMULAS.contains(&words.as_str())
}

/// The text of the SAFETY note in the comment above the statement that `index` is part of.
fn note(raw: &[&str], code: &[String], index: usize) -> Option<String> {
    let is_end = |line: &str| line.trim().is_empty() || line.trim_end().ends_with([';', '{', '}']);
    let before = code.get(..index)?;
    let first = index - before.iter().rev().take_while(|line| !is_end(line)).count();
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let mut comment: Vec<&str> = raw.get(..first)?.iter().rev().take_while(is_comment).copied().collect();
    comment.reverse();
    let words: Vec<&str> = comment
        .into_iter()
        .map(|line| line.trim().trim_start_matches('/').trim())
        .collect();
    words
        .join(" ")
        .split_once("SAFETY:")
        .map(|(_, note)| note.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use crate::checks::of_fixture;

    #[test]
    fn unexplained_and_misplaced_unsafe_is_caught() {
        assert_eq!(
            of_fixture("safety/bad", super::check),
            [
                "src/cgroup/src/lib.rs:4: unsafe outside src/sys: put the call there, behind a safe function",
                "src/sys/src/lib.rs:5: an unsafe block without a SAFETY note",
                "src/sys/src/lib.rs:11: a SAFETY note that names no invariant",
            ]
        );
    }

    #[test]
    fn explained_unsafe_passes() {
        assert_eq!(of_fixture("safety/good", super::check), Vec::<String>::new());
    }
}
