//! `fixture images`: makes the images of the test suites where they are not there yet, and
//! prints the directory that docker-registry is to serve. For `hack/demo`.
#![expect(clippy::print_stdout, reason = "a command line tool")]

use anyhow::{Result, bail};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("images") => println!("{}", e2e::catalog::path()?.display()),
        _ => bail!("usage: fixture images"),
    }
    Ok(())
}
