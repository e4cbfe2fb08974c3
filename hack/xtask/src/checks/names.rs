//! No module or crate is named for what it is not about: what lands in `utils` has no
//! owner and no reader.

use std::path::Component;

use super::{File, Violation, code};

const BANNED: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "core", "misc", "shared"];

/// Checks paths and `mod` lines.
pub(crate) fn check(files: &[File]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        let stem = file.path.with_extension("");
        for part in stem.components() {
            if let Component::Normal(name) = part
                && let Some(name) = name.to_str().filter(|name| BANNED.contains(name))
            {
                violations.push(Violation::at(
                    &file.path,
                    0,
                    format!("{name:?} says nothing: name what it does"),
                ));
            }
        }
        for (index, line) in code::lines(&file.text).iter().enumerate() {
            let mut words = line
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|word| !word.is_empty());
            let is_inline = line.contains('{') && words.by_ref().any(|word| word == "mod");
            if let Some(name) = words.next().filter(|name| is_inline && BANNED.contains(name)) {
                violations.push(Violation::at(
                    &file.path,
                    index + 1,
                    format!("{name:?} says nothing: name what it does"),
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use crate::checks::of_fixture;

    #[test]
    fn names_that_say_nothing_are_caught() {
        assert_eq!(
            of_fixture("names/bad", super::check),
            [
                "src/image/src/lib.rs:4: \"helpers\" says nothing: name what it does",
                "src/image/src/utils.rs: \"utils\" says nothing: name what it does",
            ]
        );
    }
}
