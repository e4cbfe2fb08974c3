//! The frame of every plugin: environment and standard input in, result or error object out.
//!
//! Order: `CNI_COMMAND` → required variables, each checked before it is used anywhere → the
//! configuration, at most 4 MiB → its version → the plugin → one JSON object on stdout. Exit
//! code 0, or 1 with an error object.
//!
//! Several plugins may be one call: an array of their configurations, and the result of each is what the next one gets as
//! `prevResult`. That is Bulkhead's own, for plugins of this program that follow one another in a network.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use cni_types::{AddResult, Code, Error, PluginConf, Version, conf, name};
use rustix::io::Errno;
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

/// Runs the program as `plugins`, one after the other.
pub(crate) fn run(plugins: &[&'static Plugin]) -> ExitCode {
    let command = variable("CNI_COMMAND");
    if command.is_empty() {
        let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name).collect();
        return crate::complain(&format!(
            "bulkhead-cni {} {}: a CNI plugin, to be called by a container runtime\nCNI versions spoken: {}",
            names.join(" "),
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
    let mut at = At::default();
    match serve(plugins, command, &mut at) {
        Ok(Some(Answer { value, after })) => {
            let code = print(&value, true);
            // Bulkhead goes on when the streams close, and does not wait for the end of this process; others do.
            if !after.is_empty() && code == ExitCode::SUCCESS && sys::fds::close_standard().is_ok() {
                after.into_iter().for_each(|after| after());
            }
            code
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => {
            let plugin = plugins.get(at.plugin).map_or("", |plugin| plugin.name);
            let error = Error {
                version: at.version.to_string(),
                ..fault.into_cni(plugin)
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
struct Answer {
    value: Value,
    after: Vec<Box<dyn FnOnce()>>,
}

/// How far it has come, for the error object.
struct At {
    /// Which of the plugins.
    plugin: usize,
    version: Version,
}

impl Default for At {
    fn default() -> Self {
        Self {
            plugin: 0,
            version: Version::CURRENT,
        }
    }
}

fn serve(plugins: &[&'static Plugin], command: String, at: &mut At) -> Result<Option<Answer>> {
    let asked = Asked::read(command)?;
    let mut answer = None::<Answer>;
    for (plugin, mut conf) in plugins.iter().zip(configurations(plugins)?) {
        if let Some(answer) = &answer {
            conf.insert("prevResult".to_owned(), answer.value.clone());
        }
        let call = asked.call(conf, &mut at.version)?;
        if let Some(added) = one(plugin, &call)? {
            let (value, after) = match added {
                Added::Result(result) => (result.to_value(call.version)?, None),
                Added::Then(result, after) => (result.to_value(call.version)?, Some(after)),
                Added::Unchanged(value) => (value, None),
            };
            let mut all = answer.map(|answer| answer.after).unwrap_or_default();
            all.extend(after);
            answer = Some(Answer { value, after: all });
        }
        at.plugin += 1;
    }
    Ok(answer)
}

/// One verb of one plugin; what ADD has made.
fn one(plugin: &Plugin, call: &Call) -> Result<Option<Added>> {
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
        "ADD" => (plugin.add)(call).map(Some),
        "DEL" => (plugin.del)(call).map(|()| None),
        "CHECK" => {
            since(Version::CHECK)?;
            (plugin.check)(call).map(|()| None)
        }
        "GC" => {
            since(Version::STATUS)?;
            (plugin.gc)(call).map(|()| None)
        }
        "STATUS" => {
            since(Version::STATUS)?;
            (plugin.status)(call).map(|()| None)
        }
        other => Err(Fault::new(
            Code::InvalidEnvironment,
            format!("CNI_COMMAND {other:?} is unknown"),
        )),
    }
}

/// What the environment says, for all plugins of the call.
struct Asked {
    command: String,
    container_id: String,
    netns: Option<PathBuf>,
    ifname: String,
}

impl Asked {
    fn read(command: String) -> Result<Self> {
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
        Ok(Self {
            command,
            container_id,
            netns: (!netns.is_empty()).then(|| PathBuf::from(netns)),
            ifname,
        })
    }

    /// The call of a plugin with `conf`; `spoken` is the version that it speaks, as soon as that is known.
    fn call(&self, conf: Map<String, Value>, spoken: &mut Version) -> Result<Call> {
        let conf = PluginConf::from_map(conf)?.raw;
        let version = conf::version(&conf)?;
        *spoken = version;
        let network = conf.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        name::network(&network).map_err(|error| Fault::config(error.to_string()))?;
        Ok(Call {
            command: self.command.clone(),
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: conf::parse_args(&variable("CNI_ARGS"))?,
            path: std::env::split_paths(&variable("CNI_PATH"))
                .filter(|dir| !dir.as_os_str().is_empty())
                .collect(),
            network,
            version,
            conf,
        })
    }
}

/// The configurations on standard input: of one plugin, or an array of as many as there are plugins.
fn configurations(plugins: &[&'static Plugin]) -> Result<Vec<Map<String, Value>>> {
    let stdin = stdin().map_err(|error| Fault::new(Code::Io, format!("reading the configuration: {error}")))?;
    if stdin.len() as u64 > CONFIG_MAX {
        return Err(Fault::new(
            Code::Decoding,
            format!("the configuration is larger than {CONFIG_MAX} bytes"),
        ));
    }
    if plugins.len() == 1 {
        return Ok(vec![PluginConf::parse(&stdin)?.raw]);
    }
    let confs: Vec<Map<String, Value>> = serde_json::from_slice(&stdin)
        .map_err(|error| Fault::new(Code::Decoding, format!("the configurations: {error}")))?;
    if confs.len() != plugins.len() {
        let text = format!("{} configurations for {} plugins", confs.len(), plugins.len());
        return Err(Fault::config(text));
    }
    Ok(confs)
}

/// All of standard input, or a byte more than it may have. Bulkhead's is a socket, by which it lends one of netfilter.
fn stdin() -> std::io::Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let (mut all, mut part) = (Vec::new(), [0; 4 << 10]);
    loop {
        match sys::cmsg::recv(stdin.as_fd(), &mut part) {
            Ok((0, _)) => return Ok(all),
            Ok((count, lent)) => {
                all.extend_from_slice(&part[..count]);
                lent.into_iter().for_each(cni_netlink::socket::lend_netfilter);
            }
            Err(error) if error.raw_os_error() == Some(Errno::NOTSOCK.raw_os_error()) => {
                stdin.lock().take(CONFIG_MAX + 1).read_to_end(&mut all)?;
                return Ok(all);
            }
            Err(error) => return Err(error),
        }
        if all.len() as u64 > CONFIG_MAX {
            return Ok(all);
        }
    }
}
