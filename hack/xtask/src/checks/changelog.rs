//! CHANGELOG.md has the form of Keep a Changelog 1.1: `## [Unreleased]` first, then
//! `## [1.2.3] - 2026-01-31` downwards in time; below each the known kinds of changes, once
//! and not empty, each change a list item.

use std::path::Path;

use super::Violation;

const KINDS: [&str; 6] = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

/// Checks the text of CHANGELOG.md.
pub(crate) fn check(text: &str) -> Vec<Violation> {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line);
    }
    reader.close_kind();
    if reader.versions == 0 {
        reader.breach(1, "no ## [Unreleased]");
    }
    reader.violations
}

#[derive(Default)]
struct Reader {
    violations: Vec<Violation>,
    versions: usize,
    /// Date of the version above, as text: ISO dates sort as they are.
    date: Option<String>,
    kinds: Vec<String>,
    /// Line of the open kind, and its changes so far.
    open: Option<(usize, usize)>,
}

impl Reader {
    fn breach(&mut self, line: usize, what: &str) {
        self.violations
            .push(Violation::at(Path::new("CHANGELOG.md"), line, what));
    }

    fn line(&mut self, number: usize, line: &str) {
        if number == 1 && line != "# Changelog" {
            self.breach(number, "must begin with \"# Changelog\"");
        } else if let Some(kind) = line.strip_prefix("### ") {
            self.close_kind();
            if !KINDS.contains(&kind) {
                self.breach(number, "no such kind of change");
            } else if self.kinds.iter().any(|other| other == kind) {
                self.breach(number, "this kind of change stands here twice");
            }
            self.kinds.push(kind.to_owned());
            self.open = Some((number, 0));
        } else if let Some(version) = line.strip_prefix("## ") {
            self.close_kind();
            self.kinds.clear();
            self.version(number, version);
        } else if let Some((_, changes)) = &mut self.open {
            let is_more = line.is_empty() || line.starts_with("  ");
            *changes += usize::from(!is_more);
            if !is_more && !line.starts_with("- ") {
                self.breach(number, "a change is a list item: \"- …\"");
            }
        }
    }

    fn version(&mut self, number: usize, version: &str) {
        self.versions += 1;
        if self.versions == 1 {
            if version != "[Unreleased]" {
                self.breach(number, "the first section must be [Unreleased]");
            }
            return;
        }
        let date = version
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] - "))
            .and_then(|(version, date)| {
                let is_version =
                    version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok());
                let is_date = date.len() == 10
                    && date.bytes().enumerate().all(|(at, b)| {
                        if at == 4 || at == 7 {
                            b == b'-'
                        } else {
                            b.is_ascii_digit()
                        }
                    });
                (is_version && is_date).then(|| date.to_owned())
            });
        match date {
            None => self.breach(number, "a version is written ## [1.2.3] - 2026-01-31"),
            Some(date) => {
                if self.date.as_ref().is_some_and(|above| *above < date) {
                    self.breach(number, "versions go downwards in time");
                }
                self.date = Some(date);
            }
        }
    }

    fn close_kind(&mut self) {
        if let Some((line, 0)) = self.open.take() {
            self.breach(line, "nothing stands below this heading");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture;

    fn of(name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(fixture("changelog").join(name)).unwrap();
        check(&text)
            .iter()
            .map(|violation| violation.to_string().replace("CHANGELOG.md", ""))
            .collect()
    }

    #[test]
    fn each_breach_of_the_form_is_caught() {
        assert_eq!(
            of("bad.md"),
            [
                ":1: must begin with \"# Changelog\"",
                ":3: the first section must be [Unreleased]",
                ":5: no such kind of change",
                ":9: nothing stands below this heading",
                ":11: this kind of change stands here twice",
                ":13: a change is a list item: \"- …\"",
                ":15: a version is written ## [1.2.3] - 2026-01-31",
                ":19: versions go downwards in time",
            ]
        );
        assert_eq!(of("empty.md"), [":1: no ## [Unreleased]"]);
    }

    #[test]
    fn a_changelog_in_order_passes() {
        assert_eq!(of("good.md"), Vec::<String>::new());
    }
}
