//! Bad input by a generator: for every RPC a request with each field missing, empty, at the
//! limits of its type and absurd, then several at once by chance.
//!
//! * [`mutate`]: where a message has fields and what can be put there, by the descriptors
//!   alone; a field that a later version of the CRI adds is found by itself.
//! * [`plan`]: the list of cases of one RPC, each a number; the same seed gives the same list.
//! * [`base`]: for each RPC a request that the server would accept, which the cases change.
//! * [`drive`]: sends them, cleans up after those that succeed, judges the answers.
//!
//! `BULKHEAD_FUZZ_SEED` repeats a run, `BULKHEAD_FUZZ_ONLY=Method:number` one case of it.

pub mod base;
pub mod drive;
pub mod mutate;
pub mod plan;

use anyhow::{Context, Result};
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// All 43 methods of both services.
///
/// # Errors
/// Where the descriptors cannot be read.
pub fn methods() -> Result<Vec<MethodDescriptor>> {
    let pool = DescriptorPool::decode(proto::cri::DESCRIPTORS).context("CRI descriptors")?;
    Ok(pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect())
}

/// Numbers by chance that a seed repeats (xorshift64*).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts from `seed`; no two seeds that differ give the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring numbers; zero would stay zero.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % end.max(1)
    }
}
