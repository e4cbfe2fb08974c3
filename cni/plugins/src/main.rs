//! `bulkhead-cni`: the standard CNI plugins as one program, which one by the name it is called
//! by (`bridge`, `host-local`, `loopback`, `portmap`), or by its arguments: several are one after the other.
//!
//! `bulkhead-cni install DIR` copies the program into DIR and links the names to it.
//! Everything a plugin does, it does by system calls: no other program is executed, save an
//! IPAM plugin that is not ours. One thread; a namespace is entered and left by it alone.
//!
//! May use: cni-types, cni-netlink, sys.

mod bridge;
mod fault;
mod host_local;
mod install;
mod ipam;
mod loopback;
mod masquerade;
mod portmap;
mod skel;
mod sysctl;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let called = args
        .first()
        .and_then(|arg| Path::new(arg).file_name())
        .map(|name| name.to_string_lossy().into_owned());
    if let Some(plugin) = called.as_deref().and_then(skel::find) {
        return skel::run(&[plugin]);
    }
    let words: Vec<String> = args.drain(1..).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["install", dir] => match install::install(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string()),
        },
        ["--version"] => say(&format!("bulkhead-cni {}", env!("CARGO_PKG_VERSION"))),
        names => match names.iter().copied().map(skel::find).collect::<Option<Vec<_>>>() {
            Some(plugins) if !plugins.is_empty() => skel::run(&plugins),
            _ => complain(
                "usage: bulkhead-cni install DIR\n       bulkhead-cni {bridge|host-local|loopback|portmap}... (called as CNI plugins)",
            ),
        },
    }
}

fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str) -> ExitCode {
    // Nobody is left to tell when stderr is gone.
    writeln!(std::io::stderr(), "{text}").unwrap_or_default();
    ExitCode::from(2)
}
