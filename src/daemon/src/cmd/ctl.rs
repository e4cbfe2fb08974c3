//! `bulkhead ctl`: every word after it goes to the CRI client as it is.

use std::process::ExitCode;

use crate::cli::CtlArgs;

pub(crate) fn run(args: CtlArgs) -> ExitCode {
    ctl::main(args.words.into_iter())
}
