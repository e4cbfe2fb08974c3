//! `bulkhead-cni install DIR`: this program in a plugin directory, under every name it knows.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::fault::{Fault, Result};
use crate::skel::PLUGINS;

const PROGRAM: &str = "bulkhead-cni";

/// Copies the program to `dir` and makes a link for each plugin. A plugin that runs meanwhile
/// sees the old program or the new one, never a half-written file.
pub(crate) fn install(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Fault::file("create", dir))?;
    let (target, fresh) = (
        dir.join(PROGRAM),
        dir.join(format!(".{PROGRAM}.{}", std::process::id())),
    );
    let this = Path::new("/proc/self/exe");
    std::fs::copy(this, &fresh).map_err(Fault::file("copy the program to", &fresh))?;
    // Never set-user-id (CVE-2024-33522): an installer that copies modes would carry it along.
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).map_err(Fault::file("chmod", &fresh))?;
    std::fs::rename(&fresh, &target).map_err(Fault::file("rename to", &target))?;
    for plugin in PLUGINS {
        let (link, fresh) = (
            dir.join(plugin.name),
            dir.join(format!(".{}.{}", plugin.name, std::process::id())),
        );
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Fault::file("remove", &fresh)(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(PROGRAM, &fresh).map_err(Fault::file("link", &fresh))?;
        std::fs::rename(&fresh, &link).map_err(Fault::file("rename to", &link))?;
    }
    Ok(())
}
