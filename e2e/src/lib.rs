//! Black-box tests: the products' programs are reached only through their sockets and
//! command lines, so that every test could also be run against another CRI server (it is:
//! `BULKHEAD_E2E_ENGINE=containerd` runs the suites against containerd and runc, which
//! shows that a failing test is right to fail).
//!
//! * [`node`]: one server in mount, network and pid namespaces of its own, killed by pid,
//!   checked for leaks at the end; [`engine`]: how each kind of server is configured.
//! * [`cri`]: a client with short names for what tests say often; [`config`]: pod and
//!   container configurations as the kubelet fills them.
//! * [`bed`]: a pod that is up, with what most tests do to it.
//! * [`tar`], [`image`], [`catalog`]: images made here, byte for byte the same each time,
//!   in the storage layout of docker-registry; [`registry`]: that registry, started in a
//!   node's network namespace; [`fake`]: a registry that lies, stalls or wants tokens.
//! * [`kube`]: the real kubelet on a node, and a real control plane beside it.
//! * [`cgroups`]: their names under each driver; [`limits`]: what the kernel has in them.
//! * [`fuzz`]: requests that no client would send, made from the descriptors.
//! * [`ws`]: a streaming client that can also misbehave.
//! * [`account`]: what a server costs; [`still`]: a node that is frozen while another is measured.
//! * [`leak`]: what a node left behind; [`run`]: how a test is run.
//!
//! May use: `proto` (client) and `spec`; no other crate of ours.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test library and its programs talk to a terminal"
)]

pub mod account;
pub mod bed;
pub mod catalog;
pub mod cgroups;
pub mod companion;
pub mod config;
pub mod cri;
pub mod engine;
pub mod fake;
pub mod fuzz;
pub mod image;
pub mod kube;
pub mod leak;
pub mod limits;
pub mod logs;
pub mod netns;
pub mod node;
pub mod places;
pub mod raw;
pub mod registry;
pub mod run;
pub mod service;
pub mod still;
pub mod tar;
pub mod wait;
pub mod ws;

pub use bed::{Bed, refused};
pub use config::{container, pod, sleeper};
pub use node::{Node, Options};
pub use run::{test, test_with, test_within};
