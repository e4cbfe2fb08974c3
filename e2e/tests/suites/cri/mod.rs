//! Every CRI call.

mod apparmor;
mod devices;
mod errors;
mod exec;
mod handlers;
mod identity;
mod image_volumes;
mod init_systems;
mod limits;
mod mount_modes;
mod mounts;
mod node_status;
mod pod_context;
mod process;
mod security;
mod states;
mod stats;
mod stop;
mod systemd;
mod userns;
mod userns_copy;
