//! Traffic: servers that answer with who they are and whom they see, and clients that ask.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::host::Space;

const PATIENCE: Duration = Duration::from_secs(6);

/// A TCP server in `space` that answers `<name> <address of the client>`.
pub(crate) fn serve(space: Option<&Space>, name: &'static str, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let bind = move || TcpListener::bind(at);
    // A bridge's IPv6 address may take a moment until it can be bound.
    let listener = eventually(|| match space {
        Some(space) => space.run(bind).ok(),
        None => bind().ok(),
    })
    .unwrap_or_else(|| panic!("{name} cannot listen at {at}"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let seen = stream.peer_addr().unwrap().ip().to_canonical();
            stream.write_all(format!("{name} {seen}").as_bytes()).unwrap();
        }
    });
}

/// A UDP server that answers `<name> <address of the client>`.
pub(crate) fn serve_udp(space: &Space, name: &'static str, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let socket = space.run(move || UdpSocket::bind(at).unwrap());
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buf) {
            socket
                .send_to(format!("{name} {}", from.ip().to_canonical()).as_bytes(), from)
                .unwrap_or_default();
        }
    });
}

pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Some(value) => return Some(value),
            None if Instant::now() > end => return None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn ask_once(to: SocketAddr, timeout: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn within<T: Send + 'static>(space: Option<&Space>, body: impl FnOnce() -> T + Send + 'static) -> T {
    match space {
        Some(space) => space.run(body),
        None => body(),
    }
}

/// The answer of the server at `to`, asked from `space` (none: the host).
pub(crate) fn ask(space: Option<&Space>, to: &str) -> String {
    let at: SocketAddr = to.parse().unwrap();
    let mut last = None;
    let answer = eventually(|| match within(space, move || ask_once(at, Duration::from_secs(1))) {
        Ok(text) => Some(text),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    answer.unwrap_or_else(|| panic!("no answer from {to}: {last:?}"))
}

/// One try, without patience: what must work at once.
pub(crate) fn ask_now(space: Option<&Space>, to: &str) -> std::io::Result<String> {
    let at: SocketAddr = to.parse().unwrap();
    within(space, move || ask_once(at, Duration::from_secs(1)))
}

/// One datagram from `space` to `to`, from a port of its own; the answer.
pub(crate) fn ask_udp(space: Option<&Space>, to: &str) -> String {
    let at: SocketAddr = to.parse().unwrap();
    let try_once = move || {
        let any: IpAddr = if at.is_ipv4() {
            [0u8; 4].into()
        } else {
            [0u8; 16].into()
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        socket.send_to(b"?", at).ok()?;
        let mut buf = [0; 64];
        let (len, _) = socket.recv_from(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..len]).into_owned())
    };
    eventually(|| within(space, try_once)).unwrap_or_else(|| panic!("no datagram from {to}"))
}
