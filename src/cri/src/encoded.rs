//! List answers from bytes that are encoded once for each object.
//!
//! The kubelet lists everything every second, and an object's part of the answer never changes but for its state. So
//! each object keeps its part as bytes without the state, and an answer is those bytes one behind the other, each
//! followed by its state: fields of a protobuf message may come in any order (Encoding, "Order").
//! Measured with 100 pods: most of a list was copying and freeing some two thousand small strings.
//!
//! `Lists` answers the two calls itself and leaves the others to the generated service, whose types
//! would want the copies.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use proto::cri;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::container::list as containers;
use crate::error::Error;
use crate::instrument::{Weight, rpc};
use crate::runtime::Runtime;
use crate::sandbox::list as sandboxes;
use crate::service::MAX_MESSAGE;

/// The field of a list answer that its objects are in: ListContainersResponse.containers, ListPodSandboxResponse.items.
const ITEMS: u32 = 1;

/// Room for an answer, so that it is not copied while it grows: a node's usual 110 pods take 40 kB. Given back when sent.
const ROOM: usize = 64 << 10;

/// What of an object's part in lists does not change, encoded when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Listed(OnceLock<Box<[u8]>>);

impl Listed {
    /// The bytes; `make` is asked once.
    pub(crate) fn get<M: Message>(&self, make: impl FnOnce() -> Result<M, Error>) -> Result<&[u8], Error> {
        if let Some(bytes) = self.0.get() {
            return Ok(bytes);
        }
        let bytes = make()?.encode_to_vec().into_boxed_slice();
        Ok(self.0.get_or_init(|| bytes))
    }
}

/// A list answer, as it is sent. It is only ever written.
#[derive(Debug, Default)]
pub(crate) struct Encoded(Vec<u8>);

impl Encoded {
    /// An answer without objects, with room for those of a usual node.
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(ROOM))
    }

    /// Adds an object: its bytes, and in field `field` its state.
    pub(crate) fn push(&mut self, bytes: &[u8], field: u32, state: i32) {
        let answer = &mut self.0;
        let value = u64::try_from(state).unwrap_or_default();
        // What is zero is left out, as ever.
        let length = match value {
            0 => 0,
            value => encoding::key_len(field) + encoding::encoded_len_varint(value),
        };
        encoding::encode_key(ITEMS, WireType::LengthDelimited, answer);
        encoding::encode_varint((bytes.len() + length) as u64, answer);
        answer.extend_from_slice(bytes);
        if value != 0 {
            encoding::encode_key(field, WireType::Varint, answer);
            encoding::encode_varint(value, answer);
        }
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        encoding::skip_field(wire_type, tag, buf, ctx)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The runtime service, with the lists answered from bytes.
#[derive(Debug, Clone)]
pub struct Lists<S> {
    rt: Arc<Runtime>,
    inner: S,
}

impl<S> Lists<S> {
    pub(crate) fn new(rt: &Arc<Runtime>, inner: S) -> Self {
        Self {
            rt: Arc::clone(rt),
            inner,
        }
    }
}

impl<S: NamedService> NamedService for Lists<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<http::Request<B>> for Lists<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        let rt = Arc::clone(&self.rt);
        match request.uri().path() {
            "/runtime.v1.RuntimeService/ListContainers" => Box::pin(unary(Containers(rt), request)),
            "/runtime.v1.RuntimeService/ListPodSandbox" => Box::pin(unary(Sandboxes(rt), request)),
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

async fn unary<B, R>(
    service: impl UnaryService<R, Response = Encoded>,
    request: http::Request<B>,
) -> Result<http::Response<Body>, Infallible>
where
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
    R: Message + Default + Send + 'static,
{
    let mut grpc =
        Grpc::new(Roomy::<R>(PhantomData)).apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE));
    Ok(grpc.unary(service, request).await)
}

/// Protobuf, with room for a list.
struct Roomy<R>(PhantomData<R>);

impl<R: Message + Default + Send + 'static> Codec for Roomy<R> {
    type Encode = Encoded;
    type Decode = R;
    type Encoder = <ProstCodec<Encoded, R> as Codec>::Encoder;
    type Decoder = <ProstCodec<Encoded, R> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Encoded, R>::raw_encoder(BufferSettings::new(ROOM, ROOM))
    }

    fn decoder(&mut self) -> Self::Decoder {
        // A filter has a few hundred bytes.
        ProstCodec::<Encoded, R>::raw_decoder(BufferSettings::new(1 << 10, 1 << 10))
    }
}

type Said = Pin<Box<dyn Future<Output = Result<Response<Encoded>, Status>> + Send>>;

struct Containers(Arc<Runtime>);

impl UnaryService<cri::ListContainersRequest> for Containers {
    type Response = Encoded;
    type Future = Said;

    fn call(&mut self, request: Request<cri::ListContainersRequest>) -> Said {
        let rt = Arc::clone(&self.0);
        Box::pin(async move {
            let work = |rt: Arc<Runtime>, message| async move { containers::encoded(&rt, &message) };
            rpc("ListContainers", Weight::Look, &rt, request, work).await
        })
    }
}

struct Sandboxes(Arc<Runtime>);

impl UnaryService<cri::ListPodSandboxRequest> for Sandboxes {
    type Response = Encoded;
    type Future = Said;

    fn call(&mut self, request: Request<cri::ListPodSandboxRequest>) -> Said {
        let rt = Arc::clone(&self.0);
        Box::pin(async move {
            let work = |rt: Arc<Runtime>, message| async move { sandboxes::encoded(&rt, &message) };
            rpc("ListPodSandbox", Weight::Look, &rt, request, work).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str, state: i32) -> cri::PodSandbox {
        cri::PodSandbox {
            id: id.into(),
            state,
            labels: [("a".to_owned(), "b".repeat(200))].into(),
            created_at: 7,
            ..Default::default()
        }
    }

    #[test]
    fn the_bytes_are_those_objects_with_their_state_of_now() {
        let pods = [pod("one", 0), pod("two", 1)];
        let mut answer = Encoded::default();
        for pod in &pods {
            let listed = Listed::default();
            let fixed = || {
                Ok(cri::PodSandbox {
                    state: 0,
                    ..pod.clone()
                })
            };
            let first = listed.get(fixed).unwrap();
            let second = listed
                .get(|| Err::<cri::PodSandbox, _>(Error::invalid("asked twice")))
                .unwrap();
            assert_eq!(first, second);
            answer.push(first, sandboxes::STATE_FIELD, pod.state);
        }
        let bytes = answer.encode_to_vec();
        assert_eq!(bytes.len(), answer.encoded_len());
        let read = cri::ListPodSandboxResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.items, pods);
    }

    #[test]
    fn the_states_are_in_the_fields_that_the_protocol_names() {
        let mut answer = Encoded::default();
        answer.push(&[], containers::STATE_FIELD, 2);
        let read = cri::ListContainersResponse::decode(answer.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.containers[0].state, 2);
    }
}
