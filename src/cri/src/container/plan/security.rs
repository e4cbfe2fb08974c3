//! Capabilities, seccomp, masked and read-only paths. Pure: a localhost
//! seccomp profile comes as text.

use std::collections::HashSet;

use proto::cri::{self, security_profile::ProfileType};
use spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::HostFacts;
use crate::error::Error;

/// The capability that `name` names, with or without `CAP_`, in any case.
pub(crate) fn capability(name: &str) -> Result<Capability, Error> {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).parse().map_err(|_| {
        let name: String = name.chars().take(80).collect();
        Error::invalid(format!(
            "{name:?} is no capability; names like NET_ADMIN or CAP_NET_ADMIN are known"
        ))
    })
}

/// Which capabilities the container gets, and what of the wish this host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caps {
    /// The sets.
    pub(crate) sets: LinuxCapabilities,
    /// All that it may use, for the seccomp profile.
    pub(crate) granted: HashSet<Capability>,
    /// Asked for by name and not in our own bounding set.
    pub(crate) withheld: Vec<Capability>,
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

/// The default set, plus what is added, minus what is dropped; `ALL` first, so that
/// `drop ALL, add X` gives X, and a name that is both added and dropped is dropped.
pub(crate) fn capabilities(
    context: &cri::LinuxContainerSecurityContext,
    defaults: &HashSet<Capability>,
    host: &HostFacts,
) -> Result<Caps, Error> {
    let none = cri::Capability::default();
    let wish = context.capabilities.as_ref().unwrap_or(&none);
    let mut granted = if context.privileged {
        host.capabilities.clone()
    } else {
        defaults.clone()
    };
    if wish.drop_capabilities.iter().any(|n| is_all(n)) {
        granted.clear();
    }
    if wish.add_capabilities.iter().any(|n| is_all(n)) {
        granted.clone_from(&host.capabilities);
    }
    for name in wish.add_capabilities.iter().filter(|n| !is_all(n)) {
        granted.insert(capability(name)?);
    }
    for name in wish.drop_capabilities.iter().filter(|n| !is_all(n)) {
        granted.remove(&capability(name)?);
    }
    let mut withheld: Vec<Capability> = granted.difference(&host.capabilities).copied().collect();
    withheld.sort_by_key(ToString::to_string);
    granted.retain(|c| host.capabilities.contains(c));
    let mut ambient = Capabilities::new();
    for name in &wish.add_ambient_capabilities {
        let wanted: Vec<Capability> = if is_all(name) {
            granted.iter().copied().collect()
        } else {
            vec![capability(name)?]
        };
        for one in wanted {
            if !granted.contains(&one) {
                return Err(Error::invalid(format!(
                    "ambient capability {name:?} is not among the container's capabilities; add it there too"
                )));
            }
            ambient.insert(one);
        }
    }
    let all: Capabilities = granted.iter().copied().collect();
    // Inheritable stays empty but for what must be ambient (CVE-2022-24769).
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(all.clone())
        .effective(all.clone())
        .permitted(all)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(|e| Error::invalid(format!("capabilities: {e}")))?;
    Ok(Caps {
        sets,
        granted,
        withheld,
    })
}

/// Which seccomp profile is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// Our own.
    RuntimeDefault,
    /// A file on the host, absolute.
    Localhost(String),
}

/// Reads CRI's field, or the deprecated one. A privileged container is unconfined.
pub(crate) fn seccomp(context: &cri::LinuxContainerSecurityContext, unset: &Seccomp) -> Result<Seccomp, Error> {
    if context.privileged {
        return Ok(Seccomp::Unconfined);
    }
    if let Some(profile) = &context.seccomp {
        return match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
            ProfileType::Unconfined => Ok(Seccomp::Unconfined),
            ProfileType::Localhost => localhost(&profile.localhost_ref),
        };
    }
    #[expect(deprecated, reason = "clients of CRI before 1.19 still set it")]
    match context.seccomp_profile_path.as_str() {
        "" => Ok(unset.clone()),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        "unconfined" => Ok(Seccomp::Unconfined),
        path => localhost(path.strip_prefix("localhost/").unwrap_or(path)),
    }
}

fn localhost(path: &str) -> Result<Seccomp, Error> {
    if path.starts_with('/') {
        Ok(Seccomp::Localhost(path.to_owned()))
    } else {
        Err(Error::invalid(format!(
            "seccomp profile {path:?} is not an absolute path on this node"
        )))
    }
}

fn checked(paths: &[String], what: &str) -> Result<Vec<String>, Error> {
    for path in paths {
        if !path.starts_with('/') || path.split('/').any(|c| c == "..") {
            return Err(Error::invalid(format!(
                "{what} path {path:?} is not absolute and clean"
            )));
        }
    }
    Ok(paths.to_vec())
}

/// Masked and read-only paths exactly as sent: an empty list means none. Privileged: none.
pub(crate) fn hidden(context: &cri::LinuxContainerSecurityContext) -> Result<(Vec<String>, Vec<String>), Error> {
    if context.privileged {
        return Ok((vec![], vec![]));
    }
    Ok((
        checked(&context.masked_paths, "masked")?,
        checked(&context.readonly_paths, "read-only")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::LinuxContainerSecurityContext as Context;

    fn set(names: &[&str]) -> HashSet<Capability> {
        names.iter().map(|n| capability(n).unwrap()).collect()
    }

    fn host() -> HostFacts {
        HostFacts {
            capabilities: set(&["CHOWN", "KILL", "NET_ADMIN", "SYS_ADMIN"]),
            ..HostFacts::default()
        }
    }

    fn caps(add: &[&str], drop: &[&str], privileged: bool) -> Caps {
        let list = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        let capabilities = Some(cri::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: vec![],
        });
        let context = Context {
            capabilities,
            privileged,
            ..Context::default()
        };
        super::capabilities(&context, &set(&["CHOWN", "KILL"]), &host()).unwrap()
    }

    #[test]
    fn add_and_drop() {
        assert_eq!(caps(&[], &[], false).granted, set(&["CHOWN", "KILL"]));
        assert_eq!(
            caps(&["cap_net_admin"], &["KILL"], false).granted,
            set(&["CHOWN", "NET_ADMIN"])
        );
        assert_eq!(caps(&["NET_ADMIN"], &["ALL"], false).granted, set(&["NET_ADMIN"]));
        assert_eq!(
            caps(&["ALL"], &["SYS_ADMIN"], false).granted,
            set(&["CHOWN", "KILL", "NET_ADMIN"])
        );
        assert_eq!(caps(&["KILL"], &["KILL"], false).granted, set(&["CHOWN"]));
        assert_eq!(caps(&[], &[], true).granted, host().capabilities);
        let short = caps(&["SYS_TIME"], &[], false);
        assert_eq!(short.withheld, [Capability::SysTime]);
        assert!(!short.granted.contains(&Capability::SysTime));
        assert!(short.sets.inheritable().as_ref().unwrap().is_empty());
    }

    #[test]
    fn ambient_must_be_granted() {
        let wish = |name: &str| Context {
            capabilities: Some(cri::Capability {
                add_ambient_capabilities: vec![name.into()],
                ..Default::default()
            }),
            ..Context::default()
        };
        let defaults = set(&["KILL"]);
        let ok = capabilities(&wish("KILL"), &defaults, &host()).unwrap();
        assert_eq!(ok.sets.ambient(), &Some(set(&["KILL"])));
        assert!(capabilities(&wish("SYS_ADMIN"), &defaults, &host()).is_err());
        assert!(capabilities(&wish("NOT_A_CAP"), &defaults, &host()).is_err());
    }

    #[test]
    fn seccomp_choices() {
        let with = |kind: ProfileType, path: &str| Context {
            seccomp: Some(cri::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: path.into(),
            }),
            ..Context::default()
        };
        let unset = Seccomp::RuntimeDefault;
        assert_eq!(seccomp(&Context::default(), &unset).unwrap(), Seccomp::RuntimeDefault);
        assert_eq!(
            seccomp(&with(ProfileType::Unconfined, ""), &unset).unwrap(),
            Seccomp::Unconfined
        );
        assert_eq!(
            seccomp(&with(ProfileType::Localhost, "/p"), &unset).unwrap(),
            Seccomp::Localhost("/p".into())
        );
        assert!(seccomp(&with(ProfileType::Localhost, "p"), &unset).is_err());
        let privileged = Context {
            privileged: true,
            ..with(ProfileType::Localhost, "/p")
        };
        assert_eq!(seccomp(&privileged, &unset).unwrap(), Seccomp::Unconfined);
    }

    #[test]
    fn hidden_paths_are_taken_as_sent() {
        let context = Context {
            masked_paths: vec!["/proc/kcore".into()],
            ..Context::default()
        };
        assert_eq!(hidden(&context).unwrap(), (vec!["/proc/kcore".to_owned()], vec![]));
        assert_eq!(
            hidden(&Context {
                privileged: true,
                ..context
            })
            .unwrap(),
            (vec![], vec![])
        );
        let bad = Context {
            masked_paths: vec!["/proc/../etc".into()],
            ..Context::default()
        };
        assert!(hidden(&bad).is_err());
    }
}
