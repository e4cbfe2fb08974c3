//! Exec and attach over WebSocket: channels 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::driver::Driver;
use crate::backend::Backend;
use crate::link::{self, Then};
use crate::negotiate::WsVersion;
use crate::session::{self, Channels, Job, Service};

const STDIN: usize = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: usize = 4;

/// Serves one upgraded connection until its session is over.
pub(crate) async fn serve<B, I>(io: I, job: Job, version: WsVersion, service: Service<B>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let wants = job.wants();
    let (driver, link, mut inbounds) = Driver::new(io, version, &[wants.stdin, false, false, false, true]);
    let mut take = |channel: usize| inbounds.get_mut(channel).and_then(Option::take);
    let channels = Channels {
        error: ERROR,
        status: version.status,
        stdin: take(STDIN).map(|inbound| (0, inbound)),
        stdout: wants.stdout.then_some(STDOUT),
        stderr: wants.stderr.then_some(STDERR),
        resize: take(RESIZE).map(|inbound| (None, inbound)),
    };
    let session = async move {
        // An empty message on the lowest channel that we write to says that the session is there.
        let greeted = channels.stdout.or(channels.stderr).unwrap_or(ERROR);
        if link.send(greeted, Bytes::new(), Then::Open).await.is_ok() {
            session::run(&service, job, link, channels).await;
        }
    };
    link::together(driver.run(), session).await;
}
