//! A pod's user namespace: what CRI asks for, checked; and whether this node can.

use std::path::Path;

use image::IdShift;
use proto::cri::{self, NamespaceMode};
use proto::monitor::{IdMapping, Pin};

use super::files;
use crate::error::Error;
use crate::monitor::Spawner;
use crate::store::records::SandboxRecord;

/// The ids of the pod, `IdShift::NONE` without a user namespace. `lowest` is the first id of the host that may be given
/// away: a range that holds the host's own users would make the wall a door.
pub(crate) fn shift(options: Option<&cri::NamespaceOption>, lowest: u32) -> Result<IdShift, Error> {
    let Some(user) = options.and_then(|o| o.userns_options.as_ref()) else {
        return Ok(IdShift::NONE);
    };
    match user.mode() {
        NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => return Ok(IdShift::NONE),
        NamespaceMode::Node => {
            return Err(Error::invalid(
                "userns_options: mode NODE is the host's user namespace, which takes no mappings",
            ));
        }
        NamespaceMode::Pod => {}
        other => {
            return Err(Error::invalid(format!(
                "userns_options: mode {} is not possible; POD and NODE are",
                other.as_str_name()
            )));
        }
    }
    let (uid, gid) = (one("uids", &user.uids, lowest)?, one("gids", &user.gids, lowest)?);
    if uid.length != gid.length {
        return Err(Error::invalid(format!(
            "userns_options: {} uids and {} gids are mapped; both must be as many",
            uid.length, gid.length
        )));
    }
    Ok(IdShift {
        uid: uid.host_id,
        gid: gid.host_id,
        size: uid.length,
    })
}

fn one(what: &str, list: &[cri::IdMapping], lowest: u32) -> Result<cri::IdMapping, Error> {
    let [map] = list else {
        return Err(Error::invalid(format!(
            "userns_options: {what} has {} mappings; exactly one is possible",
            list.len()
        )));
    };
    let at = |why: String| Error::invalid(format!("userns_options: {what}: {why}"));
    if map.container_id != 0 {
        return Err(at(format!(
            "container id 0 is not mapped, the first is {}",
            map.container_id
        )));
    }
    if map.length == 0 || map.host_id.checked_add(map.length).is_none() {
        return Err(at(format!(
            "{} ids from {} on are none, or end above 4294967295",
            map.length, map.host_id
        )));
    }
    if map.host_id < lowest {
        return Err(at(format!(
            "host id {} is below {lowest}, the lowest that pods may have (runtime.userns_min_host_id)",
            map.host_id
        )));
    }
    Ok(*map)
}

/// Whether there is one.
pub(crate) fn is_mapped(shift: IdShift) -> bool {
    shift != IdShift::NONE
}

/// A container is in its pod's user namespace: what it asks for must be that, or nothing.
pub(crate) fn check_container(
    container: Option<&cri::NamespaceOption>,
    pod: Option<&cri::NamespaceOption>,
) -> Result<(), Error> {
    let asked = |o: Option<&cri::NamespaceOption>| o.and_then(|o| o.userns_options.clone());
    let (wanted, has) = (asked(container), asked(pod));
    // NODE in full and nothing said are the same.
    let is_host = |u: &cri::UserNamespace| u.mode() == NamespaceMode::Node;
    let same = match (&wanted, &has) {
        (None, _) => true,
        (Some(wanted), None) => is_host(wanted),
        (Some(wanted), Some(has)) => wanted == has || is_host(wanted) && is_host(has),
    };
    if same {
        return Ok(());
    }
    Err(Error::invalid(
        "userns_options of the container are not those of its pod: they share one user namespace",
    ))
}

/// The one mapping of the wire.
pub(crate) fn mapping(host: u32, shift: IdShift) -> Vec<IdMapping> {
    if !is_mapped(shift) {
        return vec![];
    }
    vec![IdMapping {
        container_id: 0,
        host_id: host,
        size: shift.size,
    }]
}

/// Whether pods can have one here: asked of the kernel, not of its version. Makes one, maps a mount of `layers` with it
/// and lets go. The reason, where not. Where `copies` are made of layers that no mount can map, the answer is why.
pub(crate) async fn probe(
    spawner: &std::sync::Arc<Spawner>,
    dir: &Path,
    (layers, copies): (&Path, bool),
) -> Result<Option<Error>, Error> {
    let file = dir.join(format!("probe-{}", std::process::id()));
    let shift = IdShift {
        uid: 65_536,
        gid: 65_536,
        size: 65_536,
    };
    let order = Pin {
        user: file.display().to_string(),
        uid_mappings: mapping(shift.uid, shift),
        gid_mappings: mapping(shift.gid, shift),
        ..Pin::default()
    };
    let made = spawner.pin(order).await;
    let layers = layers.to_owned();
    crate::blocking(move || {
        let mapped = made.map(|()| idmaps(&file, &layers));
        let gone = files::unmount(&file).and_then(|()| files::unlink(&file));
        let copied = match mapped? {
            Err(error) if !copies => return Err(error),
            mapped => mapped.err(),
        };
        gone.map(|()| copied)
    })
    .await
}

fn idmaps(file: &Path, layers: &Path) -> Result<(), Error> {
    use std::os::fd::AsFd;
    let namespace = open(file)?;
    sys::mount::open_tree(rustix::fs::CWD, layers, false)
        .and_then(|tree| sys::mount::set_idmap(tree.as_fd(), false, namespace.as_fd()))
        .map_err(|e| Error::at("make an idmapped mount of", layers.display(), &e))
}

/// The pinned namespace.
pub(crate) fn open(file: &Path) -> Result<std::os::fd::OwnedFd, Error> {
    sys::ns::open(file).map_err(|e| Error::at("open the user namespace", file.display(), &e))
}

/// The one of a pod, if it has one.
pub(crate) fn open_of(pod: &SandboxRecord) -> Result<Option<std::os::fd::OwnedFd>, Error> {
    let file = Path::new(&pod.userns);
    (!pod.userns.is_empty()).then(|| open(file)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping {
            host_id,
            container_id,
            length,
        }
    }

    fn options(mode: NamespaceMode, uids: Vec<cri::IdMapping>, gids: Vec<cri::IdMapping>) -> cri::NamespaceOption {
        cri::NamespaceOption {
            userns_options: Some(cri::UserNamespace {
                mode: mode.into(),
                uids,
                gids,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn one_mapping_each_of_equal_length() {
        let good = options(NamespaceMode::Pod, vec![map(0, 1000, 100)], vec![map(0, 7000, 100)]);
        let wanted = IdShift {
            uid: 1000,
            gid: 7000,
            size: 100,
        };
        assert_eq!(shift(Some(&good), 1).unwrap(), wanted);
        assert!(shift(Some(&good), 1001).is_err());
        assert_eq!(shift(None, 1).unwrap(), IdShift::NONE);
        let node = options(NamespaceMode::Node, vec![], vec![]);
        assert_eq!(shift(Some(&node), 1).unwrap(), IdShift::NONE);
    }

    #[test]
    fn what_would_be_no_wall_is_refused() {
        let good = || vec![map(0, 1000, 100)];
        for bad in [
            vec![],
            vec![map(0, 1000, 100), map(100, 2000, 100)],
            vec![map(1, 1000, 100)],
            vec![map(0, 0, 100)],
            vec![map(0, 1000, 0)],
            vec![map(0, 1000, 99)],
            vec![map(0, u32::MAX - 1, 100)],
            vec![map(0, 1000, u32::MAX)],
        ] {
            for (uids, gids) in [(bad.clone(), good()), (good(), bad.clone())] {
                let error = shift(Some(&options(NamespaceMode::Pod, uids, gids)), 1).unwrap_err();
                assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{bad:?}");
            }
        }
        for mode in [NamespaceMode::Container, NamespaceMode::Target, NamespaceMode::Node] {
            assert!(shift(Some(&options(mode, good(), good())), 1).is_err(), "{mode:?}");
        }
    }

    #[test]
    fn a_container_has_its_pods() {
        let pod = options(NamespaceMode::Pod, vec![map(0, 1000, 100)], vec![map(0, 1000, 100)]);
        let other = options(NamespaceMode::Pod, vec![map(0, 9000, 100)], vec![map(0, 9000, 100)]);
        let host = options(NamespaceMode::Node, vec![], vec![]);
        let none = cri::NamespaceOption::default();
        for (container, pod, fine) in [
            (Some(&pod), Some(&pod), true),
            (None, Some(&pod), true),
            (Some(&none), Some(&pod), true),
            (Some(&host), Some(&none), true),
            (Some(&host), None, true),
            (Some(&host), Some(&pod), false),
            (Some(&other), Some(&pod), false),
            (Some(&pod), Some(&host), false),
            (Some(&pod), None, false),
        ] {
            assert_eq!(
                check_container(container, pod).is_ok(),
                fine,
                "{container:?} in {pod:?}"
            );
        }
    }
}
