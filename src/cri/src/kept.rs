//! Descriptors that are kept open only so that statistics are cheap: files and directories of cgroups, a socket in each
//! pod's network. An open control file costs the kernel a page, so there are so many at the most; who gets no place opens
//! and closes each time.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cgroup::{Cgroup, Host};

/// The most descriptors that are kept: all files of some forty pods, 4 MB.
const MOST: usize = 1024;

/// How many more may be kept.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<AtomicUsize>);

impl Places {
    /// At most half of what this process may have open now.
    pub(crate) fn of_this_process() -> Self {
        let limit = sys::rlimit::named("RLIMIT_NOFILE").and_then(|of| sys::rlimit::get(of).soft);
        let limit = limit.and_then(|soft| usize::try_from(soft).ok());
        Self::new(limit.map_or(MOST, |limit| MOST.min(limit / 2)))
    }

    fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    /// Takes places for `count` descriptors; none where there are not so many.
    pub(crate) fn take(&self, count: usize) -> Option<Place> {
        let less = |left: usize| left.checked_sub(count);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Place(self.clone(), count))
    }
}

/// Places taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Places, usize);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_add(self.1, Ordering::Relaxed);
    }
}

/// A cgroup for its statistics, open where there is a place for that.
#[derive(Debug)]
pub(crate) struct Group {
    group: Cgroup,
    _place: Option<Place>,
}

impl Group {
    /// Opens the cgroup at `path`.
    pub(crate) fn open(host: &Host, places: &Places, path: &str) -> Result<Self, cgroup::Error> {
        let mut group = host.open(path)?;
        let directories = group.directories();
        let whole = places.take(directories + Cgroup::FILES);
        let files = whole.is_some();
        let place = whole.or_else(|| places.take(directories));
        if place.is_some() {
            group.keep(files)?;
        }
        Ok(Self { group, _place: place })
    }
}

impl Deref for Group {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let places = Places::new(5);
        let first = places.take(3).unwrap();
        assert!(places.take(3).is_none());
        let second = places.take(2).unwrap();
        assert!(places.take(1).is_none());
        drop(first);
        assert!(places.take(3).is_some());
        drop(second);
        assert!(places.take(5).is_some() && places.take(6).is_none());
    }
}
