//! One network interface of this network namespace, as far as a bare namespace needs it: `lo` up. All else is
//! netlink's (crate `cni-netlink`).

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::call::check;

/// Brings the interface `name` up.
///
/// # Errors
/// `InvalidInput` for a name of 16 bytes or more; ENODEV where there is no such interface.
pub fn set_up(name: &str) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the descriptor is a socket; `request` is a whole ifreq with a terminated name and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: SIOCGIFFLAGS filled this member of the union in.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: as above; the kernel only reads it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lo_comes_up_in_a_new_namespace() {
        let child = crate::process::fork(|| {
            let run = || {
                crate::ns::unshare(libc::CLONE_NEWNET)?;
                set_up("lo")?;
                std::net::TcpListener::bind("127.0.0.1:0").map(drop)
            };
            u8::from(run().is_err())
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
        assert!(set_up("no-such-interface-name").is_err());
    }
}
