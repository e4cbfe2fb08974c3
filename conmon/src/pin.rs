//! Makes and pins a pod's namespaces, in a process of its own that ends after the answer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use proto::monitor::{Done, IdMapping, Pin, reply};

use crate::answer;
use crate::error::Error;

/// Does it and answers Done or Failure.
pub(crate) fn run(order: &Pin, socket: OwnedFd) -> io::Result<()> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut sysctls: Vec<(String, String)> = order
        .sysctls
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    sysctls.sort();
    let user = (!order.user.is_empty()).then(|| isolation::PinUser {
        path: PathBuf::from(&order.user),
        uids: order.uid_mappings.iter().map(map).collect(),
        gids: order.gid_mappings.iter().map(map).collect(),
    });
    let request = isolation::PinRequest {
        user,
        network: path(&order.network),
        ipc: path(&order.ipc),
        uts: path(&order.uts),
        hostname: (!order.hostname.is_empty()).then(|| order.hostname.clone()),
        sysctls,
        loopback_up: order.loopback_up,
    };
    let (pinned, result) = match isolation::pin(&request) {
        Ok(pinned) => (Some(pinned), reply::Result::Done(Done {})),
        Err(error) => (None, reply::Result::Failure(Error::from(error).to_wire())),
    };
    answer::say(&socket, result)?;
    // After the answer: nobody waits for what this costs.
    drop((socket, pinned));
    Ok(())
}

fn map(map: &IdMapping) -> isolation::IdMap {
    isolation::IdMap {
        inside: map.container_id,
        outside: map.host_id,
        size: map.size,
    }
}
