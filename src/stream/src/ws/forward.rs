//! The older port-forward over WebSocket: for the n-th port, channel 2n is data and 2n+1 errors;
//! the first message of each is the port, in two bytes, low byte first.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite};

use super::driver::Driver;
use crate::backend::Backend;
use crate::forward::{self, Pair};
use crate::link::{self, Gone, Link, Then};
use crate::negotiate::WsVersion;
use crate::session::{GRACE, Service};

/// Most ports of one connection: a channel is one byte, and 255 is reserved.
pub(crate) const MAX_PORTS: usize = 127;

/// Serves one upgraded connection until all its ports are done or the client has left.
pub(crate) async fn serve<B, I>(io: I, sandbox: String, ports: Vec<u16>, version: WsVersion, service: Service<B>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let readable: Vec<bool> = ports.iter().flat_map(|_| [true, false]).collect();
    let (driver, link, inbounds) = Driver::new(io, version, &readable);
    let session = async move {
        if greet(&link, &ports).await.is_err() {
            return;
        }
        let pairs = inbounds.into_iter().flatten().zip(ports).zip((0_u32..).step_by(2));
        let forwards = pairs.map(|((inbound, port), data)| {
            let pair = Pair {
                data,
                error: data + 1,
                inbound,
                reset: None,
            };
            forward::run(&*service.backend, &sandbox, port, &link, pair)
        });
        let left = async {
            link.gone.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            _ = join_all(forwards) => {}
            () = left => {}
            () = link.activity.idle(service.idle) => {}
        }
    };
    link::together(driver.run(), session).await;
}

async fn greet(link: &Link, ports: &[u16]) -> Result<(), Gone> {
    for (port, data) in ports.iter().zip((0_u32..).step_by(2)) {
        let name = Bytes::copy_from_slice(&port.to_le_bytes());
        link.send(data, name.clone(), Then::Open).await?;
        link.send(data + 1, name, Then::Open).await?;
    }
    Ok(())
}
