//! `port-forward`: listens here and passes each connection on to a port of a pod.
//!
//! Each connection is its own PortForward call and WebSocket (`v4.channel.k8s.io`): channel 0 data,
//! 1 errors, the first message of each being the port. That protocol has no half-close: a local
//! program that ends its sending side keeps receiving until the pod's side ends, but the pod does
//! not see the end before the connection closes.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use proto::cri::PortForwardRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_websockets::{CloseCode, Message};

use crate::client::{Node, Runtime, answer};
use crate::remote::{Transport, connect};
use crate::report;

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// Flags of `port-forward`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    transport: Transport,
    /// Pod
    #[arg(value_name = "POD-ID")]
    pod: String,
    /// Ports; without LOCAL_PORT the same one, with an empty one any that is free
    #[arg(required = true, value_name = "[LOCAL_PORT:]REMOTE_PORT")]
    ports: Vec<String>,
}

/// A connection that was accepted.
struct Accepted {
    socket: TcpStream,
    local: u16,
    remote: u16,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let runtime = node.runtime().await?;
    let mut tasks = JoinSet::new();
    let (accepted, mut connections) = mpsc::channel(16);
    for text in &args.ports {
        let (local, remote) = parse(text)?;
        for listener in listen(local)
            .await
            .with_context(|| format!("unable to listen on port {local}"))?
        {
            let address = listener.local_addr()?;
            writeln!(out, "Forwarding from {address} -> {remote}")?;
            tasks.spawn(accept(listener, address.port(), remote, accepted.clone()));
        }
    }
    out.flush()?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            Some(connection) = connections.recv() => {
                writeln!(out, "Handling connection for {}", connection.local)?;
                out.flush()?;
                let remote = i32::from(connection.remote);
                let request = node.ask(PortForwardRequest { pod_sandbox_id: args.pod.clone(), port: vec![remote] });
                let (runtime, transport) = (runtime.clone(), args.transport.clone());
                tasks.spawn(async move {
                    let (local, remote) = (connection.local, connection.remote);
                    if let Err(error) = forward(connection.socket, runtime, request, transport).await {
                        report::error(&format!("an error occurred forwarding {local} -> {remote}: {error:#}"));
                    }
                });
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    report::error(&format!("a connection was given up: {error}"));
                }
            }
        }
    }
}

fn parse(text: &str) -> Result<(u16, u16)> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().with_context(|| format!("{text:?} is not a port"));
    let local = if local.is_empty() { 0 } else { port(local)? };
    match port(remote)? {
        0 => bail!("remote port must be > 0"),
        remote => Ok((local, remote)),
    }
}

/// On both loopback addresses, where there are both.
async fn listen(port: u16) -> std::io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = first.local_addr()?.port();
    // A host without IPv6 has the first alone.
    let second = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
        .await
        .ok();
    Ok(std::iter::once(first).chain(second).collect())
}

async fn accept(listener: TcpListener, local: u16, remote: u16, accepted: mpsc::Sender<Accepted>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                if accepted.send(Accepted { socket, local, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                report::error(&format!("error accepting connection on port {local}: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

async fn forward(
    socket: TcpStream,
    mut runtime: Runtime,
    request: tonic::Request<PortForwardRequest>,
    transport: Transport,
) -> Result<()> {
    socket.set_nodelay(true)?;
    let url = answer(runtime.port_forward(request).await)?.url;
    let (remote, _) = connect::websocket(&url, PROTOCOL, &transport.tls).await?;
    let (mut sink, mut messages) = remote.split();
    let (mut read, mut write) = socket.into_split();
    let send = async {
        loop {
            let mut buffer = BytesMut::with_capacity(1 + 32 * 1024);
            buffer.put_u8(DATA);
            // A local side that breaks off takes the remote one with it; one that ends waits for it.
            match read.read_buf(&mut buffer).await {
                Ok(0) => return std::future::pending().await,
                Ok(_) => sink.send(Message::binary(buffer.freeze())).await?,
                Err(_) => {
                    sink.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")).await?;
                    return Ok::<_, anyhow::Error>(());
                }
            }
        }
    };
    let receive = async {
        let mut greeted = [false; 2];
        let mut failure = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.context("connection lost")?;
            if message.is_close() {
                break;
            }
            let payload: Bytes = message.into_payload().into();
            match payload.split_first() {
                Some((channel @ (&DATA | &ERROR), _)) if !greeted[usize::from(*channel)] => {
                    greeted[usize::from(*channel)] = true
                }
                Some((&DATA, data)) => write.write_all(data).await.context("local connection")?,
                Some((&ERROR, text)) => failure.extend_from_slice(text),
                _ => {}
            }
        }
        if !failure.is_empty() {
            bail!("{}", String::from_utf8_lossy(&failure));
        }
        Ok(())
    };
    tokio::select! {
        received = receive => received,
        sent = send => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse("8080:80").unwrap(), (8080, 80));
        assert_eq!(parse("80").unwrap(), (80, 80));
        assert_eq!(parse(":80").unwrap(), (0, 80));
        for wrong in ["", "x", "80:", "80:0", "70000", "1:2:3"] {
            parse(wrong).unwrap_err();
        }
    }
}
