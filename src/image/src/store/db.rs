//! The image tables of `bulkhead.db`. Other tables of the same file belong to other crates,
//! which open connections of their own.
//!
//! WAL with `synchronous = FULL`: a commit is on disk when it returns. What it refers to was
//! synced before (`store::commit`). A file that is no database, or a damaged one, is moved
//! aside and a new one begun: the images are pulled again, which is better than a node that
//! does not start (containerd #3347).

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use spec::{Digest, ImageId, Kind};

use crate::error::Error;
use crate::store::layers::Layer;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS image_images (
    id TEXT PRIMARY KEY, config BLOB NOT NULL, manifest BLOB NOT NULL, manifest_digest TEXT NOT NULL,
    size INTEGER NOT NULL, pulled_ns INTEGER NOT NULL, fixups TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_names (
    name TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_layers (
    diff_id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, inodes INTEGER NOT NULL, implicit BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_chain (
    image TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL, PRIMARY KEY (image, position)) WITHOUT ROWID;
";
const BUSY: Duration = Duration::from_secs(10);

/// One image as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: ImageId,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) size: u64,
    pub(crate) pulled_ns: i64,
    /// JSON of `fixups::Fixup`s.
    pub(crate) fixups: String,
    /// Bottom first.
    pub(crate) chain: Vec<Digest>,
}

/// Everything in the tables.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) images: Vec<Record>,
    pub(crate) names: Vec<(String, ImageId)>,
    pub(crate) layers: Vec<(Digest, Layer)>,
}

pub(crate) struct Db {
    connection: Connection,
}

impl Db {
    /// Opens the database, or a new one where the old cannot be used.
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents), Error> {
        let first = Self::try_open(path);
        match first {
            Err(error) if error.kind() == Kind::DataLoss => {
                let aside = move_aside(path)?;
                tracing::error!(%error, kept = %aside.display(), "the database is damaged: it was moved aside and a new one begun; images will be pulled again");
                Self::try_open(path)
            }
            other => other,
        }
    }

    fn try_open(path: &Path) -> Result<(Self, Contents), Error> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -512)?;
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Error::new(Kind::DataLoss, format!("database check: {verdict}")));
        }
        connection.execute_batch(SCHEMA)?;
        let db = Self { connection };
        let contents = db.read()?;
        Ok((db, contents))
    }

    fn read(&self) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        let mut statement = self
            .connection
            .prepare("SELECT id, config, manifest, manifest_digest, size, pulled_ns, fixups FROM image_images")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            contents.images.push(Record {
                id: id(&row.get::<_, String>(0)?)?,
                config: row.get(1)?,
                manifest: row.get(2)?,
                manifest_digest: digest(&row.get::<_, String>(3)?)?,
                size: row.get::<_, i64>(4)?.unsigned_abs(),
                pulled_ns: row.get(5)?,
                fixups: row.get(6)?,
                chain: Vec::new(),
            });
        }
        let mut statement = self
            .connection
            .prepare("SELECT diff_id FROM image_chain WHERE image = ?1 ORDER BY position")?;
        for image in &mut contents.images {
            let mut rows = statement.query([image.id.as_str()])?;
            while let Some(row) = rows.next()? {
                image.chain.push(digest(&row.get::<_, String>(0)?)?);
            }
        }
        let mut statement = self.connection.prepare("SELECT name, image FROM image_names")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            contents.names.push((row.get(0)?, id(&row.get::<_, String>(1)?)?));
        }
        let mut statement = self
            .connection
            .prepare("SELECT diff_id, bytes, inodes, implicit FROM image_layers")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let layer = Layer {
                bytes: row.get::<_, i64>(1)?.unsigned_abs(),
                inodes: row.get::<_, i64>(2)?.unsigned_abs(),
                implicit: split(&row.get::<_, Vec<u8>>(3)?).into(),
            };
            contents.layers.push((digest(&row.get::<_, String>(0)?)?, layer));
        }
        Ok(contents)
    }

    /// Records an image, its layers and its names in one commit. Names move to it.
    pub(crate) fn put(&mut self, image: &Record, layers: &[(Digest, Layer)], names: &[String]) -> Result<(), Error> {
        let tx = self.connection.transaction()?;
        for (diff_id, layer) in layers {
            tx.execute(
                "INSERT OR IGNORE INTO image_layers (diff_id, bytes, inodes, implicit) VALUES (?1, ?2, ?3, ?4)",
                params![
                    diff_id.to_string(),
                    signed(layer.bytes),
                    signed(layer.inodes),
                    join(&layer.implicit)
                ],
            )?;
        }
        let id = image.id.as_str();
        tx.execute(
            "INSERT OR REPLACE INTO image_images (id, config, manifest, manifest_digest, size, pulled_ns, fixups)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                id,
                image.config,
                image.manifest,
                image.manifest_digest.to_string(),
                signed(image.size),
                image.pulled_ns,
                image.fixups
            ],
        )?;
        tx.execute("DELETE FROM image_chain WHERE image = ?1", [id])?;
        for (position, diff_id) in (0i64..).zip(&image.chain) {
            tx.execute(
                "INSERT INTO image_chain (image, position, diff_id) VALUES (?1, ?2, ?3)",
                params![id, position, diff_id.to_string()],
            )?;
        }
        put_names(&tx, id, names)?;
        tx.commit()?;
        Ok(())
    }

    /// Gives an image that is known already more names.
    pub(crate) fn name(&mut self, image: &ImageId, names: &[String]) -> Result<(), Error> {
        let tx = self.connection.transaction()?;
        let known: Option<i64> = tx
            .query_row("SELECT 1 FROM image_images WHERE id = ?1", [image.as_str()], |row| {
                row.get(0)
            })
            .optional()?;
        if known.is_none() {
            return Err(Error::new(
                Kind::Aborted,
                format!("image {image} was removed meanwhile"),
            ));
        }
        put_names(&tx, image.as_str(), names)?;
        tx.commit()?;
        Ok(())
    }

    /// Forgets images with their names, and layers.
    pub(crate) fn delete(&mut self, images: &[ImageId], layers: &[Digest]) -> Result<(), Error> {
        let tx = self.connection.transaction()?;
        for image in images {
            for sql in [
                "DELETE FROM image_names WHERE image = ?1",
                "DELETE FROM image_chain WHERE image = ?1",
                "DELETE FROM image_images WHERE id = ?1",
            ] {
                tx.execute(sql, [image.as_str()])?;
            }
        }
        for layer in layers {
            tx.execute("DELETE FROM image_layers WHERE diff_id = ?1", [layer.to_string()])?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn put_names(tx: &Transaction<'_>, image: &str, names: &[String]) -> Result<(), Error> {
    for name in names {
        tx.execute(
            "INSERT OR REPLACE INTO image_names (name, image) VALUES (?1, ?2)",
            [name.as_str(), image],
        )?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn digest(text: &str) -> Result<Digest, Error> {
    text.parse()
        .map_err(|e| Error::caused(Kind::DataLoss, "image database", e))
}

fn id(text: &str) -> Result<ImageId, Error> {
    ImageId::parse(text).map_err(|e| Error::caused(Kind::DataLoss, "image database", e))
}

/// Paths hold anything but zero bytes.
fn join(paths: &[Vec<u8>]) -> Vec<u8> {
    paths.join(&0)
}

fn split(joined: &[u8]) -> Vec<Vec<u8>> {
    joined
        .split(|b| *b == 0)
        .filter(|p| !p.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn move_aside(path: &Path) -> Result<PathBuf, Error> {
    let stamp = jiff::Timestamp::now().as_millisecond();
    let name = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = name(path, &format!(".corrupt-{stamp}"));
    std::fs::rename(path, &aside).map_err(|e| Error::io("move aside", path.display(), e))?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(name(path, suffix), name(&aside, suffix)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("move aside", path.display(), e)),
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let digest = crate::content::sha256(b"layer");
        let record = Record {
            id: ImageId::parse(&"a".repeat(64)).unwrap(),
            config: b"{}".to_vec(),
            manifest: b"{}".to_vec(),
            manifest_digest: digest,
            size: 5,
            pulled_ns: 7,
            fixups: "[]".into(),
            chain: vec![digest, digest],
        };
        let layer = Layer {
            bytes: 1,
            inodes: 2,
            implicit: vec![b"a/b".to_vec(), b"\xff".to_vec()].into(),
        };
        let (mut db, empty) = Db::open(&path).unwrap();
        assert!(empty.images.is_empty());
        db.put(&record, &[(digest, layer.clone())], &["n:1".into()]).unwrap();
        db.name(&record.id, &["n:2".into()]).unwrap();
        drop(db);
        let (mut db, contents) = Db::open(&path).unwrap();
        assert_eq!(contents.images[0].chain, record.chain);
        assert_eq!(contents.names.len(), 2);
        assert_eq!(contents.layers, [(digest, layer)]);
        db.delete(std::slice::from_ref(&record.id), &[digest]).unwrap();
        assert_eq!(db.name(&record.id, &["n:3".into()]).unwrap_err().kind(), Kind::Aborted);
        drop(db);
        let (_, contents) = Db::open(&path).unwrap();
        assert!(contents.images.is_empty() && contents.names.is_empty() && contents.layers.is_empty());
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(Db::open(&path).unwrap());
        let sound = std::fs::read(&path).unwrap();
        let mut zeroed = sound.clone();
        let end = zeroed.len().min(8192);
        zeroed[4096..end].fill(0xa5);
        for damage in [
            b"not a database at all, but long enough to have a header of sixteen bytes".to_vec(),
            zeroed,
            sound[..1000].to_vec(),
        ] {
            for suffix in ["", "-wal", "-shm"] {
                let _gone = std::fs::remove_file(dir.path().join(format!("x.db{suffix}")));
            }
            std::fs::write(&path, damage).unwrap();
            let (_db, contents) = Db::open(&path).unwrap();
            assert!(contents.images.is_empty());
        }
        let kept = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt"));
        assert!(kept.count() >= 2);
    }
}
