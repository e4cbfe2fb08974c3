//! One verb at a time for each attachment.
//!
//! The CRI side has its own order, but a call whose caller went away leaves its plugin dying for
//! a moment (see `exec`); the next verb on the same attachment waits for that, and for nothing
//! else. Attachments of other pods never wait for one another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// The right to work on an attachment, as long as any copy of it lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    _guard: Option<Arc<OwnedMutexGuard<()>>>,
}

type Key = (String, String);

/// Who is at work, by container and interface.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    busy: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    fn lock_of(&self, key: Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = busy.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(key, Arc::downgrade(&lock));
        lock
    }

    /// Waits until nobody else works on the attachment.
    pub(crate) async fn take(&self, container_id: &str, ifname: &str) -> Turn {
        let lock = self.lock_of((container_id.to_owned(), ifname.to_owned()));
        Turn {
            _guard: Some(Arc::new(lock.lock_owned().await)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_turn_ends_with_its_last_copy_and_leaves_nothing() {
        let turns = Turns::default();
        let first = turns.take("a", "eth0").await;
        let copy = first.clone();
        drop(turns.take("b", "eth0").await);
        drop(first);
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, turns.take("a", "eth0")).await.is_err());
        drop(copy);
        drop(turns.take("a", "eth0").await);
        drop(turns.take("c", "eth0").await);
        assert!(turns.busy.lock().unwrap().len() <= 1);
    }
}
