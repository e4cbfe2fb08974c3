//! `bulkhead ctl` alone, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctl::main(std::env::args_os().skip(1))
}
