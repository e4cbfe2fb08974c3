//! Which containers or pods are meant: filters that the server applies (id, pod, state, labels)
//! and those that the client has to (name, namespace, image, the newest n).

use std::collections::HashMap;

use anyhow::{Result, anyhow, bail};
use proto::cri::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
};
use regex::Regex;

use crate::client::{Images, Node, answer};

/// Which containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Containers {
    pub(crate) id: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) label: Vec<String>,
    pub(crate) all: bool,
    pub(crate) latest: bool,
    pub(crate) last: usize,
}

/// Which pods.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pods {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) label: Vec<String>,
    pub(crate) latest: bool,
    pub(crate) last: usize,
}

/// `key=value` arguments.
pub(crate) fn labels(arguments: &[String]) -> Result<HashMap<String, String>> {
    let pairs = arguments.iter().map(|text| match text.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(anyhow!("incorrectly specified label: {text}")),
    });
    pairs.collect()
}

fn pattern(text: Option<&str>) -> Result<Option<Regex>> {
    text.map(|text| Regex::new(text).map_err(|error| anyhow!("invalid regular expression {text:?}: {error}")))
        .transpose()
}

fn matches(pattern: Option<&Regex>, text: &str) -> bool {
    pattern.is_none_or(|pattern| pattern.is_match(text))
}

fn count(total: usize, latest: bool, last: usize) -> usize {
    let wanted = match (latest, last) {
        (_, last) if last > 0 => last,
        (true, _) => 1,
        _ => total,
    };
    wanted.min(total)
}

/// The pod's name or namespace, which the kubelet puts into labels.
pub(crate) fn pod_label<'a>(labels: &'a HashMap<String, String>, which: &str) -> &'a str {
    labels
        .get(&format!("io.kubernetes.pod.{which}"))
        .map_or("unknown", String::as_str)
}

impl Containers {
    fn filter(&self) -> Result<ContainerFilter> {
        let state = match self.state.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None if self.all => None,
            None | Some("running") => Some(ContainerState::ContainerRunning),
            Some("created") => Some(ContainerState::ContainerCreated),
            Some("exited") => Some(ContainerState::ContainerExited),
            Some("unknown") => Some(ContainerState::ContainerUnknown),
            Some(_) => bail!("--state should be one of created, running, exited or unknown"),
        };
        let state = state.filter(|_| !self.latest && self.last == 0);
        Ok(ContainerFilter {
            id: self.id.clone().unwrap_or_default(),
            pod_sandbox_id: self.pod.clone().unwrap_or_default(),
            state: state.map(|state| ContainerStateValue { state: state.into() }),
            label_selector: labels(&self.label)?,
        })
    }

    /// The containers, the newest first.
    pub(crate) async fn list(&self, node: &Node) -> Result<Vec<Container>> {
        let (name, namespace) = (pattern(self.name.as_deref())?, pattern(self.namespace.as_deref())?);
        let request = node.ask(ListContainersRequest {
            filter: Some(self.filter()?),
        });
        let mut found = answer(node.runtime().await?.list_containers(request).await)?.containers;
        if let Some(image) = &self.image {
            found = of_image(node, image, found).await?;
        }
        found.retain(|container| {
            let metadata = container.metadata.as_ref();
            metadata.is_some_and(|m| matches(name.as_ref(), &m.name))
                && matches(namespace.as_ref(), pod_label(&container.labels, "namespace"))
        });
        found.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        found.truncate(count(found.len(), self.latest, self.last));
        Ok(found)
    }
}

async fn of_image(node: &Node, image: &str, containers: Vec<Container>) -> Result<Vec<Container>> {
    let mut images = node.images().await?;
    let Some(wanted) = image_id(node, &mut images, image).await? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for container in containers {
        let name = container.image.as_ref().map_or("", |image| image.image.as_str());
        if image_id(node, &mut images, name).await?.as_ref() == Some(&wanted) {
            found.push(container);
        }
    }
    Ok(found)
}

/// The id of an image, if the server has it.
pub(crate) async fn image_id(node: &Node, images: &mut Images, name: &str) -> Result<Option<String>> {
    Ok(image(node, images, name).await?.map(|image| image.id))
}

/// An image, if the server has it.
pub(crate) async fn image(node: &Node, images: &mut Images, name: &str) -> Result<Option<proto::cri::Image>> {
    let image = Some(ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    });
    Ok(answer(
        images
            .image_status(node.ask(ImageStatusRequest { image, verbose: false }))
            .await,
    )?
    .image)
}

impl Pods {
    /// The pods, the newest first.
    pub(crate) async fn list(&self, node: &Node) -> Result<Vec<PodSandbox>> {
        let (name, namespace) = (pattern(self.name.as_deref())?, pattern(self.namespace.as_deref())?);
        let state = match self.state.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("ready") => Some(PodSandboxState::SandboxReady),
            Some("notready") => Some(PodSandboxState::SandboxNotready),
            Some(_) => bail!("--state should be ready or notready"),
        };
        let filter = PodSandboxFilter {
            id: self.id.clone().unwrap_or_default(),
            state: state.map(|state| PodSandboxStateValue { state: state.into() }),
            label_selector: labels(&self.label)?,
        };
        let request = node.ask(ListPodSandboxRequest { filter: Some(filter) });
        let mut found = answer(node.runtime().await?.list_pod_sandbox(request).await)?.items;
        found.retain(|pod| {
            let metadata = pod.metadata.as_ref();
            metadata.is_some_and(|m| matches(name.as_ref(), &m.name) && matches(namespace.as_ref(), &m.namespace))
        });
        found.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
        found.truncate(count(found.len(), self.latest, self.last));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_unless_asked_otherwise() {
        let state = |select: Containers| select.filter().unwrap().state.map(|s| s.state());
        assert_eq!(state(Containers::default()), Some(ContainerState::ContainerRunning));
        assert_eq!(
            state(Containers {
                all: true,
                ..Containers::default()
            }),
            None
        );
        assert_eq!(
            state(Containers {
                latest: true,
                ..Containers::default()
            }),
            None
        );
        let exited = Containers {
            state: Some("Exited".into()),
            all: true,
            ..Containers::default()
        };
        assert_eq!(state(exited), Some(ContainerState::ContainerExited));
        Containers {
            state: Some("gone".into()),
            ..Containers::default()
        }
        .filter()
        .unwrap_err();
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(
            labels(&["a=b".into()]).unwrap(),
            HashMap::from([("a".into(), "b".into())])
        );
        labels(&["a".into()]).unwrap_err();
        labels(&["a=b=c".into()]).unwrap_err();
    }

    #[test]
    fn counts() {
        assert_eq!(
            (
                count(5, false, 0),
                count(5, true, 0),
                count(5, false, 3),
                count(2, false, 3)
            ),
            (5, 1, 3, 2)
        );
    }
}
