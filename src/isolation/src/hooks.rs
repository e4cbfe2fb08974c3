//! Runs hooks, one after the other: each with its own process group and deadline, the container's state on its standard
//! input, and what it says on standard error in the error of its failure.
//!
//! Those of the host run in a short-lived child of the caller (`outside`), those of the container in init. Both have one
//! thread. The state comes in a memfd: a hook that does not read it holds nobody up.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use spec::Kind;
use spec::runtime::Spec;
use sys::process;

use crate::plan::hooks::{Hook, Stage, plan};
use crate::sync::{Channel, Message};
use crate::{Error, bundle};

/// Most bytes of standard error that are kept.
const MOST_WORDS: usize = 2048;

/// What hooks are told about the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    json: serde_json::Value,
}

impl State {
    /// `dir` is the bundle.
    pub(crate) fn new(id: &str, dir: &Path, spec: &Spec) -> Self {
        let json = json!({
            "ociVersion": spec.version(),
            "id": id,
            "bundle": dir,
            "annotations": spec.annotations().clone().unwrap_or_default(),
        });
        Self { json }
    }

    fn text(&self, stage: Stage, pid: i32) -> String {
        let mut json = self.json.clone();
        json["status"] = stage.status().into();
        if stage != Stage::Poststop {
            json["pid"] = pid.into();
        }
        json.to_string()
    }
}

/// Runs those of `stages` on the host's side, in a child: the caller's memory and descriptors stay as they are. Blocks.
pub(crate) fn outside(id: &str, dir: &Path, stages: &[Stage], pid: i32) -> Result<(), Error> {
    let (ours, theirs) = Channel::pair()?;
    let runner = process::fork(move || {
        let run = || {
            process::close_all_but(&[theirs.as_fd()]).map_err(Error::sys("close", "inherited descriptors"))?;
            let spec = bundle::read(dir)?;
            let state = State::new(id, dir, &spec);
            plan(&spec)?.of(stages).try_for_each(|hook| one(hook, &state, pid))
        };
        match run() {
            Ok(()) => 0,
            Err(error) => {
                theirs.send(&Message::failed(&error)).ok();
                1
            }
        }
    })
    .map_err(Error::sys("fork", "the runner of hooks"))?;
    let said = ours.receive();
    let exit = process::wait(runner).map_err(Error::sys("wait for", "the runner of hooks"))?;
    match (said?, exit) {
        (Some((Message::Failed { kind, chain }, _)), _) => Err(Error::Remote { kind, chain }),
        (_, process::Exit::Code(0)) => Ok(()),
        (_, exit) => Err(Error::Died {
            who: "the runner of hooks",
            how: format!("{exit:?}"),
        }),
    }
}

/// Runs one and waits for it.
pub(crate) fn one(hook: &Hook, state: &State, pid: i32) -> Result<(), Error> {
    let failed = |kind: Kind, why: String| Error::Hook {
        field: format!("hooks.{}[{}]", hook.stage.name(), hook.index),
        path: hook.path.display().to_string(),
        why,
        kind,
    };
    let io = |why: &'static str| move |error: std::io::Error| failed(Kind::of_io(&error), format!("{why}: {error}"));
    let stdin = input(&state.text(hook.stage, pid)).map_err(io("its input"))?;
    let (name, rest) = hook
        .args
        .split_first()
        .map_or(("", &[][..]), |(name, rest)| (name, rest));
    let mut child = Command::new(&hook.path)
        .arg0(name)
        .args(rest)
        .env_clear()
        .envs(hook.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(io("cannot be run"))?;
    let (exit, words) = wait(&mut child, Instant::now() + hook.deadline).map_err(io("cannot be waited for"))?;
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    let said = if words.is_empty() { words } else { format!(": {words}") };
    match exit {
        Some(process::Exit::Code(0)) => Ok(()),
        Some(process::Exit::Code(code)) => Err(failed(
            Kind::FailedPrecondition,
            format!("ended with code {code}{said}"),
        )),
        Some(process::Exit::Signal(signal)) => Err(failed(
            Kind::FailedPrecondition,
            format!("was ended by signal {signal}{said}"),
        )),
        None => {
            let seconds = hook.deadline.as_secs();
            Err(failed(
                Kind::DeadlineExceeded,
                format!("was killed after {seconds} s{said}"),
            ))
        }
    }
}

fn input(text: &str) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// How it ended, nothing for one whose time was over; and the end of what it said.
fn wait(child: &mut Child, until: Instant) -> std::io::Result<(Option<process::Exit>, Vec<u8>)> {
    let id = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    let pidfd = process::pidfd_open(id)?;
    let mut stderr = child.stderr.take();
    let mut words = Vec::new();
    let ended = loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let (over, readable) = (
            !fds[0].revents().is_empty(),
            fds.get(1).is_some_and(|fd| !fd.revents().is_empty()),
        );
        if readable && let Some(pipe) = &mut stderr {
            let mut some = [0; 512];
            let count = pipe.read(&mut some)?;
            words.extend_from_slice(&some[..count]);
            words.drain(..words.len().saturating_sub(MOST_WORDS));
            if count == 0 {
                stderr = None;
            }
        } else if over {
            break true;
        } else if left.is_zero() {
            break false;
        }
    };
    // What it leaves in its group goes in any case: nobody would end it later.
    if let Some(group) = Pid::from_raw(id) {
        kill_process_group(group, Signal::KILL).ok();
    }
    let exit = reaped(pidfd.as_fd())?;
    Ok((ended.then_some(exit), words))
}

fn reaped(pidfd: BorrowedFd<'_>) -> std::io::Result<process::Exit> {
    process::wait_pidfd(pidfd)
}
