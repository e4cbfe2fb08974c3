//! systemd's manager on its private socket, where root speaks with it directly: no bus daemon need run.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::properties::Property;
use super::wire::{self, Body, Reply};
use crate::Error;

const SOCKET: &str = "/run/systemd/private";

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(25);

/// Lines of the authentication are short.
const LONGEST_LINE: usize = 512;

/// A connection, for a few calls.
#[derive(Debug)]
pub(super) struct Manager {
    stream: UnixStream,
    serial: u32,
}

impl Manager {
    pub(super) fn connect() -> Result<Self, Error> {
        Self::open().map_err(Error::at("talk to systemd at", Path::new(SOCKET)))
    }

    fn open() -> io::Result<Self> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        // SASL EXTERNAL: the kernel says who we are; 30 is "0" in hexadecimal digits.
        stream.write_all(b"\0AUTH EXTERNAL 30\r\n")?;
        let answer = line(&mut stream)?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, answer));
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    /// StartTransientUnit.
    pub(super) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let all = properties.iter().map(|one| (one.name, &one.value));
        let body = Body::default().text(unit).text("replace").properties(all).no_units();
        self.call("start", unit, "StartTransientUnit", &body)
    }

    /// SetUnitProperties, until the unit goes.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let all = properties.iter().map(|one| (one.name, &one.value));
        let body = Body::default().text(unit).bool(true).properties(all);
        self.call("set properties of", unit, "SetUnitProperties", &body)
    }

    /// StopUnit.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let body = Body::default().text(unit).text("replace");
        self.call("stop", unit, "StopUnit", &body)
    }

    fn call(&mut self, op: &'static str, unit: &str, member: &str, body: &Body) -> Result<(), Error> {
        let answer = self.exchange(member, body);
        match answer.map_err(Error::at("talk to systemd at", Path::new(SOCKET)))? {
            Reply::Failed { name, message } => Err(Error::Systemd {
                op,
                unit: unit.to_owned(),
                name,
                message,
            }),
            Reply::Done | Reply::Other => Ok(()),
        }
    }

    fn exchange(&mut self, member: &str, body: &Body) -> io::Result<Reply> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is no D-Bus message");
        self.serial += 1;
        self.stream.write_all(&wire::call(self.serial, member, body))?;
        loop {
            let mut head = [0; 16];
            self.stream.read_exact(&mut head)?;
            let mut message = head.to_vec();
            message.resize(wire::whole(&head).ok_or_else(bad)?, 0);
            self.stream.read_exact(&mut message[16..])?;
            match wire::reply(&message, self.serial).ok_or_else(bad)? {
                // A signal to everybody.
                Reply::Other => {}
                answer => return Ok(answer),
            }
        }
    }
}

/// A line of the authentication, byte by byte: what follows it is a message.
fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
        if text.len() > LONGEST_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}
