//! `cargo xtask ci`: the cheap checks first. All are run, so that one call tells all.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{checks, contract, cri_table, features, layers, report, run};

/// What cargo checks.
struct Check {
    name: &'static str,
    words: &'static [&'static str],
    env: Option<(&'static str, &'static str)>,
}

const FMT: Check = Check {
    name: "fmt",
    words: &["fmt", "--all", "--check"],
    env: None,
};
const CLIPPY: Check = Check {
    name: "clippy",
    words: &[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ],
    env: None,
};
const DOC: Check = Check {
    name: "doc",
    words: &[
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ],
    env: Some(("RUSTDOCFLAGS", "-D warnings")),
};
const TEST: Check = Check {
    name: "test",
    words: &["test", "--locked", "--workspace", "--lib", "--bins", "--quiet"],
    env: None,
};

impl Check {
    fn command(&self, root: &Path) -> Command {
        let mut command = run::cargo(root, self.words);
        command.envs(self.env);
        command
    }

    /// Whether all is well; what is wrong is said by cargo itself.
    fn run(&self, root: &Path) -> bool {
        match run::wait(&mut self.command(root)) {
            Ok(()) => true,
            Err(error) => {
                println!("{}: {error:#}", self.name);
                false
            }
        }
    }
}

/// A name, and what says whether all is well.
type Step<'a> = (&'static str, Box<dyn Fn() -> anyhow::Result<bool> + 'a>);

/// Whether all is well.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let cargo = |check: Check| -> Step<'_> { (check.name, Box::new(move || Ok(check.run(root)))) };
    let steps: [Step<'_>; 8] = [
        cargo(FMT),
        ("lint", Box::new(|| Ok(report("lint", &checks::all(root)?)))),
        (
            "fields",
            Box::new(|| Ok(report("cri-table", &cri_table::check(root, false)?))),
        ),
        ("layers", Box::new(|| Ok(report("layers", &layers::check(root)?)))),
        (
            "contract",
            Box::new(|| {
                let found = [contract::check(root)?, features::check(root)?].concat();
                Ok(report("contract", &found))
            }),
        ),
        cargo(CLIPPY),
        cargo(DOC),
        cargo(TEST),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        let begun = Instant::now();
        let is_fine = step()?;
        println!(
            "ci: {name:<8}{}  {:.1} s",
            if is_fine { "ok    " } else { "FAILED" },
            begun.elapsed().as_secs_f32()
        );
        if !is_fine {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("ci: all green");
    } else {
        println!("ci: failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `check` is content with a fixture, and what it said.
    fn judge(check: &Check, fixture: &str) -> (bool, String) {
        let target = tempfile::tempdir().unwrap();
        let mut command = check.command(&checks::fixture(&format!("ci/{fixture}")));
        let done = command.env("CARGO_TARGET_DIR", target.path()).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn each_check_catches_its_bad_fixture() {
        for (check, fixture, fault) in [
            (FMT, "unformatted", "Diff in"),
            (CLIPPY, "warned", "unused variable: `left`"),
            (DOC, "dead_link", "unresolved link to `nowhere`"),
            (TEST, "failing", "tests::two_and_two"),
        ] {
            let (content, said) = judge(&check, fixture);
            assert!(!content, "{} sees nothing wrong in {fixture}", check.name);
            assert!(said.contains(fault), "{}: {said}", check.name);
        }
    }

    #[test]
    fn each_check_is_content_with_the_good_fixture() {
        for check in [FMT, CLIPPY, DOC, TEST] {
            let (content, said) = judge(&check, "good");
            assert!(content, "{}: {said}", check.name);
        }
    }
}
