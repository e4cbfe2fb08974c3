//! The mount namespace that containers begin from: an empty directory, with the host's procfs and sysfs.
//!
//! A new mount namespace is a copy of its maker's, mount by mount, and what was copied is made private and then taken out
//! of sight, mount by mount again. On a node each pod has some mounts of its own; so each pod would come up slower than
//! the one before. Init needs none of them, since all that it takes of the host it is given as descriptors.
//!
//! procfs and sysfs are there because the kernel gives a user namespace new ones only where it sees those already, as
//! much of them (`mount_too_revealing`).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use sys::mount::{self, Attr, Context, NODEV, NOEXEC, NOSUID, Propagation};
use sys::path::{Links, Root};

use crate::{Error, holder};

/// The host's trees that are in it.
const TREES: [&str; 2] = ["proc", "sys"];

/// Makes it. It lives as long as the descriptor.
///
/// # Errors
/// What the kernel refuses.
pub fn seed() -> Result<OwnedFd, Error> {
    holder::held("mount namespace to begin from", build, |pid| {
        let path = format!("/proc/{pid}/ns/mnt");
        sys::ns::open(Path::new(&path)).map_err(Error::sys("open", path))
    })
}

fn build() -> io::Result<()> {
    sys::ns::unshare(libc::CLONE_NEWNS)?;
    let private = Attr {
        propagation: Some(Propagation::Private),
        ..Attr::default()
    };
    mount::set_attr_at(c"/", true, private)?;
    let trees = TREES.map(|name| mount::open_tree(CWD, &Path::new("/").join(name), true));
    let context = Context::open("tmpfs")?;
    context.set("mode", "755")?;
    let top = context.mount(NOSUID | NODEV | NOEXEC)?;
    mount::attach(top.as_fd(), Root::open("/")?.as_fd())?;
    let root = Root::from_fd(top);
    for (name, tree) in TREES.into_iter().zip(trees) {
        mount::attach(tree?.as_fd(), root.mkdir_all(name, 0o555, Links::Refuse)?.as_fd())?;
    }
    mount::pivot(root.as_fd())
}
