//! What the daemon remembers of pods and containers.
//!
//! Two halves for each object: a **record** that never changes after its verb committed
//! (`records.rs`) and a **status** that does. Both are rows of `<root>/bulkhead.db`
//! (`db.rs`), written by one thread of its own so that no disk wait sits on an async
//! worker, and its log moved into the database by another (`checkpoint.rs`); all reading is done from the index in memory (`sandbox.rs`, `container.rs`,
//! `index.rs`). `names.rs` reserves names and joins repeated requests.

mod checkpoint;
pub(crate) mod container;
pub(crate) mod db;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod records;
pub(crate) mod sandbox;
