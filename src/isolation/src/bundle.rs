//! config.json of a bundle → runtime spec. The bundle is a directory of the host, made by the daemon: trusted.

use std::path::Path;

use spec::runtime::{Process, Spec};

use crate::Error;

/// Reads the bundle's config.json.
pub(crate) fn read(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(Error::sys("read", path.display()))?;
    serde_json::from_slice(&text).map_err(|source| Error::Parse {
        object: path.display().to_string(),
        source,
    })
}

/// Parses a `process` object.
pub(crate) fn process(json: &[u8]) -> Result<Process, Error> {
    serde_json::from_slice(json).map_err(|source| Error::Parse {
        object: "process".to_owned(),
        source,
    })
}
