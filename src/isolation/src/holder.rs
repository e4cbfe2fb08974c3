//! A child that makes a namespace and only holds it, until somebody has its file.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use sys::process;

use crate::Error;

/// Has a child run `make`, and runs `then` with the child's pid while the child waits. `what` is what is made.
pub(crate) fn held<T>(
    what: &str,
    make: impl FnOnce() -> io::Result<()>,
    then: impl FnOnce(i32) -> Result<T, Error>,
) -> Result<T, Error> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::sys("make", "pipe"));
    let ((said, saying), (held, holding)) = (pipe()?, pipe()?);
    let who = format!("the holder of a {what}");
    let holder = process::fork(move || hold(make, saying, held)).map_err(Error::sys("fork", &who))?;
    let mut code = [u8::MAX];
    let result = std::fs::File::from(said)
        .read_exact(&mut code)
        .map_err(Error::sys("hear from", &who))
        .and_then(|()| match code {
            [0] => then(holder),
            [code] => Err(Error::sys("make", what)(io::Error::from_raw_os_error(code.into()))),
        });
    drop(holding);
    match process::wait(holder) {
        Ok(_) => result,
        Err(error) => result.and(Err(Error::sys("wait for", who)(error))),
    }
}

/// The child: until its end of the second pipe says that nobody needs it any more.
fn hold(make: impl FnOnce() -> io::Result<()>, saying: OwnedFd, held: OwnedFd) -> u8 {
    let code = |error: io::Error| error.raw_os_error().and_then(|code| u8::try_from(code).ok());
    let made = process::close_all_but(&[saying.as_fd(), held.as_fd()])
        .and_then(|()| make())
        .map_or_else(|error| code(error).unwrap_or(u8::MAX), |()| 0);
    let told = std::fs::File::from(saying).write_all(&[made]);
    u8::from(told.is_err() || std::fs::File::from(held).read(&mut [0]).is_err())
}
