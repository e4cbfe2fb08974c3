//! `bulkhead ctl`.
use crate::cli::CtlArgs;
use std::process::ExitCode;
pub(crate) fn run(_args: CtlArgs) -> ExitCode {
    ExitCode::SUCCESS
}
