//! What a pod must not be able to do to the host, and what a network must not do to a pod.

use serde_json::json;

use crate::host::{Set, ip, isolated, run};
use crate::traffic::{ask, ask_now, serve};

macro_rules! name {
    ($test:literal) => {
        concat!(module_path!(), "::", $test)
    };
}

/// CVE-2020-10749: router advertisements from pods are not heard.
#[test]
fn the_host_hears_no_router_of_a_pod() {
    isolated(name!("the_host_hears_no_router_of_a_pod"), &[Set::Ours], |host| {
        host.usual();
        let result = host.add(Set::Ours, &host.pod("one"));
        for interface in &result.interfaces[..2] {
            let path = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", interface.name);
            assert_eq!(std::fs::read_to_string(path).unwrap().trim(), "0", "{}", interface.name);
        }
        assert!(!ip("-6 addr").contains(&format!("{}@", result.interfaces[1].name)));
        assert!(
            ip(&format!("-6 addr show dev {}", result.interfaces[1].name)).is_empty(),
            "a port has no address"
        );
    });
}

/// CVE-2024-32473: a network without IPv6 gives none.
#[test]
fn an_ipv4_network_makes_no_ipv6_address() {
    isolated(name!("an_ipv4_network_makes_no_ipv6_address"), &[Set::Ours], |host| {
        let ipam = json!({"type": "host-local", "dataDir": host.dir.join("data"), "subnet": "10.88.0.0/24"});
        host.configure("1.0.0", &[host.bridge(&json!({"ipam": ipam}))]);
        let pod = host.pod("one");
        host.add(Set::Ours, &pod);
        assert_eq!(pod.space.ip("-6 addr show dev eth0"), "");
    });
}

/// CVE-2020-8558: the bridge lets 127/8 through for the host's own mappings, for nobody else.
#[test]
fn a_pod_cannot_reach_the_hosts_loopback() {
    isolated(name!("a_pod_cannot_reach_the_hosts_loopback"), &[Set::Ours], |host| {
        host.usual();
        let (one, two) = (host.pod("one").mapping(&[(8080, 80, "tcp", "")]), host.pod("two"));
        host.add(Set::Ours, &one);
        host.add(Set::Ours, &two);
        serve(Some(&one.space), "one", "0.0.0.0:80");
        serve(None, "private", "127.0.0.1:7000");
        assert_eq!(ask(None, "127.0.0.1:8080"), "one 10.88.0.1");
        two.space
            .run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
        two.space.ip("addr del 127.0.0.1/8 dev lo");
        two.space.ip("route add 127.0.0.1/32 via 10.88.0.1 src 10.88.0.3");
        ask_now(Some(&two.space), "127.0.0.1:7000").unwrap_err();
        // The attack works where the guard is not: so the test can fail.
        run("nft", &["flush", "chain", "ip", "cni_hostport", "localnet_guard"]);
        assert_eq!(ask(Some(&two.space), "127.0.0.1:7000"), "private 10.88.0.3");
    });
}

/// The namespace of the host itself is no pod.
#[test]
fn the_hosts_namespace_is_refused() {
    isolated(name!("the_hosts_namespace_is_refused"), &[Set::Ours], |host| {
        host.usual();
        let mut pod = host.pod("one");
        pod.attachment.netns = Some("/proc/self/ns/net".into());
        let error = host.add_error(&pod);
        assert!(error.to_string().contains("host's own namespace"), "{error}");
        assert!(ip("-o link").contains("out0"));
    });
}

#[test]
fn the_bridge_keeps_its_hardware_address() {
    isolated(
        name!("the_bridge_keeps_its_hardware_address"),
        &[Set::Ours, Set::Reference],
        |host| {
            for set in [Set::Ours, Set::Reference] {
                host.usual();
                let first = host.pod("first");
                let made = host.add(set, &first).interfaces[0].mac.clone();
                for n in 0..4 {
                    let pod = host.pod(&format!("{set:?}{n}"));
                    assert_eq!(host.add(Set::Ours, &pod).interfaces[0].mac, made);
                    host.del(Set::Ours, &pod);
                }
                host.del(Set::Ours, &first);
                host.remove_space(&first.space);
                ip("link del cni0");
            }
        },
    );
}

/// A list that was read while the table changed is whole or read again.
#[test]
fn lists_are_whole_while_links_come_and_go() {
    isolated(
        name!("lists_are_whole_while_links_come_and_go"),
        &[Set::Ours],
        |_host| {
            use cni_netlink::link::{self, Link, Veth};
            let churn = std::thread::spawn(|| {
                let mut socket = cni_netlink::Socket::route().unwrap();
                for round in 0..150 {
                    let (name, peer) = (format!("a{round}"), format!("b{round}"));
                    let veth = Veth {
                        name: &name,
                        peer: &peer,
                        netns: None,
                        mtu: 0,
                        peer_mac: None,
                        master: None,
                    };
                    socket.one(link::add_veth(&veth)).unwrap();
                    if round % 3 > 0 {
                        socket.one(link::delete(&name)).unwrap();
                    }
                }
            });
            let mut socket = cni_netlink::Socket::route().unwrap();
            let mut lists = 0;
            while !churn.is_finished() {
                let replies = match socket.dump(&link::list(), "links") {
                    Err(cni_netlink::Error::Unstable(_)) => continue,
                    other => other.unwrap(),
                };
                let links: Vec<Link> = replies.iter().filter_map(Link::parse).collect();
                assert_eq!(links.len(), replies.len());
                for name in ["lo", "out0"] {
                    assert_eq!(links.iter().filter(|link| link.name == name).count(), 1, "{name}");
                }
                lists += 1;
            }
            churn.join().unwrap();
            assert!(lists > 10);
        },
    );
}

/// A killed daemon leaves its ADD at work: the DEL of the next one must not pass it, or a rule made afterwards stays.
#[test]
fn del_waits_for_whoever_is_at_work_in_the_namespace() {
    isolated(
        name!("del_waits_for_whoever_is_at_work_in_the_namespace"),
        &[Set::Ours],
        |host| {
            host.usual();
            let pod = host.pod("one");
            host.add(Set::Ours, &pod);
            let file = std::fs::File::open(&pod.space.path).unwrap();
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
            let held = std::time::Duration::from_millis(400);
            let holder = std::thread::spawn(move || {
                std::thread::sleep(held);
                drop(file);
            });
            let begin = std::time::Instant::now();
            host.del(Set::Ours, &pod);
            assert!(begin.elapsed() >= held, "DEL took {:?}", begin.elapsed());
            holder.join().unwrap();
            host.assert_clean();
        },
    );
}
