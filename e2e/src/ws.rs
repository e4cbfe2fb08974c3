//! A WebSocket client of the streaming server, written here so that a test can also do what
//! client-go never does: stop reading, tear frames, send nonsense.
//!
//! Channels 0 stdin, 1 stdout, 2 stderr, 3 status, 4 size; version 5 closes one by `255, channel`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns;
use crate::node::Node;

/// How long a read may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection after its handshake.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a channel.
    Data(u8, Vec<u8>),
    /// The end, with its code where it has one.
    Close(Option<u16>),
}

/// A session's end and what came before it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The status, JSON from version 4 on.
    pub status: String,
}

/// The address and the path in a URL of the streaming server.
///
/// # Errors
/// Where it is no `http://address:port/path`.
pub fn parts(url: &str) -> Result<(SocketAddr, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not http"))?;
    let (address, path) = rest.split_once('/').context("no path")?;
    Ok((address.parse()?, format!("/{path}")))
}

/// A connection to the address of `url`, and the path.
///
/// # Errors
/// Where nobody listens.
pub fn dial(node: &Node, url: &str) -> Result<(TcpStream, String)> {
    let (address, path) = parts(url)?;
    let stream = netns::connect(node.init(), address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok((stream, path))
}

/// Reads the head of an answer; nothing beyond it.
///
/// # Errors
/// Where the connection ends before the head does.
pub fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(
            stream.read(&mut byte)? == 1,
            "closed after {:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
        ensure!(head.len() < 100_000, "an endless head");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The request of a WebSocket client.
#[must_use]
pub fn request(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

/// A frame of a client, masked as RFC 6455 asks.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap_or(0)),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// A whole binary message of one channel.
#[must_use]
pub fn message(channel: u8, data: &[u8]) -> Vec<u8> {
    let mut payload = vec![channel];
    payload.extend_from_slice(data);
    frame(0x82, &payload)
}

impl Client {
    /// Opens a session.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn open(node: &Node, url: &str, protocol: &str) -> Result<Self> {
        let (mut stream, path) = dial(node, url)?;
        stream.write_all(request(&path, protocol).as_bytes())?;
        let head = head(&mut stream)?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        Ok(Self { stream })
    }

    /// The connection below, for what has no name here.
    pub fn raw(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// A second handle on the same connection.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub fn another(&self) -> Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
        })
    }

    /// Sends bytes on a channel.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(&message(channel, data))?)
    }

    /// Ends a channel (version 5).
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn end(&mut self, channel: u8) -> Result<()> {
        self.send(255, &[channel])
    }

    /// The next event. Pings are answered.
    ///
    /// # Errors
    /// Where the connection breaks, or nothing comes for a minute.
    pub fn event(&mut self) -> Result<Event> {
        loop {
            let mut two = [0; 2];
            match self.stream.read_exact(&mut two) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Event::Close(None)),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(Event::Close(None)),
                other => other?,
            }
            let length = match two[1] & 0x7f {
                126 => {
                    let mut more = [0; 2];
                    self.stream.read_exact(&mut more)?;
                    usize::from(u16::from_be_bytes(more))
                }
                127 => {
                    let mut more = [0; 8];
                    self.stream.read_exact(&mut more)?;
                    usize::try_from(u64::from_be_bytes(more))?
                }
                length => usize::from(length),
            };
            ensure!(length < 64 << 20, "a frame of {length} bytes");
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload)?;
            match two[0] & 0x0f {
                0..=2 if payload.is_empty() => {}
                0..=2 => return Ok(Event::Data(payload[0], payload[1..].to_vec())),
                8 => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Ok(Event::Close(code));
                }
                9 => self.stream.write_all(&frame(0x8a, &payload))?,
                10 => {}
                other => bail!("a frame of kind {other}"),
            }
        }
    }

    /// Everything up to the end.
    ///
    /// # Errors
    /// As [`Client::event`].
    pub fn outcome(&mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        loop {
            match self.event()? {
                Event::Data(1, data) => outcome.stdout.extend_from_slice(&data),
                Event::Data(2, data) => outcome.stderr.extend_from_slice(&data),
                Event::Data(3, data) => outcome.status.push_str(&String::from_utf8_lossy(&data)),
                Event::Data(..) => {}
                Event::Close(_) => return Ok(outcome),
            }
        }
    }

    /// Standard output up to the end, as text.
    ///
    /// # Errors
    /// As [`Client::event`].
    pub fn output(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.outcome()?.stdout).into_owned())
    }
}

impl Outcome {
    /// Whether the status says that the command ended with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.contains("\"Success\"")
    }
}
