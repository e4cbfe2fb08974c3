//! What scripts and developers want of the fixtures:
//!
//! * `fixture images` makes the images of the test suites where they are not there yet, and
//!   prints the directory that docker-registry is to serve.
//! * `fixture node` starts a node as the tests do, with one pod and one container, says how
//!   to reach it, and takes it down at the end of its standard input.
#![expect(clippy::print_stdout, reason = "a command line tool")]

use anyhow::{Result, bail};
use e2e::{Bed, Node, Options, run};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("images") => println!("{}", e2e::catalog::path()?.display()),
        Some("node") => run::runtime()?.block_on(node())?,
        _ => bail!("usage: fixture images|node"),
    }
    Ok(())
}

async fn node() -> Result<()> {
    let node = Node::start(Options::default()).await?;
    let bed = Bed::new(&node).await?;
    let id = bed.sleeper("main").await?;
    println!(
        "socket {}\nlog {}\nenter nsenter -t {} -m -n -p\npod {}\ncontainer {id}",
        node.socket().display(),
        node.log_path().display(),
        node.init(),
        bed.pod
    );
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    node.finish().await
}
