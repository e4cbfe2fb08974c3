//! How this process' heap gives memory back.
//!
//! glibc raises its mmap threshold each time a large block is freed (mallopt(3), "dynamic
//! mmap threshold") and keeps one arena a thread; after a burst of large replies or a pull
//! a daemon then holds memory that nobody uses. Setting a threshold by hand switches the
//! adjustment off.
#![expect(unsafe_code, reason = "mallopt has no safe wrapper")]

/// Fixes the thresholds. To be called first thing in `main`, while there is one thread.
/// Returns whether the allocator took all of it; where it did not, memory use alone suffers.
#[cfg(target_env = "gnu")]
pub fn tune() -> bool {
    const MIB: libc::c_int = 1 << 20;
    [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, 4 * MIB),
        (libc::M_TRIM_THRESHOLD, 4 * MIB),
    ]
    .into_iter()
    .all(|(parameter, value)| {
        // SAFETY: takes two integers by value and touches only the allocator's own
        // parameters, under its own lock; returns 1 or 0 and keeps no pointer.
        unsafe { libc::mallopt(parameter, value) == 1 }
    })
}

/// Other C libraries have nothing to tune.
#[cfg(not(target_env = "gnu"))]
pub fn tune() -> bool {
    true
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_allocator_takes_the_thresholds() {
        assert!(super::tune());
    }
}
