//! `bulkhead.monitor.v1`: what the daemon and a monitor say to one another.
#![allow(missing_docs, reason = "generated; monitor.proto describes each field")]
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/bulkhead.monitor.v1.rs"));

/// Version of the protocol that this build speaks, said in the first frame of each side.
pub const VERSION: u32 = 1;
