//! gRPC calls whose message is given as bytes: what no generated type would encode.

use bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

#[derive(Debug, Default)]
struct Plain;

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

/// Calls `path` (`/package.Service/Method`) with `message` as it is.
///
/// # Errors
/// The server's.
pub async fn call(channel: &Channel, path: &str, message: &[u8]) -> Result<Bytes, Status> {
    let (mut grpc, path) = prepare(channel, path).await?;
    let request = Request::new(Bytes::copy_from_slice(message));
    Ok(grpc.unary(request, path, Plain).await?.into_inner())
}

/// As [`call`], of a method that answers a stream: the first message, if one comes within `wait`.
///
/// # Errors
/// The server's.
pub async fn first(
    channel: &Channel,
    path: &str,
    message: &[u8],
    wait: std::time::Duration,
) -> Result<Option<Bytes>, Status> {
    let (mut grpc, path) = prepare(channel, path).await?;
    let request = Request::new(Bytes::copy_from_slice(message));
    let mut stream = grpc.server_streaming(request, path, Plain).await?.into_inner();
    tokio::time::timeout(wait, stream.message()).await.unwrap_or(Ok(None))
}

async fn prepare(
    channel: &Channel,
    path: &str,
) -> Result<(tonic::client::Grpc<Channel>, http::uri::PathAndQuery), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = path
        .parse()
        .map_err(|_| Status::invalid_argument(format!("{path} is no path")))?;
    Ok((grpc, path))
}
