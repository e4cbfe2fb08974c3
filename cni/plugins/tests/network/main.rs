//! The network suite: real namespaces, real traffic, with our plugins, with the reference
//! plugins (v1.9.1, built from their Go module) and mixed: what one set ADDs the other DELs.
//!
//! Each test runs in a network and mount namespace of its own, which is its "host" (see
//! `host.rs`); the machine's own network is never touched. Needs root, `ip`, `unshare`, and for
//! the reference plugins `nft` and either Go or `BULKHEAD_REFERENCE_CNI=DIR`.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod host;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod safety;
#[cfg(test)]
mod traffic;
