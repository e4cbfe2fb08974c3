//! Seccomp profiles of the OCI runtime spec compiled to classic BPF, and the default profile.
//!
//! Pure: a profile in, instructions out; `sys::seccomp::load` gives them to the kernel. A seccomp filter is a
//! security boundary, so what a profile means is written down here and tested against an interpreter:
//!
//! - The architecture comes first. The native one is always in; of the profile's list those that this machine can
//!   run. A call of any other ABI kills the process (an `int 0x80` or x32 number is another table, never a hole).
//! - Conditions of one rule are ANDed, on one argument too (CVE-2017-18367). They compare 64 bits, except for arguments
//!   that the kernel itself cuts to 32 (`ioctl`'s request, `socket`'s family): those are compared as the kernel sees them.
//! - Of several rules for a call, those with conditions are asked first, in the profile's order; then the one without;
//!   of several without, the strictest counts; then the default action.
//! - Names that no architecture here knows are ignored, as the peers do, and listed in [`Program::ignored`].
//! - Where the default action is an errno, calls with numbers above all that the profile names on that architecture
//!   answer ENOSYS: they are newer than the profile, and libc then falls back to what it used before, while EPERM
//!   would be taken for a verdict (moby#42680). They stay denied.
//!
//! | module     | does                                             |
//! |------------|--------------------------------------------------|
//! | `compile`  | profile → decision for each number → program     |
//! | `emit`     | decisions → instructions (binary search)         |
//! | `arch`     | architectures, 32-bit arguments                  |
//! | `default`  | our RuntimeDefault                               |
//! | `syscalls` | generated table                                  |
//!
//! May use: `spec`, `sys`.

mod arch;
mod compile;
mod default;
mod emit;
mod error;
mod syscalls;

pub use compile::{Program, compile};
pub use default::default_profile;
pub use error::Error;
