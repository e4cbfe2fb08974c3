//! Where the server is and how long to wait: flags, then environment, then the file, then
//! defaults, as crictl has them. The file is `/etc/crictl.yaml`, or `--config`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Where crictl looks too.
pub(crate) const DEFAULT_FILE: &str = "/etc/crictl.yaml";
/// Tried in this order if no endpoint is named: ours, then crictl's.
pub(crate) const DEFAULT_ENDPOINTS: [&str; 4] = [
    "unix:///run/bulkhead/bulkhead.sock",
    "unix:///run/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
    "unix:///var/run/cri-dockerd.sock",
];
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The flags before the verb.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// Location of the client config file
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Endpoint of the CRI runtime service (default: the first of bulkhead, containerd, CRI-O, cri-dockerd that answers)
    #[arg(short = 'r', long, value_name = "URL")]
    pub(crate) runtime_endpoint: Option<String>,
    /// Endpoint of the CRI image service (default: the runtime endpoint)
    #[arg(short = 'i', long, value_name = "URL")]
    pub(crate) image_endpoint: Option<String>,
    /// Timeout of connecting to the server and, if set, of each request (e.g. 2s, 20s)
    #[arg(short = 't', long, value_name = "DURATION", value_parser = crate::human::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Enable debug mode
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
    /// Retries for connecting to an endpoint that was named (negative: for ever)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_retries: Option<i32>,
}

/// The file's keys. They are crictl's, and so is the rule that an unknown one is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) runtime_endpoint: String,
    pub(crate) image_endpoint: String,
    /// Seconds.
    pub(crate) timeout: i64,
    pub(crate) debug: bool,
    pub(crate) pull_image_on_create: bool,
    pub(crate) disable_pull_on_run: bool,
    pub(crate) max_retries: i32,
}

impl File {
    /// Reads a file; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Some(Self::default()));
        }
        serde_saphyr::from_str(&text)
            .map(Some)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    }
}

/// What holds for this run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `None`: try the default endpoints.
    pub(crate) runtime_endpoint: Option<String>,
    pub(crate) image_endpoint: Option<String>,
    pub(crate) connect_timeout: Duration,
    /// Only if somebody asked for it: cutting a slow start off after crictl's two seconds helps nobody.
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) debug: bool,
    pub(crate) pull_on_create: bool,
    pub(crate) pull_on_run: bool,
    pub(crate) max_retries: i32,
    pub(crate) file: PathBuf,
}

impl Settings {
    pub(crate) fn load(flags: &Flags) -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = flags
            .config
            .clone()
            .or_else(|| env("CRI_CONFIG_FILE").map(PathBuf::from));
        let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let file = File::read(&path)?;
        // `None` here with a name is right for `config --set`, which makes the file; other verbs go on without.
        Ok(Self::merge(flags, file, path, env))
    }

    fn merge(flags: &Flags, file: Option<File>, path: PathBuf, env: impl Fn(&str) -> Option<String>) -> Self {
        let max_retries = flags
            .max_retries
            .unwrap_or_else(|| file.as_ref().map_or(3, |file| file.max_retries));
        let file = file.unwrap_or_default();
        let set = |text: String| Some(text).filter(|text| !text.is_empty());
        let seconds = u64::try_from(file.timeout)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let asked = flags.timeout.filter(|timeout| !timeout.is_zero()).or(seconds);
        let runtime_endpoint = flags
            .runtime_endpoint
            .clone()
            .or_else(|| env("CONTAINER_RUNTIME_ENDPOINT"))
            .or(set(file.runtime_endpoint));
        let image_endpoint = flags
            .image_endpoint
            .clone()
            .or_else(|| env("IMAGE_SERVICE_ENDPOINT"))
            .or(set(file.image_endpoint));
        Self {
            image_endpoint: image_endpoint.or_else(|| runtime_endpoint.clone()),
            runtime_endpoint,
            connect_timeout: asked.unwrap_or(DEFAULT_TIMEOUT),
            request_timeout: asked,
            debug: flags.debug || file.debug,
            pull_on_create: file.pull_image_on_create,
            pull_on_run: !file.disable_pull_on_run,
            max_retries,
            file: path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> File {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn the_file_has_crictls_keys() {
        let file = parse(
            "runtime-endpoint: unix:///a\nimage-endpoint: \"\"\ntimeout: 10\ndebug: true\npull-image-on-create: true\n",
        );
        assert_eq!(
            (file.runtime_endpoint.as_str(), file.timeout, file.debug),
            ("unix:///a", 10, true)
        );
        serde_saphyr::from_str::<File>("runtime_endpoint: x").unwrap_err();
    }

    #[test]
    fn flags_beat_environment_beats_file() {
        let file = || Some(parse("runtime-endpoint: file\ntimeout: 7\nmax-retries: 1\n"));
        let none = |_: &str| None;
        let env = |name: &str| (name == "CONTAINER_RUNTIME_ENDPOINT").then(|| "env".to_owned());
        let settings = Settings::merge(&Flags::default(), file(), PathBuf::new(), none);
        assert_eq!(settings.runtime_endpoint.as_deref(), Some("file"));
        assert_eq!(settings.image_endpoint.as_deref(), Some("file"));
        assert_eq!(
            (settings.request_timeout, settings.max_retries),
            (Some(Duration::from_secs(7)), 1)
        );
        let settings = Settings::merge(&Flags::default(), file(), PathBuf::new(), env);
        assert_eq!(settings.runtime_endpoint.as_deref(), Some("env"));
        let flags = Flags {
            runtime_endpoint: Some("flag".into()),
            timeout: Some(Duration::from_secs(1)),
            ..Flags::default()
        };
        let settings = Settings::merge(&flags, file(), PathBuf::new(), env);
        assert_eq!(settings.runtime_endpoint.as_deref(), Some("flag"));
        assert_eq!(settings.connect_timeout, Duration::from_secs(1));
        let settings = Settings::merge(&Flags::default(), None, PathBuf::new(), none);
        assert_eq!(
            (
                settings.runtime_endpoint,
                settings.request_timeout,
                settings.max_retries
            ),
            (None, None, 3)
        );
    }
}
