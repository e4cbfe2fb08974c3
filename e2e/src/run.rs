//! How a test is run: a node, the test's body, the leak check. A failure shows the end of
//! the server's log.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::node::{Node, Options};
use crate::wait;

/// No test may take longer: a server that hangs is a failure like another.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `body` with a node of the usual kind.
pub fn test(body: impl AsyncFnOnce(&mut Node) -> Result<()>) {
    test_with(Options::default(), body);
}

/// Runs `body` with a node as `options` say.
///
/// # Panics
/// Where the body fails or the node leaves something behind.
pub fn test_with(options: Options, body: impl AsyncFnOnce(&mut Node) -> Result<()>) {
    test_within(LIMIT, options, body);
}

/// As [`test_with`], for a test that has hundreds of cases.
///
/// # Panics
/// As [`test_with`].
pub fn test_within(limit: Duration, options: Options, body: impl AsyncFnOnce(&mut Node) -> Result<()>) {
    let result = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let mut node = Node::start(options).await?;
            let outcome = tokio::time::timeout(limit * wait::patience(), body(&mut node)).await;
            if let Err(error) = outcome.unwrap_or_else(|_| bail!("the test was not done after {limit:?}")) {
                eprintln!("--- end of the server's log ---\n{}\n---", node.log_tail(40));
                return Err(error);
            }
            node.finish().await
        })
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

/// A runtime of one thread, the test's own: the node's processes die with it.
///
/// # Errors
/// Where the kernel gives no epoll.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")
}
