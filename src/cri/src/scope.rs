//! What the systemd driver does more than the cgroupfs driver: a slice for a pod, a scope for a container.
//!
//! With the cgroupfs driver nothing here does anything. A scope begins with a placeholder, a child of the spawner that
//! waits in it; when the container's first process is in, the placeholder goes. systemd forgets a scope as soon as it is
//! empty, and a slice when it is stopped.

use std::sync::Arc;

use cgroup::{Cgroup, Earlier, Scope, unit_of};
use spec::runtime::LinuxResources;

use crate::blocking;
use crate::error::Error;
use crate::monitor::Placeholder;
use crate::runtime::Runtime;

/// Makes the scope whose cgroup is to be `path`; it lives as long as the answer, or what is put into it meanwhile.
pub(crate) async fn open(
    rt: &Arc<Runtime>,
    path: &str,
    what: &str,
    limits: Option<&LinuxResources>,
) -> Result<Option<Placeholder>, Error> {
    let Some(systemd) = &rt.systemd else { return Ok(None) };
    let holder = rt.spawner.placeholder().await?;
    let scope = Scope {
        name: unit_of(path),
        slice: slice_of(path),
        description: what,
        pid: holder.pid(),
        limits: limits.map(|limits| (&rt.cgroups, limits)),
    };
    let started = systemd.start_scope(&scope).await;
    started.map_err(|e| Error::at("make the scope of", what, &e))?;
    Ok(Some(holder))
}

/// Makes the slice whose cgroup is to be `path`, where systemd is to.
pub(crate) async fn slice(rt: &Runtime, path: &str, what: &str) -> Result<(), Error> {
    match &rt.systemd {
        Some(systemd) => {
            let started = systemd.start_slice(unit_of(path), what).await;
            started.map_err(|e| Error::at("make the slice of", what, &e))
        }
        None => Ok(()),
    }
}

/// Has systemd end and forget the unit whose cgroup is `path`.
pub(crate) async fn close(rt: &Runtime, path: &str) -> Result<(), Error> {
    match &rt.systemd {
        Some(systemd) => {
            let stopped = systemd.stop(unit_of(path)).await;
            stopped.map_err(|e| Error::at("end the unit of", path, &e))
        }
        None => Ok(()),
    }
}

/// Whether the unit of the cgroup `path` may be there when the cgroup is not: systemd forgets a scope with the last
/// process, so that there is nothing to ask; a slice stays until it is stopped.
pub(crate) fn outlives_its_cgroup(path: &str) -> bool {
    !unit_of(path).ends_with(".scope")
}

/// Changes the limits of the cgroup at `path`: in its files and as systemd knows them, or in neither.
///
/// systemd is told only what the kernel has taken, for it writes without looking: a memory limit below what is in use
/// would kill (v2). And it rounds to what its properties can say, so the exact values are written once more.
pub(crate) async fn resize(rt: &Arc<Runtime>, path: &str, limits: LinuxResources, what: &str) -> Result<(), Error> {
    let limits = Arc::new(limits);
    let (group, earlier) = write(rt, path, &limits, what).await?;
    let Some(systemd) = &rt.systemd else { return Ok(()) };
    match systemd.set_limits(&rt.cgroups, unit_of(path), &limits).await {
        Ok(()) => write(rt, path, &limits, what).await.map(drop),
        Err(refused) => {
            let (what, path) = (what.to_owned(), path.to_owned());
            blocking(move || {
                let refused = group.take_back(refused, earlier);
                Err(Error::at("resize", what, &refused).during("limit the unit of", path))
            })
            .await
        }
    }
}

async fn write(
    rt: &Arc<Runtime>,
    path: &str,
    limits: &Arc<LinuxResources>,
    what: &str,
) -> Result<(Cgroup, Earlier), Error> {
    let (rt, path, limits, what) = (Arc::clone(rt), path.to_owned(), Arc::clone(limits), what.to_owned());
    blocking(move || {
        let group = rt
            .cgroups
            .open(&path)
            .map_err(|e| Error::at("open the cgroup", &path, &e))?;
        let earlier = group.update(&limits).map_err(|e| Error::at("resize", what, &e))?;
        Ok((group, earlier))
    })
    .await
}

/// Tells systemd the limits of the unit whose cgroup is `path`.
pub(crate) async fn limit(rt: &Runtime, path: &str, limits: &LinuxResources) -> Result<(), Error> {
    match &rt.systemd {
        Some(systemd) => {
            let told = systemd.set_limits(&rt.cgroups, unit_of(path), limits).await;
            told.map_err(|e| Error::at("limit the unit of", path, &e))
        }
        None => Ok(()),
    }
}

/// The slice that the cgroup at `path` lies in; `-.slice` is the root's.
pub(crate) fn slice_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((parent, _)) if !parent.is_empty() => unit_of(parent),
        _ => "-.slice",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_goes_with_its_cgroup_and_a_slice_does_not() {
        assert!(!outlives_its_cgroup("/a.slice/bulkhead-1.scope"));
        assert!(outlives_its_cgroup("/a.slice/a-b.slice"));
    }

    #[test]
    fn the_slice_is_the_directory_above() {
        assert_eq!(slice_of("/a.slice/a-b.slice/x.scope"), "a-b.slice");
        assert_eq!(slice_of("/x.scope"), "-.slice");
    }
}
