//! The heap of this process.

/// Gives the free pages of the heap back to the kernel: for a process that idles for days after a busy moment.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
