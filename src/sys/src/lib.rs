//! sys
pub mod malloc;
