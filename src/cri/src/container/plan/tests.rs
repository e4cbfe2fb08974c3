//! The whole plan, from CRI messages to the specification.

use super::*;
use spec::image::{ConfigBuilder, ImageConfigurationBuilder};

struct Case {
    config: cri::ContainerConfig,
    sandbox: SandboxRecord,
    host: HostFacts,
    handler: Handler,
    pid: PidNamespace,
}

fn case() -> Case {
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: "i".into(),
            ..Default::default()
        }),
        command: vec!["/bin/true".into()],
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sandbox = SandboxRecord {
        id: "p".into(),
        netns: "/run/netns/x".into(),
        ipcns: "/s/ns/p/ipc".into(),
        utsns: "/s/ns/p/uts".into(),
        hostname: "pod".into(),
        ..Default::default()
    };
    let all: HashSet<Capability> = [Capability::Chown, Capability::Kill, Capability::SysAdmin].into();
    let host = HostFacts {
        capabilities: all,
        ..Default::default()
    };
    Case {
        config,
        sandbox,
        host,
        handler: Handler {
            default_capabilities: [Capability::Chown].into(),
            ..Default::default()
        },
        pid: PidNamespace::Own,
    }
}

impl Case {
    fn context(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    fn plan(&self) -> Result<Planned, Error> {
        check(&self.config)?;
        let rules = wanted::Rules {
            recursive_read_only: true,
        };
        let wanted = wanted::wanted(&self.config, rules)?;
        let image = ImageConfigurationBuilder::default()
            .config(ConfigBuilder::default().user("7:8".to_owned()).build().unwrap())
            .build()
            .unwrap();
        let files = PodFiles {
            shm: "/shm".into(),
            resolv_conf: "/r".into(),
            hostname: "/n".into(),
            hosts: "/h".into(),
        };
        plan(&Input {
            id: "id",
            config: &self.config,
            image: &image,
            sandbox: &self.sandbox,
            files: &files,
            accounts: &Accounts::default(),
            mounts: &wanted,
            volumes: &[],
            passwd_file: Path::new("/b/passwd"),
            devices: &[],
            pid: self.pid.clone(),
            seccomp: None,
            cgroup: "/pods/p/id",
            host: &self.host,
            handler: &self.handler,
            localtime: None,
        })
    }

    fn namespaces(&self) -> Vec<(LinuxNamespaceType, Option<PathBuf>)> {
        let planned = self.plan().unwrap();
        let linux = planned.spec.linux().as_ref().unwrap();
        linux
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(|n| (n.typ(), n.path().clone()))
            .collect()
    }
}

#[test]
fn a_plain_container() {
    let planned = case().plan().unwrap();
    let process = planned.spec.process().as_ref().unwrap();
    assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
    assert_eq!(process.args().as_ref().unwrap()[..], ["/bin/true"]);
    assert_eq!(process.no_new_privileges(), Some(false));
    let linux = planned.spec.linux().as_ref().unwrap();
    assert_eq!(linux.cgroups_path().as_ref().unwrap(), &PathBuf::from("/pods/p/id"));
    assert_eq!(planned.stop_signal, 15);
    // It survives its way through config.json.
    let text = serde_json::to_vec(&planned.spec).unwrap();
    assert_eq!(serde_json::from_slice::<Spec>(&text).unwrap(), planned.spec);
}

#[test]
fn namespaces_are_the_pods_and_its_own() {
    let mut case = case();
    let list = case.namespaces();
    assert!(list.contains(&(LinuxNamespaceType::Network, Some("/run/netns/x".into()))));
    assert!(list.contains(&(LinuxNamespaceType::Mount, None)));
    assert!(list.contains(&(LinuxNamespaceType::Pid, None)));
    assert!(
        !list.iter().any(|(t, _)| *t == LinuxNamespaceType::Cgroup),
        "v1 has no use for one"
    );
    case.pid = PidNamespace::Join("/proc/1/ns/pid".into());
    case.sandbox.netns.clear();
    case.host.cgroup_v2 = true;
    let list = case.namespaces();
    assert!(list.contains(&(LinuxNamespaceType::Pid, Some("/proc/1/ns/pid".into()))));
    assert!(list.contains(&(LinuxNamespaceType::Cgroup, None)));
    assert!(!list.iter().any(|(t, _)| *t == LinuxNamespaceType::Network));
}

#[test]
fn privileged_lifts_the_fences() {
    let mut case = case();
    case.context().privileged = true;
    case.context().masked_paths = vec!["/proc/kcore".into()];
    let planned = case.plan().unwrap();
    let linux = planned.spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert_eq!(linux.masked_paths().as_deref().unwrap_or_default(), [] as [String; 0]);
    let caps = planned.process.capabilities().as_ref().unwrap();
    assert_eq!(caps.bounding().as_ref().unwrap(), &case.host.capabilities);
    let sys = planned
        .spec
        .mounts()
        .as_ref()
        .unwrap()
        .iter()
        .find(|m| m.destination().ends_with("sys"))
        .unwrap();
    assert!(sys.options().as_ref().unwrap().contains(&"rw".to_owned()));
}

#[test]
fn the_pods_user_namespace_is_joined_with_its_maps() {
    let mut case = case();
    case.sandbox.userns = "/s/ns/p/user".into();
    (case.sandbox.first_uid, case.sandbox.first_gid, case.sandbox.mapped_ids) = (1000, 2000, 100);
    case.config.mounts = vec![cri::Mount {
        container_path: "/v".into(),
        host_path: "/h".into(),
        uid_mappings: vec![cri::IdMapping {
            host_id: 1000,
            container_id: 0,
            length: 100,
        }],
        gid_mappings: vec![cri::IdMapping {
            host_id: 2000,
            container_id: 0,
            length: 100,
        }],
        ..Default::default()
    }];
    let spec = case.plan().unwrap().spec;
    let linux = spec.linux().clone().unwrap();
    let user = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|n| n.typ() == LinuxNamespaceType::User);
    assert_eq!(user.unwrap().path(), &Some("/s/ns/p/user".into()));
    let uids = Some(vec![id_map(0, 1000, 100).unwrap()]);
    let gids = Some(vec![id_map(0, 2000, 100).unwrap()]);
    assert_eq!((linux.uid_mappings(), linux.gid_mappings()), (&uids, &gids));
    let at = |spec: &Spec, target: &str| {
        let mut all = spec.mounts().iter().flatten();
        all.find(|m| m.destination() == Path::new(target)).unwrap().clone()
    };
    let volume = at(&spec, "/v");
    assert_eq!((volume.uid_mappings(), volume.gid_mappings()), (&uids, &gids));
    assert_eq!(at(&spec, "/sys").typ().as_deref(), Some("sysfs"));
    // On the host's network there is no sysfs to be had, only the host's.
    case.sandbox.netns.clear();
    let sys = at(&case.plan().unwrap().spec, "/sys");
    assert!(sys.typ().as_deref() == Some("bind") && sys.options().as_ref().unwrap().contains(&"rro".to_owned()));
    case.config.mounts[0].gid_mappings.clear();
    assert_eq!(case.plan().unwrap_err().kind(), spec::Kind::InvalidArgument);
}

#[test]
fn bad_requests_are_refused() {
    let change = |f: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut case = case();
        f(&mut case.config);
        case.plan().unwrap_err()
    };
    for error in [
        change(&|c| c.metadata = None),
        change(&|c| c.image = None),
        change(&|c| c.command = vec!["a\0b".into()]),
        change(&|c| c.command.clear()),
        change(&|c| c.working_dir = "relative".into()),
        change(&|c| drop(c.annotations.insert("a".into(), "x".repeat(MAX_METADATA)))),
        change(&|c| drop(c.labels.insert("a\0".into(), String::new()))),
    ] {
        assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{error}");
    }
}

#[test]
fn nothing_of_the_caller_reaches_the_annotations() {
    let mut case = case();
    case.config
        .annotations
        .insert("run.oci.keep_original_groups".into(), "1".into());
    let planned = case.plan().unwrap();
    assert!(
        planned
            .spec
            .annotations()
            .as_ref()
            .unwrap()
            .keys()
            .all(|k| k.starts_with("io.kubernetes.cri."))
    );
}

#[test]
fn a_handler_changes_what_was_not_asked_for() {
    let mut case = case();
    assert!(
        case.plan().unwrap().spec.linux().as_ref().unwrap().seccomp().is_none(),
        "unconfined"
    );
    case.handler.default_seccomp = Seccomp::RuntimeDefault;
    case.handler.pids_limit = Some(9);
    case.handler.pod_annotations = vec!["pod.*".into()];
    case.handler.container_annotations = vec!["c".into()];
    case.handler.cgroup_writable = true;
    let annotations = |list: &[&str]| list.iter().map(|name| ((*name).to_owned(), "v".to_owned())).collect();
    case.config.annotations = annotations(&["c", "pod.no"]);
    case.sandbox.request = Some(cri::RunPodSandboxRequest {
        config: Some(cri::PodSandboxConfig {
            annotations: annotations(&["pod.a", "c"]),
            ..Default::default()
        }),
        ..Default::default()
    });
    let spec = case.plan().unwrap().spec;
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    let resources = linux.resources().as_ref().unwrap();
    assert_eq!(resources.pids().as_ref().unwrap().limit(), 9);
    let mut names: Vec<&str> = spec
        .annotations()
        .as_ref()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.retain(|name| !name.starts_with("io.kubernetes.cri."));
    names.sort_unstable();
    assert_eq!(names, ["c", "pod.a"]);
    let mounts = spec.mounts().as_ref().unwrap();
    let options = |target: &str| {
        let found = mounts.iter().find(|m| m.destination() == Path::new(target)).unwrap();
        found.options().clone().unwrap()
    };
    assert!(options("/sys/fs/cgroup").contains(&"rw".to_owned()) && options("/sys").contains(&"ro".to_owned()));
}

#[test]
fn a_privileged_container_without_host_devices_may_use_only_what_it_asked_for() {
    let mut case = case();
    case.context().privileged = true;
    for (devices, all) in [
        (handler::Devices::All, true),
        (handler::Devices::AskedAndUsable, true),
        (handler::Devices::Asked, false),
    ] {
        case.handler.devices = devices;
        let spec = case.plan().unwrap().spec;
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let rules = resources.devices().clone().unwrap();
        assert_eq!(rules[0].allow(), all, "{devices:?}");
    }
}

#[test]
fn an_init_system_has_its_directories_its_signal_and_a_cgroup_to_divide_where_that_is_safe() {
    let mut case = case();
    case.config.command = vec!["/sbin/init".into()];
    let targets = |planned: &Planned| {
        let mounts = planned.spec.mounts().clone().unwrap();
        let own = mounts.iter().filter(|m| m.typ().as_deref() == Some("tmpfs"));
        own.map(|m| m.destination().display().to_string()).collect::<Vec<_>>()
    };
    let writable = |planned: &Planned| {
        let mounts = planned.spec.mounts().clone().unwrap();
        let cgroup = mounts.iter().find(|m| m.destination() == Path::new("/sys/fs/cgroup"));
        cgroup.unwrap().options().clone().unwrap().contains(&"rw".to_owned())
    };
    let has_manager = |planned: &Planned| {
        let env = planned.process.env().clone().unwrap();
        env.contains(&"container=oci".to_owned())
    };
    case.handler.init_systems = true;
    let planned = case.plan().unwrap();
    assert_eq!(targets(&planned), ["/dev", "/run", "/tmp", "/run/lock"]);
    assert_eq!((planned.stop_signal, has_manager(&planned)), (37, true));
    assert!(!writable(&planned), "a cgroup of v1, or one without nsdelegate");
    case.host.delegates = true;
    assert!(writable(&case.plan().unwrap()));
    // The caller's own directories and signal win.
    case.config.mounts = vec![cri::Mount {
        container_path: "/run".into(),
        host_path: "/h".into(),
        ..Default::default()
    }];
    case.config.stop_signal = cri::Signal::Sigusr1.into();
    let planned = case.plan().unwrap();
    assert_eq!(
        (targets(&planned), planned.stop_signal),
        (vec!["/dev".into(), "/tmp".into()], 10)
    );
    // Where the administrator does not want it, and for any other program, there is nothing of it.
    case.config.mounts.clear();
    case.config.stop_signal = cri::Signal::RuntimeDefault.into();
    for (program, on) in [("/sbin/init", false), ("/bin/sh", true)] {
        case.config.command = vec![program.into()];
        case.handler.init_systems = on;
        let planned = case.plan().unwrap();
        assert_eq!(targets(&planned), ["/dev"], "{program}");
        assert!(!writable(&planned) && !has_manager(&planned) && planned.stop_signal == 15);
    }
}

#[test]
fn profiles_of_the_node_take_the_place_of_ours_and_of_none() {
    let mut case = case();
    let file = |call: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {{"names": ["{call}"], "action": "SCMP_ACT_ERRNO", "excludes": {{"caps": ["CAP_SYS_ADMIN"]}}}}]}}"#
        );
        std::fs::write(&path, text).unwrap();
        Some(std::sync::Arc::new(Profile::read(&path).unwrap()))
    };
    let refused = |case: &Case| {
        let linux = case.plan().unwrap().spec.linux().clone().unwrap();
        let calls = linux.seccomp().clone().and_then(|profile| profile.syscalls().clone());
        calls.map(|calls| calls.iter().flat_map(|call| call.names().clone()).collect::<Vec<_>>())
    };
    case.handler.seccomp = file("mkdir");
    case.handler.privileged_seccomp = file("rmdir");
    assert_eq!(refused(&case), None, "nobody asks for RuntimeDefault");
    case.handler.default_seccomp = Seccomp::RuntimeDefault;
    assert_eq!(refused(&case), Some(vec!["mkdir".to_owned()]));
    case.context().privileged = true;
    assert_eq!(refused(&case), None, "it has CAP_SYS_ADMIN");
    let drop_admin = cri::Capability {
        drop_capabilities: vec!["SYS_ADMIN".into()],
        ..Default::default()
    };
    case.context().capabilities = Some(drop_admin);
    assert_eq!(refused(&case), Some(vec!["rmdir".to_owned()]));
}

#[test]
fn a_shared_keyring_and_default_annotations_are_in_the_specification() {
    let mut case = case();
    let annotation = |case: &Case, name: &str| {
        let all = case.plan().unwrap().spec.annotations().clone().unwrap();
        all.get(name).cloned()
    };
    assert_eq!(annotation(&case, "io.bulkhead.keyring"), None);
    case.handler.no_new_keyring = true;
    case.handler.default_annotations = [("a".to_owned(), "node".to_owned())].into();
    assert_eq!(annotation(&case, "io.bulkhead.keyring").as_deref(), Some("inherited"));
    assert_eq!(annotation(&case, "a").as_deref(), Some("node"));
    // What the caller says wins, as far as it is let through.
    case.config.annotations.insert("a".into(), "caller".into());
    assert_eq!(annotation(&case, "a").as_deref(), Some("node"));
    case.handler.container_annotations = vec!["a".into()];
    assert_eq!(annotation(&case, "a").as_deref(), Some("caller"));
}
