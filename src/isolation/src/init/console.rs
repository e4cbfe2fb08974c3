//! The terminal: a pair of the container's own devpts. The master goes to the caller, the slave becomes `/dev/console`
//! and the standard streams.

use std::os::fd::{AsFd, OwnedFd};

use sys::mount;
use sys::path::{Links, Root};

use crate::Error;
use crate::plan::process::Process;
use crate::sync::{Channel, Message};

/// The slave, where the process wants a terminal.
pub(super) fn open(root: &Root, process: &Process, channel: &Channel) -> Result<Option<OwnedFd>, Error> {
    if !process.terminal {
        return Ok(None);
    }
    let devpts = root
        .open_path("/dev/pts", Links::Refuse)
        .map_err(Error::sys("open", "/dev/pts for a terminal"))?;
    let (master, slave) = sys::tty::open_pair(devpts.as_fd()).map_err(Error::sys("make", "terminal"))?;
    if let Some((columns, rows)) = process.size {
        sys::tty::set_size(slave.as_fd(), columns, rows).map_err(Error::sys("size", "terminal"))?;
    }
    channel.send_with(&Message::Console, &master)?;
    Ok(Some(slave))
}

/// Binds the slave on `/dev/console`.
pub(super) fn bind(root: &Root, slave: &OwnedFd) -> Result<(), Error> {
    let object = "/dev/console";
    let target = root
        .make_file(object, 0o600, Links::Refuse)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP) => Error::state(object, "the image has a symbolic link there: refused"),
            _ => Error::sys("make", object)(source),
        })?;
    let tree = mount::open_tree(slave.as_fd(), "".as_ref(), false).map_err(Error::sys("open", "terminal"))?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(Error::sys("bind the terminal on", object))
}
