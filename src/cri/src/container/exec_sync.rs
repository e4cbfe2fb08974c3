//! ExecSync: run, collect, answer. Probes call it every second.
//!
//! At most 16 MiB of each stream are kept; the rest is read and thrown away, so that the
//! process is not held up (CVE-2022-1708). The monitor kills the process when the timeout
//! passes; we answer DeadlineExceeded then, with a margin of our own in case it cannot.

use std::sync::Arc;
use std::time::Duration;

use proto::cri;
use spec::Kind;
use tokio::io::AsyncReadExt;

use super::exec::{DRAIN, Exec, Wish, run, target};
use crate::error::Error;
use crate::fdio::AsyncFile;
use crate::runtime::Runtime;

/// Most bytes of each stream that are answered.
const CAP: usize = 16 << 20;

/// How much later than the monitor we give up.
const MARGIN: Duration = Duration::from_secs(5);

/// Reads to the end into `kept`, up to the cap.
async fn collect(mut from: AsyncFile, kept: &mut Vec<u8>) {
    let mut chunk = vec![0u8; 8192];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) => return,
            Ok(n) => {
                let room = CAP - kept.len();
                kept.extend_from_slice(&chunk[..n.min(room)]);
                if chunk.len() < 65536 && n == chunk.len() {
                    chunk.resize(65536, 0);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "output of an exec ended early");
                return;
            }
        }
    }
}

/// Cuts what would not fit into one message: server and kubelet take 16 MiB of it, and a
/// longer answer would be an error in place of an output. A stream that is below half is kept whole.
fn fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
    const FRAMING: usize = 64;
    let room = CAP - FRAMING;
    if stdout.len() + stderr.len() > room {
        let errors = stderr.len().min(room - stdout.len().min(room / 2));
        stderr.truncate(errors);
        stdout.truncate(room - errors);
    }
}

/// Answers ExecSync.
pub(crate) async fn exec_sync(
    rt: &Arc<Runtime>,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Error> {
    let container = target(rt, &request.container_id)?;
    let seconds = u64::try_from(request.timeout)
        .map_err(|_| Error::invalid(format!("timeout {} is negative", request.timeout)))?;
    let timeout = Duration::from_secs(seconds);
    let wish = Wish {
        cmd: request.cmd,
        stdin: false,
        tty: false,
        size: None,
        timeout,
    };
    let mut exec = run(rt, &container, &wish).await?;
    let late = || {
        Error::new(
            Kind::DeadlineExceeded,
            format!("the command took longer than {seconds} s and was killed"),
        )
        .during("exec in", format!("container {}", container.id))
    };
    if seconds == 0 {
        return gather(&mut exec).await?.ok_or_else(late);
    }
    match tokio::time::timeout(timeout + MARGIN, gather(&mut exec)).await {
        Ok(answer) => answer?.ok_or_else(late),
        Err(_) => {
            exec.kill();
            Err(late())
        }
    }
}

/// None if the monitor's timeout killed it.
async fn gather(exec: &mut Exec) -> Result<Option<cri::ExecSyncResponse>, Error> {
    let mut fds = std::mem::take(&mut exec.fds).into_iter();
    let (Some(out), Some(err)) = (fds.next(), fds.next()) else {
        return Err(Error::new(Kind::Internal, "a descriptor of the process is missing"));
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let end = {
        let output = async {
            tokio::join!(collect(out, &mut stdout), collect(err, &mut stderr));
        };
        tokio::pin!(output);
        let mut drained = false;
        let end = loop {
            tokio::select! {
                end = exec.ended() => break end?,
                () = &mut output, if !drained => drained = true,
            }
        };
        if !drained && !end.timed_out {
            // A grandchild may hold the pipe for ever.
            drop(tokio::time::timeout(DRAIN, output).await);
        }
        end
    };
    if end.timed_out {
        return Ok(None);
    }
    fit(&mut stdout, &mut stderr);
    Ok(Some(cri::ExecSyncResponse {
        stdout: stdout.into(),
        stderr: stderr.into(),
        exit_code: end.exit_code,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_fits_into_one_message() {
        for (out, err) in [(CAP, 0), (0, CAP), (CAP, CAP), (CAP, 5), (5, CAP), (7, 9)] {
            let (mut stdout, mut stderr) = (vec![0; out], vec![0; err]);
            fit(&mut stdout, &mut stderr);
            assert!(stdout.len() + stderr.len() <= CAP - 64, "{out} {err}");
            assert!(stdout.len() == out || stdout.len() >= CAP / 2 - 64, "{out} {err}");
            assert!(stderr.len() == err || stderr.len() >= CAP / 2 - 64, "{out} {err}");
        }
    }
}
