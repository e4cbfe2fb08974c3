//! A file has at most 500 lines, tests at its end not counted: one verb a file.

use super::{File, Violation};

const MOST: usize = 500;

/// Checks all files.
pub(crate) fn check(files: &[File]) -> Vec<Violation> {
    let tall = files
        .iter()
        .filter(|file| !file.is_test())
        .map(|file| (file, length(&file.text)));
    tall.filter(|(_, length)| *length > MOST)
        .map(|(file, length)| {
            Violation::at(
                &file.path,
                0,
                format!("{length} lines, {MOST} at most: split it by verb"),
            )
        })
        .collect()
}

/// Lines before the test module that ends the file.
fn length(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_caught_and_its_tests_do_not_count() {
        let file = |code: usize, tests: usize| File {
            path: "src/x/src/long.rs".into(),
            text: format!("{}#[cfg(test)]\n{}", "x\n".repeat(code), "y\n".repeat(tests)),
        };
        assert_eq!(check(&[file(500, 400)]), Vec::new());
        let found: Vec<String> = check(&[file(501, 0)]).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["src/x/src/long.rs: 501 lines, 500 at most: split it by verb"]);
    }
}
