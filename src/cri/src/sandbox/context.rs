//! The security context of a pod: who the pod's own process is, and what its containers may be. PURE.
//!
//! | field                       | what it does here                                                                |
//! |-----------------------------|----------------------------------------------------------------------------------|
//! | user, group, groups, seccomp | are those of the pod's own process, the init of a shared pid namespace (`init`) |
//! | `readonly_rootfs`           | is how that process always is: its root is empty and nobody can write to it      |
//! | `privileged`                | whether the pod may have privileged containers                                   |
//! | `apparmor`, `selinux_options` | are those of containers that say nothing themselves (`container/plan/lsm.rs`)  |
//!
//! A pod without a shared pid namespace has no process; what it says about one is checked all the same, so that a
//! request is right or wrong whatever its namespaces are.

use proto::cri;

use crate::container::plan::security::{self, Seccomp};
use crate::container::plan::users;
use crate::container::plan::{HostFacts, lsm};
use crate::error::Error;
use crate::store::records::SandboxRecord;

/// Who the pod's own process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// Its user.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
    /// Its supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Its filter.
    pub(crate) seccomp: Seccomp,
}

/// The security context of a pod's configuration.
pub(crate) fn of(config: Option<&cri::PodSandboxConfig>) -> Option<&cri::LinuxSandboxSecurityContext> {
    config?.linux.as_ref()?.security_context.as_ref()
}

/// Checks all of it, before anything is made.
pub(crate) fn check(config: &cri::PodSandboxConfig, record: &SandboxRecord, host: &HostFacts) -> Result<Own, Error> {
    if config.windows.is_some() {
        return Err(Error::invalid("config.windows is set: this is a Linux node"));
    }
    let at = |e: Error| e.during("read", "the pod's security_context");
    let own = own(record).map_err(at)?;
    let none = cri::LinuxContainerSecurityContext::default();
    let context = of(Some(config));
    lsm::apparmor(&none, context.and_then(|context| context.apparmor.as_ref()), host).map_err(at)?;
    lsm::selinux(&none, record, host).map_err(at)?;
    Ok(own)
}

/// Who the process of a pod is. Without a word about it the host's root, or that of the pod's user namespace, without a
/// single capability and behind the default filter.
pub(crate) fn own(record: &SandboxRecord) -> Result<Own, Error> {
    let config = record.request.as_ref().and_then(|request| request.config.as_ref());
    let context = of(config).cloned().unwrap_or_default();
    if cri::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy).is_err() {
        return Err(Error::invalid(format!(
            "supplemental_groups_policy {} is none; Merge (0) and Strict (1) are",
            context.supplemental_groups_policy
        )));
    }
    #[expect(deprecated, reason = "clients of CRI before 1.19 still set it")]
    let old_profile = context.seccomp_profile_path;
    // The rules are a container's. There is no image whose groups could be merged: both policies give the same.
    let as_container = cri::LinuxContainerSecurityContext {
        run_as_user: context.run_as_user,
        run_as_group: context.run_as_group,
        supplemental_groups: context.supplemental_groups,
        seccomp: context.seccomp,
        #[expect(deprecated, reason = "clients of CRI before 1.19 still set it")]
        seccomp_profile_path: old_profile,
        ..Default::default()
    };
    let identity = users::resolve(&as_container, "", &users::Accounts::default())?;
    let most = record.mapped_ids;
    let ids = [identity.uid, identity.gid];
    let outside = ids.iter().chain(&identity.groups).find(|id| most > 0 && **id >= most);
    if let Some(id) = outside {
        return Err(Error::invalid(format!(
            "id {id} is none of the {most} ids of the pod's user namespace"
        )));
    }
    Ok(Own {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
        seccomp: security::seccomp(&as_container, &Seccomp::RuntimeDefault)?,
    })
}

/// A privileged container needs a pod that may have some, by its own request or by that of the container: the kubelet
/// says so in the latter when a privileged container comes to a pod that runs (`kubectl debug`).
pub(crate) fn privileged(
    container: &cri::ContainerConfig,
    pod: Option<&cri::PodSandboxConfig>,
    pod_now: Option<&cri::PodSandboxConfig>,
) -> Result<(), Error> {
    let wanted = crate::container::plan::context(container).privileged;
    let may = |config| of(config).is_some_and(|context| context.privileged);
    if !wanted || may(pod) || may(pod_now) {
        return Ok(());
    }
    Err(Error::invalid(
        "the container is privileged and its pod is not: set privileged in the security_context of the pod too",
    ))
}

/// What CreateContainer says of the pod must be about the pod that it names. A client may leave parts out.
pub(crate) fn same_pod(record: &SandboxRecord, said: Option<&cri::PodSandboxConfig>) -> Result<(), Error> {
    let Some(said) = said else { return Ok(()) };
    if said.windows.is_some() {
        return Err(Error::invalid("sandbox_config.windows is set: this is a Linux node"));
    }
    let is = record
        .request
        .as_ref()
        .and_then(|request| request.config.as_ref()?.metadata.clone());
    let (is, said) = (is.unwrap_or_default(), said.metadata.clone().unwrap_or_default());
    for (what, is, said) in [
        ("name", is.name, said.name),
        ("namespace", is.namespace, said.namespace),
        ("uid", is.uid, said.uid),
    ] {
        if !said.is_empty() && said != is {
            return Err(Error::invalid(format!(
                "sandbox_config is that of another pod: its {what} is {:?}, that of pod {} is {is:?}",
                crate::store::index::shown(&said),
                record.id
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::security_profile::ProfileType;

    fn record(change: impl FnOnce(&mut cri::LinuxSandboxSecurityContext)) -> SandboxRecord {
        let mut context = cri::LinuxSandboxSecurityContext::default();
        change(&mut context);
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "n".into(),
                namespace: "ns".into(),
                uid: "u".into(),
                attempt: 3,
            }),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        SandboxRecord {
            id: "p".into(),
            request: Some(cri::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler: String::new(),
            }),
            ..SandboxRecord::default()
        }
    }

    fn config(record: &SandboxRecord) -> cri::PodSandboxConfig {
        record.request.clone().unwrap().config.unwrap()
    }

    fn value(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }

    #[test]
    fn the_pods_process_is_who_the_pod_says() {
        let root = own(&record(|_| {})).unwrap();
        assert_eq!((root.uid, root.gid, root.groups), (0, 0, vec![0]));
        assert_eq!(root.seccomp, Seccomp::RuntimeDefault);
        let user = record(|c| {
            c.run_as_user = value(1000);
            c.run_as_group = value(2000);
            c.supplemental_groups = vec![3000, 3000];
            c.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
            c.readonly_rootfs = true;
            c.seccomp = Some(cri::SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: "/profile".into(),
            });
        });
        let wanted = Own {
            uid: 1000,
            gid: 2000,
            groups: vec![2000, 3000],
            seccomp: Seccomp::Localhost("/profile".into()),
        };
        assert_eq!(own(&user).unwrap(), wanted);
    }

    #[test]
    #[expect(deprecated, reason = "clients of CRI before 1.19 still set it")]
    fn what_a_pod_cannot_be_is_refused() {
        let host = HostFacts::default();
        let localhost = |name: &str| {
            Some(cri::SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: name.into(),
            })
        };
        let checked = |record: SandboxRecord| check(&config(&record), &record, &host);
        assert!(checked(record(|_| {})).is_ok());
        for (what, bad) in [
            ("run_as_group", record(|c| c.run_as_group = value(1))),
            ("run_as_user", record(|c| c.run_as_user = value(-1))),
            ("supplemental group", record(|c| c.supplemental_groups = vec![1 << 40])),
            (
                "supplemental_groups_policy",
                record(|c| c.supplemental_groups_policy = 7),
            ),
            ("seccomp", record(|c| c.seccomp = localhost("relative"))),
            (
                "seccomp",
                record(|c| c.seccomp_profile_path = "localhost/relative".into()),
            ),
            ("AppArmor", record(|c| c.apparmor = localhost("mine"))),
            (
                "selinux_options",
                record(|c| {
                    c.selinux_options = Some(cri::SeLinuxOption {
                        level: "a b".into(),
                        ..Default::default()
                    })
                }),
            ),
        ] {
            let error = checked(bad).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{error}");
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
        let mut mapped = record(|c| c.run_as_user = value(65_536));
        mapped.mapped_ids = 65_536;
        assert!(checked(mapped).unwrap_err().to_string().contains("user namespace"));
        let mut windows = record(|_| {});
        windows.request.as_mut().unwrap().config.as_mut().unwrap().windows = Some(Default::default());
        assert!(checked(windows).unwrap_err().to_string().contains("windows"));
    }

    #[test]
    fn privileged_needs_a_word_of_the_pod() {
        let container = |privileged| cri::ContainerConfig {
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    privileged,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let (plain, may) = (config(&record(|_| {})), config(&record(|c| c.privileged = true)));
        for (wanted, pod, now, fine) in [
            (false, None, None, true),
            (true, None, None, false),
            (true, Some(&plain), None, false),
            (true, Some(&plain), Some(&plain), false),
            (true, Some(&may), None, true),
            (true, Some(&may), Some(&plain), true),
            (true, Some(&plain), Some(&may), true),
        ] {
            assert_eq!(
                privileged(&container(wanted), pod, now).is_ok(),
                fine,
                "{wanted} {pod:?} {now:?}"
            );
        }
    }

    #[test]
    fn the_pod_of_a_request_is_the_one_it_names() {
        let pod = record(|_| {});
        let said = |change: fn(&mut cri::PodSandboxMetadata)| {
            let mut said = config(&pod);
            change(said.metadata.as_mut().unwrap());
            same_pod(&pod, Some(&said))
        };
        assert!(same_pod(&pod, None).is_ok() && same_pod(&pod, Some(&Default::default())).is_ok());
        assert!(said(|_| {}).is_ok() && said(|m| m.uid.clear()).is_ok());
        for (what, bad) in [
            ("name", said(|m| m.name = "other".into())),
            ("namespace", said(|m| m.namespace = "other".into())),
            ("uid", said(|m| m.uid = "other".into())),
        ] {
            let error = bad.unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument);
            assert!(error.to_string().contains(&format!("its {what} is")), "{error}");
        }
        let mut windows = config(&pod);
        windows.windows = Some(Default::default());
        assert!(same_pod(&pod, Some(&windows)).is_err());
    }
}
