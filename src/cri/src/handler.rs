//! Runtime handlers as verbs use them: the configuration's words made into types, once, when the
//! daemon starts.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use spec::runtime::{Capability, PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::container::plan::HostFacts;
use crate::container::plan::profile::Profile;
use crate::container::plan::security::{Seccomp, capability};
use crate::error::Error;
use crate::store::index::shown;

/// Names that tools read from us: nobody else's annotation may take one.
const OWN_ANNOTATIONS: [&str; 2] = ["io.kubernetes.cri.", "io.bulkhead."];

/// Which devices of the host a privileged container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Devices {
    /// All nodes, all usable.
    #[default]
    All,
    /// The nodes it asks for; any node that it makes is usable.
    AskedAndUsable,
    /// Those it asks for alone.
    Asked,
}

/// What is special about the containers of a handler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handler {
    /// What a container gets that asks for nothing.
    pub(crate) default_capabilities: HashSet<Capability>,
    /// What seccomp is where CRI says nothing.
    pub(crate) default_seccomp: Seccomp,
    /// For privileged containers.
    pub(crate) devices: Devices,
    /// Of the first process.
    pub(crate) rlimits: Vec<PosixRlimit>,
    /// Devices that a container asks for belong to the user that its security context names.
    pub(crate) device_ownership: bool,
    /// The least memory limit, in bytes.
    pub(crate) min_memory: u64,
    /// Most processes; None: no limit.
    pub(crate) pids_limit: Option<i64>,
    /// The container's own cgroup is writable.
    pub(crate) cgroup_writable: bool,
    /// What RuntimeDefault means, where it is not our own profile.
    pub(crate) seccomp: Option<Arc<Profile>>,
    /// Of privileged containers.
    pub(crate) privileged_seccomp: Option<Arc<Profile>>,
    /// Init systems get what they need.
    pub(crate) init_systems: bool,
    /// Containers share the daemon's session keyring.
    pub(crate) no_new_keyring: bool,
    /// Of every container, where the caller says nothing else.
    pub(crate) default_annotations: HashMap<String, String>,
    /// Patterns of names.
    pub(crate) pod_annotations: Vec<String>,
    /// Patterns of names.
    pub(crate) container_annotations: Vec<String>,
}

impl Handler {
    fn new(of: &config::Handler, runtime: &config::Runtime) -> Result<Self, Error> {
        let names = of
            .default_capabilities
            .as_ref()
            .unwrap_or(&runtime.default_capabilities);
        let seccomp = match of.default_seccomp.unwrap_or(runtime.default_seccomp) {
            config::SeccompDefault::RuntimeDefault => Seccomp::RuntimeDefault,
            config::SeccompDefault::Unconfined => Seccomp::Unconfined,
        };
        let devices = match (
            of.privileged_without_host_devices,
            of.privileged_without_host_devices_all_devices_allowed,
        ) {
            (false, _) => Devices::All,
            (true, true) => Devices::AskedAndUsable,
            (true, false) => Devices::Asked,
        };
        Ok(Self {
            default_capabilities: names.iter().map(|n| capability(n)).collect::<Result<_, _>>()?,
            default_seccomp: seccomp,
            devices,
            device_ownership: runtime.device_ownership_from_security_context,
            min_memory: of.container_min_memory.unwrap_or(runtime.container_min_memory),
            rlimits: of.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            pids_limit: (of.pids_limit > 0).then_some(i64::from(of.pids_limit)),
            cgroup_writable: of.cgroup_writable,
            seccomp: profile(of.seccomp_profile.as_ref().or(runtime.seccomp_profile.as_ref()))?,
            privileged_seccomp: profile(runtime.privileged_seccomp_profile.as_ref())?,
            init_systems: of.init_systems,
            no_new_keyring: of.no_new_keyring,
            default_annotations: default_annotations(&of.default_annotations),
            pod_annotations: of.pod_annotations.clone(),
            container_annotations: of.container_annotations.clone(),
        })
    }

    /// Those of the caller's annotations that go into the specification. A container's wins over its pod's.
    pub(crate) fn annotations(
        &self,
        pod: &HashMap<String, String>,
        container: &HashMap<String, String>,
    ) -> HashMap<String, String> {
        let pass = |from: &HashMap<String, String>, patterns: &[String]| {
            let chosen = from.iter().filter(|(name, _)| {
                patterns.iter().any(|pattern| matches(pattern, name))
                    && !OWN_ANNOTATIONS.iter().any(|own| name.starts_with(own))
            });
            chosen.map(|(k, v)| (k.clone(), v.clone())).collect::<HashMap<_, _>>()
        };
        let mut all = pass(pod, &self.pod_annotations);
        all.extend(pass(container, &self.container_annotations));
        all
    }
}

/// The profile of a file; read when the daemon starts, so that one that is broken is found out before a pod is.
fn profile(path: Option<&PathBuf>) -> Result<Option<Arc<Profile>>, Error> {
    let Some(path) = path else { return Ok(None) };
    let profile = Profile::read(path)?;
    // For some containers it has fewer rules, for none others.
    let compiled = seccomp::compile(&profile.of(&HashSet::new()));
    compiled.map_err(|e| Error::invalid(format!("seccomp profile {}: {e}", path.display())))?;
    Ok(Some(Arc::new(profile)))
}

/// Lines of name and value; never ours.
fn default_annotations(lines: &[String]) -> HashMap<String, String> {
    let pairs = lines.iter().filter_map(|line| line.split_once('='));
    let all = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    all.filter(|(name, _)| !OWN_ANNOTATIONS.iter().any(|own| name.starts_with(own)))
        .collect()
}

fn rlimit(of: &config::Rlimit) -> Result<PosixRlimit, Error> {
    let internal = |e: &dyn std::fmt::Display| Error::new(spec::Kind::Internal, format!("rlimit {of}: {e}"));
    let name = format!("\"RLIMIT_{}\"", of.name.to_ascii_uppercase());
    let typ: PosixRlimitType = serde_json::from_str(&name).map_err(|e| internal(&e))?;
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(of.soft)
        .hard(of.hard)
        .build()
        .map_err(|e| internal(&e))
}

/// `*` stands for any characters but `/`, `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let within = text.find('/').unwrap_or(text.len());
            let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            starts
                .take_while(|at| *at <= within)
                .any(|at| matches(rest.as_str(), &text[at..]))
        }
        Some(wanted) => {
            let mut chars = text.chars();
            let found = chars.next();
            let same = found.is_some_and(|c| c == wanted || (wanted == '?' && c != '/'));
            same && matches(rest.as_str(), chars.as_str())
        }
    }
}

/// All handlers.
#[derive(Debug, Default)]
pub(crate) struct Handlers {
    by_name: HashMap<String, Arc<Handler>>,
    default: String,
}

impl Handlers {
    pub(crate) fn new(config: &config::Config) -> Result<Self, Error> {
        let mut by_name = HashMap::new();
        for name in config.handler_names() {
            if let Some(of) = config.handler(name) {
                by_name.insert(name.to_owned(), Arc::new(Handler::new(&of, &config.runtime)?));
            }
        }
        Ok(Self {
            by_name,
            default: config.runtime.default_handler.clone(),
        })
    }

    /// The handler of this name, which may be empty for the default one, if this host can have it.
    pub(crate) fn find(&self, name: &str, host: &HostFacts) -> Result<Arc<Handler>, Error> {
        let wanted = if name.is_empty() { &self.default } else { name };
        let Some(handler) = self.by_name.get(wanted) else {
            let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            names.sort_unstable();
            return Err(Error::not_found(format!(
                "there is no runtime handler {:?}; this node has {}",
                shown(wanted),
                names.join(", ")
            )));
        };
        if handler.cgroup_writable && !host.delegates {
            return Err(Error::precondition(format!(
                "runtime handler {wanted:?} has cgroup_writable, which needs a host with cgroup v2 alone, mounted with \
                 nsdelegate as systemd does: elsewhere a container could lift its own limits"
            )));
        }
        Ok(Arc::clone(handler))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_end_at_a_slash() {
        for (pattern, text, wanted) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "abc", true),
            ("a*", "a", true),
            ("a*", "a/b", false),
            ("*/b", "a/b", true),
            ("*", "", true),
            ("io.katacontainers.*", "io.katacontainers.config.x", true),
            ("io.katacontainers.*", "io.katacontainersX", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "ac", false),
            ("*.*.c", "a.b.c", true),
            ("\u{e4}?", "\u{e4}\u{f6}", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn annotations_pass_by_name_and_never_ours() {
        let config = config::Handler {
            pod_annotations: vec!["pod.*".into(), "both".into()],
            container_annotations: vec!["*".into()],
            ..config::Handler::default()
        };
        let handler = Handler::new(&config, &config::Runtime::default()).unwrap();
        let pod = map(&[("pod.a", "1"), ("other", "2"), ("both", "pod")]);
        let container = map(&[
            ("both", "container"),
            ("with/slash", "3"),
            ("io.bulkhead.init", "reaper"),
            ("io.kubernetes.cri.container-id", "x"),
        ]);
        let got = handler.annotations(&pod, &container);
        assert_eq!(got, map(&[("pod.a", "1"), ("both", "container")]));
        let none = Handler::default();
        assert!(none.annotations(&pod, &container).is_empty());
    }

    #[test]
    fn a_handler_says_otherwise_than_the_runtime() {
        let mut config = config::Config::default();
        let own = config::Handler {
            default_capabilities: Some(vec!["NET_RAW".into()]),
            default_seccomp: Some(config::SeccompDefault::RuntimeDefault),
            privileged_without_host_devices: true,
            rlimits: vec!["nofile=5:7".parse().unwrap()],
            cgroup_writable: true,
            ..config::Handler::default()
        };
        config.handlers.insert("own".into(), own);
        let handlers = Handlers::new(&config).unwrap();
        let mut host = HostFacts {
            delegates: true,
            ..HostFacts::default()
        };
        let own = handlers.find("own", &host).unwrap();
        assert_eq!(own.default_capabilities, [Capability::NetRaw].into());
        assert_eq!(
            (&own.default_seccomp, own.devices),
            (&Seccomp::RuntimeDefault, Devices::Asked)
        );
        assert_eq!(
            (own.rlimits[0].typ(), own.rlimits[0].hard()),
            (PosixRlimitType::RlimitNofile, 7)
        );
        let plain = handlers.find("", &host).unwrap();
        assert_eq!(
            (&plain.default_seccomp, plain.devices),
            (&Seccomp::Unconfined, Devices::All)
        );
        assert_eq!(handlers.find("none", &host).unwrap_err().kind(), spec::Kind::NotFound);
        host.delegates = false;
        let error = handlers.find("own", &host).unwrap_err();
        assert_eq!(error.kind(), spec::Kind::FailedPrecondition);
    }
}
