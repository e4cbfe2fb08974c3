//! What is asked of a node's kubelet: pods given and taken, its answers, its clients.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::kubelet::{Kubelet, NAME, READ_ONLY_PORT, without_proxy};
use super::pods;
use crate::{netns, places, wait};

impl Kubelet {
    /// Writes the manifest of a static pod, as an administrator does.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn apply(&self, pod: &Value) -> Result<()> {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        let temporary = self.dir().join("manifest-being-written");
        fs::write(&temporary, pod.to_string())?;
        fs::rename(temporary, self.manifests().join(format!("{name}.json")))?;
        Ok(())
    }

    /// Takes the manifest of a static pod away.
    ///
    /// # Errors
    /// Where there is none.
    pub fn delete(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifests().join(format!("{name}.json")))?)
    }

    /// GET of a path on the port that wants no credentials.
    ///
    /// # Errors
    /// Where it does not answer with 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, READ_ONLY_PORT));
        let mut stream = netns::connect(self.node.init(), address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
        ensure!(
            head.lines().next().is_some_and(|line| line.contains(" 200 ")),
            "GET {path}: {head}\n{body}"
        );
        Ok(body.to_owned())
    }

    /// A client of the HTTPS interface: `streamclient VERB --url PATH`.
    ///
    /// # Errors
    /// Where streamclient is not built.
    pub fn client(&self, verb: &str, path: &str, protocol: Option<&str>) -> Result<Command> {
        let mut command = self.node.enter(places::tool("streamclient")?);
        command.args([verb, "--url", &format!("https://127.0.0.1:10250{path}")]);
        command.args(protocol.iter().flat_map(|protocol| ["--protocol", *protocol]));
        without_proxy(&mut command);
        Ok(command)
    }

    /// GET of a path of the HTTPS interface.
    ///
    /// # Errors
    /// Where it does not answer with 200.
    pub fn get_https(&self, path: &str) -> Result<String> {
        let output = self.client("get", path, None)?.stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "GET {path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A static pod as the kubelet shows it, or none.
    ///
    /// # Errors
    /// Where the kubelet does not answer.
    pub fn find(&self, name: &str) -> Result<Option<Value>> {
        let list: Value = serde_json::from_str(&self.get("/pods")?)?;
        let full = format!("{name}-{NAME}");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.into_iter().find(|pod| pod["metadata"]["name"] == full.as_str()))
    }

    /// Waits until the pod is as `is` wants it.
    ///
    /// # Errors
    /// Where it is not in time; its status is in the message.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        seconds: u64,
        mut is: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let what = format!("{name}: {what}");
        let outcome = wait::until(&what, Duration::from_secs(seconds), async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            last = self.find(name)?.unwrap_or_default();
            Ok(is(&last).then(|| last.clone()))
        });
        let outcome = outcome.await;
        outcome.with_context(|| format!("status of {name}: {:#}", last["status"]))
    }

    /// Waits until the pod is ready.
    ///
    /// # Errors
    /// As [`Kubelet::until`].
    pub async fn ready(&self, name: &str) -> Result<Value> {
        self.until(name, "ready", 60, pods::is_ready).await
    }

    /// Waits until the server knows nothing of a pod any more, which the kubelet takes back after its removal.
    ///
    /// # Errors
    /// Where it stays.
    pub async fn gone(&self, name: &str) -> Result<()> {
        let full = format!("{name}-{NAME}");
        wait::until(&format!("{name} is gone"), Duration::from_secs(60), async || {
            let there = self.node.cri().pods(None).await?;
            let any = there.iter().any(|pod| {
                let ready = pod.state() == proto::cri::PodSandboxState::SandboxReady;
                ready && pod.metadata.as_ref().is_some_and(|of| of.name == full)
            });
            Ok((!any).then_some(()))
        })
        .await
    }

    /// A container's log, by the kubelet's HTTPS interface.
    ///
    /// # Errors
    /// Where there is none.
    pub fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.get_https(&format!("/containerLogs/default/{pod}-{NAME}/{container}"))
    }

    /// Waits until a container's log is as wanted: what a ready container has yet to write may come a little later.
    ///
    /// # Errors
    /// Where it is not in time; it is in the message.
    pub async fn logged(&self, pod: &str, container: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let found = wait::until("the log is as wanted", Duration::from_secs(20), async || {
            last = self.logs(pod, container)?;
            Ok(is(&last).then(|| last.clone()))
        });
        let found = found.await;
        found.with_context(|| format!("log of {container} in {pod}: {last:?}"))
    }
}
