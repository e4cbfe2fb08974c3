//! SPDY/3.1 frames: a decoder that takes bytes as they come, and the frames that we send.
//!
//! Control: `1|version:15|type:16`, `flags:8|length:24`, payload. Data: `0|stream:31`,
//! `flags:8|length:24`, payload. A data frame is handed on in the pieces in which it arrives,
//! so its length costs nothing; a control frame is collected, up to `MAX_CONTROL`.
//!
//! WINDOW_UPDATE and the window in SETTINGS are read and ignored, and none is sent: the clients
//! of Kubernetes (moby/spdystream) do neither, they rely on TCP. So do we (`connection.rs`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Deflater, Headers, Inflater};

/// Largest control frame.
pub(super) const MAX_CONTROL: usize = 64 * 1024;
/// Smaller pieces of data are copied out of the read buffer, so that they do not hold it.
const COPY_BELOW: usize = 8192;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// Why a connection is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("control frame of type {kind} with {len} bytes")]
    Length { kind: u16, len: usize },
    #[error("header block: {0}")]
    Headers(&'static str),
    #[error("stream id zero")]
    StreamZero,
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Syn {
        id: u32,
        end: bool,
        one_way: bool,
        headers: Headers,
    },
    Reply {
        id: u32,
        end: bool,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Data {
        id: u32,
        data: Bytes,
        end: bool,
    },
    /// A frame without meaning to us.
    Other,
}

/// Turns bytes into events.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: BytesMut,
    /// A data frame whose payload is still coming: stream, bytes, whether it is the last.
    open: Option<(u32, usize, bool)>,
    inflater: Inflater,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            open: None,
            inflater: Inflater::new(),
        }
    }

    /// Where to put the bytes that arrive.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next event, or `None` if more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Fault> {
        if let Some((id, left, end)) = self.open {
            return Ok(self.data(id, left, end));
        }
        let Some(head) = self.buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let [k0, k1, k2, k3, flags, l0, l1, l2] = *head;
        let len = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        if k0 & 0x80 == 0 {
            let id = u32::from_be_bytes([k0, k1, k2, k3]);
            if id == 0 {
                return Err(Fault::StreamZero);
            }
            self.buffer.advance(8);
            return Ok(self.data(id, len, flags & FIN != 0));
        }
        let version = u16::from_be_bytes([k0 & 0x7f, k1]);
        let kind = u16::from_be_bytes([k2, k3]);
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        if len > MAX_CONTROL {
            return Err(Fault::Length { kind, len });
        }
        if self.buffer.len() < 8 + len {
            return Ok(None);
        }
        self.buffer.advance(8);
        let payload = self.buffer.split_to(len);
        self.control(kind, flags, &payload).map(Some)
    }

    /// What is there of a data frame's payload. An empty piece is an event only if it ends the stream.
    fn data(&mut self, id: u32, left: usize, end: bool) -> Option<Event> {
        let now = left.min(self.buffer.len());
        let after = left - now;
        self.open = (after > 0).then_some((id, after, end));
        if now == 0 && left > 0 {
            return None;
        }
        let piece = self.buffer.split_to(now);
        let data = if now < COPY_BELOW {
            Bytes::copy_from_slice(&piece)
        } else {
            piece.freeze()
        };
        Some(Event::Data {
            id,
            data,
            end: end && after == 0,
        })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Event, Fault> {
        let fault = Fault::Length {
            kind,
            len: payload.len(),
        };
        let word = |at: usize| -> Result<u32, Fault> {
            let bytes = payload
                .get(at..at + 4)
                .and_then(|b| b.first_chunk::<4>())
                .ok_or_else(|| fault.clone())?;
            Ok(u32::from_be_bytes(*bytes))
        };
        let end = flags & FIN != 0;
        let event = match kind {
            1 => {
                let id = word(0)? & 0x7fff_ffff;
                // The header block comes after the associated stream, the priority and the slot.
                let headers = self.inflater.headers(payload.get(10..).ok_or_else(|| fault.clone())?)?;
                Event::Syn {
                    id,
                    end,
                    one_way: flags & UNIDIRECTIONAL != 0,
                    headers,
                }
            }
            2 | 8 => {
                let id = word(0)? & 0x7fff_ffff;
                self.inflater.headers(&payload[4..])?;
                Event::Reply { id, end }
            }
            3 => {
                word(4)?;
                Event::Reset {
                    id: word(0)? & 0x7fff_ffff,
                }
            }
            4 => {
                let entries = usize::try_from(word(0)?).unwrap_or(usize::MAX);
                if entries > (payload.len() - 4) / 8 {
                    return Err(fault);
                }
                return Ok(Event::Other);
            }
            6 => return Ok(Event::Ping { id: word(0)? }),
            7 => {
                word(0)?;
                return Ok(Event::GoAway);
            }
            9 => {
                word(4)?;
                return Ok(Event::Other);
            }
            _ => return Ok(Event::Other),
        };
        match event {
            Event::Syn { id: 0, .. } | Event::Reply { id: 0, .. } | Event::Reset { id: 0 } => Err(Fault::StreamZero),
            event => Ok(event),
        }
    }
}

/// Writes frames. Holds our half of header compression, so there is one for each connection.
#[derive(Debug)]
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            deflater: Deflater::new(),
        }
    }

    /// A stream is accepted.
    pub(super) fn reply(&mut self, id: u32) -> BytesMut {
        let block = self.deflater.block(&[]);
        let mut frame = control(2, 0, 4 + block.len());
        frame.put_u32(id);
        frame.put_slice(&block);
        frame
    }

    /// A stream is opened (by clients; our tests are one).
    #[cfg(test)]
    pub(super) fn syn(&mut self, id: u32, flags: u8, headers: &[(&str, &str)]) -> BytesMut {
        let block = self.deflater.block(headers);
        let mut frame = control(1, flags, 10 + block.len());
        frame.put_u32(id);
        frame.put_u32(0);
        frame.put_u16(0);
        frame.put_slice(&block);
        frame
    }
}

/// The head of a data frame. `len` is at most `link::PIECE`.
pub(super) fn data_head(id: u32, len: usize, end: bool) -> [u8; 8] {
    let [i0, i1, i2, i3] = (id & 0x7fff_ffff).to_be_bytes();
    let [_, l0, l1, l2] = u32::try_from(len).unwrap_or(0).to_be_bytes();
    [i0, i1, i2, i3, if end { FIN } else { 0 }, l0, l1, l2]
}

pub(super) fn reset(id: u32, why: Reset) -> BytesMut {
    let mut frame = control(3, 0, 8);
    frame.put_u32(id);
    frame.put_u32(why as u32);
    frame
}

pub(super) fn ping(id: u32) -> BytesMut {
    let mut frame = control(6, 0, 4);
    frame.put_u32(id);
    frame
}

pub(super) fn go_away(last: u32, fault: bool) -> BytesMut {
    let mut frame = control(7, 0, 8);
    frame.put_u32(last);
    frame.put_u32(u32::from(fault));
    frame
}

fn control(kind: u16, flags: u8, len: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(8 + len);
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | u32::try_from(len).unwrap_or(0) & 0x00ff_ffff);
    frame
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
