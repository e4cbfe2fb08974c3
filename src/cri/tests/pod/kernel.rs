//! What a container finds inside: identity, namespaces, mounts, limits, fences.

use proto::cri as api;
use proto::cri::NamespaceMode;

use crate::bed::{Bed, Life, container, create, pod, run, start};

fn context(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

/// A pod that may have privileged containers.
fn privileged(mut config: api::PodSandboxConfig) -> api::PodSandboxConfig {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    config
}

/// A running container whose configuration was changed.
fn with(bed: &Bed, life: &Life, pod: &str, name: &str, change: impl FnOnce(&mut api::ContainerConfig)) -> String {
    let mut config = container(bed, name, "exec sleep 1000");
    change(&mut config);
    let id = create(life, pod, config).unwrap();
    start(life, &id).unwrap();
    id
}

fn text(life: &Life, id: &str, script: &str) -> String {
    let out = life.exec(id, script);
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn identity_and_capabilities() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "who"));
    let id = with(&bed, &life, &pod, "app", |c| {
        context(c).run_as_username = "app".into();
        context(c).supplemental_groups = vec![77];
        context(c).no_new_privs = true;
    });
    assert_eq!(
        text(&life, &id, "id -u; id -g; id -G; echo $HOME"),
        "1000\n1001\n1001 50 77\n/home/app\n"
    );
    let user = life.state(&id).user.unwrap().linux.unwrap();
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (1000, 1001, vec![1001, 50, 77])
    );
    let status = text(&life, &id, "cat /proc/self/status");
    assert!(
        status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"),
        "{status}"
    );
    let root = with(&bed, &life, &pod, "root", |c| {
        context(c).capabilities = Some(api::Capability {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["CHOWN".into()],
            ..Default::default()
        });
        context(c).seccomp = Some(api::SecurityProfile {
            profile_type: api::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
    });
    let status = text(&life, &root, "cat /proc/self/status");
    for line in [
        "CapEff:\t0000000000000001",
        "CapBnd:\t0000000000000001",
        "CapInh:\t0000000000000000",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn mounts_and_a_read_only_root() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "mounts"));
    std::fs::create_dir(bed.path("volume")).unwrap();
    std::fs::write(bed.path("volume/file"), "from the host\n").unwrap();
    let mount = |target: &str, host: &str, readonly| api::Mount {
        container_path: target.into(),
        host_path: bed.path(host).display().to_string(),
        readonly,
        ..Default::default()
    };
    let id = with(&bed, &life, &pod, "c", |c| {
        context(c).readonly_rootfs = true;
        context(c).masked_paths = vec!["/proc/cmdline".into(), "/proc/keys".into()];
        context(c).readonly_paths = vec!["/proc/sys".into()];
        c.mounts = vec![
            mount("/data", "volume", false),
            mount("/ro", "volume", true),
            mount("/new", "made/here", false),
        ];
    });
    assert_eq!(
        text(&life, &id, "cat /data/file /ro/file"),
        "from the host\nfrom the host\n"
    );
    assert!(text(&life, &id, "touch /x").contains("Read-only"));
    assert!(text(&life, &id, "touch /ro/x").contains("Read-only"));
    assert!(text(&life, &id, "echo 1 > /proc/sys/kernel/domainname").contains("Read-only"));
    assert_eq!(text(&life, &id, "cat /proc/cmdline"), "");
    assert_eq!(
        text(
            &life,
            &id,
            "echo back > /data/back; touch /dev/shm/a /new/b; ls /dev/shm"
        ),
        "a\n"
    );
    assert_eq!(std::fs::read_to_string(bed.path("volume/back")).unwrap(), "back\n");
    assert!(bed.path("made/here/b").exists());
    // /dev/shm is the pod's; status echoes the mounts as they were sent.
    let other = with(&bed, &life, &pod, "other", |_| {});
    assert_eq!(text(&life, &other, "ls /dev/shm"), "a\n");
    assert_eq!(life.state(&id).mounts.len(), 3);
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn volumes_of_the_image_and_a_user_without_an_entry() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "volumes"));
    let one = with(&bed, &life, &pod, "one", |c| {
        context(c).readonly_rootfs = true;
        context(c).run_as_user = Some(api::Int64Value { value: 4321 });
    });
    let two = with(&bed, &life, &pod, "two", |c| context(c).readonly_rootfs = true);
    assert_eq!(
        text(&life, &two, "cat /vol/file; echo changed > /vol/file; cat /vol/file"),
        "of the image\nchanged\n"
    );
    // Each has its own, and CRI is told of none.
    assert_eq!(text(&life, &one, "cat /vol/file"), "of the image\n");
    assert!(life.state(&two).mounts.is_empty());
    assert!(text(&life, &two, "touch /x").contains("Read-only"));
    assert_eq!(text(&life, &one, "id -un; id -u; echo $HOME"), "4321\n4321\n/\n");
    assert!(text(&life, &one, "echo x >> /etc/passwd").contains("ermission denied"));
    assert!(!text(&life, &two, "cat /etc/passwd").contains("4321"));
    // A volume of the caller's in its place.
    std::fs::create_dir(bed.path("mine")).unwrap();
    let mine = with(&bed, &life, &pod, "mine", |c| {
        c.mounts = vec![api::Mount {
            container_path: "/vol".into(),
            host_path: bed.path("mine").display().to_string(),
            ..Default::default()
        }];
    });
    assert_eq!(text(&life, &mine, "ls /vol; touch /vol/new"), "");
    assert!(bed.path("mine/new").exists());
    life.remove_pod(&pod);
    bed.assert_clean();
}

/// A mount on the host that goes with the test.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: std::path::PathBuf, propagation: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Self(at);
        mounted.command("mount", &["-t", "tmpfs", "bulkhead-test"]);
        mounted.command("mount", &[propagation]);
        mounted
    }

    fn command(&self, program: &str, args: &[&str]) {
        let done = std::process::Command::new(program).args(args).arg(&self.0).status();
        assert!(done.unwrap().success(), "{program} {args:?} {}", self.0.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.command("umount", &["--lazy"]);
    }
}

#[test]
fn mounts_of_the_host_arrive_and_those_of_the_container_go_out() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, privileged(pod(&bed, "spread")));
    let shared = Mounted::tmpfs(bed.path("shared"), "--make-shared");
    std::fs::create_dir_all(bed.path("shared/out")).unwrap();
    // A link that lies on a private mount and leads to the shared one.
    std::os::unix::fs::symlink(&shared.0, bed.path("link")).unwrap();
    let private = Mounted::tmpfs(bed.path("private"), "--make-private");
    let wish = |host: &str, propagation: api::MountPropagation| {
        let mut config = container(&bed, &format!("{host}-{propagation:?}"), "exec sleep 1000");
        context(&mut config).privileged = true;
        config.mounts = vec![api::Mount {
            container_path: "/at".into(),
            host_path: bed.path(host).display().to_string(),
            propagation: propagation.into(),
            ..Default::default()
        }];
        create(&life, &pod, config)
    };
    use api::MountPropagation::{
        PropagationBidirectional as Both, PropagationHostToContainer as In, PropagationPrivate as Not,
    };
    for propagation in [In, Both] {
        let error = wish("private", propagation).unwrap_err();
        assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("mount --make-rshared"), "{error}");
    }
    let [both, only, none] = [Both, In, Not].map(|propagation| {
        let id = wish("link", propagation).unwrap();
        start(&life, &id).unwrap();
        id
    });
    let arrived = Mounted::tmpfs(bed.path("shared/in"), "--make-private");
    std::fs::write(bed.path("shared/in/file"), "").unwrap();
    assert_eq!(text(&life, &both, "ls /at/in"), "file\n");
    assert_eq!(text(&life, &only, "ls /at/in"), "file\n");
    assert_eq!(text(&life, &none, "ls /at/in"), "");
    let script = |name: &str| format!("mount -t tmpfs none /at/out && touch /at/out/{name}");
    text(&life, &only, &script("only"));
    assert!(!bed.path("shared/out/only").exists());
    text(&life, &both, &script("both"));
    assert!(bed.path("shared/out/both").exists());
    drop(arrived);
    life.remove_pod(&pod);
    // It is the host's now, and stays when the container goes.
    drop(Mounted(bed.path("shared/out")));
    drop((shared, private));
    bed.assert_clean();
}

fn modes(config: &mut api::PodSandboxConfig, network: NamespaceMode, pid: NamespaceMode) {
    let options = api::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ..Default::default()
    };
    config.linux.as_mut().unwrap().security_context = Some(api::LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
}

#[test]
fn one_pid_namespace_for_all() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let mut config = pod(&bed, "shared");
    modes(&mut config, NamespaceMode::Pod, NamespaceMode::Pod);
    let pod = run(&life, config);
    let one = with(&bed, &life, &pod, "one", |c| {
        c.command = vec!["/bin/sleep".into(), "1234".into()]
    });
    let two = with(&bed, &life, &pod, "two", |_| {});
    let seen = text(&life, &two, "for p in /proc/[0-9]*; do cat $p/cmdline; echo; done");
    assert!(seen.contains("1234"), "{seen:?}");
    assert!(text(&life, &two, "echo $$").trim().parse::<u32>().unwrap() > 1);
    // An orphan is reaped by the pod's init.
    text(&life, &one, "(sleep 0.2 &) ; true");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let states = text(&life, &two, "cat /proc/[0-9]*/stat");
    assert!(!states.contains(") Z "), "{states}");
    // A container of its own stays alone.
    drop(life);
    let life = bed.start();
    assert!(text(&life, &two, "for p in /proc/[0-9]*; do cat $p/cmdline; echo; done").contains("1234"));
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn host_network_is_the_hosts() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let mut config = pod(&bed, "host");
    modes(&mut config, NamespaceMode::Node, NamespaceMode::Container);
    let pod = run(&life, config);
    let id = with(&bed, &life, &pod, "c", |_| {});
    let link = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(
        text(&life, &id, "ls -l /proc/self/ns/net")
            .trim()
            .rsplit(' ')
            .next()
            .unwrap(),
        link
    );
    let request = api::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = life.pod_sandbox_status(request).unwrap().status.unwrap();
    assert_eq!(status.network.unwrap().ip, "");
    assert_eq!(
        status.linux.unwrap().namespaces.unwrap().options.unwrap().network(),
        NamespaceMode::Node
    );
    assert!(bed.cni_calls(&pod).is_empty());
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn limits_are_set_and_an_oom_is_told() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "limits"));
    let limited = |c: &mut api::ContainerConfig| {
        c.linux.as_mut().unwrap().resources = Some(api::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            cpu_shares: 512,
            ..Default::default()
        });
    };
    let id = with(&bed, &life, &pod, "lives", limited);
    let stats = life
        .container_stats(api::ContainerStatsRequest { container_id: id })
        .unwrap()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    let available = memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value;
    assert_eq!(available, 32 << 20);
    // A string that doubles until the cgroup's limit is met by the first process.
    let dies = with(&bed, &life, &pod, "dies", |c| {
        limited(c);
        c.command = vec![
            "/bin/sh".into(),
            "-c".into(),
            "x=0123456789; while :; do x=$x$x; done".into(),
        ];
    });
    let status = life.wait_exit(&dies);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled"),
        "{status:?}"
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn privileged_and_devices() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, privileged(pod(&bed, "devices")));
    let id = with(&bed, &life, &pod, "privileged", |c| context(c).privileged = true);
    assert_eq!(
        text(&life, &id, "mount -t tmpfs none /tmp && echo mounted"),
        "mounted\n"
    );
    let plain = with(&bed, &life, &pod, "plain", |c| {
        c.devices = vec![api::Device {
            container_path: "/dev/kmsg-here".into(),
            host_path: "/dev/kmsg".into(),
            permissions: "r".into(),
        }];
    });
    assert!(text(&life, &plain, "mount -t tmpfs none /tmp").contains("denied"));
    let listed = text(&life, &plain, "ls -l /dev/kmsg-here");
    assert!(listed.starts_with('c') && listed.contains("1, 11"), "{listed}");
    assert_ne!(life.exec(&plain, "echo x > /dev/kmsg-here").exit_code, 0);
    life.remove_pod(&pod);
    bed.assert_clean();
}
