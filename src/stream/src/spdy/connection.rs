//! One SPDY connection: a reader task that feeds streams, a writer task that drains the link.
//!
//! Flow control is TCP's alone, as with moby/spdystream (no window is ever sent or obeyed).
//! What the reader holds for slow streams is bounded by `BUDGET` for each connection; when that is
//! used up, it stops reading and the client is held back, all of its streams together.
//!
//! A stream leaves the table when both sides have ended it or either has reset it, so that
//! streams do not pile up on a long port-forward (kubernetes #100283).
//!
//! Order at the end: the session drops its links, the writer sends what is queued, GOAWAY and
//! the end of the TCP stream; the reader goes on discarding until the client closes too, for
//! `LINGER` at most. Closing at once would make the kernel answer data still under way with a
//! reset, which takes away what the client has not read yet (containerd #13934).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Decoder, Encoder, Event, Fault, Reset};
use super::headers::Headers;
use crate::activity::Activity;
use crate::link::{Chunk, Inbound, KEEPALIVE, LINGER, Link, Out, PIECE, Then};

/// Bytes that wait for slow streams of one connection.
const BUDGET: usize = 4 << 20;
/// Pieces that wait for one slow stream.
const PIECES: usize = 64;
/// Streams of one connection, that is half as many forwarded TCP connections.
const MAX_STREAMS: usize = 4096;

/// A stream that the client opened. It must be accepted or refused.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) inbound: Inbound,
    /// Cancelled when the client resets the stream.
    pub(super) reset: CancellationToken,
}

/// A connection with its two tasks. Dropping it ends both at once.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Link,
    pub(super) incoming: mpsc::Receiver<Incoming>,
    control: mpsc::Sender<Control>,
    table: Table,
    reader: Task,
    writer: Task,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Control {
    Reply(u32),
    Reset(u32, Reset),
    Ping(u32),
}

#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    open: HashMap<u32, Stream>,
    last: u32,
}

#[derive(Debug)]
struct Stream {
    /// `None` once the client has ended its side.
    feed: Option<mpsc::Sender<Chunk>>,
    reset: CancellationToken,
    /// We have ended our side.
    ended: bool,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self, id: u32) -> Option<mpsc::Sender<Chunk>> {
        self.lock().open.get(&id)?.feed.clone()
    }

    /// The client has ended its side.
    fn client_ended(&self, id: u32) {
        let mut streams = self.lock();
        if let Some(stream) = streams.open.get_mut(&id) {
            stream.feed = None;
            if stream.ended {
                streams.open.remove(&id);
            }
        }
    }

    /// We end our side: false if that was said already.
    fn end(&self, id: u32) -> bool {
        let mut streams = self.lock();
        let Some(stream) = streams.open.get_mut(&id) else {
            return false;
        };
        let first = !stream.ended;
        stream.ended = true;
        if stream.feed.is_none() {
            streams.open.remove(&id);
        }
        first
    }

    fn ended(&self, id: u32) -> bool {
        self.lock().open.get(&id).is_none_or(|stream| stream.ended)
    }

    /// Forgets the stream: false if it was not there.
    fn remove(&self, id: u32) -> bool {
        let stream = self.lock().open.remove(&id);
        stream.map(|stream| stream.reset.cancel()).is_some()
    }

    fn clear(&self) {
        self.lock().open.clear();
    }
}

impl Connection {
    /// Starts to speak SPDY on an upgraded connection.
    pub(super) fn open<I>(io: I) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let gone = CancellationToken::new();
        let (link, queue) = Link::new(gone.clone());
        let (arrived, incoming) = mpsc::channel(16);
        let (control, replies) = mpsc::channel(64);
        let table = Table::default();
        let reader = Reader {
            table: table.clone(),
            control: control.clone(),
            arrived,
            budget: Arc::new(Semaphore::new(BUDGET)),
            activity: link.activity.clone(),
        };
        let writer = Writer {
            table: table.clone(),
            replies,
            queue,
            activity: link.activity.clone(),
        };
        let (reader_gone, writer_gone, reader_table) = (gone.clone(), gone, table.clone());
        let reader = Task(tokio::spawn(async move {
            let why = reader_gone.run_until_cancelled(reader.run(read)).await;
            if let Some(Err(fault)) = why {
                tracing::debug!(%fault, "SPDY connection given up");
            }
            reader_table.clear();
            reader_gone.cancel();
        }));
        let writer = Task(tokio::spawn(async move {
            if writer.run(write).await.is_err() {
                writer_gone.cancel();
            }
        }));
        Self {
            link,
            incoming,
            control,
            table,
            reader,
            writer,
        }
    }

    /// Tells the client that its stream is there.
    pub(super) async fn accept(&self, id: u32) {
        // Fails only when the writer has ended, which the session learns from the link.
        self.control.send(Control::Reply(id)).await.ok();
    }

    /// Tells the client that its stream is not wanted.
    pub(super) async fn refuse(&self, id: u32, why: Reset) {
        self.table.remove(id);
        self.control.send(Control::Reset(id, why)).await.ok();
    }

    /// Sends what is queued, says goodbye and waits a little for the client to do the same.
    pub(super) async fn close(self) {
        let Self {
            link,
            mut incoming,
            control,
            table,
            mut reader,
            mut writer,
        } = self;
        drop((link, control));
        incoming.close();
        // What still arrives is discarded by the reader from now on.
        for stream in table.lock().open.values_mut() {
            stream.feed = None;
        }
        let farewell = async {
            // The tasks' results say nothing: how they ended was logged where it happened.
            if (&mut writer.0).await.is_ok() {
                (&mut reader.0).await.ok();
            }
        };
        // A client that neither reads nor closes is cut off by the drop of the tasks.
        if tokio::time::timeout(LINGER, farewell).await.is_err() {
            tracing::debug!("client did not read the end of its session");
        }
    }
}

struct Reader {
    table: Table,
    control: mpsc::Sender<Control>,
    arrived: mpsc::Sender<Incoming>,
    budget: Arc<Semaphore>,
    activity: Activity,
}

impl Reader {
    async fn run<R: AsyncRead + Unpin>(self, mut io: R) -> Result<(), Fault> {
        let mut decoder = Decoder::new();
        loop {
            while let Some(event) = decoder.next()? {
                self.handle(event).await;
            }
            decoder.buffer().reserve(PIECE);
            // An error of the transport is the end of it, like a close.
            if matches!(io.read_buf(decoder.buffer()).await, Ok(0) | Err(_)) {
                return Ok(());
            }
        }
    }

    async fn handle(&self, event: Event) {
        match event {
            Event::Syn {
                id,
                end,
                one_way,
                headers,
            } => self.syn(id, end, one_way, headers).await,
            Event::Data { id, data, end } => {
                if !data.is_empty() {
                    self.data(id, data).await;
                }
                if end {
                    self.table.client_ended(id);
                }
            }
            Event::Reply { id, end: true } => self.table.client_ended(id),
            Event::Reset { id } => {
                self.table.remove(id);
            }
            // Even ids answer our own pings.
            Event::Ping { id } if id % 2 == 1 => {
                self.control.send(Control::Ping(id)).await.ok();
            }
            Event::Reply { .. } | Event::Ping { .. } | Event::GoAway | Event::Other => {}
        }
    }

    async fn syn(&self, id: u32, end: bool, one_way: bool, headers: Headers) {
        let (feed, inbound) = Inbound::new(PIECES);
        let reset = CancellationToken::new();
        let refused = {
            let mut streams = self.table.lock();
            if id.is_multiple_of(2) || id <= streams.last {
                Some(Reset::ProtocolError)
            } else if streams.open.len() >= MAX_STREAMS {
                streams.last = id;
                Some(Reset::RefusedStream)
            } else {
                streams.last = id;
                let feed = (!end).then_some(feed);
                streams.open.insert(
                    id,
                    Stream {
                        feed,
                        reset: reset.clone(),
                        ended: one_way,
                    },
                );
                None
            }
        };
        let refused = match refused {
            None if self
                .arrived
                .send(Incoming {
                    id,
                    headers,
                    inbound,
                    reset,
                })
                .await
                .is_err() =>
            {
                self.table.remove(id);
                Some(Reset::RefusedStream)
            }
            other => other,
        };
        if let Some(why) = refused {
            self.control.send(Control::Reset(id, why)).await.ok();
        }
    }

    async fn data(&self, id: u32, data: Bytes) {
        // Data for a stream that is over is dropped, as spdystream does.
        let Some(feed) = self.table.feed(id) else { return };
        self.activity.touch();
        let share = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.budget).acquire_many_owned(share).await {
            // A stream whose reader was dropped takes no more: the process closed its stdin.
            feed.send(Chunk { data, room: Some(room) }).await.ok();
        }
    }
}

struct Writer {
    table: Table,
    replies: mpsc::Receiver<Control>,
    queue: mpsc::Receiver<Out>,
    activity: Activity,
}

impl Writer {
    async fn run<W: AsyncWrite + Unpin>(mut self, io: W) -> std::io::Result<()> {
        let mut io = BufWriter::with_capacity(2 * PIECE, io);
        let mut encoder = Encoder::new();
        let mut keepalive = tokio::time::interval_at(tokio::time::Instant::now() + KEEPALIVE, KEEPALIVE);
        let mut ping = 0_u32;
        loop {
            tokio::select! {
                biased;
                Some(reply) = self.replies.recv() => io.write_all(&encode(&mut encoder, &reply)).await?,
                out = self.queue.recv() => match out {
                    Some(out) => self.write(&mut io, out).await?,
                    None => break,
                },
                _ = keepalive.tick() => {
                    ping = ping % 0x7fff_fffe + 2;
                    io.write_all(&frame::ping(ping)).await?;
                }
            }
            if self.replies.is_empty() && self.queue.is_empty() {
                io.flush().await?;
            }
        }
        while let Ok(reply) = self.replies.try_recv() {
            io.write_all(&encode(&mut encoder, &reply)).await?;
        }
        let last = self.table.lock().last;
        io.write_all(&frame::go_away(last, false)).await?;
        io.shutdown().await
    }

    async fn write<W: AsyncWrite + Unpin>(&self, io: &mut W, out: Out) -> std::io::Result<()> {
        if !out.data.is_empty() && !self.table.ended(out.channel) {
            self.activity.touch();
            io.write_all(&frame::data_head(out.channel, out.data.len(), false))
                .await?;
            io.write_all(&out.data).await?;
        }
        match out.then {
            Then::Open => Ok(()),
            Then::End if self.table.end(out.channel) => io.write_all(&frame::data_head(out.channel, 0, true)).await,
            Then::Reset if self.table.remove(out.channel) => {
                io.write_all(&frame::reset(out.channel, Reset::Cancel)).await
            }
            Then::End | Then::Reset => Ok(()),
        }
    }
}

fn encode(encoder: &mut Encoder, control: &Control) -> bytes::BytesMut {
    match control {
        Control::Reply(id) => encoder.reply(*id),
        Control::Reset(id, why) => frame::reset(*id, *why),
        Control::Ping(id) => frame::ping(*id),
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
