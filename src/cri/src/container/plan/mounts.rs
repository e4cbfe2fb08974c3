//! The mounts of a container, in order. Pure: CRI's were checked before (`wanted`), and that
//! sources exist was seen to (`container/sources.rs`).
//!
//! Order: by depth, so that nothing is hidden by what comes after it (a volume on `/etc` must not
//! hide `/etc/resolv.conf`); among equals the runtime's own, the image's volumes, then CRI's, as
//! they came.
//! A CRI mount on a path replaces the runtime's mount there; one on `/dev`, `/sys` or `/run` also
//! removes the runtime's mounts below it.

use std::path::{Path, PathBuf};

use proto::cri;
use spec::runtime::{Mount, MountBuilder};

use super::init_system;
use super::wanted::{Wanted, clean};
use crate::error::Error;

/// What the pod gives each container, as paths on the host.
#[derive(Debug, Clone)]
pub(crate) struct PodFiles {
    /// The pod's `/dev/shm`, or the host's.
    pub(crate) shm: PathBuf,
    /// `/etc/resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
    /// `/etc/hostname`.
    pub(crate) hostname: PathBuf,
    /// `/etc/hosts`, for callers that bring none.
    pub(crate) hosts: PathBuf,
}

fn options(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

pub(super) fn mount(target: &Path, typ: &str, source: &Path, opts: &[&str]) -> Result<Mount, Error> {
    MountBuilder::default()
        .destination(target)
        .typ(typ)
        .source(source)
        .options(options(opts))
        .build()
        .map_err(|e| Error::invalid(format!("mount on {}: {e}", target.display())))
}

/// What decides about the runtime's own mounts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// `/sys` and the cgroups may be written.
    pub(crate) privileged: bool,
    /// The container's own cgroup may be written.
    pub(crate) cgroup_writable: bool,
    /// The container's root is read only, and so are the pod's files in `/etc`.
    pub(crate) readonly_rootfs: bool,
    /// The program is an init system, which has directories of its own.
    pub(crate) init_system: bool,
    /// `/sys` is the host's, read only: in a user namespace the kernel gives nobody a new one of a network namespace that
    /// is not its own.
    pub(crate) bind_sys: bool,
}

fn own(files: &PodFiles, mode: Mode) -> Result<Vec<Mount>, Error> {
    let access = |writable: bool| if writable { "rw" } else { "ro" };
    let sys = access(mode.privileged);
    let cgroup = access(mode.privileged || mode.cgroup_writable);
    let etc: &[&str] = if mode.readonly_rootfs {
        &["bind", "rprivate", "ro"]
    } else {
        &["bind", "rprivate", "rw"]
    };
    let p = Path::new;
    let mut all = vec![
        mount(p("/proc"), "proc", p("proc"), &["nosuid", "noexec", "nodev"])?,
        mount(
            p("/dev"),
            "tmpfs",
            p("tmpfs"),
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            p("/dev/pts"),
            "devpts",
            p("devpts"),
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount(p("/dev/mqueue"), "mqueue", p("mqueue"), &["nosuid", "noexec", "nodev"])?,
        if mode.bind_sys {
            let options = &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"];
            mount(p("/sys"), "bind", p("/sys"), options)?
        } else {
            mount(p("/sys"), "sysfs", p("sysfs"), &["nosuid", "noexec", "nodev", sys])?
        },
        mount(
            p("/sys/fs/cgroup"),
            "cgroup",
            p("cgroup"),
            &["nosuid", "noexec", "nodev", "relatime", cgroup],
        )?,
        mount(
            p("/dev/shm"),
            "bind",
            &files.shm,
            &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"],
        )?,
        mount(p("/etc/resolv.conf"), "bind", &files.resolv_conf, etc)?,
        mount(p("/etc/hostname"), "bind", &files.hostname, etc)?,
        mount(p("/etc/hosts"), "bind", &files.hosts, etc)?,
    ];
    if mode.init_system {
        all.extend(init_system::mounts()?);
    }
    Ok(all)
}

/// The mount of the container's own `/etc/passwd`.
pub(crate) fn account_file(source: &Path) -> Result<Mount, Error> {
    let options = &["bind", "rprivate", "rw", "nosuid", "nodev", "noexec"];
    mount(Path::new(super::users::PASSWD), "bind", source, options)
}

/// The file that says the time zone.
pub(crate) const LOCALTIME: &str = "/etc/localtime";

/// The mount of the time zone.
pub(crate) fn localtime(source: &Path) -> Result<Mount, Error> {
    let options = &["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
    mount(Path::new(LOCALTIME), "bind", source, options)
}

/// A directory of the container's own, for a VOLUME line of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Inside the container.
    pub(crate) target: PathBuf,
    /// On the host.
    pub(crate) source: PathBuf,
}

/// Where the image's VOLUME lines want a directory, by depth, and which lines get none because
/// the runtime's own mounts are there. A line on or below a mount of CRI gets none either: what
/// is written there is to stay in the caller's volume, not to vanish with the container.
pub(crate) fn volumes(lines: &[String], wanted: &[Wanted]) -> (Vec<PathBuf>, Vec<String>) {
    const OWN: [&str; 6] = [
        "/proc",
        "/sys",
        "/dev",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
    ];
    let (mut targets, mut refused) = (Vec::new(), Vec::new());
    for line in lines {
        let target = clean(line);
        if target == Path::new("/") || OWN.iter().any(|own| target.starts_with(own)) {
            refused.push(line.clone());
        } else if !wanted.iter().any(|w| target.starts_with(&w.target)) && !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets.sort_by_key(|t| t.components().count());
    (targets, refused)
}

/// All mounts in order, and the propagation that the root needs for them.
pub(crate) fn mounts(
    wanted: &[Wanted],
    volumes: &[Volume],
    files: &PodFiles,
    mode: Mode,
) -> Result<(Vec<Mount>, Option<&'static str>), Error> {
    let mut all = own(files, mode)?;
    for want in wanted {
        all.retain(|own| {
            let target = own.destination();
            let tree = ["/dev", "/sys", "/run"]
                .iter()
                .any(|tree| want.target == Path::new(tree));
            *target != want.target && !(tree && target.starts_with(&want.target))
        });
    }
    for volume in volumes {
        all.retain(|own| *own.destination() != volume.target);
        let options = &["rbind", "rprivate", "rw"];
        all.push(mount(&volume.target, "bind", &volume.source, options)?);
    }
    let mut root = None;
    for want in wanted {
        let propagation = match want.propagation {
            cri::MountPropagation::PropagationPrivate => "rprivate",
            cri::MountPropagation::PropagationHostToContainer => {
                root = root.or(Some("rslave"));
                "rslave"
            }
            cri::MountPropagation::PropagationBidirectional => {
                root = Some("rshared");
                "rshared"
            }
        };
        let access = match (want.readonly, want.recursive) {
            (false, _) => "rw",
            (true, false) => "ro",
            (true, true) => "rro",
        };
        let options = [&["rbind", propagation, access], &want.options[..]].concat();
        let mut made = mount(&want.target, "bind", &want.source, &options)?;
        if let Some((uids, gids)) = want.ids.clone() {
            made.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
        }
        all.push(made);
    }
    all.sort_by_key(|m| m.destination().components().count());
    Ok((all, root))
}

#[cfg(test)]
mod tests {
    use super::super::wanted::{Rules, wanted};
    use super::*;

    const RULES: Rules = Rules {
        recursive_read_only: true,
    };

    fn files() -> PodFiles {
        PodFiles {
            shm: "/s/shm".into(),
            resolv_conf: "/s/resolv.conf".into(),
            hostname: "/s/hostname".into(),
            hosts: "/s/hosts".into(),
        }
    }

    fn cri_mount(target: &str) -> cri::Mount {
        cri::Mount {
            container_path: target.into(),
            host_path: "/host".into(),
            ..Default::default()
        }
    }

    fn plan(list: Vec<cri::Mount>) -> Result<Vec<Mount>, Error> {
        let config = cri::ContainerConfig {
            mounts: list,
            ..Default::default()
        };
        mounts(&wanted(&config, RULES)?, &[], &files(), Mode::default()).map(|(all, _)| all)
    }

    fn targets(list: Vec<cri::Mount>) -> Vec<String> {
        plan(list)
            .unwrap()
            .iter()
            .map(|m| m.destination().display().to_string())
            .collect()
    }

    #[test]
    fn cri_replaces_the_runtimes_mount_and_sorts_by_depth() {
        let got = targets(vec![
            cri_mount("/data/a/b"),
            cri_mount("/data"),
            cri_mount("/etc//hosts/"),
        ]);
        assert_eq!(got.iter().filter(|t| *t == "/etc/hosts").count(), 1);
        let at = |target: &str| got.iter().position(|t| t == target).unwrap();
        assert!(
            at("/data") < at("/etc/hosts") && at("/etc/hosts") < at("/data/a/b"),
            "{got:?}"
        );
    }

    #[test]
    fn a_mount_on_etc_does_not_hide_the_pods_files() {
        let got = targets(vec![cri_mount("/etc")]);
        let at = |target: &str| got.iter().position(|t| t == target).unwrap();
        for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
            assert!(at("/etc") < at(file), "{got:?}");
        }
        assert!(
            at("/dev") < at("/dev/pts") && at("/sys") < at("/sys/fs/cgroup"),
            "{got:?}"
        );
    }

    #[test]
    fn a_mount_on_dev_takes_the_tree() {
        let got = targets(vec![cri_mount("/dev")]);
        assert!(!got.iter().any(|t| t.starts_with("/dev/")), "{got:?}");
        assert!(got.contains(&"/sys/fs/cgroup".to_owned()));
    }

    #[test]
    fn volumes_of_the_image_give_way_to_the_caller_and_to_the_runtime() {
        let config = cri::ContainerConfig {
            mounts: vec![cri_mount("/data/sub"), cri_mount("/db")],
            ..Default::default()
        };
        let wanted = wanted(&config, RULES).unwrap();
        let lines = [
            "/db/files",
            "/data",
            "/db/",
            "/a/b/c",
            "/a//b",
            "/a/./b",
            "/",
            "/proc/x",
            "/sys/fs/cgroup",
            "/etc/hosts",
            "/dbs",
        ]
        .map(str::to_owned);
        let (targets, refused) = volumes(&lines, &wanted);
        assert_eq!(targets, ["/data", "/dbs", "/a/b", "/a/b/c"].map(PathBuf::from));
        assert_eq!(refused, ["/", "/proc/x", "/sys/fs/cgroup", "/etc/hosts"]);
        let made: Vec<Volume> = targets
            .into_iter()
            .map(|target| Volume {
                target,
                source: "/v".into(),
            })
            .collect();
        let (all, _) = mounts(&wanted, &made, &files(), Mode::default()).unwrap();
        let order: Vec<_> = all.iter().map(|m| m.destination().display().to_string()).collect();
        let at = |target: &str| order.iter().position(|t| t == target).unwrap();
        assert!(at("/data") < at("/data/sub") && at("/a/b") < at("/a/b/c"), "{order:?}");
        assert_eq!(order.iter().filter(|t| *t == "/db").count(), 1);
    }

    #[test]
    fn propagation_and_access_become_options() {
        let shared = cri::Mount {
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            readonly: true,
            ..cri_mount("/x")
        };
        let config = cri::ContainerConfig {
            mounts: vec![shared],
            ..Default::default()
        };
        let (all, root) = mounts(&wanted(&config, RULES).unwrap(), &[], &files(), Mode::default()).unwrap();
        assert_eq!(root, Some("rshared"));
        let x = all.iter().find(|m| m.destination() == Path::new("/x")).unwrap();
        assert_eq!(x.options().as_ref().unwrap()[..], ["rbind", "rshared", "ro"]);
    }
}
