//! Limits of a cgroup that is in use: all of them, or none.
//!
//! What each control file held is read before it is written. When one of the writes is refused, those before it are
//! taken back, last first, and the error says so if even that fails. The order of the writes is that of `apply`: memory
//! before CPU time, and of memory and memory+swap the one first that makes room for the other.

use std::path::PathBuf;

use spec::runtime::LinuxResources;

use crate::apply::{Write, is_below_usage, refused_for_now};
use crate::{Cgroup, Error, file};

/// What the files of a cgroup held before an update.
#[derive(Debug, Default)]
pub struct Earlier(Vec<(PathBuf, String)>);

impl Cgroup {
    /// Changes limits; those that are absent stay as they are. Device rules are left alone. The answer is for
    /// [`Cgroup::take_back`].
    ///
    /// # Errors
    /// A value that no kernel takes, a controller that this host lacks, a memory limit below what is in use. Nothing has
    /// changed then, unless the error is [`Error::NotTakenBack`].
    pub fn update(&self, limits: &LinuxResources) -> Result<Earlier, Error> {
        let plan = self.planned(limits)?;
        if let Some(limit) = plan.memory_floor {
            self.check_usage(limit)?;
        }
        let mut done = Vec::new();
        let mut again = Vec::new();
        let mut outcome = Ok(());
        for write in &plan.writes {
            match self.swap(write, &mut done) {
                Err(error) if write.may_wait() && refused_for_now(&error) => again.push(write),
                Err(error) if write.may_be_absent() && error.is_missing_file() => {}
                Ok(()) => {}
                refused => {
                    outcome = refused;
                    break;
                }
            }
        }
        if outcome.is_ok() {
            outcome = again.into_iter().try_for_each(|write| self.swap(write, &mut done));
        }
        let earlier = Earlier(done);
        match outcome {
            Ok(()) => Ok(earlier),
            Err(error) => Err(self.take_back(self.explained(error), earlier)),
        }
    }

    /// Takes back an update for the sake of `error`, which is the answer, with what would not be taken back if need be.
    #[must_use]
    pub fn take_back(&self, error: Error, earlier: Earlier) -> Error {
        let mut stayed = Vec::new();
        for (path, before) in earlier.0.into_iter().rev() {
            // An empty file is emptied by a line break: nothing at all is no write. Files of several lines take one at
            // a time.
            let lines: Vec<&str> = if before.trim().is_empty() {
                vec!["\n"]
            } else {
                before.lines().collect()
            };
            for line in lines {
                if let Err(refused) = file::write(&path, line) {
                    stayed.push(format!("{refused}: {}", refused.reason()));
                }
            }
        }
        if stayed.is_empty() {
            return error;
        }
        Error::NotTakenBack {
            source: Box::new(error),
            stayed: stayed.join("; "),
        }
    }

    /// Writes, and notes what was there before.
    fn swap(&self, write: &Write, done: &mut Vec<(PathBuf, String)>) -> Result<(), Error> {
        let path = self.path_of(write)?;
        let before = file::read(&path)?;
        self.put(write)?;
        done.push((path, before));
        Ok(())
    }

    /// v1 answers EBUSY where what cannot be reclaimed is more than the new limit.
    fn explained(&self, error: Error) -> Error {
        let limit = match &error {
            Error::Write { value, .. } if is_below_usage(&error) => value.parse().ok(),
            _ => None,
        };
        let usage = self.dir("memory").and_then(|dir| {
            file::read_number(&dir.path.join("memory.usage_in_bytes"))
                .ok()
                .flatten()
        });
        match limit.zip(usage) {
            Some((limit, usage)) => Error::BelowUsage {
                path: self.path().to_owned(),
                limit,
                usage,
            },
            None => error,
        }
    }
}
