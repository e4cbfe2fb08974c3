//! The tonic glue: one line an RPC. Messages come in and go out here; the work is in the
//! verb's own file.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use proto::cri;
use proto::cri::image_service_server::{ImageService, ImageServiceServer};
use proto::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tonic::{Request, Response, Status};

use crate::container::{attach, create, exec, exec_sync, list, logs, remove, start, stats, status, stop};
use crate::encoded::Lists;
use crate::instrument::{Weight, rpc};
use crate::runtime::Runtime;
use crate::{image, node, port_forward, sandbox};

/// Largest message either way: as the kubelet's client has it.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// Both CRI services over one runtime.
#[derive(Debug, Clone)]
pub struct Services(Arc<Runtime>);

impl Services {
    /// Over `rt`.
    #[must_use]
    pub fn new(rt: &Arc<Runtime>) -> Self {
        Self(Arc::clone(rt))
    }
}

/// The services, ready to be added to a gRPC server.
#[must_use]
pub fn services(rt: &Arc<Runtime>) -> (Lists<RuntimeServiceServer<Services>>, ImageServiceServer<Services>) {
    let both = || Services::new(rt);
    let runtime = RuntimeServiceServer::new(both())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    (
        Lists::new(rt, runtime),
        ImageServiceServer::new(both())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    )
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>(verb: &str) -> Answer<T> {
    Err(Status::unimplemented(format!(
        "{verb} is not implemented by this version of Bulkhead"
    )))
}

/// One RPC: `rpc!(self, request, Verb|Look, "Name", about => work)`.
macro_rules! answer {
    ($self:ident, $request:ident, $weight:ident, $name:literal, $about:expr, $work:expr) => {{
        let (metadata, _, message) = $request.into_parts();
        let about = ($about)(&message);
        rpc($name, Weight::$weight, about, &metadata, ($work)(&$self.0, message)).await
    }};
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

fn pod_name(config: Option<&cri::PodSandboxConfig>) -> String {
    let metadata = config.and_then(|c| c.metadata.as_ref());
    metadata
        .map(|m| short(&format!("{}/{}#{}", m.namespace, m.name, m.attempt)))
        .unwrap_or_default()
}

fn container_name(config: Option<&cri::ContainerConfig>) -> String {
    let metadata = config.and_then(|c| c.metadata.as_ref());
    metadata
        .map(|m| short(&format!("{}#{}", m.name, m.attempt)))
        .unwrap_or_default()
}

fn image_name(spec: Option<&cri::ImageSpec>) -> String {
    spec.map(|s| short(&s.image)).unwrap_or_default()
}

#[tonic::async_trait]
impl RuntimeService for Services {
    async fn version(&self, r: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer!(self, r, Look, "Version", |_: &_| "", |_, _| async {
            Ok(node::version())
        })
    }

    async fn status(&self, r: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        answer!(self, r, Look, "Status", |_: &_| "", |rt, m| async move {
            node::status(rt, &m).await
        })
    }

    async fn runtime_config(&self, r: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        answer!(self, r, Look, "RuntimeConfig", |_: &_| "", |_, _| async {
            Ok(node::config())
        })
    }

    async fn update_runtime_config(
        &self,
        r: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        answer!(self, r, Verb, "UpdateRuntimeConfig", |_: &_| "", |rt, m| async move {
            node::update(rt, m);
            Ok(cri::UpdateRuntimeConfigResponse {})
        })
    }

    async fn run_pod_sandbox(&self, r: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
        let about = |m: &cri::RunPodSandboxRequest| pod_name(m.config.as_ref());
        answer!(self, r, Verb, "RunPodSandbox", about, |rt, m| async move {
            Ok(cri::RunPodSandboxResponse {
                pod_sandbox_id: sandbox::run::run(rt, m).await?,
            })
        })
    }

    async fn stop_pod_sandbox(&self, r: Request<cri::StopPodSandboxRequest>) -> Answer<cri::StopPodSandboxResponse> {
        let about = |m: &cri::StopPodSandboxRequest| short(&m.pod_sandbox_id);
        answer!(
            self,
            r,
            Verb,
            "StopPodSandbox",
            about,
            |rt, m: cri::StopPodSandboxRequest| async move {
                sandbox::stop::stop(rt, &m.pod_sandbox_id)
                    .await
                    .map(|()| cri::StopPodSandboxResponse {})
            }
        )
    }

    async fn remove_pod_sandbox(
        &self,
        r: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let about = |m: &cri::RemovePodSandboxRequest| short(&m.pod_sandbox_id);
        answer!(
            self,
            r,
            Verb,
            "RemovePodSandbox",
            about,
            |rt, m: cri::RemovePodSandboxRequest| async move {
                sandbox::remove::remove(rt, &m.pod_sandbox_id)
                    .await
                    .map(|()| cri::RemovePodSandboxResponse {})
            }
        )
    }

    async fn pod_sandbox_status(
        &self,
        r: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let about = |m: &cri::PodSandboxStatusRequest| short(&m.pod_sandbox_id);
        answer!(self, r, Look, "PodSandboxStatus", about, |rt, m| async move {
            sandbox::status::status(rt, &m)
        })
    }

    async fn list_pod_sandbox(&self, r: Request<cri::ListPodSandboxRequest>) -> Answer<cri::ListPodSandboxResponse> {
        answer!(self, r, Look, "ListPodSandbox", |_: &_| "", |rt, m| async move {
            sandbox::list::list(rt, &m)
        })
    }

    async fn create_container(&self, r: Request<cri::CreateContainerRequest>) -> Answer<cri::CreateContainerResponse> {
        let about = |m: &cri::CreateContainerRequest| container_name(m.config.as_ref());
        answer!(self, r, Verb, "CreateContainer", about, |rt, m| async move {
            Ok(cri::CreateContainerResponse {
                container_id: create::create(rt, m).await?,
            })
        })
    }

    async fn start_container(&self, r: Request<cri::StartContainerRequest>) -> Answer<cri::StartContainerResponse> {
        let about = |m: &cri::StartContainerRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Verb,
            "StartContainer",
            about,
            |rt, m: cri::StartContainerRequest| async move {
                start::start(rt, &m.container_id)
                    .await
                    .map(|()| cri::StartContainerResponse {})
            }
        )
    }

    async fn stop_container(&self, r: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
        let about = |m: &cri::StopContainerRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Verb,
            "StopContainer",
            about,
            |rt, m: cri::StopContainerRequest| async move {
                stop::stop(rt, &m.container_id, m.timeout)
                    .await
                    .map(|()| cri::StopContainerResponse {})
            }
        )
    }

    async fn remove_container(&self, r: Request<cri::RemoveContainerRequest>) -> Answer<cri::RemoveContainerResponse> {
        let about = |m: &cri::RemoveContainerRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Verb,
            "RemoveContainer",
            about,
            |rt, m: cri::RemoveContainerRequest| async move {
                remove::remove(rt, &m.container_id)
                    .await
                    .map(|()| cri::RemoveContainerResponse {})
            }
        )
    }

    async fn list_containers(&self, r: Request<cri::ListContainersRequest>) -> Answer<cri::ListContainersResponse> {
        answer!(self, r, Look, "ListContainers", |_: &_| "", |rt, m| async move {
            list::list(rt, &m)
        })
    }

    async fn container_status(&self, r: Request<cri::ContainerStatusRequest>) -> Answer<cri::ContainerStatusResponse> {
        let about = |m: &cri::ContainerStatusRequest| short(&m.container_id);
        answer!(self, r, Look, "ContainerStatus", about, |rt, m| async move {
            status::status(rt, &m).await
        })
    }

    async fn reopen_container_log(
        &self,
        r: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let about = |m: &cri::ReopenContainerLogRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Verb,
            "ReopenContainerLog",
            about,
            |rt, m: cri::ReopenContainerLogRequest| async move {
                logs::reopen(rt, &m.container_id)
                    .await
                    .map(|()| cri::ReopenContainerLogResponse {})
            }
        )
    }

    async fn exec_sync(&self, r: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let about = |m: &cri::ExecSyncRequest| short(&m.container_id);
        answer!(self, r, Look, "ExecSync", about, |rt, m| async move {
            exec_sync::exec_sync(rt, m).await
        })
    }

    async fn exec(&self, r: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let about = |m: &cri::ExecRequest| short(&m.container_id);
        answer!(self, r, Verb, "Exec", about, |rt, m| async move { exec::url(rt, m) })
    }

    async fn attach(&self, r: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let about = |m: &cri::AttachRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Verb,
            "Attach",
            about,
            |rt, m| async move { attach::url(rt, &m) }
        )
    }

    async fn port_forward(&self, r: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let about = |m: &cri::PortForwardRequest| short(&m.pod_sandbox_id);
        answer!(self, r, Verb, "PortForward", about, |rt, m| async move {
            port_forward::url(rt, &m)
        })
    }

    async fn container_stats(&self, r: Request<cri::ContainerStatsRequest>) -> Answer<cri::ContainerStatsResponse> {
        let about = |m: &cri::ContainerStatsRequest| short(&m.container_id);
        answer!(
            self,
            r,
            Look,
            "ContainerStats",
            about,
            |rt, m: cri::ContainerStatsRequest| async move { stats::one(rt, &m.container_id).await }
        )
    }

    async fn list_container_stats(
        &self,
        r: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        answer!(self, r, Look, "ListContainerStats", |_: &_| "", |rt, m| async move {
            stats::list(rt, m).await
        })
    }

    async fn update_container_resources(
        &self,
        _: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        absent("UpdateContainerResources")
    }

    async fn pod_sandbox_stats(&self, _: Request<cri::PodSandboxStatsRequest>) -> Answer<cri::PodSandboxStatsResponse> {
        absent("PodSandboxStats")
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        absent("ListPodSandboxStats")
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        absent("CheckpointContainer")
    }

    async fn checkpoint_pod(&self, _: Request<cri::CheckpointPodRequest>) -> Answer<cri::CheckpointPodResponse> {
        absent("CheckpointPod")
    }

    async fn restore_pod(&self, _: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        absent("RestorePod")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        absent("ListMetricDescriptors")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        absent("ListPodSandboxMetrics")
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        absent("UpdatePodSandboxResources")
    }

    type StreamPodSandboxesStream = Streamed<cri::StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        _: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        absent("StreamPodSandboxes")
    }

    type StreamContainersStream = Streamed<cri::StreamContainersResponse>;
    async fn stream_containers(
        &self,
        _: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        absent("StreamContainers")
    }

    type StreamContainerStatsStream = Streamed<cri::StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        _: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        absent("StreamContainerStats")
    }

    type StreamPodSandboxStatsStream = Streamed<cri::StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        absent("StreamPodSandboxStats")
    }

    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;
    async fn get_container_events(&self, _: Request<cri::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        absent("GetContainerEvents")
    }

    type StreamPodSandboxMetricsStream = Streamed<cri::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        absent("StreamPodSandboxMetrics")
    }
}

#[tonic::async_trait]
impl ImageService for Services {
    async fn list_images(&self, r: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        answer!(self, r, Look, "ListImages", |_: &_| "", |rt, m| async move {
            image::list(rt, &m)
        })
    }

    type StreamImagesStream = Streamed<cri::StreamImagesResponse>;
    async fn stream_images(&self, _: Request<cri::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        absent("StreamImages")
    }

    async fn image_status(&self, r: Request<cri::ImageStatusRequest>) -> Answer<cri::ImageStatusResponse> {
        let about = |m: &cri::ImageStatusRequest| image_name(m.image.as_ref());
        answer!(self, r, Look, "ImageStatus", about, |rt, m| async move {
            image::status(rt, &m)
        })
    }

    async fn pull_image(&self, r: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let about = |m: &cri::PullImageRequest| image_name(m.image.as_ref());
        answer!(self, r, Verb, "PullImage", about, |rt, m| async move {
            image::pull(rt, m).await
        })
    }

    async fn remove_image(&self, r: Request<cri::RemoveImageRequest>) -> Answer<cri::RemoveImageResponse> {
        let about = |m: &cri::RemoveImageRequest| image_name(m.image.as_ref());
        answer!(self, r, Verb, "RemoveImage", about, |rt, m| async move {
            image::remove(rt, m).await.map(|()| cri::RemoveImageResponse {})
        })
    }

    async fn image_fs_info(&self, r: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        answer!(self, r, Look, "ImageFsInfo", |_: &_| "", |rt, _| async move {
            image::fs_info(rt).await
        })
    }
}
