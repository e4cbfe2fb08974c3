//! A real cluster of one node (`hack/test cluster`).

mod bad;
mod streams;
mod users;
mod workloads;
