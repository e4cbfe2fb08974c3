//! SPDY/3.1 as Kubernetes' clients speak it: `frame` and `headers` are the wire format,
//! `connection` the streams of one connection, `command` and `forward` the sessions on them.

mod command;
mod connection;
mod dictionary;
mod forward;
mod frame;
mod headers;

pub(crate) use command::serve as serve_command;
pub(crate) use forward::serve as serve_forward;
