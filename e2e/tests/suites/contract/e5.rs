//! E5: logs.

use std::fs;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, logs, test};

#[test]
fn e5_reopen_returns_when_the_new_file_is_there() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container(
            "main",
            BUSYBOX,
            &["sh", "-c", "while :; do echo tick; sleep 0.01; done"],
        );
        let id = bed.run(&config).await?;
        let path = logs::path(&bed.config, &config);
        logs::wait_for(&path, "tick").await?;
        for round in 0..20 {
            fs::rename(&path, path.with_extension(format!("{round}")))?;
            bed.cri.reopen_log(&id).await?;
            ensure!(path.exists(), "round {round}: no new file");
        }
        Ok(())
    });
}

#[test]
fn e5_on_a_terminal_all_is_stdout() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "echo out; echo err >&2"]);
        config.tty = true;
        let (_, lines) = bed.run_to_end(&config).await?;
        ensure!(
            lines.len() == 2 && lines.iter().all(|line| line.stream == "stdout"),
            "{lines:?}"
        );
        Ok(())
    });
}
