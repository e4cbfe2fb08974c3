//! sys

pub mod bpf;
pub mod malloc;
