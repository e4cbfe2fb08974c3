//! Connections under attack and old clients, over an in-memory pipe.

use std::time::{Duration, Instant};

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

use super::*;
use crate::backend::{
    AttachParams, Backend, BackendError, ExecParams, Reader as BackendReader, Streams as BackendStreams,
};

/// Echoes port 7, never reads port 9, refuses the rest.
#[derive(Debug, Default)]
struct Ports;

impl Backend for Ports {
    async fn exec(&self, _: ExecParams, _: BackendStreams) -> Result<i32, BackendError> {
        Ok(0)
    }

    async fn attach(&self, _: AttachParams, _: BackendStreams) -> Result<(), BackendError> {
        Ok(())
    }

    async fn port_forward(
        &self,
        _: &str,
        port: u16,
        mut from: BackendReader,
        mut to: crate::backend::Writer,
    ) -> Result<(), BackendError> {
        match port {
            7 => {
                tokio::io::copy(&mut from, &mut to).await.ok();
                Ok(())
            }
            9 => std::future::pending().await,
            _ => Err(BackendError {
                kind: spec::Kind::Unavailable,
                message: "connection refused".to_owned(),
            }),
        }
    }
}

struct Client {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    encoder: Encoder,
    decoder: Decoder,
}

fn client() -> Client {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let idle = Duration::from_secs(60);
    tokio::spawn(crate::spdy::serve_forward(
        theirs,
        "pod".to_owned(),
        crate::session::Service {
            backend: Arc::new(Ports),
            idle,
        },
    ));
    let (read, write) = tokio::io::split(ours);
    Client {
        read,
        write,
        encoder: Encoder::new(),
        decoder: Decoder::new(),
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
    }

    async fn open(&mut self, id: u32, kind: &str, port: &str, request: Option<&str>) {
        let mut headers = vec![("streamtype", kind), ("port", port)];
        headers.extend(request.map(|request| ("requestid", request)));
        let frame = self.encoder.syn(id, 0, &headers);
        self.send(&frame).await;
    }

    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.next().unwrap() {
                return Some(event);
            }
            if self.read.read_buf(self.decoder.buffer()).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// All that is said of stream `id` until it is ended or reset.
    async fn rest(&mut self, id: u32) -> (String, &'static str) {
        let mut said = String::new();
        loop {
            match self.event().await.expect("connection ended") {
                Event::Data { id: of, data, end } if of == id => {
                    said.push_str(std::str::from_utf8(&data).unwrap());
                    if end {
                        return (said, "end");
                    }
                }
                Event::Reset { id: of } if of == id => return (said, "reset"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_pair_is_made_by_request_or_by_neighbouring_ids() {
    let mut client = client();
    for (error, data, request) in [(1, 3, None), (5, 7, Some("a")), (11, 9, Some("b"))] {
        client
            .open(
                error.min(data),
                if error < data { "error" } else { "data" },
                "7",
                request,
            )
            .await;
        client
            .open(
                error.max(data),
                if error < data { "data" } else { "error" },
                "7",
                request,
            )
            .await;
        client.send(&frame::data_head(data, 5, true)).await;
        client.send(b"hello").await;
        assert_eq!(client.rest(data).await, ("hello".to_owned(), "end"));
        client.send(&frame::data_head(error, 0, true)).await;
        assert_eq!(client.rest(error).await, (String::new(), "end"));
    }
}

#[tokio::test]
async fn streams_that_make_no_sense_are_reset() {
    let mut client = client();
    for (id, kind, port) in [
        (1, "error", ""),
        (3, "data", "0"),
        (5, "data", "70000"),
        (7, "stdin", "80"),
        (8, "data", "80"),
    ] {
        client.open(id, kind, port, Some("x")).await;
        assert_eq!(client.rest(id).await.1, "reset", "{id}");
    }
    // An id that goes back is refused, and the connection lives on.
    client.open(3, "data", "7", Some("x")).await;
    assert_eq!(client.rest(3).await.1, "reset");
    client.send(&frame::ping(1)).await;
    assert_eq!(client.event().await, Some(Event::Ping { id: 1 }));
}

#[tokio::test]
async fn failing_forwards_leave_nothing_behind() {
    let mut client = client();
    let begin = Instant::now();
    for n in 0..5000_u32 {
        let (error, data) = (4 * n + 1, 4 * n + 3);
        let request = n.to_string();
        client.open(error, "error", "1", Some(&request)).await;
        client.open(data, "data", "1", Some(&request)).await;
        let (message, how) = client.rest(error).await;
        assert!(message.contains("connection refused"), "{message}");
        assert_eq!(how, "end");
    }
    // More than MAX_STREAMS have been opened: had they stayed, the last would have been refused.
    const { assert!(2 * 5000 > MAX_STREAMS) };
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn rapid_resets_are_kept_up_with() {
    let mut client = client();
    let mut read = client.read;
    let swallow = tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while read.read(&mut buffer).await.unwrap() > 0 {}
    });
    for n in 0..50_000_u32 {
        let id = 2 * n + 1;
        let syn = client
            .encoder
            .syn(id, 0, &[("streamtype", "data"), ("port", "9"), ("requestid", "r")]);
        client.write.write_all(&syn).await.unwrap();
        client.write.write_all(&frame::reset(id, Reset::Cancel)).await.unwrap();
    }
    client.write.shutdown().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), swallow)
        .await
        .expect("hangs")
        .unwrap();
}

/// How many bytes of `flood` go in before the server stops to read.
async fn held_back(client: &mut Client, flood: &[u8]) -> usize {
    let mut sent = 0;
    while sent < 64 << 20 {
        match tokio::time::timeout(
            Duration::from_millis(300),
            client.write.write(&flood[sent % flood.len()..]),
        )
        .await
        {
            Ok(n) => sent += n.unwrap(),
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test]
async fn a_client_that_pings_and_does_not_read_is_held_back() {
    let mut client = client();
    let flood: Vec<u8> = frame::ping(1).repeat(1000);
    let sent = held_back(&mut client, &flood).await;
    assert!(sent < 1 << 20, "{sent}");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_its_client_back() {
    let mut client = client();
    client.open(1, "error", "9", Some("x")).await;
    client.open(3, "data", "9", Some("x")).await;
    let mut piece = frame::data_head(3, 32_768, false).to_vec();
    piece.resize(8 + 32_768, 7);
    let sent = held_back(&mut client, &piece).await;
    assert!(sent > 100_000 && sent < BUDGET + (1 << 20), "{sent}");
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let mut client = client();
    for n in 0..u32::try_from(MAX_STREAMS).unwrap() {
        client.open(2 * n + 1, "data", "9", Some(&n.to_string())).await;
        assert!(matches!(client.event().await, Some(Event::Reply { .. })));
    }
    let id = 2 * u32::try_from(MAX_STREAMS).unwrap() + 1;
    client.open(id, "data", "9", Some("last")).await;
    assert_eq!(client.event().await, Some(Event::Reset { id }));
}

#[tokio::test]
async fn rubbish_ends_the_connection() {
    let mut client = client();
    client.send(&[0x80, 2, 0, 1, 0, 0, 0, 9, 1, 2, 3]).await;
    while client.event().await.is_some() {}
}
