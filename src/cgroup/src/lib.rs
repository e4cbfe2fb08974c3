//! Control groups: make, join, limit, read, stop and remove them, v1, hybrid and v2 with one code.
//!
//! A [`Host`] is what `/proc/self/mountinfo` says about this machine: a set of hierarchies, each a
//! directory and the controllers it carries. A [`Cgroup`] is one path in all of them. "Hybrid" is no
//! third case: it is v1 hierarchies plus one v2 hierarchy that carries few controllers or none, which
//! still gives `cgroup.kill`.
//!
//! | module     | does                                                                        |
//! |------------|-----------------------------------------------------------------------------|
//! | `host`     | mounts and controllers; makes and opens cgroups                             |
//! | `make`     | mkdir in each hierarchy, cpuset inheritance (v1), `subtree_control` (v2)    |
//! | `fs`       | join, procs, remove                                                         |
//! | `entry`    | the files through which a process enters by itself, without a grace period   |
//! | `stop`     | kill, freeze, thaw                                                          |
//! | `apply`    | OCI limits to a list of (file, value), pure; then written                   |
//! | `update`   | OCI limits of a cgroup in use: all of them or none                          |
//! | `stats`    | counters, one read a file                                                   |
//! | `details`  | all counters and limits, for metrics                                        |
//! | `pressure` | pressure stall information                                                  |
//! | `events`   | the OOM counter and its notification                                        |
//! | `delegate` | a v2 cgroup given to who is inside, and the way into one that is divided       |
//! | `slice`    | names of systemd's slices and where their cgroups lie                       |
//! | `systemd`  | scopes and slices over D-Bus (feature `systemd`: the daemon alone has it)   |
//!
//! State belongs to the kernel: nothing is cached between calls. Controllers that are mounted but not
//! in `host::WANTED` are left alone. May use: `spec`, `sys`.

mod apply;
mod delegate;
mod details;
mod entry;
mod error;
mod events;
mod file;
mod fs;
mod host;
mod make;
mod path;
mod pressure;
#[cfg(feature = "systemd")]
mod properties;
mod slice;
mod stats;
mod stop;
#[cfg(feature = "systemd")]
mod systemd;
mod update;

pub use details::{Details, HugePages, Io};
pub use entry::Entry;
pub use error::Error;
pub use events::{OomCounter, OomWatch};
pub use fs::Cgroup;
pub use host::{DriverKind, Host, UnknownDriver, Version};
pub use pressure::{Pressure, Pressures, Stall};
pub use slice::{slice_name, slice_path, unit_of};
pub use stats::Stats;
#[cfg(feature = "systemd")]
pub use systemd::{Scope, Systemd};
pub use update::Earlier;
