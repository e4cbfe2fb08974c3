//! The mounts that CRI asks for, checked one by one. Pure.

use std::path::{Path, PathBuf};

use proto::cri;

use super::IdMaps;
use crate::error::Error;

/// Files below /proc that may be mounted over: lxcfs and its like (the same list that runc
/// allows). Anything else would hide what the kernel guards (CVE-2015-3631).
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// How errors of image volumes and of recursive read-only mounts begin: the kubelet tells them
/// by their beginning (cri-api, pkg/errors).
const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";
const RRO_UNSUPPORTED: &str = "RROUnsupported";

/// `error` as the kubelet knows it for an image volume.
pub(crate) fn image_volume_failed(target: &Path, error: &Error) -> Error {
    let words = format!("{IMAGE_VOLUME_FAILED}: mount on {:?}: {error}", target.display());
    Error::new(error.kind(), words)
}

/// An image to be mounted as a volume (KEP 4639).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageWish {
    /// Its place among the image volumes of the request.
    pub(crate) number: usize,
    /// Name or id.
    pub(crate) reference: String,
    /// A directory in it; empty: all of it.
    pub(crate) sub_path: String,
}

/// A mount of CRI, checked.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Inside the container: absolute, without `.` and `..`.
    pub(crate) target: PathBuf,
    /// On the host; empty for an image.
    pub(crate) source: PathBuf,
    /// The image whose content it shows.
    pub(crate) image: Option<ImageWish>,
    /// How it takes part in mount events.
    pub(crate) propagation: cri::MountPropagation,
    /// Read only.
    pub(crate) readonly: bool,
    /// And everything below it too.
    pub(crate) recursive: bool,
    /// Its source is to have the container's SELinux context.
    pub(crate) relabel: bool,
    /// Ids of the source, mapped.
    pub(crate) ids: Option<IdMaps>,
    /// What else is forbidden on it and on all below.
    pub(crate) options: Vec<&'static str>,
}

/// What a mount may be asked to forbid (KEP 5855), and the option of the specification for it: with all that is mounted
/// below, where a program could lie just as well.
const MOUNT_OPTIONS: [(&str, &str); 3] = [("noexec", "rnoexec"), ("nodev", "rnodev"), ("nosuid", "rnosuid")];

/// The options of a mount, each once.
fn mount_options(mount: &cri::Mount) -> Result<Vec<&'static str>, Error> {
    let mut options = Vec::new();
    for asked in &mount.mount_options {
        let known = MOUNT_OPTIONS.iter().find(|(name, _)| name == asked);
        let Some((_, option)) = known else {
            return Err(Error::invalid(format!(
                "mount on {:?}: mount_options: {:?} is not possible; noexec, nodev and nosuid are",
                mount.container_path,
                crate::store::index::shown(asked)
            )));
        };
        if !options.contains(option) {
            options.push(*option);
        }
    }
    Ok(options)
}

/// `path` as an absolute path without `.`, `..` and doubled slashes.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// What decides about CRI's mounts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The kernel makes whole trees read only (mount_setattr, Linux 5.12).
    pub(crate) recursive_read_only: bool,
}

/// Checks the mounts that CRI asks for; by depth.
pub(crate) fn wanted(config: &cri::ContainerConfig, rules: Rules) -> Result<Vec<Wanted>, Error> {
    let mut images = 0;
    let mut out: Vec<Wanted> = config
        .mounts
        .iter()
        .map(|m| one(m, &mut images, rules))
        .collect::<Result<_, _>>()?;
    out.sort_by_key(|m| m.target.components().count());
    Ok(out)
}

fn one(mount: &cri::Mount, images: &mut usize, rules: Rules) -> Result<Wanted, Error> {
    let at = |why: &str| Error::invalid(format!("mount on {:?}: {why}", mount.container_path));
    let ids = id_maps(mount).map_err(|e| e.during("mount on", &mount.container_path))?;
    if mount.container_path.is_empty() {
        return Err(at("no container_path"));
    }
    let target = clean(&mount.container_path);
    if target == Path::new("/") {
        return Err(at("the root itself cannot be mounted over"));
    }
    if target.starts_with("/proc") && !PROC_FILES.iter().any(|f| target == Path::new(f)) {
        return Err(at("/proc cannot be mounted over"));
    }
    let image = image(mount, images).map_err(|e| image_volume_failed(&target, &e))?;
    if image.is_none() {
        host_path(mount)?;
    }
    let propagation = mount.propagation();
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(at("recursive_read_only needs readonly"));
        }
        if propagation != cri::MountPropagation::PropagationPrivate {
            return Err(at("recursive_read_only needs private propagation"));
        }
        if !rules.recursive_read_only {
            return Err(Error::unimplemented(format!(
                "{RRO_UNSUPPORTED}: mount on {:?}: this kernel makes no trees read only (Linux 5.12 does)",
                mount.container_path
            )));
        }
    }
    let is_image = image.is_some();
    Ok(Wanted {
        target,
        source: PathBuf::from(&mount.host_path),
        image,
        propagation,
        readonly: mount.readonly,
        recursive: mount.recursive_read_only,
        // An image is mounted with the context.
        relabel: mount.selinux_relabel && !is_image,
        // An image is mounted with the ids of the pod in any case, and nothing is mapped twice.
        ids: ids.filter(|_| !is_image),
        options: mount_options(mount)?,
    })
}

/// The ids of the source, as the container is to see them.
fn id_maps(mount: &cri::Mount) -> Result<Option<IdMaps>, Error> {
    if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(None);
    }
    let list = |what: &str, maps: &[cri::IdMapping]| {
        if maps.is_empty() {
            return Err(Error::invalid(format!(
                "{what} is empty; users and groups are mapped together"
            )));
        }
        maps.iter()
            .map(|m| super::id_map(m.container_id, m.host_id, m.length))
            .collect()
    };
    Ok(Some((
        list("uid_mappings", &mount.uid_mappings)?,
        list("gid_mappings", &mount.gid_mappings)?,
    )))
}

fn host_path(mount: &cri::Mount) -> Result<(), Error> {
    let at = |why: &str| Error::invalid(format!("mount on {:?}: {why}", mount.container_path));
    if mount.host_path.is_empty() {
        return Err(at("no host_path"));
    }
    if !mount.host_path.starts_with('/') {
        return Err(at(&format!("host_path {:?} is not absolute", mount.host_path)));
    }
    Ok(())
}

fn image(mount: &cri::Mount, images: &mut usize) -> Result<Option<ImageWish>, Error> {
    let reference = mount.image.as_ref().map(|i| i.image.as_str()).unwrap_or_default();
    if reference.is_empty() {
        let named = mount.image.as_ref().is_some_and(|i| *i != cri::ImageSpec::default());
        return match () {
            () if named => Err(Error::invalid("the image has no name")),
            () if !mount.image_sub_path.is_empty() => Err(Error::invalid("image_sub_path is set without an image")),
            () => Ok(None),
        };
    }
    let why = if !mount.host_path.is_empty() {
        Some("host_path must be empty where an image is mounted")
    } else if !mount.readonly {
        Some("an image is mounted read only: readonly must be set")
    } else if mount.propagation() != cri::MountPropagation::PropagationPrivate {
        Some("an image's content is nobody else's: propagation must be private")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(Error::invalid(why));
    }
    let number = *images;
    *images += 1;
    Ok(Some(ImageWish {
        number,
        reference: reference.to_owned(),
        sub_path: mount.image_sub_path.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        recursive_read_only: true,
    };

    fn cri_mount(target: &str) -> cri::Mount {
        cri::Mount {
            container_path: target.into(),
            host_path: "/host".into(),
            ..Default::default()
        }
    }

    fn plan(list: Vec<cri::Mount>) -> Result<Vec<Wanted>, Error> {
        let config = cri::ContainerConfig {
            mounts: list,
            ..Default::default()
        };
        wanted(&config, RULES)
    }

    #[test]
    fn proc_and_the_root_are_guarded() {
        for bad in ["/", "/proc", "/proc/sys", "/dev/../proc", "/proc/self", "//proc/./", ""] {
            assert!(plan(vec![cri_mount(bad)]).is_err(), "{bad}");
        }
        assert!(plan(vec![cri_mount("/proc/cpuinfo")]).is_ok());
        assert!(plan(vec![cri_mount("/processes")]).is_ok());
    }

    #[test]
    fn what_is_forbidden_is_forbidden_on_the_whole_tree() {
        let mount = cri::Mount {
            mount_options: ["nosuid", "noexec", "nosuid"].map(str::to_owned).into(),
            ..cri_mount("/x")
        };
        assert_eq!(plan(vec![mount]).unwrap()[0].options, ["rnosuid", "rnoexec"]);
        assert!(plan(vec![cri_mount("/x")]).unwrap()[0].options.is_empty());
    }

    #[test]
    fn nothing_is_dropped_silently() {
        let base = || cri_mount("/x");
        for (mount, kind) in [
            (
                cri::Mount {
                    uid_mappings: vec![cri::IdMapping::default()],
                    ..base()
                },
                spec::Kind::InvalidArgument,
            ),
            (
                cri::Mount {
                    mount_options: vec!["noexec".into(), "exec".into()],
                    ..base()
                },
                spec::Kind::InvalidArgument,
            ),
            (
                cri::Mount {
                    recursive_read_only: true,
                    ..base()
                },
                spec::Kind::InvalidArgument,
            ),
            (
                cri::Mount {
                    host_path: String::new(),
                    ..base()
                },
                spec::Kind::InvalidArgument,
            ),
            (
                cri::Mount {
                    host_path: "relative".into(),
                    ..base()
                },
                spec::Kind::InvalidArgument,
            ),
        ] {
            assert_eq!(plan(vec![mount]).unwrap_err().kind(), kind);
        }
    }

    fn of_image(target: &str) -> cri::Mount {
        cri::Mount {
            host_path: String::new(),
            readonly: true,
            image: Some(cri::ImageSpec {
                image: "i".into(),
                ..Default::default()
            }),
            ..cri_mount(target)
        }
    }

    #[test]
    fn image_volumes_are_numbered_as_they_came() {
        let part = cri::Mount {
            image_sub_path: "etc".into(),
            ..of_image("/b")
        };
        let all = plan(vec![of_image("/a/deep"), cri_mount("/host"), part]).unwrap();
        let number = |target: &str| {
            let found = all.iter().find(|w| w.target == Path::new(target)).unwrap();
            found.image.as_ref().map(|i| (i.number, i.sub_path.as_str()))
        };
        assert_eq!(number("/a/deep"), Some((0, "")));
        assert_eq!(number("/b"), Some((1, "etc")));
        assert_eq!(number("/host"), None);
    }

    #[test]
    fn image_volumes_are_read_only_private_and_have_no_host_path() {
        for bad in [
            cri::Mount {
                readonly: false,
                ..of_image("/x")
            },
            cri::Mount {
                host_path: "/host".into(),
                ..of_image("/x")
            },
            cri::Mount {
                propagation: cri::MountPropagation::PropagationHostToContainer.into(),
                ..of_image("/x")
            },
            cri::Mount {
                image_sub_path: "etc".into(),
                ..cri_mount("/x")
            },
            cri::Mount {
                image: Some(cri::ImageSpec {
                    user_specified_image: "i".into(),
                    ..Default::default()
                }),
                ..of_image("/x")
            },
        ] {
            let error = plan(vec![bad]).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument);
            assert!(error.to_string().starts_with("ImageVolumeMountFailed: "), "{error}");
        }
    }

    #[test]
    fn a_kernel_without_recursive_read_only_is_named_as_the_kubelet_knows_it() {
        let mount = cri::Mount {
            readonly: true,
            recursive_read_only: true,
            ..cri_mount("/x")
        };
        let config = cri::ContainerConfig {
            mounts: vec![mount],
            ..Default::default()
        };
        assert!(wanted(&config, RULES).unwrap()[0].recursive);
        let old = Rules {
            recursive_read_only: false,
        };
        let error = wanted(&config, old).unwrap_err();
        assert!(error.to_string().starts_with("RROUnsupported: "), "{error}");
    }
}
