//! AppArmor and SELinux: what CRI asks for → the labels of the specification. Pure: that a profile is loaded is seen to
//! before (`container/sources.rs`).

use proto::cri::{self, NamespaceMode, security_profile::ProfileType};

use super::{HostFacts, pod_selinux};
use crate::error::Error;
use crate::store::records::SandboxRecord;

/// The profile of a container: its name, or none. `pod` is what its pod says for containers that say nothing.
pub(crate) fn apparmor(
    context: &cri::LinuxContainerSecurityContext,
    pod: Option<&cri::SecurityProfile>,
    host: &HostFacts,
) -> Result<Option<String>, Error> {
    #[expect(deprecated, reason = "clients of CRI before 1.30 still set it")]
    let old = context.apparmor_profile.as_str();
    let own = context.apparmor.as_ref();
    let (kind, name) = match own.or(pod.filter(|_| old.is_empty())) {
        Some(profile) => (profile.profile_type(), profile.localhost_ref.as_str()),
        None => match old {
            // As the peers: who asks for nothing gets the default where there is one.
            "" | "runtime/default" => (ProfileType::RuntimeDefault, ""),
            "unconfined" => (ProfileType::Unconfined, ""),
            name => (ProfileType::Localhost, name),
        },
    };
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    match kind {
        ProfileType::Unconfined => Ok(None),
        // Profiles and privileges are asked for together by mistake only; the peers drop the default too.
        ProfileType::RuntimeDefault if context.privileged => Ok(None),
        ProfileType::RuntimeDefault => Ok(host.default_apparmor.clone()),
        ProfileType::Localhost if name.is_empty() || name.bytes().any(|b| b.is_ascii_control()) => Err(Error::invalid(
            format!("AppArmor profile {name:?} is no name of a profile on this node"),
        )),
        ProfileType::Localhost if !host.apparmor => Err(Error::invalid(format!(
            "AppArmor profile {name:?} is asked for, but this node has no AppArmor"
        ))),
        ProfileType::Localhost => Ok(Some(name.to_owned())),
    }
}

/// The SELinux contexts of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contexts {
    /// Of its processes.
    pub(crate) process: String,
    /// Of its files.
    pub(crate) files: String,
}

/// What selinux_options come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selinux {
    /// No label: the module is off, or the container is let out of it.
    None,
    /// Asked for where there is none and the administrator wants to go without: nothing is done, and said.
    WithoutEffect,
    /// These.
    Labels(Contexts),
}

/// A user, role or type of the policy, or a level: what a context is made of.
fn check(what: &str, text: &str, more: &[u8]) -> Result<(), Error> {
    if text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || more.contains(&b))
    {
        return Ok(());
    }
    Err(Error::invalid(format!("selinux_options: {what} {text:?} is none")))
}

/// A pair of categories from the pod's id: for pods of before they were taken from a list, and nobody's promise to be
/// unique.
fn categories(pod: &str) -> String {
    let digit = |from: usize| {
        let text = pod.get(from..from + 4).unwrap_or_default();
        u32::from_str_radix(text, 16).unwrap_or(0)
    };
    let (first, second) = (digit(0) % 1024, digit(4) % 1023);
    // Two different ones, the lower one first.
    let second = if second >= first { second + 1 } else { second };
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

/// What options come to where there is no SELinux. Who asks for a wall is told that there is none, unless the
/// administrator said that manifests for other nodes are welcome: then it is as with the peers.
fn without(
    container: Option<&cri::SeLinuxOption>,
    pod: Option<&cri::SeLinuxOption>,
    host: &HostFacts,
) -> Result<Selinux, Error> {
    let whose = match (container, pod) {
        (Some(_), _) => "",
        (None, Some(_)) => " of the pod",
        (None, None) => return Ok(Selinux::None),
    };
    if !host.refuses_selinux {
        return Ok(Selinux::WithoutEffect);
    }
    Err(Error::precondition(format!(
        "selinux_options{whose}: this node has no SELinux; run it elsewhere, or set runtime.missing_selinux to ignore"
    )))
}

/// The contexts of a container of pod `pod`.
pub(crate) fn selinux(
    context: &cri::LinuxContainerSecurityContext,
    pod: &SandboxRecord,
    host: &HostFacts,
) -> Result<Selinux, Error> {
    let pod_options = pod_selinux(pod);
    let empty = cri::SeLinuxOption::default();
    let given = |o: &&cri::SeLinuxOption| **o != empty;
    let options = context.selinux_options.as_ref().filter(given);
    let pods = pod_options.filter(given);
    let wish = options.or(pods).unwrap_or(&empty);
    check("user", &wish.user, b"")?;
    check("role", &wish.role, b"")?;
    check("type", &wish.r#type, b"")?;
    check("level", &wish.level, b":,.-")?;
    if !host.selinux {
        return without(options, pods, host);
    }
    let namespaces = context.namespace_options.clone().unwrap_or_default();
    let host_mode = [namespaces.pid(), namespaces.ipc()].contains(&NamespaceMode::Node);
    let host_network = host.no_selinux_on_host_network && pod.netns.is_empty();
    if *wish == empty && (context.privileged || host_mode || host_network) {
        return Ok(Selinux::None);
    }
    let or = |text: &str, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text.to_owned()
        }
    };
    let own = match pod.selinux_level.as_str() {
        "" => categories(&pod.id),
        level => level.to_owned(),
    };
    let level = or(&wish.level, &own);
    Ok(Selinux::Labels(Contexts {
        process: format!(
            "{}:{}:{}:{level}",
            or(&wish.user, "system_u"),
            or(&wish.role, "system_r"),
            or(&wish.r#type, "container_t")
        ),
        files: format!("system_u:object_r:container_file_t:{level}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::LinuxContainerSecurityContext as Context;

    fn host(on: bool) -> HostFacts {
        HostFacts {
            apparmor: on,
            default_apparmor: on.then(|| "bulkhead-default".to_owned()),
            selinux: on,
            ..HostFacts::default()
        }
    }

    fn with(kind: ProfileType, name: &str) -> Context {
        Context {
            apparmor: Some(cri::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: name.into(),
            }),
            ..Context::default()
        }
    }

    fn options(kind: &str, level: &str) -> Context {
        Context {
            selinux_options: Some(cri::SeLinuxOption {
                r#type: kind.into(),
                level: level.into(),
                ..Default::default()
            }),
            ..Context::default()
        }
    }

    /// A pod with a level of its own choice.
    fn pod_that_asks(level: &str) -> SandboxRecord {
        let context = cri::LinuxSandboxSecurityContext {
            selinux_options: options("", level).selinux_options,
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        SandboxRecord {
            request: Some(cri::RunPodSandboxRequest {
                config: Some(config),
                ..Default::default()
            }),
            ..SandboxRecord::default()
        }
    }

    #[expect(deprecated, reason = "clients of CRI before 1.30 still set it")]
    fn old(name: &str) -> Context {
        Context {
            apparmor_profile: name.into(),
            ..Context::default()
        }
    }

    #[test]
    fn a_profile_by_field_and_by_the_old_string() {
        let default = Some("bulkhead-default".to_owned());
        for (context, wanted) in [
            (Context::default(), default.clone()),
            (with(ProfileType::RuntimeDefault, ""), default.clone()),
            (with(ProfileType::Unconfined, ""), None),
            (with(ProfileType::Localhost, "mine"), Some("mine".to_owned())),
            (with(ProfileType::Localhost, "localhost/mine"), Some("mine".to_owned())),
            (old("runtime/default"), default),
            (old("unconfined"), None),
            (old("localhost/mine"), Some("mine".to_owned())),
            // Not a way out: a name that only begins like it.
            (old("unconfined_foo"), Some("unconfined_foo".to_owned())),
            (
                Context {
                    privileged: true,
                    ..Context::default()
                },
                None,
            ),
        ] {
            assert_eq!(apparmor(&context, None, &host(true)).unwrap(), wanted, "{context:?}");
        }
    }

    #[test]
    fn a_pods_profile_is_that_of_containers_that_say_nothing() {
        let pod = with(ProfileType::Localhost, "pods").apparmor;
        for (context, wanted) in [
            (Context::default(), Some("pods")),
            (with(ProfileType::Localhost, "mine"), Some("mine")),
            (with(ProfileType::Unconfined, ""), None),
            (old("localhost/mine"), Some("mine")),
        ] {
            let got = apparmor(&context, pod.as_ref(), &host(true)).unwrap();
            assert_eq!(got.as_deref(), wanted, "{context:?}");
        }
        assert!(apparmor(&Context::default(), pod.as_ref(), &host(false)).is_err());
    }

    #[test]
    fn without_apparmor_a_profile_of_ones_own_is_refused_and_the_default_is_none() {
        assert_eq!(
            apparmor(&with(ProfileType::RuntimeDefault, ""), None, &host(false)).unwrap(),
            None
        );
        assert_eq!(apparmor(&Context::default(), None, &host(false)).unwrap(), None);
        for context in [with(ProfileType::Localhost, "mine"), old("localhost/mine")] {
            let error = apparmor(&context, None, &host(false)).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument);
            assert!(error.to_string().contains("this node has no AppArmor"), "{error}");
        }
        // An empty name never means unconfined (CVE-2023-2431).
        for context in [
            with(ProfileType::Localhost, ""),
            old("localhost/"),
            with(ProfileType::Localhost, "a\nb"),
        ] {
            let error = apparmor(&context, None, &host(true)).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument);
        }
    }

    #[test]
    fn without_selinux_options_are_refused_or_a_word_in_the_log() {
        let (none, asks) = (Context::default(), options("", "s0:c1,c2"));
        let empty = Context {
            selinux_options: Some(cri::SeLinuxOption::default()),
            ..Context::default()
        };
        let plain = SandboxRecord::default();
        let pod = pod_that_asks("s0:c5");
        let refuses = HostFacts {
            refuses_selinux: true,
            ..host(false)
        };
        for (context, pod, whose) in [
            (&asks, &plain, "selinux_options:"),
            (&asks, &pod, "selinux_options:"),
            (&none, &pod, "selinux_options of the pod:"),
            (&empty, &pod, "selinux_options of the pod:"),
        ] {
            let error = selinux(context, pod, &refuses).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::FailedPrecondition);
            for word in [whose, "this node has no SELinux", "runtime.missing_selinux"] {
                assert!(error.to_string().contains(word), "{error}");
            }
            assert_eq!(selinux(context, pod, &host(false)).unwrap(), Selinux::WithoutEffect);
        }
        for context in [&none, &empty] {
            for host in [&refuses, &host(false)] {
                assert_eq!(selinux(context, &plain, host).unwrap(), Selinux::None);
            }
        }
        // What is none at all is told on every node.
        for host in [&refuses, &host(false)] {
            let error = selinux(&options("a:b", ""), &plain, host).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument);
        }
    }

    #[test]
    fn selinux_options_become_contexts() {
        let mut pod = SandboxRecord {
            id: "01234567".repeat(8),
            ..SandboxRecord::default()
        };
        let of = |context: &Context| selinux(context, &pod, &host(true)).unwrap();
        let Selinux::Labels(labels) = of(&options("x_t", "s0:c1,c2")) else {
            panic!("no labels")
        };
        assert_eq!(labels.process, "system_u:system_r:x_t:s0:c1,c2");
        assert_eq!(labels.files, "system_u:object_r:container_file_t:s0:c1,c2");
        let Selinux::Labels(own) = of(&Context::default()) else {
            panic!("no labels")
        };
        assert_eq!(own.process, "system_u:system_r:container_t:s0:c291,c377");
        assert_eq!(
            of(&Context {
                privileged: true,
                ..Context::default()
            }),
            Selinux::None
        );
        assert!(selinux(&options("a:b", ""), &pod, &host(true)).is_err());
        // What the pod was given, then what it asks for, then what the container asks for.
        let level = |pod: &SandboxRecord, context: &Context| match selinux(context, pod, &host(true)).unwrap() {
            Selinux::Labels(labels) => labels.process.split_once("_t:").unwrap().1.to_owned(),
            other => panic!("{other:?}"),
        };
        pod.selinux_level = "s0:c7,c8".into();
        assert_eq!(level(&pod, &Context::default()), "s0:c7,c8");
        pod.request = pod_that_asks("s0:c5").request;
        assert_eq!(level(&pod, &Context::default()), "s0:c5");
        assert_eq!(level(&pod, &options("x_t", "s0:c1,c2")), "s0:c1,c2");
        // On the host's network only where the administrator wants it.
        let plain = SandboxRecord::default();
        assert!(matches!(
            selinux(&Context::default(), &plain, &host(true)),
            Ok(Selinux::Labels(_))
        ));
        let without = HostFacts {
            no_selinux_on_host_network: true,
            ..host(true)
        };
        assert_eq!(selinux(&Context::default(), &plain, &without).unwrap(), Selinux::None);
        assert!(matches!(
            selinux(&options("x_t", ""), &plain, &without),
            Ok(Selinux::Labels(_))
        ));
        let own_network = SandboxRecord {
            netns: "/run/netns/x".into(),
            ..SandboxRecord::default()
        };
        assert!(matches!(
            selinux(&Context::default(), &own_network, &without),
            Ok(Selinux::Labels(_))
        ));
    }
}
