//! All pods and containers in memory, found by id or by an unambiguous beginning of it.
//!
//! Objects are here only when fully made. The locks are held for the length of a map
//! operation: no disk, no wait.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use spec::{ContainerId, SandboxId};

use super::container::Container;
use super::sandbox::Sandbox;
use crate::error::Error;

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<String, Arc<Container>>>,
    /// The containers of each pod: a list of all pods must not look at every container for each.
    of_pods: RwLock<HashMap<String, BTreeMap<String, Arc<Container>>>>,
    /// How often an object came or went.
    changes: AtomicU64,
}

/// Finds `wanted`, a whole id or the beginning of exactly one.
fn find<T>(map: &RwLock<BTreeMap<String, Arc<T>>>, kind: &str, wanted: &str) -> Result<Option<Arc<T>>, Error> {
    if wanted.is_empty() {
        return Err(Error::invalid(format!("no {kind} id given")));
    }
    let map = map.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = map.get(wanted) {
        return Ok(Some(Arc::clone(found)));
    }
    let mut matching = map
        .range::<str, _>((Bound::Included(wanted), Bound::Unbounded))
        .take_while(|(id, _)| id.starts_with(wanted))
        .map(|(_, object)| object);
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(Some(Arc::clone(one))),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "{kind} id {wanted:?} is the beginning of several; give more digits"
        ))),
        (None, _) => Ok(None),
    }
}

fn all<T>(map: &RwLock<BTreeMap<String, Arc<T>>>) -> Vec<Arc<T>> {
    map.read()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .cloned()
        .collect()
}

/// `text`, cut so that a wrong id of a megabyte makes no message of a megabyte.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Index {
    /// The pod that `id` names, if there is one.
    pub(crate) fn find_sandbox(&self, id: &str) -> Result<Option<Arc<Sandbox>>, Error> {
        find(&self.sandboxes, "pod", id)
    }

    /// The pod that `id` names.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        self.find_sandbox(id)?
            .ok_or_else(|| Error::not_found(format!("there is no pod sandbox {:?}", shown(id))))
    }

    /// The container that `id` names, if there is one.
    pub(crate) fn find_container(&self, id: &str) -> Result<Option<Arc<Container>>, Error> {
        find(&self.containers, "container", id)
    }

    /// The container that `id` names.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        self.find_container(id)?
            .ok_or_else(|| Error::not_found(format!("there is no container {:?}", shown(id))))
    }

    /// All pods.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        all(&self.sandboxes)
    }

    /// All containers.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        all(&self.containers)
    }

    /// The containers of a pod.
    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let map = self.of_pods.read().unwrap_or_else(PoisonError::into_inner);
        let own = map.get(sandbox.as_str()).map(BTreeMap::values);
        own.into_iter().flatten().cloned().collect()
    }

    /// How often an object came or went: what was read of all after this was asked is as new.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// To be called under the lock, so that nobody sees the change before.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Shows a pod.
    pub(crate) fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        let key = sandbox.id.as_str().to_owned();
        let mut map = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(key, sandbox);
        self.changed();
    }

    /// Shows a container.
    pub(crate) fn insert_container(&self, container: Arc<Container>) {
        let key = container.id.as_str().to_owned();
        self.of_pods
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(container.record.sandbox_id.clone())
            .or_default()
            .insert(key.clone(), Arc::clone(&container));
        let mut map = self.containers.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(key, container);
        self.changed();
    }

    /// Forgets a pod.
    pub(crate) fn remove_sandbox(&self, id: &SandboxId) {
        let mut map = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        map.remove(id.as_str());
        self.changed();
    }

    /// Forgets a container.
    pub(crate) fn remove_container(&self, id: &ContainerId) {
        let removed = {
            let mut map = self.containers.write().unwrap_or_else(PoisonError::into_inner);
            self.changed();
            map.remove(id.as_str())
        };
        let Some(container) = removed else { return };
        let mut pods = self.of_pods.write().unwrap_or_else(PoisonError::into_inner);
        let pod = container.record.sandbox_id.as_str();
        if let Some(own) = pods.get_mut(pod) {
            own.remove(id.as_str());
            if own.is_empty() {
                pods.remove(pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::records::{SandboxPhase, SandboxRecord, SandboxStatus};

    fn pod(id: &str) -> Arc<Sandbox> {
        let status = SandboxStatus {
            phase: SandboxPhase::Ready,
            network_down: false,
            resized: None,
        };
        Arc::new(Sandbox::new(
            SandboxId::parse(id).unwrap(),
            SandboxRecord::default(),
            status,
        ))
    }

    #[test]
    fn beginnings_must_be_unambiguous() {
        let index = Index::default();
        let (a, b) = (format!("ab{}", "0".repeat(62)), format!("ac{}", "0".repeat(62)));
        assert_eq!(index.changes(), 0);
        index.insert_sandbox(pod(&a));
        index.insert_sandbox(pod(&b));
        assert_eq!(index.changes(), 2);
        assert_eq!(index.sandbox("ab").unwrap().id.as_str(), a);
        assert_eq!(index.sandbox(&b).unwrap().id.as_str(), b);
        assert_eq!(index.sandbox("a").unwrap_err().kind(), spec::Kind::InvalidArgument);
        assert_eq!(index.sandbox("").unwrap_err().kind(), spec::Kind::InvalidArgument);
        assert_eq!(index.sandbox("ff").unwrap_err().kind(), spec::Kind::NotFound);
    }

    #[test]
    fn a_pod_has_its_own_containers_alone() {
        use crate::store::records::{ContainerRecord, Status};
        let index = Index::default();
        let (pod, other) = ("a".repeat(64), "b".repeat(64));
        let container = |digit: &str, sandbox: &str| {
            let id = ContainerId::parse(&digit.repeat(64)).unwrap();
            let record = ContainerRecord {
                id: id.to_string(),
                sandbox_id: sandbox.to_owned(),
                ..ContainerRecord::default()
            };
            Arc::new(Container::new(id, record, Status::creating()))
        };
        for one in [container("1", &pod), container("2", &other), container("3", &pod)] {
            index.insert_container(one);
        }
        assert_eq!(index.changes(), 3);
        let ids = |pod: &str| -> Vec<String> {
            let of = index.containers_of(&SandboxId::parse(pod).unwrap());
            of.iter().map(|container| container.id.to_string()).collect()
        };
        assert_eq!(ids(&pod), ["1".repeat(64), "3".repeat(64)]);
        index.remove_container(&ContainerId::parse(&"1".repeat(64)).unwrap());
        assert_eq!((ids(&pod), ids(&other)), (vec!["3".repeat(64)], vec!["2".repeat(64)]));
        index.remove_container(&ContainerId::parse(&"2".repeat(64)).unwrap());
        assert_eq!(ids(&other), Vec::<String>::new());
        assert_eq!(index.of_pods.read().unwrap().len(), 1);
        index.remove_sandbox(&SandboxId::parse(&pod).unwrap());
        assert_eq!(index.changes(), 6);
    }
}
