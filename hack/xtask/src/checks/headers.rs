//! Each file begins with a `//!` header that says what it is for.

use super::{File, Violation};

/// A single word says no more than the file's name.
const FEWEST: usize = 2;

/// Checks all files but those that are tests as a whole.
pub(crate) fn check(files: &[File]) -> Vec<Violation> {
    files
        .iter()
        .filter(|file| !file.is_test())
        .filter_map(of_file)
        .collect()
}

fn of_file(file: &File) -> Option<Violation> {
    let header: Vec<&str> = file.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
    if header.is_empty() {
        return Some(Violation::at(
            &file.path,
            1,
            "no header: begin with //! and say what the file is for",
        ));
    }
    let words = header.iter().flat_map(|line| line.split_whitespace()).count();
    (words < FEWEST).then(|| Violation::at(&file.path, 1, "the header says no more than the file's name"))
}

#[cfg(test)]
mod tests {
    use crate::checks::of_fixture;

    #[test]
    fn a_missing_and_an_empty_header_are_caught() {
        assert_eq!(
            of_fixture("headers/bad", super::check),
            [
                "src/image/src/lib.rs:1: the header says no more than the file's name",
                "src/image/src/pull.rs:1: no header: begin with //! and say what the file is for",
            ]
        );
    }
}
