//! A command's streams over WebSocket: channels 0 stdin, 1 stdout, 2 stderr, 3 status, 4 resize.
//!
//! What goes out and what comes in are two futures, so that a process which waits for its output
//! to be read does not stop its input from being sent.

use std::io::Write;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_websockets::Message;

use super::connect::{self, Socket};
use super::{Transport, terminal};
use crate::report::{self, Exited};

const V5: &str = "v5.channel.k8s.io";
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Ctrl-P, Ctrl-Q leaves a terminal session without ending the process.
const DETACH: [u8; 2] = [0x10, 0x11];

/// What the session has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// Runs a session to its end. A process that ended with a code other than 0 is the error `Exited`.
pub(crate) async fn run(url: &str, wants: Wants, transport: &Transport, out: &mut dyn Write) -> Result<()> {
    let (socket, protocol) = connect::websocket(url, PROTOCOLS, &transport.tls).await?;
    let terminal = wants.tty && wants.stdin && terminal::is_there();
    if wants.tty && !terminal {
        report::warn("input is not a terminal");
    }
    // Dropped, and so undone, whichever way the session ends.
    let _raw = if terminal { Some(terminal::raw()?) } else { None };
    let (sink, mut messages) = socket.split();
    let mut status = BytesMut::new();
    let receive = async {
        while let Some(message) = messages.next().await {
            let message = message.context("connection lost")?;
            if message.is_close() {
                break;
            }
            let payload: Bytes = message.into_payload().into();
            match payload.split_first() {
                Some((&STDOUT, data)) => {
                    out.write_all(data)?;
                    out.flush()?;
                }
                Some((&STDERR, data)) => std::io::stderr().write_all(data)?,
                Some((&STATUS, data)) => status.extend_from_slice(data),
                _ => {}
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        received = receive => received?,
        sent = send(sink, wants, terminal, protocol == V5) => match sent? {
            Detached => return Ok(()),
        },
    }
    verdict(&status, protocol.starts_with('v'))
}

/// The user left.
struct Detached;

/// Sends stdin and terminal sizes for as long as the session lasts.
async fn send(
    mut sink: SplitSink<Socket, Message>,
    wants: Wants,
    terminal: bool,
    half_close: bool,
) -> Result<Detached> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = tokio::io::stdin();
    let mut reading = wants.stdin;
    let mut typed = Keys::default();
    if terminal {
        send_size(&mut sink).await?;
    }
    loop {
        let mut buffer = BytesMut::with_capacity(1 + 32 * 1024);
        buffer.put_u8(STDIN);
        tokio::select! {
            read = stdin.read_buf(&mut buffer), if reading => {
                if read.context("reading stdin")? == 0 {
                    reading = false;
                    if half_close {
                        sink.send(Message::binary(Bytes::from_static(&[CLOSE, STDIN]))).await?;
                    }
                    continue;
                }
                if terminal && typed.detach(&buffer[1..]) {
                    return Ok(Detached);
                }
                sink.send(Message::binary(buffer.freeze())).await?;
            }
            _ = resized.recv(), if terminal => send_size(&mut sink).await?,
            else => std::future::pending().await,
        }
    }
}

async fn send_size(sink: &mut SplitSink<Socket, Message>) -> Result<()> {
    if let Some((width, height)) = terminal::size() {
        let mut message = vec![RESIZE];
        write!(message, "{{\"Width\":{width},\"Height\":{height}}}")?;
        sink.send(Message::binary(message)).await?;
    }
    Ok(())
}

/// Watches what is typed for the keys that leave.
#[derive(Debug, Default)]
struct Keys {
    begun: bool,
}

impl Keys {
    fn detach(&mut self, typed: &[u8]) -> bool {
        for key in typed {
            if self.begun && *key == DETACH[1] {
                return true;
            }
            self.begun = *key == DETACH[0];
        }
        false
    }
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// What the status channel said: JSON from version 4 on, the text of an error before.
fn verdict(status: &[u8], json: bool) -> Result<()> {
    if !json {
        return if status.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("{}", String::from_utf8_lossy(status)))
        };
    }
    if status.is_empty() {
        bail!("connection lost before the command's status came");
    }
    let status: Status = serde_json::from_slice(status).context("status of the command")?;
    if status.status == "Success" {
        return Ok(());
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse::<u8>().ok()) {
        Some(code) if status.reason == "NonZeroExitCode" => Err(Exited(code).into()),
        _ => Err(anyhow!("{}", status.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        verdict(br#"{"metadata":{},"status":"Success"}"#, true).unwrap();
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(verdict(failed, true).unwrap_err().downcast::<Exited>().unwrap().0, 7);
        let broken = br#"{"status":"Failure","reason":"InternalError","message":"no such file"}"#;
        assert_eq!(verdict(broken, true).unwrap_err().to_string(), "no such file");
        verdict(b"", true).unwrap_err();
        verdict(b"", false).unwrap();
        assert_eq!(verdict(b"text", false).unwrap_err().to_string(), "text");
    }

    #[test]
    fn two_keys_leave_even_if_typed_apart() {
        let mut keys = Keys::default();
        assert!(!keys.detach(b"abc\x10"));
        assert!(keys.detach(b"\x11"));
        let mut keys = Keys::default();
        assert!(!keys.detach(b"\x10x\x11"));
    }
}
