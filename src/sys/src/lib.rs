//! sys

pub mod bpf;
