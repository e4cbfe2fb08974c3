//! Pulls one image into a directory and says how long it took: for measuring, without a daemon.
//!
//! `cargo run --release -p image --example pull -- DIR REFERENCE`

use std::process::ExitCode;
use std::time::Instant;

use image::{Options, Store};

#[tokio::main]
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line"
)]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(reference)) = (args.next(), args.next()) else {
        eprintln!("usage: pull DIR REFERENCE");
        return ExitCode::FAILURE;
    };
    let store = match Store::open(Options::new(dir)) {
        Ok(store) => store,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    match store.pull(&reference, None).await {
        Ok(image) => {
            println!(
                "{} {} bytes {:.3} s",
                image.id,
                image.size,
                start.elapsed().as_secs_f64()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
