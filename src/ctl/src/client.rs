//! The connection to a CRI server on a unix socket.

use std::future::Future;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use http::Uri;
use hyper_util::rt::TokioIo;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::report;
use crate::settings::{DEFAULT_ENDPOINTS, Settings};

pub(crate) type Runtime = RuntimeServiceClient<Channel>;
pub(crate) type Images = ImageServiceClient<Channel>;

/// Largest answer: a verbose status or a list of a large node.
const MAX_MESSAGE: usize = 64 << 20;

/// The server of this run.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
}

impl Node {
    pub(crate) async fn runtime(&self) -> Result<Runtime> {
        let channel = self.channel(self.settings.runtime_endpoint.as_deref()).await?;
        Ok(Runtime::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    pub(crate) async fn images(&self) -> Result<Images> {
        let channel = self.channel(self.settings.image_endpoint.as_deref()).await?;
        Ok(Images::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// A request that may take as long as was asked for, if anything was.
    pub(crate) fn ask<T>(&self, message: T) -> tonic::Request<T> {
        self.ask_within(message, self.settings.request_timeout)
    }

    /// A request with a time limit of its own.
    pub(crate) fn ask_within<T>(&self, message: T, limit: Option<Duration>) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        request
    }

    async fn channel(&self, endpoint: Option<&str>) -> Result<Channel> {
        let limit = self.settings.connect_timeout;
        let Some(endpoint) = endpoint else {
            let mut failures = Vec::new();
            for endpoint in DEFAULT_ENDPOINTS {
                match connect(endpoint, limit).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => failures.push(format!("{error:#}")),
                }
            }
            bail!(
                "no CRI server found, name one with --runtime-endpoint: {}",
                failures.join("; ")
            );
        };
        let mut delay = Duration::from_millis(500);
        let mut left = self.settings.max_retries;
        loop {
            match connect(endpoint, limit).await {
                Ok(channel) => return Ok(channel),
                Err(error) if left == 0 => return Err(error),
                Err(error) => {
                    if self.settings.debug {
                        report::info(&format!("{error:#}, retrying in {delay:?}"));
                    }
                }
            }
            left = if left < 0 { left } else { left - 1 };
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }
}

/// An error of a call, as gRPC's Go library words it: scripts look for it.
pub(crate) fn rpc(status: &tonic::Status) -> anyhow::Error {
    let code = match status.code() {
        tonic::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    anyhow!("rpc error: code = {code} desc = {}", status.message())
}

/// What the answer of a call says.
pub(crate) fn answer<T>(result: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    result.map(tonic::Response::into_inner).map_err(|status| rpc(&status))
}

fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint
        .strip_prefix("unix://")
        .or_else(|| endpoint.strip_prefix("unix:"))
        .unwrap_or(endpoint);
    if !path.starts_with('/') {
        bail!("endpoint {endpoint:?} is not of the form unix:///path/to/socket");
    }
    Ok(PathBuf::from(path))
}

async fn connect(endpoint: &str, limit: Duration) -> Result<Channel> {
    let path = socket_path(endpoint)?;
    // The authority is not used for a unix socket, but HTTP/2 wants one.
    let target = Endpoint::from_static("http://localhost").connect_timeout(limit);
    let connecting = target.connect_with_connector(Connector { path });
    match tokio::time::timeout(limit, connecting).await {
        Ok(channel) => channel.map_err(|error| anyhow!("connect to {endpoint}: {}", innermost(&error))),
        Err(_) => bail!("connect to {endpoint}: no answer within {limit:?}"),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Opens the socket, for tonic.
#[derive(Debug, Clone)]
struct Connector {
    path: PathBuf,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { open(&path).await.map(TokioIo::new) })
    }
}

/// Socket addresses hold 107 bytes; longer paths go through a handle on their directory.
async fn open(path: &Path) -> std::io::Result<UnixStream> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    if path.as_os_str().len() < 108 {
        return UnixStream::connect(path).await;
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, rustix::fs::Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    UnixStream::connect(short).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for endpoint in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), Path::new("/run/x.sock"));
        }
        socket_path("tcp://127.0.0.1:1").unwrap_err();
    }

    #[test]
    fn errors_are_worded_as_by_go() {
        let error = rpc(&tonic::Status::not_found("no such container"));
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no such container");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_for_an_address_is_reached() {
        let dir = std::env::temp_dir().join(format!("bulkhead-ctl-{}-{}", std::process::id(), "x".repeat(120)));
        std::fs::create_dir(&dir).unwrap();
        let handle = std::fs::File::open(&dir).unwrap();
        let listener = tokio::net::UnixListener::bind(format!("/proc/self/fd/{}/s", handle.as_raw_fd())).unwrap();
        let path = dir.join("s");
        let (opened, accepted) = tokio::join!(open(&path), listener.accept());
        opened.unwrap();
        accepted.unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
