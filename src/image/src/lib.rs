//! Images: from a name to a root filesystem.
//!
//! ```text
//! reference.rs      text -> Reference                 registry/   hosts, TLS, tokens, blobs
//! pull.rs           the verb                          layer.rs    network -> hash -> inflate -> hash -> untar
//! single_flight.rs  one run for identical requests    unpack/     tar stream -> directory, hostile input
//! store/            what is there; commit, remove     snapshot/   writable layer and overlay mount
//! ```
//! May use: `spec`. Everything that comes from a registry is hostile until its digest
//! is verified, and its meaning stays hostile after that.
//!
//! [`Store`] is the one owner of images, layers and snapshots; the rest of the daemon asks it.

pub mod error;
pub mod reference;
pub mod snapshot;
pub mod store;

mod content;
mod credentials;
mod decompress;
mod failpoint;
mod layer;
mod manifest;
mod pull;
mod registry;
mod single_flight;
mod unpack;

pub use credentials::Credentials;
pub use error::Error;
pub use reference::Reference;
pub use snapshot::{IdShift, ImageVolume, Mapped};
pub use store::catalog::Image;
pub use store::{Figures, FsUsage, LAYER_SIZES, Options, Store, Usage};
