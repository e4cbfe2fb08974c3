//! Creates, joins and pins isolated processes from an OCI runtime spec: namespaces,
//! cgroups, mounts, credentials, seccomp. Linked by the monitor (and by `bulkhead-oci`),
//! never by the daemon, so that its faults cannot take the node server down.
//!
//! May use: spec, sys, cgroup, seccomp.
