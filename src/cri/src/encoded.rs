//! List answers from bytes that are encoded once for each object.
//!
//! The kubelet lists everything every second, and an object's part of the answer never changes but for its state. So
//! each object keeps its part as bytes without the state, and an answer is those bytes one behind the other, each
//! followed by its state: fields of a protobuf message may come in any order (Encoding, "Order").
//! Measured with 100 pods: most of a list was copying and freeing some two thousand small strings. And the answer with
//! all of them is kept until one changes (`Whole`).
//!
//! `Lists` answers the two calls itself and leaves the others to the generated service, whose types
//! would want the copies.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{self, WireType};
use proto::cri;
use spec::Kind;
use tonic::body::Body;
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

/// Before a message on the wire: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// A list answer in the making.
#[derive(Debug)]
pub(crate) struct Encoded(Vec<u8>);

impl Encoded {
    /// An answer without objects, with room for those of a usual node.
    pub(crate) fn new() -> Self {
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.extend([0; PREFIX]);
        Self(bytes)
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

    /// All objects are in it.
    pub(crate) fn finish(mut self) -> Result<Answer, Error> {
        let length = self.0.len() - PREFIX;
        let said = u32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE);
        let said = said.ok_or_else(|| {
            Error::new(
                Kind::ResourceExhausted,
                format!("a list of {length} bytes; at most {MAX_MESSAGE} can be sent: ask with a filter"),
            )
        })?;
        self.0[1..PREFIX].copy_from_slice(&said.to_be_bytes());
        self.0.shrink_to_fit();
        Ok(Answer(self.0.into()))
    }
}

/// A list answer, as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Answer(Bytes);

/// The last answer with all objects, for as long as none changes.
#[derive(Debug, Default)]
pub(crate) struct Whole(Mutex<Option<(u64, Answer)>>);

impl Whole {
    /// The answer to a request with `filter`. One that says nothing is none: so the kubelet asks for all.
    pub(crate) fn answer<F: Default + PartialEq>(
        &self,
        rt: &Runtime,
        filter: Option<&F>,
        make: impl FnOnce(Option<&F>) -> Result<Answer, Error>,
    ) -> Result<Answer, Error> {
        match filter.filter(|filter| **filter != F::default()) {
            None => self.get(rt.changes(), || make(None)),
            filter => make(filter),
        }
    }

    /// The answer as of the change `now`, asked for before; `make` is asked where there is none.
    fn get(&self, now: u64, make: impl FnOnce() -> Result<Answer, Error>) -> Result<Answer, Error> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, answer)) = &*kept()
            && *of == now
        {
            return Ok(answer.clone());
        }
        // Others may make it too meanwhile.
        let answer = make()?;
        *kept() = Some((now, answer.clone()));
        Ok(answer)
    }
}

/// Those of both lists.
#[derive(Debug, Default)]
pub(crate) struct WholeLists {
    pub(crate) containers: Whole,
    pub(crate) sandboxes: Whole,
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

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<http::Request<B>> for Lists<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Answering {
        let rt = Arc::clone(&self.rt);
        match request.uri().path() {
            "/runtime.v1.RuntimeService/ListContainers" => Box::pin(unary(Containers(rt), request)),
            "/runtime.v1.RuntimeService/ListPodSandbox" => Box::pin(unary(Sandboxes(rt), request)),
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

async fn unary<B, R>(
    service: impl UnaryService<R, Response = ()>,
    request: http::Request<B>,
) -> Result<http::Response<Body>, Infallible>
where
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
    R: Message + Default + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<(), R>::default()).apply_max_message_size_config(Some(MAX_MESSAGE), None);
    let mut response = grpc.unary(service, request).await;
    // In the place of tonic's body, which would copy it.
    match response.extensions_mut().remove::<Answer>() {
        Some(answer) => Ok(response.map(|_| Body::new(Sent::Message(answer.0)))),
        None => Ok(response),
    }
}

/// The body of an answer: the message, then the trailers.
enum Sent {
    Message(Bytes),
    Trailers,
    Nothing,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let frame = match std::mem::replace(&mut *self, Self::Nothing) {
            Self::Message(bytes) => {
                *self = Self::Trailers;
                http_body::Frame::data(bytes)
            }
            Self::Trailers => {
                let ok = (Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
                http_body::Frame::trailers([ok].into_iter().collect())
            }
            Self::Nothing => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

type Said = Pin<Box<dyn Future<Output = Result<Response<()>, Status>> + Send>>;

/// The answer where [`unary`] looks for it.
fn said(response: Response<Answer>) -> Response<()> {
    let (metadata, answer, mut extensions) = response.into_parts();
    extensions.insert(answer);
    Response::from_parts(metadata, (), extensions)
}

struct Containers(Arc<Runtime>);

impl UnaryService<cri::ListContainersRequest> for Containers {
    type Response = ();
    type Future = Said;

    fn call(&mut self, request: Request<cri::ListContainersRequest>) -> Said {
        let rt = Arc::clone(&self.0);
        Box::pin(async move {
            let work = |rt: Arc<Runtime>, message| async move { containers::encoded(&rt, &message) };
            rpc("ListContainers", Weight::Look, &rt, request, work).await.map(said)
        })
    }
}

struct Sandboxes(Arc<Runtime>);

impl UnaryService<cri::ListPodSandboxRequest> for Sandboxes {
    type Response = ();
    type Future = Said;

    fn call(&mut self, request: Request<cri::ListPodSandboxRequest>) -> Said {
        let rt = Arc::clone(&self.0);
        Box::pin(async move {
            let work = |rt: Arc<Runtime>, message| async move { sandboxes::encoded(&rt, &message) };
            rpc("ListPodSandbox", Weight::Look, &rt, request, work).await.map(said)
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
        let mut answer = Encoded::new();
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
        let answer = answer.finish().unwrap();
        let read = cri::ListPodSandboxResponse::decode(&answer.0[PREFIX..]).unwrap();
        assert_eq!(read.items, pods);
    }

    #[test]
    fn the_states_are_in_the_fields_that_the_protocol_names() {
        let mut answer = Encoded::new();
        answer.push(&[], containers::STATE_FIELD, 2);
        let answer = answer.finish().unwrap();
        let read = cri::ListContainersResponse::decode(&answer.0[PREFIX..]).unwrap();
        assert_eq!(read.containers[0].state, 2);
    }

    #[test]
    fn an_answer_is_kept_until_something_changes_and_a_failure_is_not() {
        let whole = Whole::default();
        let of = |state| {
            let mut answer = Encoded::new();
            answer.push(&[], containers::STATE_FIELD, state);
            answer.finish()
        };
        let asked = |now, state| whole.get(now, || of(state)).unwrap().0;
        let first = asked(1, 1);
        assert_eq!(asked(1, 2), first);
        let second = asked(2, 2);
        assert_ne!(second, first);
        assert!(whole.get(3, || Err(Error::invalid("broken"))).is_err());
        assert_eq!(asked(3, 1), first);
    }

    #[test]
    fn an_answer_that_no_client_would_take_is_an_error() {
        let mut answer = Encoded::new();
        answer.push(&vec![0; MAX_MESSAGE], containers::STATE_FIELD, 1);
        assert_eq!(answer.finish().unwrap_err().kind(), Kind::ResourceExhausted);
    }
}
