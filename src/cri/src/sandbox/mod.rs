//! Pod sandboxes: one verb a file.

pub(crate) mod context;
pub(crate) mod files;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod plan;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod teardown;
pub(crate) mod traffic;
pub(crate) mod update;
pub(crate) mod userns;
