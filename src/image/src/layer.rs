//! One layer, from the network to its directory, without a copy on disk in between.
//!
//! ```text
//!  async task            thread 1                      thread 2
//!  BlobReader ──bytes──> sha256 of the blob, inflate ──chunks──> sha256 = DiffID, untar
//!             <=512 KiB                              <=512 KiB
//! ```
//! Each channel is bounded, so a slow disk slows the download down. An end is announced, so
//! that a sender that vanishes (the pull was cancelled) is never taken for the end of the
//! layer. Thread 2 owns the temporary directory until all of it is proven.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as sync_mpsc;

use bytes::{Buf as _, Bytes};
use spec::{Digest, Kind};
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::content::{Hasher, mismatch};
use crate::decompress::{Decoder, is_bomb};
use crate::error::{Error, sys};
use crate::registry::blob::BlobReader;
use crate::store::remove::blocking;
use crate::store::temp::TempDir;
use crate::store::writeback::WriteBack;
use crate::unpack::{self, Limits, UnpackError, Unpacked};

/// Bytes of one layer between network and inflater.
const IN_FLIGHT: u32 = 512 << 10;
/// Half a dozen are less than a decoder's own window, and yet one is a millisecond's work: a wake-up is nothing to it.
const CHUNK: usize = 128 << 10;
const CHUNKS: usize = 2;
/// How much of a layer that turned out to be rubbish is still read, to learn whether the
/// registry or the image is to blame.
const POST_MORTEM: u64 = 64 << 20;

struct Piece {
    data: Bytes,
    /// Given back when the piece was consumed.
    _room: OwnedSemaphorePermit,
}

/// A layer that was fetched, proven and unpacked, of which the disk may not have all yet.
pub(crate) struct Fetched {
    temp: TempDir,
    unpacked: Unpacked,
    /// Opened before the first file was made, so that it is told of every failure since.
    directory: OwnedFd,
}

impl Fetched {
    /// The layer when all of it is on the disk.
    pub(crate) async fn synced(self) -> Result<(TempDir, Unpacked), Error> {
        blocking("sync", move || {
            rustix::fs::syncfs(&self.directory).map_err(sys("sync", "the layer"))?;
            Ok((self.temp, self.unpacked))
        })
        .await
    }
}

/// Fetches, verifies and unpacks a layer into `temp`.
pub(crate) async fn fetch(
    mut blob: BlobReader,
    digest: Digest,
    diff_id: Digest,
    temp: TempDir,
    writeback: Arc<WriteBack>,
) -> Result<Fetched, Error> {
    let (to_inflate, from_network) = mpsc::channel::<Option<Piece>>(256);
    let (to_untar, from_inflate) = sync_mpsc::sync_channel::<io::Result<Option<Bytes>>>(CHUNKS);
    let size = blob.size();
    let rubbish = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&rubbish);
    let inflating = tokio::task::spawn_blocking(move || inflate(from_network, to_untar, (digest, size), &seen));
    let untarring = tokio::task::spawn_blocking(move || untar(from_inflate, diff_id, (temp, writeback), &rubbish));

    let fed = feed(&mut blob, to_inflate).await;
    let joined = |e: tokio::task::JoinError| Error::caused(Kind::Internal, "unpack thread", e);
    let inflated = inflating.await.map_err(joined)?;
    let untarred = untarring.await.map_err(joined)?;
    // The first cause in the direction of the flow is the cause; what follows only heard of it.
    fed?;
    inflated?;
    untarred
}

async fn feed(blob: &mut BlobReader, to: mpsc::Sender<Option<Piece>>) -> Result<(), Error> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    while let Some(data) = blob.next().await? {
        let need = u32::try_from(data.len()).unwrap_or(IN_FLIGHT).min(IN_FLIGHT);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(need).await else {
            return Ok(());
        };
        if to.send(Some(Piece { data, _room: permit })).await.is_err() {
            // The inflater gave up; it says why.
            return Ok(());
        }
    }
    // An error to send means the same as above.
    if to.send(None).await.is_err() {
        return Ok(());
    }
    Ok(())
}

/// The network's bytes as a reader that hashes what passes.
struct Network {
    from: mpsc::Receiver<Option<Piece>>,
    now: Option<Piece>,
    hash: Hasher,
    count: u64,
    ended: bool,
}

impl Network {
    /// Reads, and so hashes, what is left.
    fn finish(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }
}

fn vanished() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the pull was given up")
}

impl BufRead for Network {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.ended && self.now.as_ref().is_none_or(|piece| piece.data.is_empty()) {
            self.now = None;
            match self.from.blocking_recv() {
                None => return Err(vanished()),
                Some(None) => self.ended = true,
                Some(Some(piece)) => {
                    self.hash.update(&piece.data);
                    self.count += piece.data.len() as u64;
                    self.now = Some(piece);
                }
            }
        }
        Ok(self.now.as_ref().map_or(&[], |piece| &piece.data))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(piece) = &mut self.now {
            piece.data.advance(amount);
        }
    }
}

impl Read for Network {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn inflate(
    from: mpsc::Receiver<Option<Piece>>,
    to: sync_mpsc::SyncSender<io::Result<Option<Bytes>>>,
    (digest, size): (Digest, u64),
    rubbish: &AtomicBool,
) -> Result<(), Error> {
    let mut network = Network {
        from,
        now: None,
        hash: Hasher::default(),
        count: 0,
        ended: false,
    };
    let (failure, blame) = match pump(&mut network, &to) {
        Ok(true) => (None, false),
        // The unpacker gave up; it says why.
        Ok(false) => (Some(Ok(())), rubbish.load(Ordering::Acquire)),
        Err(e) => {
            let blame = matches!(
                e.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
            );
            let error = Error::io("decompress", "the layer", io::Error::new(e.kind(), e.to_string()));
            let error = match error.kind() {
                Kind::Internal | Kind::InvalidArgument => error.with_kind(Kind::DataLoss),
                _ => error,
            };
            // Nobody listens when the unpacker gave up at the same time.
            to.send(Err(e)).ok();
            (Some(Err(error)), blame)
        }
    };
    if let Some(failure) = failure {
        drop(to);
        let known = blame && size - network.count <= POST_MORTEM && network.finish().is_ok();
        return if known {
            verify(network.hash, digest).and(failure)
        } else {
            failure
        };
    }
    if let Err(error) = verify(network.hash, digest) {
        to.send(Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))
            .ok();
        return Err(error);
    }
    to.send(Ok(None)).ok();
    Ok(())
}

fn verify(hash: Hasher, digest: Digest) -> Result<(), Error> {
    let found = hash.finish();
    if found == digest {
        Ok(())
    } else {
        Err(mismatch("the blob", digest, found))
    }
}

/// Decodes everything; false when nobody wants it any more.
fn pump(network: &mut Network, to: &sync_mpsc::SyncSender<io::Result<Option<Bytes>>>) -> io::Result<bool> {
    let mut produced = 0u64;
    {
        let mut decoder = Decoder::new(&mut *network)?;
        loop {
            let mut chunk = vec![0u8; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match decoder.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if filled == 0 {
                break;
            }
            produced += filled as u64;
            chunk.truncate(filled);
            if to.send(Ok(Some(chunk.into()))).is_err() {
                return Ok(false);
            }
            let consumed = match &decoder {
                Decoder::Plain(network) => network.count,
                Decoder::Gzip(gzip) => gzip.get_ref().count,
                Decoder::Zstd(zstd) => zstd.get_ref().count,
            };
            if is_bomb(consumed, produced) {
                let what =
                    format!("{consumed} bytes became more than {produced}: no honest layer is packed so tightly");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
    // A decoder may stop before the end announcement; nothing but that may be left.
    if network.fill_buf()?.is_empty() {
        Ok(true)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "garbage after the compressed data",
        ))
    }
}

/// Decoded chunks as a reader that hashes what passes.
struct Chunks {
    from: sync_mpsc::Receiver<io::Result<Option<Bytes>>>,
    now: Bytes,
    hash: Hasher,
    ended: bool,
    writeback: Arc<WriteBack>,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.ended && self.now.is_empty() {
            match self.from.recv() {
                Err(_) => return Err(vanished()),
                Ok(Err(e)) => return Err(e),
                Ok(Ok(None)) => self.ended = true,
                Ok(Ok(Some(chunk))) => {
                    self.hash.update(&chunk);
                    self.writeback.wrote(chunk.len() as u64);
                    self.now = chunk;
                }
            }
        }
        Ok(&self.now)
    }

    fn consume(&mut self, amount: usize) {
        self.now.advance(amount);
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn untar(
    from: sync_mpsc::Receiver<io::Result<Option<Bytes>>>,
    diff_id: Digest,
    (temp, writeback): (TempDir, Arc<WriteBack>),
    rubbish: &AtomicBool,
) -> Result<Fetched, Error> {
    let mut chunks = Chunks {
        from,
        now: Bytes::new(),
        hash: Hasher::default(),
        ended: false,
        writeback,
    };
    let root = temp.open()?;
    let directory = temp.open()?;
    let unpacked = unpack::unpack(&mut chunks, root, Limits::default()).map_err(|(e, place)| {
        let content = matches!(e.kind(), Kind::InvalidArgument | Kind::DataLoss);
        rubbish.store(content, Ordering::Release);
        unpack_error(e, place)
    })?;
    let found = chunks.hash.finish();
    if found != diff_id {
        return Err(mismatch("the unpacked layer", diff_id, found));
    }
    Ok(Fetched {
        temp,
        unpacked,
        directory,
    })
}

fn unpack_error(error: UnpackError, place: Option<String>) -> Error {
    let kind = error.kind();
    let error = Error::caused(kind, "unpack", error);
    match place {
        Some(place) => error.within(place),
        None => error,
    }
}
