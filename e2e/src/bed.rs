//! A pod that is up, and short ways to do what most tests do with one.

use anyhow::{Context, Result, bail, ensure};
use proto::cri as v1;
use tonic::Code;

use crate::catalog::BUSYBOX;
use crate::config;
use crate::cri::{Answer, Cri, Output};
use crate::logs::{self, Line};
use crate::node::Node;

/// A ready pod, busybox pulled.
#[derive(Debug)]
pub struct Bed {
    /// A client.
    pub cri: Cri,
    /// The pod's configuration.
    pub config: v1::PodSandboxConfig,
    /// The pod's id.
    pub pod: String,
}

impl Bed {
    /// Pulls busybox and runs a pod.
    ///
    /// # Errors
    /// The server's.
    pub async fn new(node: &Node) -> Result<Self> {
        Self::with(node, |_| {}).await
    }

    /// As [`Bed::new`], the configuration changed first.
    ///
    /// # Errors
    /// The server's.
    pub async fn with(node: &Node, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<Self> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await.context("pull busybox")?;
        let mut config = config::pod(node, "pod");
        change(&mut config);
        let pod = cri.run_pod(&config).await.context("run the pod")?;
        Ok(Self { cri, config, pod })
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// The server's.
    pub async fn run(&self, container: &v1::ContainerConfig) -> Answer<String> {
        self.cri.run(&self.pod, container, &self.config).await
    }

    /// Creates a container.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(&self, container: &v1::ContainerConfig) -> Answer<String> {
        self.cri.create(&self.pod, container, &self.config).await
    }

    /// Runs a container that stays.
    ///
    /// # Errors
    /// The server's.
    pub async fn sleeper(&self, name: &str) -> Answer<String> {
        self.run(&config::sleeper(name)).await
    }

    /// Runs a container to its end; its status and log.
    ///
    /// # Errors
    /// The server's, or a log that is not in the format.
    pub async fn run_to_end(&self, container: &v1::ContainerConfig) -> Result<(v1::ContainerStatus, Vec<Line>)> {
        let id = self.run(container).await?;
        let status = self.cri.exited(&id).await?;
        Ok((status, logs::read(&logs::path(&self.config, container))?))
    }

    /// Runs a container to its end, which must be 0; what it wrote to standard output.
    ///
    /// # Errors
    /// Where it ends otherwise.
    pub async fn output_of(&self, container: &v1::ContainerConfig) -> Result<String> {
        let (status, lines) = self.run_to_end(container).await?;
        ensure!(
            status.exit_code == 0,
            "exit code {}, log {lines:?}, {}",
            status.exit_code,
            status.message
        );
        Ok(logs::joined(&lines, "stdout"))
    }

    /// ExecSync, whatever the exit code is.
    ///
    /// # Errors
    /// The server's.
    pub async fn exec(&self, id: &str, cmd: &[&str]) -> Answer<Output> {
        self.cri.exec_with(id, cmd, 20).await
    }
}

/// The call must have been refused with `code`, in a message that holds each of `words`.
///
/// # Errors
/// Where it was not.
pub fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, words: &[&str]) -> Result<()> {
    refused_any(answer, &[code], words)
}

/// As [`refused`], with any of some codes.
///
/// # Errors
/// Where it was not.
pub fn refused_any<T: std::fmt::Debug>(answer: Answer<T>, codes: &[Code], words: &[&str]) -> Result<()> {
    let status = match answer {
        Ok(value) => bail!("was not refused but answered {value:?}"),
        Err(status) => status,
    };
    ensure!(
        codes.contains(&status.code()),
        "was refused with {:?}, not {codes:?}: {}",
        status.code(),
        status.message()
    );
    for word in words {
        let there = status.message().to_lowercase().contains(&word.to_lowercase());
        ensure!(there, "the message does not say {word:?}: {}", status.message());
    }
    Ok(())
}
