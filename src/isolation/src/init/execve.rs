//! The program: found in the PATH of the container's own environment, and executed. Everything is made ready before
//! the seccomp filter, so that behind it execve is the only call.

use std::ffi::CString;

use spec::Kind;
use sys::process::{CStrings, execve};

use crate::Error;
use crate::plan::process::Process;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ready to be executed.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    candidates: Vec<CString>,
    args: CStrings,
    env: CStrings,
}

/// Where the program may be, and what it is given.
pub(super) fn prepare(process: &Process) -> Result<Program, Error> {
    let name = process.args.first().cloned().unwrap_or_default();
    let nul = |_| Error::invalid("process", "an argument or a variable holds a NUL byte");
    let candidates = paths(&name, &process.env)
        .into_iter()
        .map(CString::new)
        .collect::<Result<_, _>>()
        .map_err(nul)?;
    let args = CStrings::new(&process.args).map_err(nul)?;
    let env = CStrings::new(&process.env).map_err(nul)?;
    Ok(Program {
        name,
        candidates,
        args,
        env,
    })
}

/// The paths to try. As execvp(3): an empty element of PATH is the working directory; the last PATH counts.
fn paths(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| {
            if dir.is_empty() {
                format!("./{name}")
            } else {
                format!("{dir}/{name}")
            }
        })
        .collect()
}

impl Program {
    /// Executes it; returns only the reason why it could not.
    pub(super) fn run(self) -> Error {
        let mut refused = false;
        for path in &self.candidates {
            let error = execve(path, &self.args, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => refused = true,
                Some(libc::ENOEXEC) => return self.failed("exec format error", Kind::InvalidArgument),
                _ => return Error::sys("exec", format!("{:?}", self.name))(error),
            }
        }
        if refused {
            self.failed("permission denied", Kind::PermissionDenied)
        } else if self.name.contains('/') {
            self.failed("no such file or directory", Kind::NotFound)
        } else {
            self.failed("executable file not found in $PATH", Kind::NotFound)
        }
    }

    fn failed(self, why: &'static str, kind: Kind) -> Error {
        Error::Exec {
            program: self.name,
            why,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(path: &str) -> Vec<String> {
        vec!["A=b".to_owned(), path.to_owned()]
    }

    #[test]
    fn the_path_is_the_containers_own() {
        assert_eq!(paths("x", &env("PATH=/a:/b")), ["/a/x", "/b/x"]);
        assert_eq!(paths("x", &env("PATH=")), ["./x"]);
        assert_eq!(paths("/a/x", &env("PATH=/b")), ["/a/x"]);
        assert_eq!(paths("./x", &env("PATH=/b")), ["./x"]);
        assert_eq!(paths("x", &[])[0], "/usr/local/sbin/x");
        assert_eq!(paths("x", &["PATH=/a".to_owned(), "PATH=/b".to_owned()]), ["/b/x"]);
    }
}
