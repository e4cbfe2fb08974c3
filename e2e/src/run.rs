//! How a test is run: a node, the test's body, the leak check. A failure shows the end of
//! the server's log.

use anyhow::{Context, Result};

use crate::node::{Node, Options};

/// Runs `body` with a node of the usual kind.
pub fn test(body: impl AsyncFnOnce(&mut Node) -> Result<()>) {
    test_with(Options::default(), body);
}

/// Runs `body` with a node as `options` say.
///
/// # Panics
/// Where the body fails or the node leaves something behind.
pub fn test_with(options: Options, body: impl AsyncFnOnce(&mut Node) -> Result<()>) {
    let result = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let mut node = Node::start(options).await?;
            if let Err(error) = body(&mut node).await {
                eprintln!("--- end of the server's log ---\n{}\n---", node.log_tail(40));
                return Err(error);
            }
            node.finish().await
        })
    });
    if let Err(error) = result {
        panic!("{error:?}");
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
