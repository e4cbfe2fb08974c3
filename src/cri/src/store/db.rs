//! The tables `sandbox` and `container` of `<root>/bulkhead.db`, behind one writer thread.
//!
//! WAL with synchronous=NORMAL: a commit is a write to the page cache, never an fsync, so
//! that a `kill -9` of the daemon loses nothing that was acknowledged; what a power cut
//! takes was dead anyway. The thread takes all jobs that wait into one transaction. The
//! image crate keeps its `image_*` tables over a connection of its own: `busy_timeout`.
//!
//! A row that cannot be read moves to `quarantine` and is reported: one damaged record
//! must not keep five hundred others from being restored.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, params};
use spec::Kind;
use tokio::sync::oneshot;

use super::checkpoint;
use crate::error::Error;

/// Which objects a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Pod sandboxes.
    Sandbox,
    /// Containers.
    Container,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Container => "container",
        }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The object's id.
    pub(crate) id: String,
    /// What never changes, encoded.
    pub(crate) record: Vec<u8>,
    /// What does, encoded.
    pub(crate) status: Vec<u8>,
}

enum Change {
    Put(Row),
    Status { id: String, status: Vec<u8> },
    Delete { id: String },
    Quarantine { id: String, why: String },
}

struct Job {
    table: Table,
    change: Change,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The handle on the writer thread; the thread ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    jobs: mpsc::Sender<Job>,
    changes: Arc<AtomicU64>,
}

/// All rows, as they were when the database was opened.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Rows of `sandbox`.
    pub(crate) sandboxes: Vec<Row>,
    /// Rows of `container`.
    pub(crate) containers: Vec<Row>,
}

/// Records are kilobytes, so the tables have row numbers: without them the tree of a table has records in its inner pages
/// too, and is deep (withoutrowid.html, section 4). Measured beside 300 pods: the five commits of a pod of one container that comes
/// up write 22 pages in 213 µs so, 12 in 123 µs with numbers that stay when a record is written again. A database that was
/// made otherwise works as it is.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS sandbox   (id TEXT PRIMARY KEY NOT NULL, record BLOB NOT NULL, status BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS container (id TEXT PRIMARY KEY NOT NULL, record BLOB NOT NULL, status BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS quarantine (kind TEXT NOT NULL, id TEXT NOT NULL, why TEXT NOT NULL, record BLOB, status BLOB);
";

impl Db {
    /// Opens (or makes) the database and starts its thread. Blocking: called at start only.
    pub(crate) fn open(path: &Path) -> Result<(Self, Loaded), Error> {
        let at = |op: &str, e: &rusqlite::Error| Error::at(op, path.display(), e);
        let mut conn = Connection::open(path).map_err(|e| at("open", &e))?;
        conn.busy_timeout(Duration::from_secs(10))
            .map_err(|e| at("set the busy timeout of", &e))?;
        conn.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-512;")
            .map_err(|e| at("set up", &e))?;
        conn.execute_batch(SCHEMA).map_err(|e| at("make the tables of", &e))?;
        let loaded = Loaded {
            sandboxes: rows(&conn, Table::Sandbox).map_err(|e| at("read the sandboxes of", &e))?,
            containers: rows(&conn, Table::Container).map_err(|e| at("read the containers of", &e))?,
        };
        checkpoint::beside(&mut conn, path)?;
        let (jobs, queue) = mpsc::channel();
        let name: PathBuf = path.to_owned();
        std::thread::Builder::new()
            .name("db".into())
            .spawn(move || write_all(conn, &queue, &name))
            .map_err(|e| Error::at("start the writer of", path.display(), &e))?;
        let changes = Arc::default();
        Ok((Self { jobs, changes }, loaded))
    }

    async fn run(&self, table: Table, change: Change) -> Result<(), Error> {
        let (done, result) = oneshot::channel();
        let gone = || Error::new(Kind::Internal, "the database writer has ended; restart the daemon");
        self.jobs.send(Job { table, change, done }).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    /// Writes a whole row, new or not.
    pub(crate) async fn put(&self, table: Table, row: Row) -> Result<(), Error> {
        self.run(table, Change::Put(row)).await
    }

    /// Writes the status of a row that exists; a row that is gone stays gone.
    pub(crate) async fn status(&self, table: Table, id: &str, status: Vec<u8>) -> Result<(), Error> {
        self.run(
            table,
            Change::Status {
                id: id.to_owned(),
                status,
            },
        )
        .await
    }

    /// How often a status changed in memory: what was read of all after this was asked is as new.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A status changes that is written next. To be called under its lock, so that nobody sees the change before.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Removes a row.
    pub(crate) async fn delete(&self, table: Table, id: &str) -> Result<(), Error> {
        self.run(table, Change::Delete { id: id.to_owned() }).await
    }

    /// Takes an unreadable row out of the way, keeping it for a person to look at.
    pub(crate) async fn quarantine(&self, table: Table, id: &str, why: &str) -> Result<(), Error> {
        self.run(
            table,
            Change::Quarantine {
                id: id.to_owned(),
                why: why.to_owned(),
            },
        )
        .await
    }
}

fn rows(conn: &Connection, table: Table) -> rusqlite::Result<Vec<Row>> {
    let mut query = conn.prepare(&format!("SELECT id, record, status FROM {}", table.name()))?;
    let rows = query.query_map([], |row| {
        Ok(Row {
            id: row.get(0)?,
            record: row.get(1)?,
            status: row.get(2)?,
        })
    })?;
    rows.collect()
}

/// The writer thread: everything that waits goes into one transaction.
fn write_all(mut conn: Connection, queue: &mpsc::Receiver<Job>, path: &Path) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        while jobs.len() < 256
            && let Ok(next) = queue.try_recv()
        {
            jobs.push(next);
        }
        let result = transact(&mut conn, &jobs).map_err(|e| Error::at("write", path.display(), &e));
        for job in jobs {
            // A caller that went away needs no answer.
            drop(job.done.send(result.clone()));
        }
    }
}

fn transact(conn: &mut Connection, jobs: &[Job]) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for job in jobs {
        let table = job.table.name();
        match &job.change {
            Change::Put(row) => {
                tx.prepare_cached(&format!(
                    "INSERT INTO {table} (id, record, status) VALUES (?1, ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET record = excluded.record, status = excluded.status"
                ))?
                .execute(params![row.id, row.record, row.status])?;
            }
            Change::Status { id, status } => {
                tx.prepare_cached(&format!("UPDATE {table} SET status = ?2 WHERE id = ?1"))?
                    .execute(params![id, status])?;
            }
            Change::Delete { id } => {
                tx.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?
                    .execute(params![id])?;
            }
            Change::Quarantine { id, why } => {
                tx.execute(
                    &format!(
                        "INSERT INTO quarantine (kind, id, why, record, status)
                         SELECT '{table}', id, ?2, record, status FROM {table} WHERE id = ?1"
                    ),
                    params![id, why],
                )?;
                tx.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![id])?;
            }
        }
    }
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, status: &str) -> Row {
        Row {
            id: id.into(),
            record: b"record".to_vec(),
            status: status.into(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_new_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.db");
        let (db, loaded) = Db::open(&path).unwrap();
        assert!(loaded.sandboxes.is_empty());
        db.put(Table::Sandbox, row("a", "1")).await.unwrap();
        db.put(Table::Sandbox, row("b", "1")).await.unwrap();
        db.put(Table::Container, row("c", "1")).await.unwrap();
        db.status(Table::Sandbox, "a", b"2".to_vec()).await.unwrap();
        db.status(Table::Sandbox, "nobody", b"2".to_vec()).await.unwrap();
        db.delete(Table::Sandbox, "b").await.unwrap();
        // A second connection at the same time, as after kill -9: nothing was held back.
        let (other, loaded) = Db::open(&path).unwrap();
        assert_eq!(loaded.sandboxes.len(), 1);
        assert_eq!(
            (loaded.sandboxes[0].id.as_str(), loaded.sandboxes[0].status.as_slice()),
            ("a", &b"2"[..])
        );
        assert_eq!(loaded.containers.len(), 1);
        other.quarantine(Table::Container, "c", "unreadable").await.unwrap();
        let (_, loaded) = Db::open(&path).unwrap();
        assert!(loaded.containers.is_empty());
    }

    #[tokio::test]
    async fn a_record_that_is_written_again_is_there_once_in_a_database_of_either_kind() {
        for kind in ["", " WITHOUT ROWID"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bulkhead.db");
            let conn = Connection::open(&path).unwrap();
            let schema = SCHEMA.replace("BLOB NOT NULL);", &format!("BLOB NOT NULL){kind};"));
            conn.execute_batch(&schema).unwrap();
            let (db, _) = Db::open(&path).unwrap();
            for status in ["1", "2"] {
                db.put(Table::Sandbox, row("a", status)).await.unwrap();
            }
            let loaded = Db::open(&path).unwrap().1.sandboxes;
            assert_eq!(loaded.iter().map(|row| &row.status[..]).collect::<Vec<_>>(), [b"2"]);
        }
    }

    #[tokio::test]
    async fn a_long_log_is_moved_into_the_database_while_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.db");
        let (db, _) = Db::open(&path).unwrap();
        let length = || std::fs::metadata(&path).unwrap().len();
        let before = length();
        for n in 0..300 {
            // Twelve pages each.
            db.put(Table::Container, row(&n.to_string(), &"x".repeat(48 << 10)))
                .await
                .unwrap();
        }
        let mut waited = 0;
        while length() < before + (4 << 20) {
            assert!(waited < 1000, "{} bytes after ten seconds, {before} at first", length());
            waited += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn many_writers_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.db");
        let (db, _) = Db::open(&path).unwrap();
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move { db.put(Table::Container, row(&n.to_string(), "x")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(Db::open(&path).unwrap().1.containers.len(), 100);
    }
}
