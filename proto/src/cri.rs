//! `runtime.v1`: the Container Runtime Interface, k8s.io/cri-api v0.37.2.
#![allow(
    missing_docs,
    reason = "generated; the published CRI documentation describes each field"
)]
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));

/// The descriptors of `runtime.v1`, an encoded `google.protobuf.FileDescriptorSet`.
#[cfg(feature = "client")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
