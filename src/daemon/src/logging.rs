//! The log: one line an event on stderr, which a service manager files. The level can be
//! changed while the daemon runs (SIGHUP).

use anyhow::Context;
use config::LogLevel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

/// Libraries that say more than an administrator wants; at `trace` they may.
const NOISY: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];

/// Changes the level of the running log.
#[derive(Debug)]
pub(crate) struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// From now on, lines at least as serious as `level`.
    pub(crate) fn set(&self, level: LogLevel) -> anyhow::Result<()> {
        self.0.reload(targets(level)).context("change the log level")
    }
}

/// Starts the log of this process.
pub(crate) fn start(level: LogLevel) -> anyhow::Result<Level> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    tracing_subscriber::registry()
        .with(lines)
        .try_init()
        .context("start the log")?;
    Ok(Level(handle))
}

fn targets(level: LogLevel) -> Targets {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let all = Targets::new().with_default(filter);
    if level == LogLevel::Trace {
        return all;
    }
    all.with_targets(NOISY.map(|name| (name, filter.min(LevelFilter::WARN))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn libraries_stay_quiet_until_trace() {
        let debug = targets(LogLevel::Debug);
        assert!(debug.would_enable("cri::sandbox", &Level::DEBUG));
        assert!(!debug.would_enable("h2::codec", &Level::INFO));
        assert!(debug.would_enable("h2::codec", &Level::WARN));
        assert!(targets(LogLevel::Trace).would_enable("h2::codec", &Level::TRACE));
        assert!(!targets(LogLevel::Error).would_enable("h2::codec", &Level::WARN));
    }
}
