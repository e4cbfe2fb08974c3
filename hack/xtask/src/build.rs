//! `cargo xtask build`: `bulkhead` by the chosen profile, `bulkhead-conmon` and
//! `bulkhead-cni` static and small, all into one directory.
//!
//! Static means: no dynamic loader at exec, nothing that a container could replace under
//! them. That is asked of the linker and then seen for in the finished file. A position
//! independent program would be relocated at each start, which costs 40 kB of private
//! memory in each monitor; hence `relocation-model=static`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::run;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";
const SMALL: [&str; 2] = ["bulkhead-conmon", "bulkhead-cni"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Optimise the daemon: a whole-program build, which takes its time (the small programs always are).
    #[arg(long)]
    release: bool,
    /// Compile the fail points in, for tests.
    #[arg(long)]
    failpoints: bool,
    /// Where the programs go [default: target/bulkhead].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds all programs.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target = target_directory(root)?;
    let out = args.out.clone().unwrap_or_else(|| root.join("target/bulkhead"));
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;

    let mut words = vec!["build", "--locked", "--package", "bulkhead"];
    if args.release {
        words.extend(["--profile", "daemon"]);
    }
    if args.failpoints {
        words.extend(["--features", "failpoints"]);
    }
    run::wait(&mut run::cargo(root, &words))?;
    let profile = if args.release { "daemon" } else { "debug" };
    install(&target.join(profile).join("bulkhead"), &out)?;

    let mut words = vec!["build", "--locked", "--profile", "small", "--target", TARGET];
    for package in SMALL {
        words.extend(["--package", package]);
    }
    run::wait(run::cargo(root, &words).env("RUSTFLAGS", STATIC))?;
    for name in SMALL {
        let program = install(&target.join(TARGET).join("small").join(name), &out)?;
        let bytes = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
        ensure!(
            !has_interpreter(&bytes)?,
            "{} is not static: it names a dynamic loader",
            program.display()
        );
    }
    Ok(())
}

/// Copies a program beside the others, so that one that runs is replaced, not written to.
fn install(program: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let (to, new) = (out.join(name), out.join(format!(".{}.new", name.display())));
    fs::copy(program, &new).with_context(|| format!("copy {} to {}", program.display(), new.display()))?;
    fs::rename(&new, &to).with_context(|| format!("rename {}", new.display()))?;
    println!("{:>9} kB  {}", fs::metadata(&to)?.len() / 1024, to.display());
    Ok(to)
}

fn target_directory(root: &Path) -> anyhow::Result<PathBuf> {
    let words = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let metadata: serde_json::Value = serde_json::from_slice(&run::output(&mut run::cargo(root, &words))?)?;
    let directory = metadata.get("target_directory").and_then(|value| value.as_str());
    Ok(directory.context("cargo metadata names a target_directory")?.into())
}

/// Whether a 64-bit ELF file has a `PT_INTERP` header (elf(5)).
fn has_interpreter(bytes: &[u8]) -> anyhow::Result<bool> {
    const PT_INTERP: u32 = 3;
    let part = |at: usize, length: usize| {
        bytes
            .get(at..)
            .and_then(|rest| rest.get(..length))
            .context("the ELF file is cut short")
    };
    let half = |at: usize| part(at, 2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    let word = |at: usize| part(at, 4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    if part(0, 5)? != b"\x7fELF\x02" {
        bail!("this is no 64-bit ELF file");
    }
    // A program of ours is far below 4 GiB: the low half of the offset is all of it.
    let (table, size, count) = (usize::try_from(word(0x20)?)?, half(0x36)?, half(0x38)?);
    for index in 0..count {
        if word(table + index * size)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&own).unwrap());
        let mut header = vec![0u8; 0x40 + 0x38];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        header[0x20] = 0x40;
        header[0x36] = 0x38;
        header[0x38] = 1;
        header[0x40] = 1;
        assert!(!has_interpreter(&header).unwrap());
        header[0x40] = 3;
        assert!(has_interpreter(&header).unwrap());
        assert!(has_interpreter(b"#!/bin/sh").is_err());
        assert!(has_interpreter(&header[..0x39]).is_err());
    }
}
