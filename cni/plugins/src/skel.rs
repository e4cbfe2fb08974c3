//! The frame of every plugin: environment and standard input in, result or error object out.
//!
//! Order: `CNI_COMMAND` → required variables, each checked before it is used anywhere → the
//! configuration, at most 4 MiB → its version → the plugin → one JSON object on stdout. Exit
//! code 0, or 1 with an error object.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use cni_types::{AddResult, Code, Error, PluginConf, Version, conf, name};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::fault::{Fault, Result};
use crate::{bridge, host_local, loopback, portmap};

const CONFIG_MAX: u64 = 4 << 20;

/// What ADD prints.
pub(crate) enum Added {
    /// A result, written in the version of the configuration.
    Result(AddResult),
    /// A result, and what is done when it has been told and the streams are closed: nobody hears how that went.
    Then(AddResult, Box<dyn FnOnce()>),
    /// The previous result, as it came.
    Unchanged(Value),
}

/// A plugin: one function for each verb.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) add: fn(&Call) -> Result<Added>,
    pub(crate) del: fn(&Call) -> Result<()>,
    pub(crate) check: fn(&Call) -> Result<()>,
    pub(crate) gc: fn(&Call) -> Result<()>,
    pub(crate) status: fn(&Call) -> Result<()>,
}

/// Every plugin of this program.
pub(crate) static PLUGINS: [&Plugin; 4] = [
    &bridge::PLUGIN,
    &host_local::PLUGIN,
    &loopback::PLUGIN,
    &portmap::PLUGIN,
];

/// The plugin called `name`.
pub(crate) fn find(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().copied().find(|plugin| plugin.name == name)
}

/// For a verb that has nothing to do.
pub(crate) fn nothing(_: &Call) -> Result<()> {
    Ok(())
}

/// One call of a plugin.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) container_id: String,
    /// None where DEL comes without one.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ifname: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) path: Vec<PathBuf>,
    pub(crate) network: String,
    pub(crate) version: Version,
    pub(crate) conf: Map<String, Value>,
    /// The configuration as it came, for a delegate.
    pub(crate) stdin: Vec<u8>,
}

impl Call {
    /// The configuration as the plugin's own type.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.conf.clone()))
            .map_err(|error| Fault::config(format!("configuration of network {}: {error}", self.network)))
    }

    /// The value of `key` in `CNI_ARGS`.
    pub(crate) fn arg(&self, key: &str) -> Option<&str> {
        self.args
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(key))
            .map(|(_, value)| value.as_str())
    }

    /// `prevResult`, where there is one.
    pub(crate) fn previous(&self) -> Result<Option<AddResult>> {
        match self.conf.get("prevResult").filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => Ok(Some(AddResult::from_value(value, self.version)?)),
        }
    }

    /// `prevResult`, without which a verb makes no sense.
    pub(crate) fn required_previous(&self) -> Result<AddResult> {
        self.previous()?
            .ok_or_else(|| Fault::config(format!("{} needs prevResult", self.command)))
    }

    /// The namespace of ADD and CHECK.
    pub(crate) fn netns(&self) -> Result<&PathBuf> {
        self.netns
            .as_ref()
            .ok_or_else(|| Fault::new(Code::InvalidEnvironment, "CNI_NETNS is missing"))
    }

    /// The attachments that GC must keep, as (container, interface).
    pub(crate) fn valid_attachments(&self) -> Result<Vec<(String, String)>> {
        #[derive(serde::Deserialize)]
        struct Attachment {
            #[serde(rename = "containerID")]
            container: String,
            ifname: String,
        }
        // The specification and libcni did not agree on the key for a while.
        let list = self
            .conf
            .get("cni.dev/valid-attachments")
            .or_else(|| self.conf.get("cni.dev/attachments"));
        let Some(list) = list.filter(|value| !value.is_null()) else {
            return Err(Fault::config(
                "GC needs cni.dev/valid-attachments: without it everything would go",
            ));
        };
        let list: Vec<Attachment> = serde_json::from_value(list.clone())
            .map_err(|error| Fault::config(format!("cni.dev/valid-attachments: {error}")))?;
        Ok(list.into_iter().map(|a| (a.container, a.ifname)).collect())
    }
}

/// Runs the program as `plugin`.
pub(crate) fn run(plugin: &'static Plugin) -> ExitCode {
    let command = variable("CNI_COMMAND");
    if command.is_empty() {
        return crate::complain(&format!(
            "bulkhead-cni {} {}: a CNI plugin, to be called by a container runtime\nCNI versions spoken: {}",
            plugin.name,
            env!("CARGO_PKG_VERSION"),
            Version::supported().join(", ")
        ));
    }
    if command == "VERSION" {
        return print(
            &json!({ "cniVersion": Version::CURRENT, "supportedVersions": Version::supported() }),
            true,
        );
    }
    let mut spoken = Version::CURRENT;
    match serve(plugin, command, &mut spoken) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some((value, after))) => {
            let code = print(&value, true);
            // Bulkhead goes on when the streams close, and does not wait for the end of this process; others do.
            if let Some(after) = after
                && code == ExitCode::SUCCESS
                && sys::fds::close_standard().is_ok()
            {
                after();
            }
            code
        }
        Err(fault) => {
            let error = Error {
                version: spoken.to_string(),
                ..fault.into_cni(plugin.name)
            };
            print(&json!(error), false)
        }
    }
}

fn print(value: &Value, success: bool) -> ExitCode {
    let mut text = format!("{value:#}");
    text.push('\n');
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) if success => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn variable(name: &str) -> String {
    std::env::var_os(name)
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What is printed, and done afterwards.
type Answer = (Value, Option<Box<dyn FnOnce()>>);

fn serve(plugin: &Plugin, command: String, spoken: &mut Version) -> Result<Option<Answer>> {
    let call = read(command, spoken)?;
    let since = |version: Version| {
        if call.version >= version {
            return Ok(());
        }
        let text = format!(
            "CNI version {} of the configuration has no {}",
            call.version, call.command
        );
        Err(Fault::new(Code::IncompatibleVersion, text))
    };
    match call.command.as_str() {
        "ADD" => match (plugin.add)(&call)? {
            Added::Result(result) => Ok(Some((result.to_value(call.version)?, None))),
            Added::Then(result, after) => Ok(Some((result.to_value(call.version)?, Some(after)))),
            Added::Unchanged(value) => Ok(Some((value, None))),
        },
        "DEL" => (plugin.del)(&call).map(|()| None),
        "CHECK" => {
            since(Version::CHECK)?;
            (plugin.check)(&call).map(|()| None)
        }
        "GC" => {
            since(Version::STATUS)?;
            (plugin.gc)(&call).map(|()| None)
        }
        "STATUS" => {
            since(Version::STATUS)?;
            (plugin.status)(&call).map(|()| None)
        }
        other => Err(Fault::new(
            Code::InvalidEnvironment,
            format!("CNI_COMMAND {other:?} is unknown"),
        )),
    }
}

fn read(command: String, spoken: &mut Version) -> Result<Call> {
    let environment = |text: String| Fault::new(Code::InvalidEnvironment, text);
    let (container_id, ifname, netns) = (
        variable("CNI_CONTAINERID"),
        variable("CNI_IFNAME"),
        variable("CNI_NETNS"),
    );
    let of_container = matches!(command.as_str(), "ADD" | "DEL" | "CHECK");
    if of_container {
        let mut missing = Vec::new();
        let with_netns = command != "DEL";
        for (key, value, wanted) in [
            ("CNI_CONTAINERID", &container_id, true),
            ("CNI_IFNAME", &ifname, true),
            ("CNI_NETNS", &netns, with_netns),
        ] {
            if wanted && value.is_empty() {
                missing.push(key);
            }
        }
        if !missing.is_empty() {
            return Err(environment(format!(
                "{} missing from the environment",
                missing.join(", ")
            )));
        }
        name::container_id(&container_id).map_err(|error| environment(error.to_string()))?;
        name::interface(&ifname).map_err(|error| environment(error.to_string()))?;
    }
    let mut stdin = Vec::new();
    std::io::stdin()
        .lock()
        .take(CONFIG_MAX + 1)
        .read_to_end(&mut stdin)
        .map_err(|error| Fault::new(Code::Io, format!("reading the configuration: {error}")))?;
    if stdin.len() as u64 > CONFIG_MAX {
        return Err(Fault::new(
            Code::Decoding,
            format!("the configuration is larger than {CONFIG_MAX} bytes"),
        ));
    }
    let conf = PluginConf::parse(&stdin)?.raw;
    let version = conf::version(&conf)?;
    *spoken = version;
    let network = conf.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    name::network(&network).map_err(|error| Fault::config(error.to_string()))?;
    Ok(Call {
        command,
        container_id,
        netns: (!netns.is_empty()).then(|| PathBuf::from(netns)),
        ifname,
        args: conf::parse_args(&variable("CNI_ARGS"))?,
        path: std::env::split_paths(&variable("CNI_PATH"))
            .filter(|dir| !dir.as_os_str().is_empty())
            .collect(),
        network,
        version,
        conf,
        stdin,
    })
}
