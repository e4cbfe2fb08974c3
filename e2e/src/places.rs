//! Where the programs, the cache and the temporary directories of the tests are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the source tree.
#[must_use]
pub fn tree() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where `hack/setup` puts what it builds (`BULKHEAD_CACHE`, else `.cache` in the tree).
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("BULKHEAD_CACHE").map_or_else(|| tree().join(".cache"), PathBuf::from)
}

/// A program that `hack/setup` built.
///
/// # Errors
/// Where it is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    existing(cache().join("bin").join(name), "run hack/setup")
}

/// A program of ours, as `cargo xtask build` made it.
///
/// # Errors
/// Where it is not there.
pub fn product(name: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("BULKHEAD_BIN_DIR").map_or_else(|| tree().join("target/bulkhead"), PathBuf::from);
    existing(directory.join(name), "run `cargo xtask build`, or set BULKHEAD_BIN_DIR")
}

fn existing(path: PathBuf, hint: &str) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{} is not there: {hint}", path.display());
    }
    Ok(path)
}

/// A new directory of a node. Short, since sockets lie below it.
///
/// # Errors
/// Where it cannot be made.
pub fn scratch() -> Result<tempfile::TempDir> {
    let base = std::env::var_os("BULKHEAD_E2E_TMP").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("bh-")
        .tempdir_in(&base)
        .with_context(|| format!("make a directory in {}", base.display()))
}
