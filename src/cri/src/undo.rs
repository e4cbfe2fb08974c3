//! The rollback stack of a verb, and its fail points.
//!
//! Every acquisition pushes its undo on the next line: `undo.push("pin", …).await?`. When
//! the verb fails, `roll_back` runs the steps backwards, never stops at the first that
//! fails, and appends what failed to the verb's own error. Every undo is safe to run twice
//! and on something half made.
//!
//! Each push passes the fail point `<verb>.<step>` (`spec::failpoint`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use spec::failpoint::Action;

use crate::error::Error;

type Step = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> + Send + Sync>;

/// The undo steps of one run of a verb.
pub(crate) struct Undo {
    verb: &'static str,
    steps: Vec<(&'static str, Step)>,
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(name, _)| name)).finish()
    }
}

impl Undo {
    /// An empty stack for `verb`.
    pub(crate) fn new(verb: &'static str) -> Self {
        Self {
            verb,
            steps: Vec::new(),
        }
    }

    /// Notes how to undo what was just done, then passes the step's fail point.
    pub(crate) async fn push<F, Fut>(&mut self, step: &'static str, undo: F) -> Result<(), Error>
    where
        F: FnOnce() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.steps.push((step, Box::new(move || Box::pin(undo()))));
        failpoint(self.verb, step).await
    }

    /// Passes the fail point of a step that needs no undo.
    pub(crate) async fn pass(&self, step: &'static str) -> Result<(), Error> {
        failpoint(self.verb, step).await
    }

    /// The verb succeeded: nothing is undone.
    pub(crate) fn disarm(mut self) {
        self.steps.clear();
    }

    /// Runs all steps backwards. The steps that failed come back with their errors.
    pub(crate) async fn roll_back(mut self) -> Vec<Error> {
        let mut failed = Vec::new();
        while let Some((name, step)) = self.steps.pop() {
            if let Err(error) = step().await {
                failed.push(error.during("undo of", name));
            }
        }
        failed
    }
}

/// Passes the fail point `<verb>.<step>`.
pub(crate) async fn failpoint(verb: &'static str, step: &'static str) -> Result<(), Error> {
    match spec::failpoint::action(verb, step) {
        None => Ok(()),
        Some(Action::Sleep(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(Action::Kill) => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .map_err(|e| Error::at("kill at fail point", format!("{verb}.{step}"), &e))?;
            std::future::pending().await
        }
        Some(Action::Fail) => Err(Error::new(spec::Kind::Internal, format!("fail point {verb}.{step}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn log() -> Arc<Mutex<Vec<u8>>> {
        Arc::new(Mutex::new(Vec::new()))
    }

    #[tokio::test]
    async fn runs_backwards_past_failures() {
        let seen = log();
        let mut undo = Undo::new("test");
        for n in 0..3u8 {
            let seen = Arc::clone(&seen);
            undo.push("step", move || async move {
                seen.lock().unwrap().push(n);
                if n == 1 { Err(Error::invalid("one")) } else { Ok(()) }
            })
            .await
            .unwrap();
        }
        let failed = undo.roll_back().await;
        assert_eq!(*seen.lock().unwrap(), [2, 1, 0]);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].to_string(), "undo of step: one");
    }

    #[tokio::test]
    async fn disarmed_undoes_nothing() {
        let seen = log();
        let mut undo = Undo::new("test");
        let inner = Arc::clone(&seen);
        undo.push("step", move || async move {
            inner.lock().unwrap().push(1);
            Ok(())
        })
        .await
        .unwrap();
        undo.disarm();
        assert!(seen.lock().unwrap().is_empty());
    }
}
