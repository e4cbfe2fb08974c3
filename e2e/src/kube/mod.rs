//! A node as Kubernetes sees it: the real kubelet on a server of this crate's [`crate::node`],
//! alone with static pods, or registered with a real control plane in the same namespaces.
//!
//! * [`kubelet`]: the kubelet, its configuration, what it is asked (`ask.rs`);
//! * [`cluster`]: etcd, the control plane and kubectl;
//! * [`pods`]: pods as JSON, and what their status says;
//! * [`agnhost`]: the image with the programs that Kubernetes' own tests use.

pub mod agnhost;
mod ask;
pub mod cluster;
pub mod kubelet;
pub mod pods;

pub use cluster::Cluster;
pub use kubelet::{Kubelet, Settings};
