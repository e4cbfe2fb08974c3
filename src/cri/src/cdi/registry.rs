//! Devices in the directories: a later directory's word stands against an earlier one's; two files of one directory that
//! claim the same device leave it to nobody.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::file::{Edits, File};
use super::names::Name;
use crate::error::Error;

/// Longest file that is read.
const LONGEST: u64 = 4 << 20;

struct Found {
    path: PathBuf,
    file: File,
    /// The directory's place.
    rank: usize,
}

/// The edits for the devices, in their order; those of a file once, before the first of its devices.
pub(super) fn find(wanted: &[Name], dirs: &[PathBuf]) -> Result<Vec<Edits>, Error> {
    let mut broken = Vec::new();
    let mut files = Vec::new();
    for (rank, dir) in dirs.iter().enumerate() {
        scan(dir, rank, &mut files, &mut broken)?;
    }
    let (mut used, mut edits): (Vec<usize>, Vec<Edits>) = (Vec::new(), Vec::new());
    for name in wanted {
        let place = place(name, &files).map_err(|e| match broken.is_empty() {
            true => e,
            false => e.and(&format!("files that could not be used: {}", broken.join("; "))),
        })?;
        let file = &files[place].file;
        if !used.contains(&place) {
            used.push(place);
            edits.push(file.container_edits.clone());
        }
        edits.extend(
            file.devices
                .iter()
                .find(|device| device.name == name.device)
                .map(|device| device.container_edits.clone()),
        );
    }
    Ok(edits)
}

/// Which file speaks for the device.
fn place(name: &Name, files: &[Found]) -> Result<usize, Error> {
    let has = |found: &Found| {
        found.file.kind == name.kind && found.file.devices.iter().any(|device| device.name == name.device)
    };
    let claims: Vec<usize> = (0..files.len()).filter(|place| has(&files[*place])).collect();
    let Some(best) = claims.iter().map(|place| files[*place].rank).max() else {
        return Err(Error::invalid(format!(
            "CDI device {name} is not known on this node: no file of the CDI directories describes it"
        )));
    };
    let best: Vec<usize> = claims.into_iter().filter(|place| files[*place].rank == best).collect();
    match best[..] {
        [place] => Ok(place),
        _ => {
            let paths: Vec<String> = best
                .iter()
                .map(|place| files[*place].path.display().to_string())
                .collect();
            Err(Error::invalid(format!(
                "CDI device {name} is described more than once: {}",
                paths.join(", ")
            )))
        }
    }
}

/// The files of one directory, by name. A directory that is not there has none.
fn scan(dir: &Path, rank: usize, files: &mut Vec<Found>, broken: &mut Vec<String>) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::at("list the CDI directory", dir.display(), &e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::at("list the CDI directory", dir.display(), &e))?;
        paths.push(entry.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.ends_with(".json") || name.ends_with(".yaml")) {
            continue;
        }
        match read(&path).and_then(|text| File::parse(name, &text)) {
            Ok(file) => files.push(Found { path, file, rank }),
            // One bad file is no reason to withhold the devices of the others.
            Err(why) => broken.push(format!("{}: {why}", path.display())),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err("is no file".to_owned());
    }
    file.take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    Ok(text)
}
