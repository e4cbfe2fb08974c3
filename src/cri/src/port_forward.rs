//! PortForward: the URL, and a connection made inside the pod's network namespace.
//!
//! A socket belongs to the namespace it was made in, so only `socket` and `connect` happen
//! there: on a thread that is made for it, enters the namespace (which changes that thread
//! alone) and ends. The descriptor comes back, and the event loop copies.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use proto::cri;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use spec::Kind;
use stream::{PortForwardParams, Reader, Writer};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::SandboxPhase;

/// How long a connection inside the pod may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Answers PortForward with a URL.
pub(crate) fn url(rt: &Runtime, request: &cri::PortForwardRequest) -> Result<cri::PortForwardResponse, Error> {
    let sandbox = rt.index.sandbox(&request.pod_sandbox_id)?;
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
    }
    let mut ports = Vec::new();
    for port in &request.port {
        let port = u16::try_from(*port).ok().filter(|p| *p > 0);
        ports.push(port.ok_or_else(|| Error::invalid("ports are 1 to 65535"))?);
    }
    let params = PortForwardParams {
        sandbox_id: sandbox.id.to_string(),
        ports,
    };
    let url = rt
        .stream
        .port_forward_url(params)
        .map_err(|e| Error::new(e.kind, e.message))?;
    Ok(cri::PortForwardResponse { url })
}

/// Connects to localhost in the namespace at `netns` (None: the host's).
fn connect(netns: Option<&str>, port: u16) -> io::Result<TcpStream> {
    if let Some(path) = netns {
        let namespace = File::open(path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    let stream = match TcpStream::connect_timeout(&v4, CONNECT) {
        Ok(stream) => stream,
        // The first answer is the one to report: it is the family that most programs use.
        Err(first) => TcpStream::connect_timeout(&v6, CONNECT).map_err(|_| first)?,
    };
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Forwards one connection until both sides have ended.
pub(crate) async fn session(
    rt: &Runtime,
    id: &str,
    port: u16,
    mut from_client: Reader,
    mut to_client: Writer,
) -> Result<(), Error> {
    let sandbox = rt.index.sandbox(id)?;
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
    }
    let netns = (!sandbox.host_network()).then(|| sandbox.record.netns.clone());
    let (sender, receiver) = oneshot::channel();
    let at = |e: &io::Error| Error::at("connect to", format!("port {port} of pod {}", sandbox.id), e);
    std::thread::Builder::new()
        .name("port-forward".into())
        .stack_size(128 * 1024)
        .spawn(move || drop(sender.send(connect(netns.as_deref(), port))))
        .map_err(|e| at(&e))?;
    let connected = receiver
        .await
        .map_err(|_| Error::new(Kind::Internal, "the connecting thread ended"))?;
    let stream = tokio::net::TcpStream::from_std(connected.map_err(|e| at(&e))?).map_err(|e| at(&e))?;
    let (mut from_pod, mut to_pod) = stream.into_split();
    let up = async {
        let result = tokio::io::copy(&mut from_client, &mut to_pod).await;
        // Half-close: the pod's program sees the end and may still answer.
        drop(to_pod.shutdown().await);
        result
    };
    let down = async {
        let result = tokio::io::copy(&mut from_pod, &mut to_client).await;
        drop(to_client.shutdown().await);
        result
    };
    let (up, down) = tokio::join!(up, down);
    for ended in [up, down] {
        if let Err(error) = ended {
            tracing::debug!(port, %error, "a forwarded connection ended early");
        }
    }
    Ok(())
}
