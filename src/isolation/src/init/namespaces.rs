//! Namespaces that the process enters itself, the cgroup namespace, and the names of the UTS namespace.

use crate::Error;
use crate::parent::Sources;
use crate::plan::Plan;
use crate::plan::namespaces::Namespaces;

/// Joins those of the plan that have a file.
pub(super) fn join(sources: &Sources) -> Result<(), Error> {
    for (fd, join) in sources.namespaces_for_init() {
        sys::ns::setns(fd, join.kind).map_err(Error::sys("join namespace", join.path.display()))?;
    }
    Ok(())
}

/// A new cgroup namespace, whose root is the cgroup that the process is in by now.
pub(super) fn cgroup(namespaces: &Namespaces) -> Result<(), Error> {
    if !namespaces.is_new(libc::CLONE_NEWCGROUP) {
        return Ok(());
    }
    sys::ns::unshare(libc::CLONE_NEWCGROUP).map_err(Error::sys("make", "cgroup namespace"))
}

/// Host and domain name.
pub(super) fn name(plan: &Plan) -> Result<(), Error> {
    if let Some(name) = &plan.hostname {
        sys::ns::set_hostname(name).map_err(Error::sys("set host name", name))?;
    }
    if let Some(name) = &plan.domainname {
        sys::ns::set_domainname(name).map_err(Error::sys("set domain name", name))?;
    }
    Ok(())
}
