//! Every CRI call of issue 3.

mod errors;
mod exec;
mod identity;
mod mounts;
mod node_status;
mod process;
mod security;
mod states;
mod stats;
mod stop;
