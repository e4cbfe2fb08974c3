//! Runtime handlers: what a RuntimeClass name stands for.

use serde::{Deserialize, Serialize};

use crate::section::{leaf, section};

/// Name of the handler that is always there.
pub const BUILT_IN_HANDLER: &str = "bulkhead";

/// Who isolates the containers of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerKind {
    /// Our own isolation layer, inside the monitor.
    Isolation,
}

leaf!(HandlerKind);

section! {
    /// One runtime handler.
    Handler, GivenHandler {
        /// Who isolates its containers: isolation (our own layer).
        kind: HandlerKind = HandlerKind::Isolation;
    }
}
