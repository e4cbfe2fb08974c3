//! The tonic glue: one entry an RPC. Messages come in and go out here; the work is in the
//! verb's own file.

use std::sync::Arc;

use proto::cri;
use proto::cri::image_service_server::{ImageService, ImageServiceServer};
use proto::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tonic::{Request, Response, Status};

use crate::chunks::{Streamed, chunks};
use crate::container::{attach, create, exec, exec_sync, list, logs, remove, start, stats, status, stop, update};
use crate::encoded::Lists;
use crate::error::Error;
use crate::instrument::{Weight, rpc};
use crate::runtime::Runtime;
use crate::{image, measures, node, port_forward, sandbox};

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

fn absent<T>(verb: &str) -> Result<T, Error> {
    Err(Error::unimplemented(format!(
        "{verb} is not implemented by this version of Bulkhead"
    )))
}

/// A service: `Weight Rpc method(Request) -> Reply: |runtime, message| work`, and for streams the name of their type.
macro_rules! service {
    (
        $service:ident for $over:ty;
        unary {$($weight:ident $verb:ident $method:ident($request:ident) -> $reply:ident: |$rt:pat_param, $message:pat_param| $work:expr;)*}
        streams {$($stream:ident as $assoc:ident $stream_method:ident($stream_request:ident) -> $item:ident: |$stream_rt:pat_param, $stream_message:pat_param| $stream_work:expr;)*}
    ) => {
        #[tonic::async_trait]
        impl $service for $over {
            $(async fn $method(&self, request: Request<cri::$request>) -> Result<Response<cri::$reply>, Status> {
                let work = |$rt: Arc<Runtime>, $message: cri::$request| async move { $work };
                rpc(stringify!($verb), Weight::$weight, &self.0, request, work).await
            })*
            $(
            type $assoc = Streamed<cri::$item>;
            async fn $stream_method(
                &self,
                request: Request<cri::$stream_request>,
            ) -> Result<Response<Self::$assoc>, Status> {
                let work = |$stream_rt: Arc<Runtime>, $stream_message: cri::$stream_request| async move { $stream_work };
                rpc(stringify!($stream), Weight::Look, &self.0, request, work).await
            })*
        }
    };
}

service! {
    RuntimeService for Services;

    unary {
    Look Version version(VersionRequest) -> VersionResponse: |_, m| node::version(&m);
    Look Status status(StatusRequest) -> StatusResponse: |rt, m| node::status(&rt, &m).await;
    Look RuntimeConfig runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse: |rt, _| Ok(node::config(&rt));
    Verb UpdateRuntimeConfig update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse:
        |rt, m| node::update(&rt, m).map(|()| cri::UpdateRuntimeConfigResponse {});

    Verb RunPodSandbox run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse:
        |rt, m| sandbox::run::run(&rt, m).await.map(|pod_sandbox_id| cri::RunPodSandboxResponse { pod_sandbox_id });
    Verb StopPodSandbox stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse:
        |rt, m| sandbox::stop::stop(&rt, &m.pod_sandbox_id).await.map(|()| cri::StopPodSandboxResponse {});
    Verb RemovePodSandbox remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse:
        |rt, m| sandbox::remove::remove(&rt, &m.pod_sandbox_id).await.map(|()| cri::RemovePodSandboxResponse {});
    Look PodSandboxStatus pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse:
        |rt, m| sandbox::status::status(&rt, &m);
    Look ListPodSandbox list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse:
        |rt, m| sandbox::list::list(&rt, &m);
    Look PodSandboxStats pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse:
        |rt, m| sandbox::stats::one(&rt, &m.pod_sandbox_id).await;
    Look ListPodSandboxStats list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse:
        |rt, m| sandbox::stats::list(&rt, m.filter).await.map(|stats| cri::ListPodSandboxStatsResponse { stats });
    Verb UpdatePodSandboxResources update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest)
        -> UpdatePodSandboxResourcesResponse:
        |rt, m| sandbox::update::update(&rt, m).await.map(|()| cri::UpdatePodSandboxResourcesResponse {});
    Verb PortForward port_forward(PortForwardRequest) -> PortForwardResponse: |rt, m| port_forward::url(&rt, &m);

    Verb CreateContainer create_container(CreateContainerRequest) -> CreateContainerResponse:
        |rt, m| create::create(&rt, m).await.map(|container_id| cri::CreateContainerResponse { container_id });
    Verb StartContainer start_container(StartContainerRequest) -> StartContainerResponse:
        |rt, m| start::start(&rt, &m.container_id).await.map(|()| cri::StartContainerResponse {});
    Verb StopContainer stop_container(StopContainerRequest) -> StopContainerResponse:
        |rt, m| stop::stop(&rt, &m.container_id, m.timeout).await.map(|()| cri::StopContainerResponse {});
    Verb RemoveContainer remove_container(RemoveContainerRequest) -> RemoveContainerResponse:
        |rt, m| remove::remove(&rt, &m.container_id).await.map(|()| cri::RemoveContainerResponse {});
    Look ListContainers list_containers(ListContainersRequest) -> ListContainersResponse:
        |rt, m| list::list(&rt, &m);
    Look ContainerStatus container_status(ContainerStatusRequest) -> ContainerStatusResponse:
        |rt, m| status::status(&rt, &m).await;
    Verb UpdateContainerResources update_container_resources(UpdateContainerResourcesRequest)
        -> UpdateContainerResourcesResponse:
        |rt, m| update::update(&rt, m).await.map(|()| cri::UpdateContainerResourcesResponse {});
    Verb ReopenContainerLog reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse:
        |rt, m| logs::reopen(&rt, &m.container_id).await.map(|()| cri::ReopenContainerLogResponse {});
    Look ExecSync exec_sync(ExecSyncRequest) -> ExecSyncResponse: |rt, m| exec_sync::exec_sync(&rt, m).await;
    Verb Exec exec(ExecRequest) -> ExecResponse: |rt, m| exec::url(&rt, m);
    Verb Attach attach(AttachRequest) -> AttachResponse: |rt, m| attach::url(&rt, &m);
    Look ContainerStats container_stats(ContainerStatsRequest) -> ContainerStatsResponse:
        |rt, m| stats::one(&rt, &m.container_id).await;
    Look ListContainerStats list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse:
        |rt, m| stats::list(&rt, m).await;

    Look ListMetricDescriptors list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse:
        |_, _| Ok(cri::ListMetricDescriptorsResponse { descriptors: measures::descriptors() });
    Look ListPodSandboxMetrics list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse:
        |rt, _| measures::list(&rt).await.map(|pod_metrics| cri::ListPodSandboxMetricsResponse { pod_metrics });

    Verb CheckpointContainer checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse:
        |_, _| absent("CheckpointContainer");
    Verb CheckpointPod checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse: |_, _| absent("CheckpointPod");
    Verb RestorePod restore_pod(RestorePodRequest) -> RestorePodResponse: |_, _| absent("RestorePod");
    }

    streams {
    GetContainerEvents as GetContainerEventsStream get_container_events(GetEventsRequest) -> ContainerEventResponse:
        |rt, _| Ok(rt.events.subscribe());
    StreamPodSandboxes as StreamPodSandboxesStream stream_pod_sandboxes(StreamPodSandboxesRequest)
        -> StreamPodSandboxesResponse:
        |rt, m| {
            let all = sandbox::list::list(&rt, &cri::ListPodSandboxRequest { filter: m.filter })?.items;
            Ok(chunks(all, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
        };
    StreamPodSandboxStats as StreamPodSandboxStatsStream stream_pod_sandbox_stats(StreamPodSandboxStatsRequest)
        -> StreamPodSandboxStatsResponse:
        |rt, m| {
            let all = sandbox::stats::list(&rt, m.filter).await?;
            Ok(chunks(all, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
        };
    StreamContainers as StreamContainersStream stream_containers(StreamContainersRequest) -> StreamContainersResponse:
        |rt, m| {
            let all = list::list(&rt, &cri::ListContainersRequest { filter: m.filter })?.containers;
            Ok(chunks(all, |containers| cri::StreamContainersResponse { containers }))
        };
    StreamContainerStats as StreamContainerStatsStream stream_container_stats(StreamContainerStatsRequest)
        -> StreamContainerStatsResponse:
        |rt, m| {
            let all = stats::list(&rt, cri::ListContainerStatsRequest { filter: m.filter }).await?.stats;
            Ok(chunks(all, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
        };
    StreamPodSandboxMetrics as StreamPodSandboxMetricsStream stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest)
        -> StreamPodSandboxMetricsResponse:
        |rt, _| {
            let all = measures::list(&rt).await?;
            Ok(chunks(all, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
        };
    }
}

service! {
    ImageService for Services;

    unary {
    Look ListImages list_images(ListImagesRequest) -> ListImagesResponse: |rt, m| image::list(&rt, &m);
    Look ImageStatus image_status(ImageStatusRequest) -> ImageStatusResponse: |rt, m| image::status(&rt, &m);
    Verb PullImage pull_image(PullImageRequest) -> PullImageResponse: |rt, m| image::pull(&rt, m).await;
    Verb RemoveImage remove_image(RemoveImageRequest) -> RemoveImageResponse:
        |rt, m| image::remove(&rt, m).await.map(|()| cri::RemoveImageResponse {});
    Look ImageFsInfo image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse: |rt, _| image::fs_info(&rt).await;
    }

    streams {
    StreamImages as StreamImagesStream stream_images(StreamImagesRequest) -> StreamImagesResponse:
        |rt, m| {
            let all = image::list(&rt, &cri::ListImagesRequest { filter: m.filter })?.images;
            Ok(chunks(all, |images| cri::StreamImagesResponse { images }))
        };
    }
}
