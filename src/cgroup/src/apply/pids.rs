//! The number of processes and threads.

use super::{Layout, Plan, Write};
use crate::Error;

/// Positive is a limit, negative none; 0 is what an absent field looks like to most writers of a spec and is left alone.
pub(super) fn plan(limit: i64, layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    if limit == 0 {
        return Ok(());
    }
    layout.need("a pids limit", "pids")?;
    let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
    plan.writes.push(Write::must("pids", "pids.max", value));
    Ok(())
}
