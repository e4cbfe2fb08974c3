//! What the kernel has in the cgroup of a container: the same questions for cgroup v1 and v2.
//!
//! The files are found by `/proc/PID/cgroup` alone, not by what the server says of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cri::Cri;
use crate::node::Node;

const MOUNT: &str = "/sys/fs/cgroup";

/// v1 says "no limit" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Whether this host has its controllers in the one tree of cgroup v2.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// A cgroup: for each line of `/proc/PID/cgroup` its controllers and its directory.
#[derive(Debug, Clone)]
pub struct Kernel {
    dirs: Vec<(Vec<String>, PathBuf)>,
}

impl Kernel {
    /// The cgroup of a container that runs.
    ///
    /// # Errors
    /// Where it has no process.
    pub async fn of(node: &Node, cri: &Cri, container: &str) -> Result<Self> {
        let pid = cri.container_pid(container).await?;
        let path = node.inside(Path::new(&format!("/proc/{pid}/cgroup")));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let dirs = text.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let mount = match names {
                "" if is_v2() => PathBuf::from(MOUNT),
                "" => Path::new(MOUNT).join("unified"),
                names => Path::new(MOUNT).join(names.split(',').next()?),
            };
            let names = names.split(',').map(str::to_owned).collect();
            Some((names, mount.join(path)))
        });
        Self { dirs: dirs.collect() }
    }

    /// The cgroup above it.
    ///
    /// # Errors
    /// Where there is none.
    pub fn parent(&self) -> Result<Self> {
        let up = |(names, dir): &(Vec<String>, PathBuf)| {
            let parent = dir.parent().context("a root has no parent")?;
            Ok((names.clone(), parent.to_owned()))
        };
        let dirs = self.dirs.iter().map(up).collect::<Result<_>>()?;
        Ok(Self { dirs })
    }

    /// Its path in the tree that has `controller`.
    ///
    /// # Errors
    /// Where there is no such tree.
    pub fn dir(&self, controller: &str) -> Result<&Path> {
        let has = |wanted: &str| {
            let own = self
                .dirs
                .iter()
                .find(|(names, _)| names.iter().any(|name| name == wanted));
            own.map(|(_, dir)| dir.as_path())
        };
        has(controller)
            .or_else(|| has(""))
            .with_context(|| format!("no {controller} in {self:?}"))
    }

    /// A file; none where this host or this kernel has no such.
    ///
    /// # Errors
    /// Where there is no tree for the controller.
    pub fn file(&self, controller: &str, name: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.dir(controller)?.join(name)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {name}")),
        }
    }

    /// The file of v1 or that of v2, by what the host has.
    fn either(&self, controller: &str, v1: &str, v2: &str) -> Result<String> {
        let name = if is_v2() { v2 } else { v1 };
        self.file(controller, name)?
            .with_context(|| format!("{name} is not in {:?}", self.dir(controller)))
    }

    /// The limit of memory in bytes.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn memory(&self) -> Result<Option<u64>> {
        bytes(&self.either("memory", "memory.limit_in_bytes", "memory.max")?)
    }

    /// The limit of swap in bytes, without memory; the outer none where this kernel counts no swap.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn swap(&self) -> Result<Option<Option<u64>>> {
        if is_v2() {
            let text = self.file("memory", "memory.swap.max")?;
            return text.as_deref().map(bytes).transpose();
        }
        let Some(both) = self.file("memory", "memory.memsw.limit_in_bytes")? else {
            return Ok(None);
        };
        let memory = self.memory()?.unwrap_or(0);
        Ok(Some(bytes(&both)?.map(|both| both.saturating_sub(memory))))
    }

    /// Memory in use without inactive files: what Kubernetes calls the working set, and what is inactive.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn working_set(&self) -> Result<(u64, u64)> {
        let usage: u64 = self
            .either("memory", "memory.usage_in_bytes", "memory.current")?
            .parse()?;
        let stat = self.either("memory", "memory.stat", "memory.stat")?;
        let key = if is_v2() {
            "inactive_file "
        } else {
            "total_inactive_file "
        };
        let inactive: u64 = stat
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("no {key}in memory.stat"))?
            .parse()?;
        Ok((usage.saturating_sub(inactive), inactive))
    }

    /// The quota of processor time in microseconds, none without one, and its period.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn quota(&self) -> Result<(Option<u64>, u64)> {
        let (quota, period) = if is_v2() {
            let text = self.either("cpu", "", "cpu.max")?;
            let (quota, period) = text.split_once(' ').context("cpu.max has one word")?;
            (quota.to_owned(), period.to_owned())
        } else {
            (
                self.either("cpu", "cpu.cfs_quota_us", "")?,
                self.either("cpu", "cpu.cfs_period_us", "")?,
            )
        };
        Ok((bytes(&quota)?, period.parse()?))
    }

    /// Whether its weight is that of so many shares (v2: as Kubernetes and runc translate them since 2025).
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn has_shares(&self, shares: u64) -> Result<bool> {
        let found: u64 = self.either("cpu", "cpu.shares", "cpu.weight")?.parse()?;
        let wanted = if is_v2() { weight(shares) } else { shares };
        Ok(found == wanted)
    }

    /// How many processes it may have.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn pids(&self) -> Result<Option<u64>> {
        bytes(&self.either("pids", "pids.max", "pids.max")?)
    }

    /// The processors it may use.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn cpus(&self) -> Result<String> {
        self.either("cpuset", "cpuset.cpus", "cpuset.cpus")
    }

    /// The memory nodes it may use.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn mems(&self) -> Result<String> {
        self.either("cpuset", "cpuset.mems", "cpuset.mems")
    }

    /// The limit of huge pages of a size ("2MB") in bytes; the outer none where this kernel has none.
    ///
    /// # Errors
    /// As [`Kernel::file`].
    pub fn huge_pages(&self, size: &str) -> Result<Option<Option<u64>>> {
        // On a host with v1 this one controller may be in the v2 tree.
        for name in [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.limit_in_bytes")] {
            if let Some(text) = self.file("hugetlb", &name)? {
                return Ok(Some(bytes(&text)?));
            }
        }
        Ok(None)
    }

    /// Stops all its processes, or lets them run on.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        let (name, value) = match (is_v2(), is_frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = self.dir("freezer")?.join(name);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }
}

/// A number, or none for "no limit".
fn bytes(text: &str) -> Result<Option<u64>> {
    match text {
        "max" | "-1" => Ok(None),
        digits => match digits.parse::<u64>() {
            Ok(number) if number >= UNLIMITED => Ok(None),
            Ok(number) => Ok(Some(number)),
            Err(_) => bail!("{text:?} is no limit"),
        },
    }
}

/// `cpu.weight` for `cpu.shares`: 2, 1024 and 262144 become 1, 100 and 10000, with a curve through the three.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    #[expect(clippy::cast_precision_loss, reason = "at most 18 bits")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_has_three_names() {
        for text in ["max", "-1", "9223372036854771712"] {
            assert_eq!(bytes(text).unwrap(), None, "{text}");
        }
        assert_eq!(bytes("67108864").unwrap(), Some(64 << 20));
        assert!(bytes("").is_err());
    }

    #[test]
    fn shares_become_weights() {
        for (shares, wanted) in [(0, 1), (2, 1), (512, 59), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight(shares), wanted, "{shares}");
        }
    }

    #[test]
    fn each_line_has_its_directory() {
        let kernel = Kernel::parse("4:memory:/a/b\n2:cpu,cpuacct:/a/c\n0::/a/d\n");
        assert_eq!(kernel.dir("memory").unwrap(), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(kernel.dir("cpuacct").unwrap(), Path::new("/sys/fs/cgroup/cpu/a/c"));
        assert!(kernel.dir("hugetlb").unwrap().ends_with("a/d"));
        assert!(kernel.parent().unwrap().dir("memory").unwrap().ends_with("memory/a"));
    }
}
