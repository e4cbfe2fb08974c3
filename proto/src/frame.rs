//! Frames on the stream socket between daemon and monitor: a little-endian u32 length, then
//! that many bytes of [`Frame`]. No I/O here: the monitor is synchronous, the daemon is not,
//! and both use this.
//!
//! Descriptors ride on the first byte of the frame that names them. A receiver keeps the sets
//! in the order of their arrival: the n-th frame that names descriptors owns the n-th set
//! (a read never runs past bytes that came with descriptors, unix(7)).

use std::fmt;

use prost::Message;

use crate::monitor::Frame;

/// The longest frame that is sent or believed: a process with a large environment fits.
pub const MAX_FRAME: usize = 16 << 20;

/// The most descriptors that come with one frame: a root and its mounts are the most there are.
pub const MAX_FDS: usize = 64;

const PREFIX: usize = 4;

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadFrame {
    /// Longer than [`MAX_FRAME`].
    TooLong(usize),
    /// No message of the protocol.
    Garbled(prost::DecodeError),
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "a frame of {length} bytes is longer than {MAX_FRAME}"),
            Self::Garbled(error) => write!(f, "unreadable frame: {error}"),
        }
    }
}

impl std::error::Error for BadFrame {}

/// The bytes of a frame, with its length in front.
///
/// # Errors
/// [`BadFrame::TooLong`].
pub fn encode(frame: &Frame) -> Result<Vec<u8>, BadFrame> {
    let length = frame.encoded_len();
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_FRAME)
        .ok_or(BadFrame::TooLong(length))?;
    let mut bytes = Vec::with_capacity(PREFIX + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    // Writing to a Vec cannot run out of room.
    frame.encode_raw(&mut bytes);
    Ok(bytes)
}

/// Puts frames together from bytes however they are cut. Holds no memory between frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Appends what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// [`BadFrame`]: the connection is of no use any more.
    pub fn take(&mut self) -> Result<Option<Frame>, BadFrame> {
        let rest = &self.bytes[self.taken..];
        let Some(prefix) = rest.first_chunk::<PREFIX>() else {
            self.forget();
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(BadFrame::TooLong(length));
        }
        let Some(body) = rest.get(PREFIX..PREFIX + length) else {
            self.forget();
            return Ok(None);
        };
        let frame = Frame::decode(body).map_err(BadFrame::Garbled)?;
        self.taken += PREFIX + length;
        if self.taken == self.bytes.len() {
            self.bytes = Vec::new();
            self.taken = 0;
        }
        Ok(Some(frame))
    }

    fn forget(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Done, Reply, frame::Body, reply};

    fn done(id: u64) -> Frame {
        Frame {
            body: Some(Body::Reply(Reply {
                id,
                result: Some(reply::Result::Done(Done {})),
            })),
        }
    }

    #[test]
    fn frames_survive_every_cut() {
        let bytes: Vec<u8> = (1..4).flat_map(|id| encode(&done(id)).unwrap()).collect();
        for cut in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.push(part);
                while let Some(frame) = decoder.take().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [done(1), done(2), done(3)], "cut at {cut}");
            assert_eq!(decoder.bytes.capacity(), 0);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.take(), Err(BadFrame::TooLong(_))));
        let mut decoder = Decoder::default();
        decoder.push(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.take(), Err(BadFrame::Garbled(_))));
    }
}
