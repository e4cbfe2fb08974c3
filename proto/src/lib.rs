//! The wire types: CRI v1 (gRPC, `cri`) and the daemon–monitor protocol (`monitor`, with
//! its framing in `frame`). Generated code and nothing that decides anything.
//!
//! May use: no crate of ours.

#[cfg(feature = "cri")]
pub mod cri;
pub mod frame;
pub mod monitor;
