//! For each RPC a request that the server would accept.
//!
//! What stops, removes or changes things has things of its own to do it to, so that the
//! cases of the other RPCs find theirs as they were.

use anyhow::{Context, Result};
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use proto::cri as v1;

use crate::bed::Bed;
use crate::catalog::BUSYBOX;
use crate::node::Node;
use crate::{config, cri};

/// What the requests name.
#[derive(Debug)]
pub struct Things {
    /// A pod and its configuration.
    pub bed: Bed,
    /// A container that runs.
    pub running: String,
    /// A pod and a container of its own that requests may change.
    victim: (Bed, String),
    /// A pod that was stopped, and a container in it.
    stopped: (String, String),
}

impl Things {
    /// Makes them.
    ///
    /// # Errors
    /// The server's.
    pub async fn new(node: &Node) -> Result<Self> {
        let bed = Bed::new(node).await?;
        bed.cri.pull("127.0.0.1:5000/busybox:2").await?;
        let running = bed.sleeper("running").await?;
        let victim = Bed::new(node).await?;
        let changed = victim.sleeper("changed").await?;
        let stopped = Bed::new(node).await?;
        let ended = stopped.sleeper("ended").await?;
        bed.cri.stop_pod(&stopped.pod).await?;
        Ok(Self {
            bed,
            running,
            victim: (victim, changed),
            stopped: (stopped.pod, ended),
        })
    }

    /// The request that case changes.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub async fn base(&self, node: &Node, method: &MethodDescriptor) -> Result<DynamicMessage> {
        let mut pod = config::pod(node, "fuzzed");
        let number = pod.metadata.clone().unwrap_or_default().uid;
        let dynamic = |message: &dyn Encode| message.dynamic(method);
        match method.name() {
            "RunPodSandbox" => {
                pod.port_mappings = Vec::new();
                dynamic(&v1::RunPodSandboxRequest {
                    config: Some(pod),
                    runtime_handler: String::new(),
                })
            }
            "CreateContainer" => dynamic(&v1::CreateContainerRequest {
                pod_sandbox_id: self.bed.pod.clone(),
                config: Some(self.container(node, &format!("fuzzed-{number}"))?),
                sandbox_config: Some(self.bed.config.clone()),
            }),
            "StopContainer" => {
                let id = self.bed.sleeper(&format!("stopped-{number}")).await?;
                dynamic(&v1::StopContainerRequest {
                    container_id: id,
                    timeout: 2,
                })
            }
            "ExecSync" => dynamic(&v1::ExecSyncRequest {
                container_id: self.running.clone(),
                cmd: vec!["true".into()],
                timeout: 10,
            }),
            "Exec" => dynamic(&v1::ExecRequest {
                container_id: self.running.clone(),
                cmd: vec!["true".into()],
                stdout: true,
                ..Default::default()
            }),
            "PullImage" => dynamic(&v1::PullImageRequest {
                image: Some(cri::spec(BUSYBOX)),
                auth: None,
                sandbox_config: Some(pod),
            }),
            "ImageStatus" => dynamic(&v1::ImageStatusRequest {
                image: Some(cri::spec(BUSYBOX)),
                verbose: true,
            }),
            "RemoveImage" => dynamic(&v1::RemoveImageRequest {
                image: Some(cri::spec("127.0.0.1:5000/busybox:2")),
            }),
            _ => Ok(self.by_names(method)),
        }
    }

    /// A request whose ids are filled in by the names of its fields.
    fn by_names(&self, method: &MethodDescriptor) -> DynamicMessage {
        let name = method.name();
        let (pod, container) = if name.starts_with("Update") {
            (&self.victim.0.pod, &self.victim.1)
        } else if name.starts_with("Stop") || name.starts_with("Remove") {
            (&self.stopped.0, &self.stopped.1)
        } else {
            (&self.bed.pod, &self.running)
        };
        let mut message = DynamicMessage::new(method.input());
        for field in method.input().fields() {
            match field.name() {
                "pod_sandbox_id" => message.set_field(&field, Value::String(pod.clone())),
                "container_id" => message.set_field(&field, Value::String(container.clone())),
                "stdout" => message.set_field(&field, Value::Bool(true)),
                _ => {}
            }
        }
        message
    }

    fn container(&self, node: &Node, name: &str) -> Result<v1::ContainerConfig> {
        let volume = node.dir().join("fuzz-volume");
        std::fs::create_dir_all(&volume).context("make a volume")?;
        let mut container = config::sleeper(name);
        container.mounts.push(v1::Mount {
            container_path: "/volume".into(),
            host_path: volume.to_string_lossy().into_owned(),
            ..Default::default()
        });
        Ok(container)
    }
}

/// A typed message that becomes one by its descriptor.
trait Encode {
    fn dynamic(&self, method: &MethodDescriptor) -> Result<DynamicMessage>;
}

impl<M: prost::Message> Encode for M {
    fn dynamic(&self, method: &MethodDescriptor) -> Result<DynamicMessage> {
        let bytes = self.encode_to_vec();
        DynamicMessage::decode(method.input(), bytes.as_slice()).context("a base request")
    }
}
