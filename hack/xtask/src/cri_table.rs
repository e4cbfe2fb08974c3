//! `cargo xtask cri-table`: what becomes of every field of every CRI message, as `docs/cri.md`.
//!
//! The messages and fields come from the descriptors of `proto/cri/v1/api.proto`, the answers from
//! `docs/cri-fields.txt`: a message's name on a line of its own, then a line for each of its fields:
//!
//! ```text
//! RunPodSandboxRequest
//!   config honoured src/cri/src/sandbox/run.rs a_pod_lives_and_goes
//!   runtime_handler honoured src/cri/src/runtime.rs e3_an_unknown_handler_is_an_error
//! ```
//!
//! | answer     | means                                                       | must name        |
//! |------------|-------------------------------------------------------------|------------------|
//! | `honoured` | a request's field does what it says                         | file, test       |
//! | `told`     | an answer's field is filled in                              | file, test       |
//! | `refused`  | a request that sets it gets an error that says why          | file, test, # why |
//! | `within`   | it goes with the field that it is in, or beside, which is `refused` | that field as Message.field |
//! | `unset`    | an answer's field that stays empty                          | # why            |
//!
//! `*` stands for the fields of a message that have no line of their own, `Windows*` for all messages whose name
//! begins so. The file must hold the field's name, and the test must be a function with a `test` attribute: a row that
//! names what is not there, a field without a row and a row without a field are faults. `cargo xtask ci` looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::checks::{File, Violation, rust_files};

/// Where the answers are.
const ANSWERS: &str = "docs/cri-fields.txt";
/// Where the table goes.
const TABLE: &str = "docs/cri.md";
const PROTO: &str = "proto/cri/v1/api.proto";

/// A message and its fields, in the order of the file.
type Messages = Vec<(String, Vec<String>)>;

/// What becomes of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    line: usize,
    verdict: String,
    file: String,
    test: String,
    why: String,
}

/// Checks the answers; with `write`, writes the table as well, else compares it.
pub(crate) fn check(root: &Path, write: bool) -> anyhow::Result<Vec<Violation>> {
    let messages = messages(root)?;
    let text = fs::read_to_string(root.join(ANSWERS)).with_context(|| format!("read {ANSWERS}"))?;
    let answers = parse(&text)?;
    let files = rust_files(root)?;
    let (rows, mut faults) = judge(&messages, &answers, &files);
    let table = render(&messages, &rows, &files);
    let path = root.join(TABLE);
    if write {
        fs::write(&path, table).with_context(|| format!("write {TABLE}"))?;
    } else if fs::read_to_string(&path).unwrap_or_default() != table {
        faults.push(Violation::at(
            Path::new(TABLE),
            0,
            "is not what the answers say: run `cargo xtask cri-table`",
        ));
    }
    Ok(faults)
}

fn messages(root: &Path) -> anyhow::Result<Messages> {
    let set = protox::compile([root.join(PROTO)], [root]).with_context(|| format!("read {PROTO}"))?;
    let all = set.file.into_iter().flat_map(|file| file.message_type);
    Ok(all
        .map(|message| {
            let fields = message.field.iter().map(|field| field.name().to_owned()).collect();
            (message.name().to_owned(), fields)
        })
        .filter(|(_, fields): &(String, Vec<String>)| !fields.is_empty())
        .collect())
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<(String, String), Answer>> {
    let mut answers = BTreeMap::new();
    let mut message = String::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let (row, why) = line.split_once('#').unwrap_or((line, ""));
        let words: Vec<&str> = row.split_whitespace().collect();
        let word = |at: usize| words.get(at).map(|&word| word.to_owned()).unwrap_or_default();
        match words.len() {
            0 => {}
            1 if !row.starts_with(' ') => message = word(0),
            2..=4 if row.starts_with(' ') => {
                let answer = Answer {
                    line: number,
                    verdict: word(1),
                    file: word(2),
                    test: word(3),
                    why: why.trim().to_owned(),
                };
                if answers.insert((message.clone(), word(0)), answer).is_some() {
                    bail!("{ANSWERS}:{number}: {message}.{} has two rows", words[0]);
                }
            }
            _ => bail!("{ANSWERS}:{number}: neither a message nor `field answer file test # why`"),
        }
    }
    Ok(answers)
}

type Rows<'a> = BTreeMap<(&'a str, &'a str), &'a Answer>;

fn judge<'a>(
    messages: &'a Messages,
    answers: &'a BTreeMap<(String, String), Answer>,
    files: &[File],
) -> (Rows<'a>, Vec<Violation>) {
    let mut rows = Rows::new();
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let fault = |line, what: String| Violation::at(Path::new(ANSWERS), line, what);
    let tests = tests(files);
    for (message, fields) in messages {
        for field in fields {
            let found = candidates(message, field, answers);
            let Some((key, answer)) = found else {
                faults.push(fault(0, format!("{message}.{field} has no row")));
                continue;
            };
            used.insert(key);
            rows.insert((message, field), answer);
            for what in wrong(field, answer, answers, (files, &tests)) {
                faults.push(fault(answer.line, format!("{message}.{field}: {what}")));
            }
        }
    }
    for ((message, field), answer) in answers {
        if !used.contains(&(message.as_str(), field.as_str())) {
            faults.push(fault(answer.line, format!("{message}.{field}: there is no such field")));
        }
    }
    (rows, faults)
}

type Key<'a> = (&'a str, &'a str);

/// The row of a field: its own, its message's `*`, or that of a name that ends in `*`.
fn candidates<'a>(
    message: &str,
    field: &str,
    answers: &'a BTreeMap<(String, String), Answer>,
) -> Option<(Key<'a>, &'a Answer)> {
    let fits = |(of, name): &(String, String)| {
        let of_message = of == message || of.strip_suffix('*').is_some_and(|start| message.starts_with(start));
        of_message && (name == field || name == "*")
    };
    let best = answers
        .iter()
        .filter(|(key, _)| fits(key))
        .max_by_key(|((of, name), _)| (of == message, name == field));
    best.map(|((of, name), answer)| ((of.as_str(), name.as_str()), answer))
}

/// What a field goes with must be refused itself.
fn within(answer: &Answer, answers: &BTreeMap<(String, String), Answer>) -> Vec<String> {
    let (message, field) = answer.file.split_once('.').unwrap_or_default();
    let whole = answers.get(&(message.to_owned(), field.to_owned()));
    match whole {
        Some(whole) if whole.verdict == "refused" => vec![],
        _ => vec![format!(
            "`within` needs a field that is `refused`, not {:?}",
            answer.file
        )],
    }
}

fn wrong(
    field: &str,
    answer: &Answer,
    answers: &BTreeMap<(String, String), Answer>,
    (files, tests): (&[File], &BTreeSet<String>),
) -> Vec<String> {
    let mut faults = Vec::new();
    let (needs_code, needs_why) = match answer.verdict.as_str() {
        "honoured" | "told" => (true, false),
        "refused" => (true, true),
        "within" => return within(answer, answers),
        "unset" => (false, true),
        other => return vec![format!("`{other}` is no answer")],
    };
    if needs_why && answer.why.is_empty() {
        faults.push(format!("`{}` needs a reason after #", answer.verdict));
    }
    if !needs_code {
        return faults;
    }
    match files.iter().find(|file| file.path == Path::new(&answer.file)) {
        None => faults.push(format!("there is no file {:?}", answer.file)),
        Some(file) if !holds(&file.text, &snake(field)) => {
            faults.push(format!("{} does not hold {:?}", answer.file, snake(field)));
        }
        Some(_) => {}
    }
    if !tests.contains(&answer.test) {
        faults.push(format!("there is no test {:?}", answer.test));
    }
    faults
}

/// The field's name as generated code has it.
fn snake(field: &str) -> String {
    let mut name = String::new();
    let mut after_lower = false;
    for letter in field.chars() {
        if letter.is_ascii_uppercase() && after_lower {
            name.push('_');
        }
        after_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn holds(text: &str, word: &str) -> bool {
    let part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(word)
        .any(|(at, _)| !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next()))
}

/// The names of all test functions.
fn tests(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.extend(rest.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

fn render(messages: &Messages, rows: &Rows<'_>, files: &[File]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in rows.values() {
        *counts.entry(answer.verdict.as_str()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    let mut text = format!(
        "# CRI, field by field\n\n\
         Made by `cargo xtask cri-table` from the descriptors and `{ANSWERS}`; do not edit.\n\n\
         *honoured*: a request's field does what it says. *told*: an answer's field is filled in. *refused*: a request\n\
         that sets it gets an error that says why. *within*: it is part of what another field's refusal refuses. *unset*:\n\
         an answer's field that stays empty. No field of a request is read and dropped. {} fields: {}.\n",
        rows.len(),
        counts.join(", ")
    );
    let home = |test: &str| {
        let signature = format!("fn {test}(");
        let file = files.iter().find(|file| file.text.contains(&signature));
        file.map(|file| file.path.display().to_string()).unwrap_or_default()
    };
    for (message, fields) in messages {
        // Writing to a String cannot fail.
        write!(
            text,
            "\n## {message}\n\n| field | | where | shown by |\n|---|---|---|---|\n"
        )
        .unwrap_or_default();
        for field in fields {
            let Some(answer) = rows.get(&(message.as_str(), field.as_str())) else {
                continue;
            };
            let why = if answer.why.is_empty() {
                String::new()
            } else {
                format!(": {}", answer.why)
            };
            let link = |path: &str, shown: &str| match path {
                "" => String::new(),
                _ if answer.verdict == "within" => format!("`{shown}`"),
                path => format!("[{shown}](../{path})"),
            };
            writeln!(
                text,
                "| `{field}` | {}{why} | {} | {} |",
                answer.verdict,
                link(&answer.file, &answer.file),
                link(&home(&answer.test), &answer.test),
            )
            .unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture;

    #[test]
    fn each_fault_of_the_bad_fixture_is_found() {
        let found: Vec<String> = check(&fixture("cri_table"), false)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        for fault in [
            "Asked.forgotten has no row",
            "Asked.elsewhere: there is no file \"src/nowhere.rs\"",
            "Asked.unnamed: src/lib.rs does not hold \"unnamed\"",
            "Asked.untested: there is no test \"not_a_test\"",
            "Asked.dropped: `refused` needs a reason after #",
            "Asked.odd: `ignored` is no answer",
            "Asked.lost: `within` needs a field that is `refused`, not \"Asked.odd\"",
            "Asked.invented: there is no such field",
            "docs/cri.md: is not what the answers say",
        ] {
            assert!(
                found.iter().any(|line| line.contains(fault)),
                "{fault} is not in {found:#?}"
            );
        }
        assert!(!found.iter().any(|line| line.contains("Asked.good")), "{found:#?}");
        assert_eq!(found.len(), 9, "{found:#?}");
    }

    #[test]
    fn names_are_those_of_generated_code() {
        for (field, wanted) in [
            ("uidMappings", "uid_mappings"),
            ("CDI_devices", "cdi_devices"),
            ("Avg10", "avg10"),
            ("cpu", "cpu"),
        ] {
            assert_eq!(snake(field), wanted);
        }
        assert!(holds("a.cpu_shares = 1", "cpu_shares") && !holds("cpu_shares", "cpu"));
    }
}
