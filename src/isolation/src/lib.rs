//! Creates, joins and pins isolated processes from an OCI runtime spec: namespaces,
//! cgroups, mounts, credentials, seccomp. Linked by the monitor (and by `bulkhead-oci`),
//! never by the daemon, so that its faults cannot take the node server down.
//!
//! | verb       | file     | what runs where                                                             |
//! |------------|----------|-----------------------------------------------------------------------------|
//! | [`create()`] | create   | caller → *creator* (`parent`, forked, short-lived) → init (`init`, sibling) |
//! | [`exec()`]   | exec     | caller → *joiner* (`parent`, forked, short-lived) → process (`init::join`)  |
//! | [`pin()`]    | pin      | in the caller, a fresh process with one thread                              |
//!
//! `plan` is pure: spec and facts of this host in, a checked plan out, without a system call. `sync` is the
//! protocol between the processes. The caller must not reap its children with `waitpid(-1)` while a verb runs.
//! No field of the spec is ignored in silence: what cannot be done is an error that names the field.
//!
//! May use: spec, sys, cgroup, seccomp.

mod bundle;
mod create;
mod error;
mod exec;
mod holder;
mod hooks;
mod init;
mod parent;
mod pin;
mod plan;
mod seed;
mod sync;
mod userns;

pub use create::{CreateRequest, Created, Stdio, User, create};
pub use error::Error;
pub use exec::{ExecRequest, Execed, PendingExec, exec};
pub use init::reaper::ANNOTATION as INIT_ANNOTATION;
pub use pin::{PinRequest, PinUser, Pinned, pin};
pub use plan::userns::IdMap;
pub use seed::seed;
