//! The leak check itself: each kind of leak is planted and must be found. A check that
//! nobody saw fail is none.

use anyhow::{bail, ensure};
use e2e::{Node, Options, run};

/// Plants something in a node without a server; the check must name it.
fn planted(line: &str, word: &str) {
    let result = run::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let node = Node::prepare(Options {
                registry: false,
                ..Options::default()
            })?;
            node.sh(&line
                .replace("NODE", node.name())
                .replace("DIR", &node.dir().to_string_lossy()))?;
            let Err(error) = node.finish().await else {
                bail!("`{line}` was not found")
            };
            ensure!(format!("{error:#}").contains(word), "{error:#} does not say {word}");
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

#[test]
fn nothing_planted_nothing_found() {
    let result = run::runtime()
        .and_then(|runtime| runtime.block_on(async { Node::start(Options::default()).await?.finish().await }));
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

#[test]
fn a_process_is_found() {
    planted("setsid sleep 77777 >/dev/null 2>&1 &", "sleep 77777");
}

#[test]
fn a_process_in_a_pid_namespace_of_its_own_is_found() {
    planted(
        "setsid unshare -p -f sleep 88888 >/dev/null 2>&1 & sleep 0.2",
        "sleep 88888",
    );
}

#[test]
fn a_mount_is_found() {
    planted("mkdir /run/x && mount -t tmpfs tmpfs /run/x", "mount /run/x");
}

#[test]
fn a_network_namespace_is_found() {
    planted("ip netns add leaked", "leaked");
}

#[test]
fn an_interface_is_found() {
    planted("ip link add veth7 type veth peer name veth8", "interface veth7");
}

#[test]
fn a_firewall_rule_is_found() {
    planted(
        "nft add table ip t && nft add chain ip t c && nft add rule ip t c ip saddr 10.88.0.7 accept",
        "10.88.0.7",
    );
}

#[test]
fn a_cgroup_is_found() {
    planted("mkdir -p /sys/fs/cgroup/pids/NODE/pods/leaked", "pods/leaked");
}

#[test]
fn an_address_is_found() {
    planted("mkdir -p DIR/ipam/e2e && touch DIR/ipam/e2e/10.88.0.9", "10.88.0.9");
}

#[test]
fn state_of_a_container_is_found() {
    if e2e::engine::Engine::chosen() == e2e::engine::Engine::Bulkhead {
        planted("mkdir -p DIR/state/containers/leaked", "containers/leaked");
    }
}
