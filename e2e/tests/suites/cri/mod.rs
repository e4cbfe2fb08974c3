//! Every CRI call.

mod errors;
mod exec;
mod identity;
mod image_volumes;
mod mounts;
mod node_status;
mod process;
mod security;
mod states;
mod stats;
mod stop;
