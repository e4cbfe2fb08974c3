//! The system suites; each module is one, and each test is named after the statement it
//! proves (`e4_…` is a statement of section E4 of the feature list).
//!
//! `cargo test -p e2e --test suites cri::` runs one of them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

mod bad;
mod charts;
mod churn;
mod cluster;
mod contract;
mod cri;
mod fixtures;
mod fuzz;
mod image;
mod kubelet;
mod logs;
mod oom;
mod pair;
mod pod;
mod restart;
mod rpcs;
mod stream;
mod stress;
