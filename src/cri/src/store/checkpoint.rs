//! Moves the write-ahead log into the database, out of the verbs' way.
//!
//! SQLite does this within the commit that makes the log a thousand pages long, and waits for the disk twice; the commit
//! that then begins the log anew waits once more. Measured beside 300 pods: 8 ms of a verb's 26. So the writer never does
//! it; a thread with a connection of its own does, while the writer goes on (wal.html, "PASSIVE"). Where nothing was
//! written meanwhile it also begins the log anew, by a write of its own.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::error::Error;

/// Pages of the log after which it is moved, and after as many again.
const PAGES: i32 = 1000;
/// Pages (32 MB) of a log that never was moved as a whole, for it never stood still: then the verbs wait.
const MOST: i32 = 8 * PAGES;

/// Has `writer` tell a thread that is started for it when the log has grown.
pub(super) fn beside(writer: &mut Connection, path: &Path) -> Result<(), Error> {
    let at = |op: &str, e: &rusqlite::Error| Error::at(op, path.display(), e);
    let conn = Connection::open(path).map_err(|e| at("open a second time", &e))?;
    conn.busy_timeout(Duration::from_secs(10))
        .and_then(|()| conn.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA cache_size=-64;"))
        .map_err(|e| at("set up a second time", &e))?;
    let (grown, told) = sync_channel(1);
    let mut pace = Pace::new(grown);
    // In the place of SQLite's own hook, which is its checkpoint.
    writer
        .wal_hook(Some(move |_: &mut Wal, pages| {
            pace.committed(pages);
            Ok(())
        }))
        .map_err(|e| at("watch the log of", &e))?;
    let name = path.to_owned();
    std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || {
            while let Ok(pages) = told.recv() {
                if let Err(error) = run(&conn, pages) {
                    tracing::warn!(%error, database = %name.display(), "move the log into the database");
                }
            }
        })
        .map_err(|e| Error::at("start the checkpoints of", path.display(), &e))?;
    Ok(())
}

/// When the thread is told.
struct Pace {
    grown: SyncSender<i32>,
    /// Pages of the log at which it is told next.
    at: i32,
}

impl Pace {
    fn new(grown: SyncSender<i32>) -> Self {
        Self { grown, at: PAGES }
    }

    fn committed(&mut self, pages: i32) {
        if pages < PAGES {
            // The log began anew.
            self.at = PAGES;
        } else if pages >= self.at {
            self.at = pages.saturating_add(PAGES);
            // Where it still works at what it was told before, it is told a thousand pages later.
            self.grown.try_send(pages).unwrap_or_default();
        }
    }
}

fn run(conn: &Connection, pages: i32) -> rusqlite::Result<()> {
    let (log, moved) = checkpoint(conn, if pages < MOST { "PASSIVE" } else { "RESTART" })?;
    if log == moved {
        // The first commit after it writes the log's beginning, and waits for the disk. Any commit would do.
        conn.pragma_update(None, "user_version", 1)?;
    }
    Ok(())
}

/// Pages of the log, and of those in the database.
fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<(i32, i32)> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_told_each_thousand_pages_and_from_the_beginning_when_the_log_began_anew() {
        let (grown, told) = sync_channel(16);
        let mut pace = Pace::new(grown);
        for pages in [1, 999, 1000, 1001, 1999, 2003, 3002, 3003, 5, 998, 1004, 1500] {
            pace.committed(pages);
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1000, 2003, 3003, 1004]);
    }

    #[test]
    fn a_log_that_stood_still_is_moved_and_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (x);",
        )
        .unwrap();
        let other = Connection::open(&path).unwrap();
        for pages in [PAGES, MOST] {
            for _ in 0..50 {
                conn.execute("INSERT INTO t VALUES (1)", []).unwrap();
            }
            run(&other, pages).unwrap();
            conn.execute("INSERT INTO t VALUES (1)", []).unwrap();
            let (log, _) = checkpoint(&other, "PASSIVE").unwrap();
            assert_eq!(log, 2, "the version and one row, told of {pages} pages");
        }
    }
}
