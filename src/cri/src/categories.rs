//! SELinux levels of pods: a pair of categories for each, which no other pod has, so that what one pod writes no other can
//! read, whatever its type may do. Containers of a pod share theirs. The pair is in the pod's record; what is free is
//! known again after a restart from the records. A level that the caller chose is held too, by as many pods as have it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use spec::Kind;

use crate::container::plan::pod_selinux;
use crate::error::Error;
use crate::store::records::SandboxRecord;

/// Two categories, the lower one first.
type Pair = (u32, u32);

/// Which pairs are taken.
#[derive(Debug, Default)]
struct Taken {
    of_pod: HashMap<String, Pair>,
    pods: HashMap<Pair, usize>,
}

/// The pairs of this node.
#[derive(Debug)]
pub(crate) struct Categories {
    range: u32,
    taken: Mutex<Taken>,
}

/// The pair with number `at`, counted (0,1), (0,2) … (1,2) ….
fn pair(range: u32, at: u64) -> Pair {
    let mut left = at;
    for first in 0..range {
        let here = u64::from(range - 1 - first);
        if left < here {
            // Below `here`, which came from a u32.
            return (first, first + 1 + u32::try_from(left).unwrap_or(0));
        }
        left -= here;
    }
    (0, 1)
}

/// The level of a pair.
fn level((first, second): Pair) -> String {
    format!("s0:c{first},c{second}")
}

/// The pair of a level, if it is one.
fn parse(level: &str) -> Option<Pair> {
    let (first, second) = level.strip_prefix("s0:")?.split_once(',')?;
    let number = |text: &str| text.strip_prefix('c')?.parse::<u32>().ok();
    let (first, second) = (number(first)?, number(second)?);
    (first != second).then_some((first.min(second), first.max(second)))
}

impl Categories {
    /// None taken yet.
    pub(crate) fn new(range: u32) -> Self {
        Self {
            range,
            taken: Mutex::default(),
        }
    }

    /// Takes the pair of a pod that has one: from its record, or because the caller chose it.
    pub(crate) fn hold(&self, record: &SandboxRecord) {
        let chosen = pod_selinux(record).map(|options| options.level.as_str());
        let known = [record.selinux_level.as_str(), chosen.unwrap_or_default()];
        if let Some(pair) = known.into_iter().find_map(parse) {
            self.insert(&record.id, pair);
        }
    }

    fn insert(&self, pod: &str, pair: Pair) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.of_pod.insert(pod.to_owned(), pair).is_none() {
            *taken.pods.entry(pair).or_default() += 1;
        }
    }

    /// A pair that nobody has, for a new pod; the one that the caller chose is held instead. Its level goes into the
    /// record.
    pub(crate) fn take(&self, record: &mut SandboxRecord) -> Result<(), Error> {
        if pod_selinux(record).is_some_and(|options| !options.level.is_empty()) {
            self.hold(record);
            return Ok(());
        }
        let all = u64::from(self.range) * u64::from(self.range.saturating_sub(1)) / 2;
        // Ids are random: a pod does not get what the one before it left behind.
        let digits = record.id.get(..15).unwrap_or_default();
        let start = u64::from_str_radix(digits, 16).unwrap_or(0);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = (0..all).map(|step| (start % all + step) % all);
        let free = numbers
            .map(|number| pair(self.range, number))
            .find(|pair| !taken.pods.contains_key(pair));
        let Some(free) = free else {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "all {all} SELinux levels are taken by pods; remove some, or raise runtime.selinux_category_range"
                ),
            ));
        };
        taken.of_pod.insert(record.id.clone(), free);
        taken.pods.insert(free, 1);
        record.selinux_level = level(free);
        Ok(())
    }

    /// Gives back what a pod had; may be called again.
    pub(crate) fn give_back(&self, pod: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pair) = taken.of_pod.remove(pod) else { return };
        if let Some(pods) = taken.pods.get_mut(&pair) {
            *pods -= 1;
            if *pods == 0 {
                taken.pods.remove(&pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message;
    use proto::cri;

    use super::*;

    fn record(id: &str, level: &str) -> SandboxRecord {
        let context = cri::LinuxSandboxSecurityContext {
            selinux_options: Some(cri::SeLinuxOption {
                level: level.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        SandboxRecord {
            id: id.into(),
            request: Some(cri::RunPodSandboxRequest {
                config: Some(config),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn each_pod_has_a_pair_of_its_own_until_none_is_left() {
        let all = Categories::new(5);
        let mut levels = HashSet::new();
        for pod in 0..10 {
            let mut record = record(&format!("{pod:064x}"), "");
            all.take(&mut record).unwrap();
            let (first, second) = parse(&record.selinux_level).unwrap();
            assert!(first < second && second < 5, "{}", record.selinux_level);
            assert!(
                levels.insert(record.selinux_level.clone()),
                "{} twice",
                record.selinux_level
            );
        }
        let mut late = record("late", "");
        assert_eq!(all.take(&mut late).unwrap_err().kind(), Kind::ResourceExhausted);
        // What is given back, however often, is free once.
        all.give_back(&format!("{:064x}", 3));
        all.give_back(&format!("{:064x}", 3));
        all.take(&mut late).unwrap();
        assert!(levels.contains(&late.selinux_level));
        assert!(all.take(&mut record("later", "")).is_err());
    }

    #[test]
    fn a_restart_knows_from_the_records_what_is_taken() {
        let before = Categories::new(3);
        let mut pods: Vec<SandboxRecord> = ["a", "b"].map(|id| record(id, "")).into();
        pods.iter_mut().for_each(|pod| before.take(pod).unwrap());
        let after = Categories::new(3);
        for pod in &pods {
            let read = SandboxRecord::decode(pod.encode_to_vec().as_slice()).unwrap();
            assert_eq!(read.selinux_level, pod.selinux_level);
            after.hold(&read);
        }
        let mut third = record("c", "");
        after.take(&mut third).unwrap();
        assert!(pods.iter().all(|pod| pod.selinux_level != third.selinux_level));
        assert!(after.take(&mut record("d", "")).is_err());
    }

    #[test]
    fn a_level_that_the_caller_chose_is_nobody_elses() {
        let all = Categories::new(2);
        // Two pods of one level, in any order of its categories.
        all.take(&mut record("a", "s0:c1,c0")).unwrap();
        all.take(&mut record("b", "s0:c0,c1")).unwrap();
        assert!(all.take(&mut record("c", "")).is_err());
        all.give_back("a");
        assert!(all.take(&mut record("c", "")).is_err());
        all.give_back("b");
        let mut free = record("c", "");
        all.take(&mut free).unwrap();
        assert_eq!(free.selinux_level, "s0:c0,c1");
        // What is no pair takes none.
        all.take(&mut record("d", "s0")).unwrap();
        all.give_back("d");
    }

    #[test]
    fn pairs_are_counted_without_a_gap() {
        let all: Vec<Pair> = (0..6).map(|at| pair(4, at)).collect();
        assert_eq!(all, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]);
        for bad in ["", "s0", "s0:c1", "s0:c1,c1", "s1:c1,c2", "s0:c1.c2", "s0:c1,cx"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
