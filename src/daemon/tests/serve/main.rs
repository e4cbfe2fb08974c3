//! `bulkhead serve` as a process: two side by side, signals, the service manager, metrics.
//! Needs root and the monitor program, which the test builds.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod daemon;
