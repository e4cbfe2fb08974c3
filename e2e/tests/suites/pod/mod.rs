//! E6: the pod's namespaces, files, network.

mod files;
mod namespaces;
mod network;
