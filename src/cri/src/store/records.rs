//! The rows as they are written: records in protobuf (they carry the caller's CRI messages
//! byte for byte and only ever grow fields), statuses in JSON (a person can read them).

use image::IdShift;
use prost::Message;
use proto::cri;
use serde::{Deserialize, Serialize};
use spec::ExitRecord;

use crate::error::Error;

/// What never changes about a pod.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// The request, as it came.
    #[prost(message, optional, tag = "2")]
    pub(crate) request: Option<cri::RunPodSandboxRequest>,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "3")]
    pub(crate) created_at: i64,
    /// The pinned network namespace; empty with host network.
    #[prost(string, tag = "4")]
    pub(crate) netns: String,
    /// The pinned IPC namespace; empty where the host's is used.
    #[prost(string, tag = "5")]
    pub(crate) ipcns: String,
    /// The pinned UTS namespace; empty where the host's is used.
    #[prost(string, tag = "6")]
    pub(crate) utsns: String,
    /// The pod's cgroup, below each hierarchy.
    #[prost(string, tag = "7")]
    pub(crate) cgroup: String,
    /// That cgroup was made by us and goes with the pod.
    #[prost(bool, tag = "8")]
    pub(crate) cgroup_owned: bool,
    /// What containers see as their host's name.
    #[prost(string, tag = "9")]
    pub(crate) hostname: String,
    /// Addresses, the primary one first.
    #[prost(string, repeated, tag = "10")]
    pub(crate) ips: Vec<String>,
    /// The CNI result as JSON, for verbose status; empty with host network.
    #[prost(string, tag = "11")]
    pub(crate) cni_result: String,
    /// The boot it was made in.
    #[prost(string, tag = "12")]
    pub(crate) boot_id: String,
    /// The container id of the built-in init that holds a shared pid namespace, or empty.
    #[prost(string, tag = "13")]
    pub(crate) init: String,
    /// Its process, in the daemon's pid namespace; 0 if there is none.
    #[prost(int32, tag = "14")]
    pub(crate) init_pid: i32,
    /// The pinned user namespace; empty where the host's is used.
    #[prost(string, tag = "20")]
    pub(crate) userns: String,
    /// The host's user that is the pod's user 0.
    #[prost(uint32, tag = "21")]
    pub(crate) first_uid: u32,
    /// The host's group that is the pod's group 0.
    #[prost(uint32, tag = "22")]
    pub(crate) first_gid: u32,
    /// How many ids the pod has.
    #[prost(uint32, tag = "23")]
    pub(crate) mapped_ids: u32,
    /// The SELinux level that was found for it; empty where the caller chose one, and on a node without.
    #[prost(string, tag = "24")]
    pub(crate) selinux_level: String,
}

impl SandboxRecord {
    /// The ids of its user namespace.
    pub(crate) fn shift(&self) -> IdShift {
        if self.userns.is_empty() {
            return IdShift::NONE;
        }
        IdShift {
            uid: self.first_uid,
            gid: self.first_gid,
            size: self.mapped_ids,
        }
    }
}

/// What never changes about a container.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Its pod.
    #[prost(string, tag = "2")]
    pub(crate) sandbox_id: String,
    /// The container's part of the request, as it came.
    #[prost(message, optional, tag = "3")]
    pub(crate) config: Option<cri::ContainerConfig>,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub(crate) created_at: i64,
    /// Digest of the image's configuration, hexadecimal.
    #[prost(string, tag = "5")]
    pub(crate) image_id: String,
    /// A repository digest of the image, or its id.
    #[prost(string, tag = "6")]
    pub(crate) image_ref: String,
    /// A tag of the image, or what was asked for.
    #[prost(string, tag = "7")]
    pub(crate) image_name: String,
    /// The container's cgroup, below each hierarchy.
    #[prost(string, tag = "8")]
    pub(crate) cgroup: String,
    /// The log file; empty: output is discarded.
    #[prost(string, tag = "9")]
    pub(crate) log_path: String,
    /// The signal that asks it to stop.
    #[prost(int32, tag = "10")]
    pub(crate) stop_signal: i32,
    /// Identity that init really got.
    #[prost(uint32, tag = "11")]
    pub(crate) uid: u32,
    /// Identity that init really got.
    #[prost(uint32, tag = "12")]
    pub(crate) gid: u32,
    /// Identity that init really got.
    #[prost(uint32, repeated, tag = "13")]
    pub(crate) groups: Vec<u32>,
    /// The boot it was made in.
    #[prost(string, tag = "14")]
    pub(crate) boot_id: String,
    /// First process, in the daemon's pid namespace.
    #[prost(int32, tag = "15")]
    pub(crate) pid: i32,
    /// Images that it mounts as volumes, in the order of the request; as `image_id`.
    #[prost(string, repeated, tag = "30")]
    pub(crate) volume_images: Vec<String>,
}

impl SandboxRecord {
    /// The runtime handler that was asked for; empty for the default one.
    pub(crate) fn handler(&self) -> &str {
        self.request
            .as_ref()
            .map(|r| r.runtime_handler.as_str())
            .unwrap_or_default()
    }

    /// What it was asked to be.
    pub(crate) fn security_context(&self) -> Option<&cri::LinuxSandboxSecurityContext> {
        crate::sandbox::context::of(self.request.as_ref()?.config.as_ref())
    }
}

impl ContainerRecord {
    /// It runs from the image, or mounts it.
    pub(crate) fn uses_image(&self, id: &str) -> bool {
        self.image_id == id || self.volume_images.iter().any(|volume| volume == id)
    }
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxPhase {
    /// RunPodSandbox works on it: not in any list, undone at a restart.
    Creating,
    /// Usable.
    Ready,
    /// Stopped, or broken by a reboot; listed until removed.
    NotReady,
    /// RemovePodSandbox works on it: finished at a restart.
    Removing,
}

/// What changes about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxStatus {
    /// Where it is in its life.
    pub(crate) phase: SandboxPhase,
    /// CNI DEL and the namespaces are done with.
    pub(crate) network_down: bool,
    /// What UpdatePodSandboxResources said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resized: Option<PodResources>,
}

/// Resources of a pod as the kubelet counts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodResources {
    /// What the pod costs beside its containers.
    #[serde(default)]
    pub(crate) overhead: Option<Resources>,
    /// What its containers have together.
    #[serde(default)]
    pub(crate) resources: Option<Resources>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// CreateContainer works on it: not in any list, undone at a restart.
    Creating,
    /// Waits just before execve.
    Created,
    /// Runs.
    Running {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Ended.
    Exited(ExitRecord),
}

/// What changes about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Where it is in its life.
    pub(crate) phase: Phase,
    /// RemoveContainer works on it: finished at a restart.
    #[serde(default)]
    pub(crate) removing: bool,
    /// A stop was promised; when its grace ends, nanoseconds since the epoch.
    #[serde(default)]
    pub(crate) stop_by: Option<i64>,
    /// The resources since UpdateContainerResources; none: those that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resized: Option<Resources>,
}

/// Resources as CRI says them, written in a way that keeps every field of a later CRI too: protobuf, in hexadecimal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resources(pub(crate) cri::LinuxContainerResources);

// No field is a floating-point number.
impl Eq for Resources {}

impl Serialize for Resources {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text: String = self
            .0
            .encode_to_vec()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Resources {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digits).collect();
        let bytes = bytes.ok_or_else(|| serde::de::Error::custom("no hexadecimal digits"))?;
        cri::LinuxContainerResources::decode(bytes.as_slice())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Encodes a status.
pub(crate) fn encode_status<T: Serialize>(status: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(status).map_err(|e| Error::at("encode", "a status", &e))
}

/// Decodes a row.
pub(crate) fn decode<R: Message + Default, S: for<'de> Deserialize<'de>>(
    record: &[u8],
    status: &[u8],
) -> Result<(R, S), Error> {
    let record = R::decode(record).map_err(|e| Error::at("decode", "a record", &e))?;
    let status = serde_json::from_slice(status).map_err(|e| Error::at("decode", "a status", &e))?;
    Ok((record, status))
}

impl Status {
    /// A new container's first status.
    pub(crate) fn creating() -> Self {
        Self {
            phase: Phase::Creating,
            removing: false,
            stop_by: None,
            resized: None,
        }
    }

    /// The CRI state.
    pub(crate) fn state(&self) -> cri::ContainerState {
        match &self.phase {
            Phase::Creating | Phase::Created => cri::ContainerState::ContainerCreated,
            Phase::Running { .. } => cri::ContainerState::ContainerRunning,
            Phase::Exited(_) => cri::ContainerState::ContainerExited,
        }
    }

    /// It has a first process that may run.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// It ended.
    pub(crate) fn exit(&self) -> Option<&ExitRecord> {
        match &self.phase {
            Phase::Exited(record) => Some(record),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was() {
        let record = ContainerRecord {
            id: "a".into(),
            groups: vec![1, 2],
            ..ContainerRecord::default()
        };
        let status = Status {
            phase: Phase::Running { started_at: 7 },
            removing: false,
            stop_by: Some(9),
            resized: Some(Resources(cri::LinuxContainerResources {
                cpu_shares: 512,
                cpuset_cpus: "0-1".into(),
                ..Default::default()
            })),
        };
        let (r, s): (ContainerRecord, Status) =
            decode(&record.encode_to_vec(), &encode_status(&status).unwrap()).unwrap();
        assert_eq!((r, s), (record, status));
    }

    #[test]
    fn a_row_of_a_version_before_resizing_is_read() {
        let (_, status): (ContainerRecord, Status) = decode(b"", br#"{"phase":"Created"}"#).unwrap();
        assert_eq!(status.resized, None);
        let bad = decode::<ContainerRecord, Status>(b"", br#"{"phase":"Created","resized":"zz"}"#);
        assert_eq!(bad.unwrap_err().kind(), spec::Kind::DataLoss);
    }

    #[test]
    fn a_damaged_row_is_data_loss() {
        let bad = decode::<ContainerRecord, Status>(b"\xff\xff\xff", b"{}").unwrap_err();
        assert_eq!(bad.kind(), spec::Kind::DataLoss);
        let bad = decode::<ContainerRecord, Status>(b"", b"not json").unwrap_err();
        assert_eq!(bad.kind(), spec::Kind::DataLoss);
    }
}
