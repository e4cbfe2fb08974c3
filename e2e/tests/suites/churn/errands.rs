//! Clients that exec into pods while all around them changes.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::kube::Cluster;

/// How long one may take before it counts as one that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Errand {
    pod: String,
    client: Child,
    since: Instant,
}

/// Those under way, and what became of the others.
#[derive(Default)]
pub(super) struct Errands {
    under_way: Vec<Errand>,
    /// How many came back with success.
    pub(super) done: u32,
    /// What the others said.
    pub(super) failed: Vec<String>,
}

impl Errands {
    /// Sends one into a pod.
    pub(super) fn send(&mut self, cluster: &Cluster, pod: &str) -> Result<()> {
        let mut command = cluster.kubectl_command(&["exec", pod, "--", "echo", "inside"])?;
        let client = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        self.under_way.push(Errand {
            pod: pod.to_owned(),
            client,
            since: Instant::now(),
        });
        Ok(())
    }

    /// Takes in those that are done; with patience, all.
    pub(super) async fn finish(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            self.take_in()?;
            if self.under_way.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn take_in(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for mut errand in self.under_way.drain(..) {
            if errand.client.try_wait()?.is_none() {
                if errand.since.elapsed() > PATIENCE {
                    self.failed.push(format!("{}: hangs since {PATIENCE:?}", errand.pod));
                    errand.client.kill()?;
                    errand.client.wait()?;
                } else {
                    left.push(errand);
                }
                continue;
            }
            let output = errand.client.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // A pod that left in the meantime is not there to be exec'd into.
            let left_meanwhile = said.contains("not found")
                || said.contains("container not running")
                || output.status.code() == Some(137);
            if output.status.success() {
                self.done += 1;
            } else if !left_meanwhile {
                self.failed.push(format!("{}: {} {said}", errand.pod, output.status));
            }
        }
        self.under_way = left;
        Ok(())
    }
}
