//! One file for each subcommand.

pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod ctl;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod wipe;
