//! What the server tells by itself: events, traffic of pods, its log and its metrics.

mod events;
mod log;
mod metrics;
mod traffic;
