//! What every crate shares: ids parsed once (`id`), the error kinds (`kind`), digests
//! (`digest`), the record of a container's end (`exit`), fail points (`failpoint`), the
//! names of sysctls (`sysctl`) and the OCI
//! types (`runtime`, `image`), which nobody else imports from `oci-spec` directly.
//!
//! May use: no crate of ours.

pub mod digest;
pub mod exit;
pub mod failpoint;
pub mod id;
pub mod kind;
pub mod sysctl;

pub use digest::Digest;
pub use exit::{ExitReason, ExitRecord};
pub use id::{ContainerId, ImageId, SandboxId};
pub use kind::Kind;

/// OCI runtime-spec types.
pub use oci_spec::runtime;

/// OCI image-spec types.
pub use oci_spec::image;
