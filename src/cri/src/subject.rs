//! What a request is about, for its log lines: the names and ids of pod and container, and the image.
//!
//! An id in a request may be the beginning of one; what is shown is the whole id of the object it finds. An object that
//! is unknown, or still to be made, is shown as the request names it.

use proto::cri;

use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::sandbox::Sandbox;

/// Longest name in a log line; a request may carry megabytes.
const LONGEST: usize = 128;

/// Names and ids; empty where a request is not about one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// The pod's id.
    pub(crate) pod_id: String,
    /// The container's name.
    pub(crate) container: String,
    /// The container's id.
    pub(crate) container_id: String,
    /// The image as it was asked for.
    pub(crate) image: String,
}

/// A request that can say what it is about.
pub(crate) trait About {
    /// What it is about, with names looked up.
    fn about(&self, _rt: &Runtime) -> Subject {
        Subject::default()
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Subject {
    fn pod_config(mut self, config: Option<&cri::PodSandboxConfig>) -> Self {
        if let Some(metadata) = config.and_then(|config| config.metadata.as_ref()) {
            self.pod = short(&format!("{}/{}", metadata.namespace, metadata.name));
        }
        self
    }

    fn container_config(mut self, config: Option<&cri::ContainerConfig>) -> Self {
        if let Some(metadata) = config.and_then(|config| config.metadata.as_ref()) {
            self.container = short(&metadata.name);
        }
        self
    }

    fn image(mut self, spec: Option<&cri::ImageSpec>) -> Self {
        self.image = spec.map(|spec| short(&spec.image)).unwrap_or_default();
        self
    }

    fn pod_id(mut self, rt: &Runtime, id: &str) -> Self {
        match rt.index.find_sandbox(id) {
            Ok(Some(pod)) => self.of_pod(&pod),
            _ => {
                self.pod_id = short(id);
                self
            }
        }
    }

    fn container_id(mut self, rt: &Runtime, id: &str) -> Self {
        match rt.index.find_container(id) {
            Ok(Some(container)) => self.of_container(rt, &container),
            _ => {
                self.container_id = short(id);
                self
            }
        }
    }

    fn of_pod(mut self, pod: &Sandbox) -> Self {
        pod.id.as_str().clone_into(&mut self.pod_id);
        self.pod_config(pod.config().ok())
    }

    fn of_container(mut self, rt: &Runtime, container: &Container) -> Self {
        container.id.as_str().clone_into(&mut self.container_id);
        self = self.container_config(container.config().ok());
        self.pod_id(rt, &container.record.sandbox_id)
    }
}

/// What a change that no request made is about: a container that ended by itself.
pub(crate) fn of_container(rt: &Runtime, container: &Container) -> Subject {
    Subject::default().of_container(rt, container)
}

macro_rules! about {
    (nothing: $($request:ident)*) => {
        $(impl About for cri::$request {})*
    };
    (pod: $($request:ident)*) => {
        $(impl About for cri::$request {
            fn about(&self, rt: &Runtime) -> Subject {
                Subject::default().pod_id(rt, &self.pod_sandbox_id)
            }
        })*
    };
    (container: $($request:ident)*) => {
        $(impl About for cri::$request {
            fn about(&self, rt: &Runtime) -> Subject {
                Subject::default().container_id(rt, &self.container_id)
            }
        })*
    };
    (image: $($request:ident)*) => {
        $(impl About for cri::$request {
            fn about(&self, _: &Runtime) -> Subject {
                Subject::default().image(self.image.as_ref())
            }
        })*
    };
}

about!(nothing: VersionRequest StatusRequest RuntimeConfigRequest UpdateRuntimeConfigRequest ListPodSandboxRequest
    ListContainersRequest ListContainerStatsRequest ListPodSandboxStatsRequest ListMetricDescriptorsRequest
    ListPodSandboxMetricsRequest ListImagesRequest ImageFsInfoRequest GetEventsRequest StreamPodSandboxesRequest
    StreamContainersRequest StreamContainerStatsRequest StreamPodSandboxStatsRequest StreamPodSandboxMetricsRequest
    StreamImagesRequest);
about!(pod: StopPodSandboxRequest RemovePodSandboxRequest PodSandboxStatusRequest PodSandboxStatsRequest
    PortForwardRequest UpdatePodSandboxResourcesRequest CheckpointPodRequest);
about!(container: StartContainerRequest StopContainerRequest RemoveContainerRequest ContainerStatusRequest
    ReopenContainerLogRequest ExecSyncRequest ExecRequest AttachRequest ContainerStatsRequest
    UpdateContainerResourcesRequest CheckpointContainerRequest);
about!(image: ImageStatusRequest RemoveImageRequest);

impl About for cri::RunPodSandboxRequest {
    fn about(&self, _: &Runtime) -> Subject {
        Subject::default().pod_config(self.config.as_ref())
    }
}

impl About for cri::CreateContainerRequest {
    fn about(&self, rt: &Runtime) -> Subject {
        let image = self.config.as_ref().and_then(|config| config.image.as_ref());
        Subject::default()
            .pod_id(rt, &self.pod_sandbox_id)
            .container_config(self.config.as_ref())
            .image(image)
    }
}

impl About for cri::PullImageRequest {
    fn about(&self, _: &Runtime) -> Subject {
        Subject::default()
            .pod_config(self.sandbox_config.as_ref())
            .image(self.image.as_ref())
    }
}

impl About for cri::RestorePodRequest {
    fn about(&self, _: &Runtime) -> Subject {
        Subject::default().pod_config(self.config.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_configuration_and_are_cut() {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".repeat(1000),
                namespace: "prod".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let subject = Subject::default().pod_config(Some(&config));
        assert!(subject.pod.starts_with("prod/webweb"));
        assert_eq!(subject.pod.len(), LONGEST);
        let spec = cri::ImageSpec {
            image: "busybox".into(),
            ..Default::default()
        };
        assert_eq!(Subject::default().image(Some(&spec)).image, "busybox");
    }
}
