//! Sockets in another network namespace. A socket belongs to the namespace of the thread
//! that made it, for ever: a short-lived thread goes there, makes it, and ends.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `make` in the network namespace of process `pid`.
///
/// # Errors
/// Where the namespace is gone, or `make` fails.
pub fn inside<T: Send + 'static>(pid: u32, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
    let thread = std::thread::spawn(move || -> Result<T> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the network namespace")?;
        make()
    });
    thread
        .join()
        .map_err(|_| anyhow!("the thread in the network namespace panicked"))?
}

/// A listener there.
///
/// # Errors
/// Where the address is taken.
pub fn listen(pid: u32, address: SocketAddr) -> Result<TcpListener> {
    inside(pid, move || {
        TcpListener::bind(address).with_context(|| format!("listen on {address}"))
    })
}

/// A connection from there.
///
/// # Errors
/// Where nobody listens.
pub fn connect(pid: u32, address: SocketAddr) -> Result<TcpStream> {
    inside(pid, move || {
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).with_context(|| format!("connect to {address}"))
    })
}
