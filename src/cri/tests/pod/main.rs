//! The first pod, whole: from CRI messages down to the kernel and back, in one process with
//! real monitors. Needs root. Each test has its own directories, cgroups and registry.

#![allow(clippy::unwrap_used, reason = "a fixture that fails is the test's failure")]
#![allow(clippy::tests_outside_test_module, reason = "these files are tests and nothing else")]

mod bed;
mod cdi;
mod crash;
#[cfg(feature = "failpoints")]
mod failpoints;
mod kernel;
mod life;
mod node;
mod pace;
mod registry;
mod resize;
mod streams;
mod told;
mod userns;
