//! Containers: one verb a file; `plan/` decides, the rest does.

pub(crate) mod attach;
pub(crate) mod bundle;
pub(crate) mod create;
pub(crate) mod deaf;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod exit;
pub(crate) mod image_volumes;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod plan;
mod record;
mod relabel;
pub(crate) mod remove;
pub(crate) mod rootfs;
pub(crate) mod sources;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod update;
