//! Passing a fail point from blocking code; see `spec::failpoint`.

use spec::Kind;
use spec::failpoint::Action;

use crate::error::{Error, sys};

/// Passes the fail point `<verb>.<step>`.
pub(crate) fn failpoint(verb: &'static str, step: &'static str) -> Result<(), Error> {
    match spec::failpoint::action(verb, step) {
        None => Ok(()),
        Some(Action::Sleep(time)) => {
            std::thread::sleep(time);
            Ok(())
        }
        Some(Action::Kill) => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .map_err(sys("kill at fail point", step))?;
            // The signal is on its way, perhaps to another thread first.
            std::thread::park();
            Ok(())
        }
        Some(Action::Fail) => Err(Error::new(Kind::Internal, format!("fail point {verb}.{step}"))),
    }
}
