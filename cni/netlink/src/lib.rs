//! Links, addresses, routes, nftables and conntrack over netlink: requests are built as
//! [`Message`]s, gathered in a [`Batch`] and exchanged over one [`Socket`] in one system
//! call each way. No program is executed.
//!
//! Why own encoders and not `netlink-bindings` (deps.md 15): veth needs the nested peer header
//! that crate lacks, its socket takes one request a round trip while a pod needs a batch, and
//! the whole of what Bulkhead sends is smaller than the glue around it would be.
//!
//! May use: no crate of ours. Errors carry the errno (`Error::errno`); the callers, each of
//! which has its own code table, turn that into theirs.

#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of netlink messages are bounded by the socket buffer and fit the kernel's u16 and u32 fields"
)]

pub mod addr;
pub mod change;
pub mod conntrack;
pub mod deletion;
pub mod error;
pub mod link;
pub mod message;
pub mod netns;
pub mod nft;
pub mod port;
pub mod route;
pub mod rule;
pub mod socket;

pub use change::Change;
pub use deletion::Deletion;
pub use error::Error;
pub use message::{Attrs, Message};
pub use netns::NetNs;
pub use socket::{Batch, Reply, Socket};
