//! CRI resources → OCI resources. Pure. A value CRI leaves at 0 is not set.

use proto::cri;
use spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxResources};

use crate::error::Error;

/// Lowest and highest score that the kernel takes (proc(5)).
const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// The score for the OOM killer, checked.
pub(crate) fn oom_score_adj(resources: &cri::LinuxContainerResources) -> Result<i32, Error> {
    let score = resources.oom_score_adj;
    i32::try_from(score)
        .ok()
        .filter(|_| OOM_SCORES.contains(&score))
        .ok_or_else(|| {
            Error::invalid(format!(
                "oom_score_adj {score} is out of range: -1000 to 1000 is possible"
            ))
        })
}

fn positive(value: i64, what: &str) -> Result<Option<u64>, Error> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::invalid(format!("{what} {value} is negative"))),
    }
}

fn cpu_list<'a>(list: &'a str, what: &str) -> Result<&'a str, Error> {
    if list.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-')) {
        Ok(list)
    } else {
        Err(Error::invalid(format!("{what} {list:?} is no list like 0-3,7")))
    }
}

/// The container's limits.
pub(crate) fn resources(from: &cri::LinuxContainerResources) -> Result<LinuxResources, Error> {
    let mut cpu = LinuxCpu::default();
    cpu.set_period(positive(from.cpu_period, "cpu_period")?);
    cpu.set_quota((from.cpu_quota != 0).then_some(from.cpu_quota));
    cpu.set_shares(positive(from.cpu_shares, "cpu_shares")?);
    let cpus = cpu_list(&from.cpuset_cpus, "cpuset_cpus")?;
    cpu.set_cpus((!cpus.is_empty()).then(|| cpus.to_owned()));
    let mems = cpu_list(&from.cpuset_mems, "cpuset_mems")?;
    cpu.set_mems((!mems.is_empty()).then(|| mems.to_owned()));
    let mut memory = LinuxMemory::default();
    if from.memory_limit_in_bytes < -1 {
        return Err(Error::invalid(format!(
            "memory_limit_in_bytes {} is negative",
            from.memory_limit_in_bytes
        )));
    }
    memory.set_limit((from.memory_limit_in_bytes != 0).then_some(from.memory_limit_in_bytes));
    memory.set_swap(swap(from)?);
    let mut out = LinuxResources::default();
    out.set_cpu(Some(cpu));
    out.set_memory(Some(memory));
    let huge: Vec<LinuxHugepageLimit> = from.hugepage_limits.iter().map(hugepage).collect::<Result<_, _>>()?;
    out.set_hugepage_limits((!huge.is_empty()).then_some(huge));
    if let Some(bad) = from
        .unified
        .keys()
        .find(|k| k.is_empty() || k.contains('/') || k.starts_with("cgroup."))
    {
        return Err(Error::invalid(format!(
            "unified cgroup file {bad:?}: a controller's file is wanted, like memory.high"
        )));
    }
    out.set_unified((!from.unified.is_empty()).then(|| from.unified.clone()));
    Ok(out)
}

/// Refuses a memory limit under which no container comes to its first instruction: the kernel would kill it on the way,
/// again and again, and nobody would know why.
pub(crate) fn check_memory(from: Option<&cri::LinuxContainerResources>, least: u64) -> Result<(), Error> {
    let limit = from.map_or(0, |limits| limits.memory_limit_in_bytes);
    match u64::try_from(limit) {
        Ok(limit) if limit > 0 && limit < least => Err(Error::invalid(format!(
            "memory_limit_in_bytes {limit} is too low for a container: at least {least} bytes are wanted \
             (container_min_memory of the runtime handler or of runtime)"
        ))),
        _ => Ok(()),
    }
}

/// Memory and swap together. A memory limit without a word about swap means no swap at all,
/// as both peers decide: a limit that swap evades is none.
fn swap(from: &cri::LinuxContainerResources) -> Result<Option<i64>, Error> {
    let (limit, swap) = (from.memory_limit_in_bytes, from.memory_swap_limit_in_bytes);
    if swap > 0 && limit > 0 && swap < limit {
        return Err(Error::invalid(format!(
            "memory_swap_limit_in_bytes {swap} is below the memory limit {limit}"
        )));
    }
    Ok(match (limit, swap) {
        (_, swap) if swap != 0 => Some(swap),
        (limit, _) if limit > 0 => Some(limit),
        _ => None,
    })
}

fn hugepage(from: &cri::HugepageLimit) -> Result<LinuxHugepageLimit, Error> {
    let bad = |why: &str| Error::invalid(format!("hugepage limit of page size {:?}: {why}", from.page_size));
    let digits = from.page_size.trim_end_matches(['K', 'M', 'G', 'B']);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits == from.page_size {
        return Err(bad("a size like 2MB is wanted"));
    }
    let limit = i64::try_from(from.limit).map_err(|_| bad("the limit is too large"))?;
    LinuxHugepageLimitBuilder::default()
        .page_size(from.page_size.clone())
        .limit(limit)
        .build()
        .map_err(|e| bad(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_not_set() {
        let out = resources(&cri::LinuxContainerResources::default()).unwrap();
        assert_eq!(out.cpu().as_ref().unwrap(), &LinuxCpu::default());
        assert_eq!(out.memory().as_ref().unwrap().limit(), None);
        assert_eq!(out.hugepage_limits(), &None);
    }

    #[test]
    fn a_memory_limit_must_let_a_container_start() {
        let limit = |bytes: i64| cri::LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            ..Default::default()
        };
        for (bytes, least, is_fine) in [
            (0, 100, true),
            (-1, 100, true),
            (100, 100, true),
            (99, 100, false),
            (1, 0, true),
        ] {
            let checked = check_memory(Some(&limit(bytes)), least);
            assert_eq!(checked.is_ok(), is_fine, "{bytes} {least}");
        }
        check_memory(None, 100).unwrap();
    }

    #[test]
    fn limits_are_carried_over() {
        let from = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 26,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![cri::HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            ..Default::default()
        };
        let out = resources(&from).unwrap();
        let cpu = out.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.period(), cpu.quota(), cpu.shares()),
            (Some(100_000), Some(-1), Some(512))
        );
        assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
        let memory = out.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(1 << 26), Some(1 << 26)));
    }

    #[test]
    fn nonsense_is_refused() {
        let base = cri::LinuxContainerResources::default;
        for bad in [
            cri::LinuxContainerResources {
                cpu_shares: -1,
                ..base()
            },
            cri::LinuxContainerResources {
                memory_limit_in_bytes: -2,
                ..base()
            },
            cri::LinuxContainerResources {
                memory_limit_in_bytes: 10,
                memory_swap_limit_in_bytes: 5,
                ..base()
            },
            cri::LinuxContainerResources {
                cpuset_cpus: "0; rm".into(),
                ..base()
            },
            cri::LinuxContainerResources {
                unified: [("../x".into(), "1".into())].into(),
                ..base()
            },
            cri::LinuxContainerResources {
                hugepage_limits: vec![cri::HugepageLimit {
                    page_size: "2MB/../x".into(),
                    limit: 1,
                }],
                ..base()
            },
        ] {
            assert_eq!(
                resources(&bad).unwrap_err().kind(),
                spec::Kind::InvalidArgument,
                "{bad:?}"
            );
        }
        assert!(
            oom_score_adj(&cri::LinuxContainerResources {
                oom_score_adj: 1001,
                ..base()
            })
            .is_err()
        );
    }
}
