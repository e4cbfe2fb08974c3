//! `cargo xtask ci`: the cheap checks first. All are run, so that one call tells all.

use std::path::Path;
use std::time::Instant;

use crate::{checks, layers, report, run};

/// A name, and what says whether all is well.
type Step<'a> = (&'static str, Box<dyn Fn() -> anyhow::Result<bool> + 'a>);

/// Whether all is well.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let cargo = |name: &'static str, words: &'static [&'static str], env: Option<(&'static str, &'static str)>| {
        move || {
            let mut command = run::cargo(root, words);
            command.envs(env);
            match run::wait(&mut command) {
                Ok(()) => Ok(true),
                Err(error) => {
                    println!("{name}: {error:#}");
                    Ok(false)
                }
            }
        }
    };
    let steps: [Step<'_>; 6] = [
        ("fmt", Box::new(cargo("fmt", &["fmt", "--all", "--check"], None))),
        ("lint", Box::new(|| Ok(report("lint", &checks::all(root)?)))),
        ("layers", Box::new(|| Ok(report("layers", &layers::check(root)?)))),
        (
            "clippy",
            Box::new(cargo(
                "clippy",
                &[
                    "clippy",
                    "--locked",
                    "--workspace",
                    "--all-targets",
                    "--quiet",
                    "--",
                    "-D",
                    "warnings",
                ],
                None,
            )),
        ),
        (
            "doc",
            Box::new(cargo(
                "doc",
                &[
                    "doc",
                    "--locked",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                    "--quiet",
                ],
                Some(("RUSTDOCFLAGS", "-D warnings")),
            )),
        ),
        (
            "test",
            Box::new(cargo(
                "test",
                &["test", "--locked", "--workspace", "--lib", "--bins", "--quiet"],
                None,
            )),
        ),
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
