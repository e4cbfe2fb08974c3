//! The real kubelet with static pods (`hack/test kubelet`).

mod ending;
mod images;
mod life;
mod probes;
mod statistics;
mod streams;
mod survival;
