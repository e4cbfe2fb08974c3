//! Pods in user namespaces, from CRI to the kernel.

use std::os::unix::fs::MetadataExt;

use proto::cri as api;
use proto::cri::NamespaceMode;
use tonic::Code;

use crate::bed::{Bed, Life, container, create, pod, run, start};

const HOST: u32 = 300_000;
const SIZE: u32 = 65_536;

fn map(host_id: u32) -> Vec<api::IdMapping> {
    vec![api::IdMapping {
        host_id,
        container_id: 0,
        length: SIZE,
    }]
}

fn options() -> api::NamespaceOption {
    api::NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(api::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: map(HOST),
            gids: map(HOST),
        }),
        ..Default::default()
    }
}

fn mapped(bed: &Bed, name: &str, options: api::NamespaceOption) -> api::PodSandboxConfig {
    let mut config = pod(bed, name);
    config.linux.as_mut().unwrap().security_context = Some(api::LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
    config
}

fn started(bed: &Bed, life: &Life, pod: &str, name: &str, change: impl FnOnce(&mut api::ContainerConfig)) -> String {
    let mut config = container(bed, name, "exec sleep 1000");
    context(&mut config).namespace_options = Some(options());
    change(&mut config);
    let id = create(life, pod, config).unwrap();
    start(life, &id).unwrap();
    id
}

fn context(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn text(life: &Life, id: &str, script: &str) -> String {
    let out = life.exec(id, script);
    let all = [out.stdout, out.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[test]
fn a_pod_and_its_containers_are_root_inside_and_nobody_outside() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let handlers = life.status(Default::default()).unwrap().runtime_handlers;
    assert!(handlers.iter().all(|h| h.features.unwrap().user_namespaces));
    let pod = run(&life, mapped(&bed, "walled", options()));
    let id = started(&bed, &life, &pod, "c", |_| {});
    assert_eq!(
        text(&life, &id, "id -u; cat /proc/self/uid_map /proc/self/gid_map")
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["0", "0", "300000", "65536", "0", "300000", "65536"]
    );
    let pid = life.container_pid(&id);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t300000\t300000\t300000\t300000"), "{status}");
    // The image is its own, and so is all that it makes: on the host with the ids of the namespace.
    assert_eq!(
        text(&life, &id, "stat -c %u:%g / /bin/sh /etc/passwd"),
        "0:0\n0:0\n0:0\n"
    );
    assert_eq!(
        text(
            &life,
            &id,
            "touch /new && echo more >> /etc/passwd && stat -c %u /new /etc/passwd"
        ),
        "0\n0\n"
    );
    let upper = bed.path("root/snapshots").join(&id).join("upper");
    for file in ["new", "etc/passwd"] {
        assert_eq!(std::fs::metadata(upper.join(file)).unwrap().uid(), HOST, "{file}");
    }
    // What the pod lends to it.
    let files = "/etc/resolv.conf /etc/hostname /etc/hosts /dev/shm /dev/null /dev/pts /proc/1 /sys/fs/cgroup";
    let owners = text(&life, &id, &format!("stat -c %u {files}"));
    assert_eq!(owners, "0\n".repeat(8));
    assert_eq!(
        text(
            &life,
            &id,
            "touch /dev/shm/x; echo x > /etc/hosts; cat /etc/hosts /etc/hostname"
        ),
        "x\nwalled\n"
    );
    // Its root is none on the host.
    let denied = text(&life, &id, "echo 1 > /proc/sys/kernel/printk");
    assert!(denied.contains("Permission denied"), "{denied}");
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn the_answers_repeat_what_was_asked_for() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, mapped(&bed, "echo", options()));
    let request = api::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: true,
    };
    let reply = life.pod_sandbox_status(request).unwrap();
    let linux = reply.status.unwrap().linux.unwrap();
    assert_eq!(linux.namespaces.unwrap().options.unwrap(), options());
    let file = bed.path("state/ns").join(&pod).join("user");
    assert_eq!(life.pod_info(&pod)["userNamespace"], file.to_str().unwrap());
    assert!(file.exists());
    life.remove_pod(&pod);
    assert!(!file.exists());
    bed.assert_clean();
}

#[test]
fn users_groups_and_volumes_have_their_own_ids() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, mapped(&bed, "ids", options()));
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::os::unix::fs::chown(&volume, Some(1000), Some(2000)).unwrap();
    let id = started(&bed, &life, &pod, "app", |c| {
        context(c).run_as_username = "app".into();
        context(c).supplemental_groups = vec![77];
        c.mounts = vec![api::Mount {
            container_path: "/data".into(),
            host_path: volume.display().to_string(),
            uid_mappings: map(HOST),
            gid_mappings: map(HOST),
            ..Default::default()
        }];
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
    assert_eq!(
        text(&life, &id, "touch /data/mine; stat -c %u /data /data/mine"),
        "1000\n1000\n"
    );
    // The filesystem has the container's ids: another pod, with other ids of the host, sees the same.
    assert_eq!(std::fs::metadata(volume.join("mine")).unwrap().uid(), 1000);
    // A user that the image does not know has an entry in a passwd of its own.
    let stranger = started(&bed, &life, &pod, "stranger", |c| {
        context(c).run_as_user = Some(api::Int64Value { value: 4321 });
    });
    assert!(text(&life, &stranger, "cat /etc/passwd").contains("4321:x:4321:"));
    assert_eq!(
        text(&life, &stranger, "stat -c %u /etc/passwd; echo out > /dev/stdout"),
        "0\nout\n"
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_user_beyond_the_map_is_refused() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, mapped(&bed, "beyond", options()));
    let mut config = container(&bed, "c", "true");
    context(&mut config).run_as_user = Some(api::Int64Value { value: i64::from(SIZE) });
    let error = create(&life, &pod, config).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("65536 is not mapped"), "{error}");
    // Another namespace than the pod's is none that a container could have.
    let mut config = container(&bed, "d", "true");
    let mut other = options();
    other.userns_options.as_mut().unwrap().uids = map(HOST + 1);
    context(&mut config).namespace_options = Some(other);
    let error = create(&life, &pod, config).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_filesystem_without_idmapped_mounts_is_named() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, mapped(&bed, "nfs", options()));
    let mut config = container(&bed, "c", "true");
    config.mounts = vec![api::Mount {
        container_path: "/data".into(),
        host_path: "/proc/sys/net".into(),
        uid_mappings: map(HOST),
        gid_mappings: map(HOST),
        ..Default::default()
    }];
    let error = create(&life, &pod, config).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let wanted = "mounts[/data]: source /proc/sys/net: procfs does not support idmapped mounts";
    assert!(error.message().contains(wanted), "{error}");
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn bad_mappings_are_refused_and_leave_nothing() {
    let bed = Bed::new();
    let life = bed.start();
    let bad = |change: &dyn Fn(&mut api::NamespaceOption)| {
        let mut options = options();
        change(&mut options);
        let request = api::RunPodSandboxRequest {
            config: Some(mapped(&bed, "bad", options)),
            runtime_handler: String::new(),
        };
        life.run_pod_sandbox(request).unwrap_err().code()
    };
    let user =
        |o: &mut api::NamespaceOption, f: &dyn Fn(&mut api::UserNamespace)| f(o.userns_options.as_mut().unwrap());
    let codes = [
        bad(&|o| user(o, &|u| u.mode = NamespaceMode::Container.into())),
        bad(&|o| user(o, &|u| u.mode = NamespaceMode::Target.into())),
        bad(&|o| user(o, &|u| u.mode = NamespaceMode::Node.into())),
        bad(&|o| user(o, &|u| u.uids = vec![])),
        bad(&|o| user(o, &|u| u.gids[0].container_id = 1)),
        bad(&|o| user(o, &|u| u.uids[0].host_id = 0)),
        bad(&|o| user(o, &|u| u.uids[0].length = 7)),
        bad(&|o| o.ipc = NamespaceMode::Node.into()),
        bad(&|o| o.pid = NamespaceMode::Node.into()),
    ];
    assert_eq!(codes, [Code::InvalidArgument; 9]);
    bed.assert_clean();
}

#[test]
fn it_outlives_the_daemon() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, mapped(&bed, "restart", options()));
    let id = started(&bed, &life, &pod, "c", |_| {});
    let before = text(&life, &id, "readlink /proc/self/ns/user");
    drop(life);
    let life = bed.start();
    assert_eq!(
        text(&life, &id, "readlink /proc/self/ns/user; id -u"),
        format!("{before}0\n")
    );
    let second = started(&bed, &life, &pod, "second", |_| {});
    assert_eq!(text(&life, &second, "readlink /proc/self/ns/user"), before);
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_shared_pid_namespace_and_the_hosts_network_go_with_it() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let mut shared = options();
    shared.pid = NamespaceMode::Pod.into();
    let pod = run(&life, mapped(&bed, "shared", shared.clone()));
    let id = started(&bed, &life, &pod, "c", |c| context(c).namespace_options = Some(shared));
    // The init stays undumpable: nobody of the pod owns what procfs says about it.
    assert_eq!(
        text(&life, &id, "cat /proc/1/comm; stat -c %u /proc/1/comm; id -u"),
        "bulkhead-init\n65534\n0\n"
    );
    life.remove_pod(&pod);
    let mut host = options();
    host.network = NamespaceMode::Node.into();
    let pod = run(&life, mapped(&bed, "host", host.clone()));
    let id = started(&bed, &life, &pod, "c", |c| context(c).namespace_options = Some(host));
    assert_eq!(
        text(&life, &id, "ls -d /sys/class/net/lo; id -u"),
        "/sys/class/net/lo\n0\n"
    );
    let refused = text(
        &life,
        &id,
        "touch /sys/fs/cgroup/x; hostname changed; echo 1 > /proc/sys/net/ipv4/ip_forward",
    );
    assert!(
        refused.contains("Read-only") && refused.contains("ip_forward: Permission denied"),
        "{refused}"
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}
