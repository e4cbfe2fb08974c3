//! `bulkhead serve`: the daemon, from flags to a clean stop.
//!
//! Order: configuration → log → locks → what was left behind is compared and adopted (`cri`)
//! → sockets → READY → serve. SIGTERM or SIGINT stop it: nothing new is accepted, calls in
//! flight may end, containers and monitors are left running. SIGHUP reads the configuration
//! again and takes the log level from it; whatever else changed waits for a restart, and a
//! configuration that is wrong changes nothing. A second SIGTERM ends it at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use config::{Config, Sources};
use rustix::fs::Mode;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::SourceArgs;
use crate::cmd::version::VERSION;
use crate::lock::Locks;
use crate::parts::{self, Built};
use crate::{grpc, logging, metrics, notify, socket};

/// Calls wait on the kernel and on monitors, not on this process; the blocking pool of
/// tokio has the rest.
const WORKERS: usize = 2;

/// How long an orderly stop waits for deletions in the background.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &SourceArgs, is_tuned: bool) -> anyhow::Result<ExitCode> {
    let sources = args.sources();
    let loaded = config::load(&sources)?;
    // What we make private says so itself; what plugins make for others must stay readable.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let level = logging::start(loaded.config.log_level)?;
    for path in &loaded.files {
        tracing::info!(path = %path.display(), "configuration read");
    }
    if !is_tuned {
        tracing::warn!("the allocator took no thresholds: memory use may grow");
    }
    if let Err(error) = cri::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let _locks = Locks::acquire(&loaded.config.paths())?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime of tokio")?
        .block_on(serve(loaded.config, sources, level))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config, sources: Sources, level: logging::Level) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = Signals::watch(&config, sources, level, stop.clone())?;
    let (mut registry, calls) = metrics::registry();
    let Built { runtime, stream } = parts::build(config.clone()).await?;
    runtime.register(&mut registry);
    let (runtime_service, image_service) = cri::services(&runtime);
    // An event stream would go on until the drain gives it up.
    let ended = stop.clone();
    let streaming = Arc::clone(&runtime);
    tokio::spawn(async move {
        ended.cancelled().await;
        streaming.end_streams();
    });
    let sessions = tokio::spawn(stream.serve(Arc::new(cri::Streaming::new(&runtime)), stop.clone()));

    let (doors, _socket) = metrics::open(&config).await?;
    let registry = Arc::new(registry);
    let scraped: Vec<_> = doors
        .into_iter()
        .map(|door| tokio::spawn(metrics::serve(door, Arc::clone(&registry), stop.clone())))
        .collect();
    let (listener, _bound) = socket::listen(&config.socket())?;
    listener.set_nonblocking(true).context("make the socket non-blocking")?;
    let listener = UnixListener::from_std(listener).context("watch the socket")?;
    tell("READY=1");
    tracing::info!(socket = %config.socket().display(), version = VERSION, "serving");

    grpc::serve(listener, runtime_service, image_service, calls, stop).await;
    sessions.await.context("serve sessions")?;
    for door in scraped {
        door.await.context("serve metrics")?;
    }
    // What is left then is deleted by the next start.
    let settled = tokio::task::spawn_blocking(move || runtime.settle(SETTLE));
    settled.await.context("finish deletions")?;
    signals.abort();
    tracing::info!("stopped; containers are left running");
    Ok(())
}

fn tell(state: &str) {
    if let Err(error) = notify::send(state) {
        tracing::warn!(%error, state, "tell the service manager");
    }
}

/// What a signal does.
struct Signals {
    running: Config,
    sources: Sources,
    level: logging::Level,
}

impl Signals {
    /// Watches for signals in a task of its own, from now on.
    fn watch(
        config: &Config,
        sources: Sources,
        level: logging::Level,
        stop: CancellationToken,
    ) -> anyhow::Result<tokio::task::JoinHandle<()>> {
        let watch = |kind| signal(kind).context("watch for signals");
        let (mut term, mut int, mut hup) = (
            watch(SignalKind::terminate())?,
            watch(SignalKind::interrupt())?,
            watch(SignalKind::hangup())?,
        );
        let this = Self {
            running: config.clone(),
            sources,
            level,
        };
        Ok(tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                    _ = hup.recv() => {
                        this.reload();
                        continue;
                    }
                };
                if stop.is_cancelled() {
                    tracing::warn!(signal = name, "a second signal: calls in flight are cut");
                    // The default action, which ends the process: containers do not notice.
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                        .unwrap_or_default();
                }
                tracing::info!(signal = name, "stopping");
                tell("STOPPING=1");
                stop.cancel();
            }
        }))
    }

    fn reload(&self) {
        let config = match config::load(&self.sources) {
            Ok(loaded) => loaded.config,
            Err(error) => {
                tracing::error!(%error, "the new configuration is not taken");
                return;
            }
        };
        if let Err(error) = self.level.set(config.log_level) {
            tracing::error!(error = %format!("{error:#}"), "change the log level");
            return;
        }
        tracing::info!(log_level = %config.log_level, "configuration read again");
        let rest = Config {
            log_level: self.running.log_level,
            ..config
        };
        if rest != self.running {
            tracing::warn!("other keys than log_level have changed: they wait for a restart");
        }
    }
}
