//! `stream::Backend`: what the streaming server asks, answered by the verbs' own files.

use std::sync::Arc;

use stream::{AttachParams, Backend, BackendError, ExecParams, Reader, Streams, Writer};

use crate::container::{attach, exec};
use crate::port_forward;
use crate::runtime::Runtime;

/// The runtime as the streaming server sees it.
#[derive(Debug, Clone)]
pub struct Streaming(Arc<Runtime>);

impl Streaming {
    /// For `rt`.
    #[must_use]
    pub fn new(rt: &Arc<Runtime>) -> Self {
        Self(Arc::clone(rt))
    }
}

impl Backend for Streaming {
    async fn exec(&self, params: ExecParams, streams: Streams) -> Result<i32, BackendError> {
        Ok(exec::session(&self.0, params, streams).await?)
    }

    async fn attach(&self, params: AttachParams, streams: Streams) -> Result<(), BackendError> {
        Ok(attach::session(&self.0, params, streams).await?)
    }

    async fn port_forward(
        &self,
        sandbox_id: &str,
        port: u16,
        from_client: Reader,
        to_client: Writer,
    ) -> Result<(), BackendError> {
        Ok(port_forward::session(&self.0, sandbox_id, port, from_client, to_client).await?)
    }
}
