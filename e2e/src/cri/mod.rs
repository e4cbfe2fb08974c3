//! A CRI client with short names for what tests say often. Every call answers the plain
//! gRPC status, so that a test can ask for its code and words.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::cri as v1;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::wait;

mod images;

/// What a call answers.
pub type Answer<T> = Result<T, Status>;

/// The outcome of an ExecSync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

/// A connection to a CRI server.
#[derive(Debug, Clone)]
pub struct Cri {
    /// The runtime service, for what has no short name here.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service.
    pub images: ImageServiceClient<Channel>,
    /// What both go through.
    pub channel: Channel,
}

impl Cri {
    /// A client of the server that listens on `socket`; connects with the first call.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        let uri = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(uri).unwrap_or_else(|_| Endpoint::from_static("http://invalid"));
        let channel = endpoint.connect_lazy();
        Self {
            channel: channel.clone(),
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(64 << 20)
                .max_encoding_message_size(64 << 20),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(64 << 20)
                .max_encoding_message_size(64 << 20),
        }
    }

    /// Version.
    ///
    /// # Errors
    /// The server's.
    pub async fn version(&self) -> Answer<v1::VersionResponse> {
        Ok(self
            .runtime
            .clone()
            .version(v1::VersionRequest { version: "v1".into() })
            .await?
            .into_inner())
    }

    /// Status, verbose.
    ///
    /// # Errors
    /// The server's.
    pub async fn status(&self) -> Answer<v1::StatusResponse> {
        Ok(self
            .runtime
            .clone()
            .status(v1::StatusRequest { verbose: true })
            .await?
            .into_inner())
    }

    /// RunPodSandbox with the default handler.
    ///
    /// # Errors
    /// The server's.
    pub async fn run_pod(&self, config: &v1::PodSandboxConfig) -> Answer<String> {
        self.run_pod_with(config, "").await
    }

    /// RunPodSandbox.
    ///
    /// # Errors
    /// The server's.
    pub async fn run_pod_with(&self, config: &v1::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        Ok(self
            .runtime
            .clone()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The server's.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        self.runtime
            .clone()
            .stop_pod_sandbox(v1::StopPodSandboxRequest {
                pod_sandbox_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The server's.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        self.runtime
            .clone()
            .remove_pod_sandbox(v1::RemovePodSandboxRequest {
                pod_sandbox_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// PodSandboxStatus, verbose, whole.
    ///
    /// # Errors
    /// The server's.
    pub async fn pod_status_whole(&self, id: &str) -> Answer<v1::PodSandboxStatusResponse> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: true,
        };
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner())
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// The server's, or an answer without status.
    pub async fn pod_status(&self, id: &str) -> Answer<v1::PodSandboxStatus> {
        self.pod_status_whole(id)
            .await?
            .status
            .ok_or_else(|| Status::data_loss("no status in the answer"))
    }

    /// The pod's first address, empty where it has none.
    ///
    /// # Errors
    /// The server's.
    pub async fn pod_ip(&self, id: &str) -> Answer<String> {
        Ok(self
            .pod_status(id)
            .await?
            .network
            .map(|network| network.ip)
            .unwrap_or_default())
    }

    /// ListPodSandbox.
    ///
    /// # Errors
    /// The server's.
    pub async fn pods(&self, filter: Option<v1::PodSandboxFilter>) -> Answer<Vec<v1::PodSandbox>> {
        Ok(self
            .runtime
            .clone()
            .list_pod_sandbox(v1::ListPodSandboxRequest { filter })
            .await?
            .into_inner()
            .items)
    }

    /// CreateContainer.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(
        &self,
        pod: &str,
        config: &v1::ContainerConfig,
        sandbox: &v1::PodSandboxConfig,
    ) -> Answer<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.clone()),
        };
        Ok(self
            .runtime
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// The server's.
    pub async fn start(&self, id: &str) -> Answer<()> {
        self.runtime
            .clone()
            .start_container(v1::StartContainerRequest {
                container_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// CreateContainer and StartContainer.
    ///
    /// # Errors
    /// The server's.
    pub async fn run(&self, pod: &str, config: &v1::ContainerConfig, sandbox: &v1::PodSandboxConfig) -> Answer<String> {
        let id = self.create(pod, config, sandbox).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// StopContainer with a grace in seconds.
    ///
    /// # Errors
    /// The server's.
    pub async fn stop(&self, id: &str, timeout: i64) -> Answer<()> {
        self.runtime
            .clone()
            .stop_container(v1::StopContainerRequest {
                container_id: id.into(),
                timeout,
            })
            .await
            .map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The server's.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        self.runtime
            .clone()
            .remove_container(v1::RemoveContainerRequest {
                container_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// ContainerStatus, verbose, whole.
    ///
    /// # Errors
    /// The server's.
    pub async fn container_status_whole(&self, id: &str) -> Answer<v1::ContainerStatusResponse> {
        let request = v1::ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        Ok(self.runtime.clone().container_status(request).await?.into_inner())
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// The server's, or an answer without status.
    pub async fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus> {
        self.container_status_whole(id)
            .await?
            .status
            .ok_or_else(|| Status::data_loss("no status in the answer"))
    }

    /// The pid of a container's first process, from the verbose status (`info.info.pid`), as
    /// the server's pid namespace counts.
    ///
    /// # Errors
    /// Where the answer holds none.
    pub async fn container_pid(&self, id: &str) -> Result<i64> {
        let info = self.container_status_whole(id).await?.info;
        let text = info.get("info").context("no `info` in the verbose status")?;
        let value: serde_json::Value = serde_json::from_str(text).context("`info` is not JSON")?;
        value["pid"].as_i64().context("no `pid` in `info`")
    }

    /// ListContainers.
    ///
    /// # Errors
    /// The server's.
    pub async fn containers(&self, filter: Option<v1::ContainerFilter>) -> Answer<Vec<v1::Container>> {
        Ok(self
            .runtime
            .clone()
            .list_containers(v1::ListContainersRequest { filter })
            .await?
            .into_inner()
            .containers)
    }

    /// ExecSync with a timeout in seconds (0: none).
    ///
    /// # Errors
    /// The server's.
    pub async fn exec_with(&self, id: &str, cmd: &[&str], timeout: i64) -> Answer<Output> {
        let request = v1::ExecSyncRequest {
            container_id: id.into(),
            cmd: cmd.iter().map(|&word| word.into()).collect(),
            timeout,
        };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// A shell line in a container; answers its standard output.
    ///
    /// # Errors
    /// The server's, or another exit code than 0.
    pub async fn sh(&self, id: &str, line: &str) -> Result<String> {
        let output = self
            .exec_with(id, &["/bin/sh", "-c", line], 20)
            .await
            .with_context(|| format!("exec `{line}`"))?;
        if output.code != 0 {
            bail!(
                "`{line}` ended with {}: {}{}",
                output.code,
                output.stdout,
                output.stderr
            );
        }
        Ok(output.stdout)
    }

    /// Waits until a container has ended; answers its status.
    ///
    /// # Errors
    /// Where it is still there after 20 s.
    pub async fn exited(&self, id: &str) -> Result<v1::ContainerStatus> {
        wait::until(
            &format!("container {id} has ended"),
            Duration::from_secs(20),
            async || {
                let status = self.container_status(id).await?;
                Ok((status.state() == v1::ContainerState::ContainerExited).then_some(status))
            },
        )
        .await
    }

    /// ReopenContainerLog.
    ///
    /// # Errors
    /// The server's.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        self.runtime
            .clone()
            .reopen_container_log(v1::ReopenContainerLogRequest {
                container_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// ContainerStats.
    ///
    /// # Errors
    /// The server's, or an answer without stats.
    pub async fn stats(&self, id: &str) -> Answer<v1::ContainerStats> {
        let answer = self
            .runtime
            .clone()
            .container_stats(v1::ContainerStatsRequest {
                container_id: id.into(),
            })
            .await?;
        answer
            .into_inner()
            .stats
            .ok_or_else(|| Status::data_loss("no stats in the answer"))
    }

    /// ListContainerStats.
    ///
    /// # Errors
    /// The server's.
    pub async fn stats_list(&self, filter: Option<v1::ContainerStatsFilter>) -> Answer<Vec<v1::ContainerStats>> {
        Ok(self
            .runtime
            .clone()
            .list_container_stats(v1::ListContainerStatsRequest { filter })
            .await?
            .into_inner()
            .stats)
    }

    /// ListPodSandboxStats.
    ///
    /// # Errors
    /// The server's.
    pub async fn pod_stats_list(&self) -> Answer<Vec<v1::PodSandboxStats>> {
        Ok(self
            .runtime
            .clone()
            .list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None })
            .await?
            .into_inner()
            .stats)
    }

    /// Stops and removes every pod, and with them their containers.
    ///
    /// # Errors
    /// The server's.
    pub async fn remove_everything(&self) -> Answer<()> {
        for pod in self.pods(None).await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        for container in self.containers(None).await? {
            self.remove(&container.id).await?;
        }
        Ok(())
    }
}

/// An image by its name.
#[must_use]
pub fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}

/// A request that its caller gives up after `limit`, told to the server as a gRPC deadline.
pub fn with_deadline<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// ContainerStatus with a message of any bytes, past what the client's types would encode.
///
/// # Errors
/// The server's.
pub async fn raw_status(cri: &Cri, message: &[u8]) -> Answer<()> {
    crate::raw::call(&cri.channel, "/runtime.v1.RuntimeService/ContainerStatus", message)
        .await
        .map(drop)
}
