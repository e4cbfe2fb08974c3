//! ReopenContainerLog: returns when the monitor writes to the new file.

use std::sync::Arc;
use std::time::Duration;

use proto::monitor::{self as wire, request::Verb};

use crate::error::Error;
use crate::runtime::Runtime;

/// How long a reopen may take: one open of one file.
const DEADLINE: Duration = Duration::from_secs(30);

/// Has the monitor open the log file anew.
pub(crate) async fn reopen(rt: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let container = rt.index.container(id)?;
    if !container.with_status(|s| s.is_running()) {
        return Err(Error::precondition(format!(
            "container {} does not run: it writes no log",
            container.id
        )));
    }
    let reopened = container
        .monitor()?
        .done(Verb::ReopenLog(wire::ReopenLog {}), DEADLINE)
        .await;
    reopened.map_err(|e| e.during("open the log anew of", format!("container {}", container.id)))
}
