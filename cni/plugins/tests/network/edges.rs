//! Our plugins where it is not the usual way: at once, full, repeated, half gone, asked for more.

use serde_json::json;

use crate::host::{Set, ip, isolated};
use crate::traffic::{ask, ask_now, serve};

macro_rules! name {
    ($test:literal) => {
        concat!(module_path!(), "::", $test)
    };
}

#[test]
fn many_at_once() {
    isolated(name!("many_at_once"), &[Set::Ours], |host| {
        host.usual();
        let pods: Vec<_> = (0..16)
            .map(|n| host.pod(&format!("pod{n}")).mapping(&[(9000 + n, 80, "tcp", "")]))
            .collect();
        let cni = host.cni(Set::Ours);
        for verb in ["add", "del"] {
            host.wait(async {
                let tasks: Vec<_> = pods
                    .iter()
                    .map(|pod| {
                        let (cni, attachment) = (std::sync::Arc::clone(&cni), pod.attachment.clone());
                        tokio::spawn(async move {
                            if verb == "add" {
                                cni.add(&attachment).await.map(drop)
                            } else {
                                cni.del(&attachment).await
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap().unwrap();
                }
            });
            if verb == "add" {
                assert_eq!(host.held("net").len(), 32);
                assert_eq!(host.ruleset().matches("dnat to").count(), 32);
                assert_eq!(ip("-o link show type bridge").lines().count(), 1);
            }
        }
        host.assert_clean();
    });
}

#[test]
fn neighbours_hear_who_has_an_address_now() {
    isolated(name!("neighbours_hear_who_has_an_address_now"), &[Set::Ours], |host| {
        // Others than this node's pods may be in a network whose gateway is somewhere else.
        host.configure("1.0.0", &[host.bridge(&json!({"isGateway": false}))]);
        let (one, two) = (host.pod("one"), host.pod("two"));
        host.add(Set::Ours, &one);
        // As it would be of an owner before: the next pod has the next address.
        one.space
            .ip("neigh replace 10.88.0.3 lladdr 02:00:00:00:00:01 dev eth0 nud stale");
        let result = host.add(Set::Ours, &two);
        assert_eq!(result.ips[0].address.addr().to_string(), "10.88.0.3");
        let mac = result.interfaces[2].mac.clone();
        assert!(!mac.is_empty());
        let heard = crate::traffic::eventually(|| one.space.ip("neigh show 10.88.0.3").contains(&mac).then_some(()));
        assert!(heard.is_some(), "{}, not {mac}", one.space.ip("neigh show 10.88.0.3"));
        for pod in [&one, &two] {
            host.del(Set::Ours, pod);
        }
        host.assert_clean();
    });
}

#[test]
fn an_address_of_the_nodes_own_network_brings_its_hardware_address() {
    isolated(
        name!("an_address_of_the_nodes_own_network_brings_its_hardware_address"),
        &[Set::Ours],
        |host| {
            let ipam = json!({"type": "host-local", "dataDir": host.dir.join("data"), "subnet": "10.88.0.0/29", "rangeEnd": "10.88.0.3"});
            host.configure("1.0.0", &[host.bridge(&json!({"ipam": ipam}))]);
            let (one, two, three) = (host.pod("one"), host.pod("two"), host.pod("three"));
            host.add(Set::Ours, &one);
            let mac = |result: &cni_types::AddResult| {
                assert_eq!(result.ips[0].address.addr().to_string(), "10.88.0.3");
                result.interfaces[2].mac.clone()
            };
            assert_eq!(mac(&host.add(Set::Ours, &two)), "0a:58:0a:58:00:03");
            assert!(two.space.ip("link show eth0").contains("0a:58:0a:58:00:03"));
            serve(Some(&two.space), "two", "10.88.0.3:80");
            assert_eq!(ask(Some(&one.space), "10.88.0.3:80"), "two 10.88.0.2");
            host.del(Set::Ours, &two);
            // What is announced replaces what a neighbour remembers; here nothing is.
            let remembered = "02:00:00:00:00:01";
            let remember = |mac: &str| {
                let entry = format!("neigh replace 10.88.0.3 lladdr {mac} dev eth0 nud stale");
                one.space.ip(&entry);
            };
            remember(remembered);
            assert_eq!(mac(&host.add(Set::Ours, &three)), "0a:58:0a:58:00:03");
            // CHECK waits for all that ADD does.
            host.wait(host.cni(Set::Ours).check(&three.attachment)).unwrap();
            assert!(one.space.ip("neigh show 10.88.0.3").contains(remembered));
            // The next one has the address, and with it what `one` had learnt of the last.
            remember("0a:58:0a:58:00:03");
            serve(Some(&three.space), "three", "10.88.0.3:80");
            assert_eq!(ask(Some(&one.space), "10.88.0.3:80"), "three 10.88.0.2");
            for pod in [&one, &three] {
                host.del(Set::Ours, pod);
            }
            host.assert_clean();
        },
    );
}

#[test]
fn connections_are_tracked_when_the_last_pod_is_gone_too() {
    isolated(
        name!("connections_are_tracked_when_the_last_pod_is_gone_too"),
        &[Set::Ours],
        |host| {
            host.usual();
            let pod = host.pod("one");
            for _ in 0..2 {
                host.add(Set::Ours, &pod);
                host.del(Set::Ours, &pod);
                // The kernel begins anew, with a look through all connections, when no rule needs them any more.
                let rules = host.ruleset();
                let entry = rules
                    .split("chain ")
                    .find(|chain| chain.starts_with("postrouting"))
                    .unwrap();
                assert_eq!(entry.matches("masquerade").count(), 1, "{rules}");
                // Where no packet comes.
                assert!(
                    entry.find("goto masq_checks").unwrap() < entry.find("masquerade").unwrap(),
                    "{rules}"
                );
            }
            host.assert_clean();
        },
    );
}

/// The sockets of netfilter that this process holds (the third column of the table is the protocol).
fn netfilter_sockets() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/netlink").unwrap();
    let inodes: Vec<String> = table
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some("12"))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().last()?)))
        .collect();
    let held = std::fs::read_dir("/proc/self/fd").unwrap();
    held.filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.display().to_string()))
        .filter(|link| inodes.contains(link))
        .collect()
}

#[test]
fn one_socket_of_netfilter_does_for_calls_that_follow_one_another() {
    isolated(
        name!("one_socket_of_netfilter_does_for_calls_that_follow_one_another"),
        &[Set::Ours],
        |host| {
            host.usual();
            let (one, two) = (host.pod("one").mapping(&[(9000, 80, "tcp", "")]), host.pod("two"));
            let cni = host.cni(Set::Ours);
            assert_eq!(netfilter_sockets().len(), 0);
            host.wait(cni.add(&one.attachment)).unwrap();
            let first = netfilter_sockets();
            assert_eq!(first.len(), 1);
            host.wait(cni.add(&two.attachment)).unwrap();
            host.wait(cni.del(&one.attachment)).unwrap();
            assert_eq!(netfilter_sockets(), first);
            // What a plugin had that failed is not lent again: the second is that of the DEL which undid it.
            host.wait(cni.add(&two.attachment)).unwrap_err();
            let seen = crate::traffic::eventually(|| {
                let now = netfilter_sockets();
                (now.len() == 1 && now != first).then_some(())
            });
            assert!(seen.is_some(), "{:?}, first {first:?}", netfilter_sockets());
            host.wait(cni.del(&two.attachment)).unwrap();
            host.assert_clean();
        },
    );
}

#[test]
fn a_full_network_says_so_and_recovers() {
    isolated(name!("a_full_network_says_so_and_recovers"), &[Set::Ours], |host| {
        let ipam = json!({"type": "host-local", "dataDir": host.dir.join("data"), "subnet": "10.88.0.0/30"});
        host.configure("1.0.0", &[host.bridge(&json!({"ipam": ipam})), host.portmap()]);
        let (one, two) = (host.pod("one"), host.pod("two"));
        host.add(Set::Ours, &one);
        let error = host.add_error(&two);
        assert_eq!(error.kind(), spec::Kind::ResourceExhausted);
        assert!(
            error
                .to_string()
                .contains("no IP addresses available in range set: 10.88.0.1-10.88.0.2"),
            "{error}"
        );
        assert!(!two.space.ip("-o link").contains("eth0"));
        assert_eq!(ip("-o link show type veth").lines().count(), 2, "one pod's and out0");
        host.del(Set::Ours, &one);
        host.add(Set::Ours, &two);
        host.del(Set::Ours, &two);
        host.assert_clean();
    });
}

#[test]
fn a_taken_interface_takes_no_address() {
    isolated(name!("a_taken_interface_takes_no_address"), &[Set::Ours], |host| {
        host.usual();
        let pod = host.pod("one");
        pod.space.ip("link add eth0 type veth peer name eth9");
        let error = host.add_error(&pod);
        assert!(error.to_string().contains("eth0"), "{error}");
        // DEL of the failed ADD removes what is called eth0 there, as the reference does.
        host.assert_clean();
    });
}

#[test]
fn what_is_asked_for_is_given() {
    isolated(name!("what_is_asked_for_is_given"), &[Set::Ours], |host| {
        let more = json!({"capabilities": {"ips": true, "mac": true}, "mtu": 1400, "isDefaultGateway": true,
            "dns": {"nameservers": ["10.0.0.53"], "search": ["example"]}});
        host.configure("1.0.0", &[host.bridge(&more)]);
        let mut pod = host.pod("one");
        pod.attachment
            .capabilities
            .insert("ips".into(), json!(["10.88.0.77/24", "fd00:88::77"]));
        pod.attachment
            .capabilities
            .insert("mac".into(), json!("02:11:22:33:44:55"));
        let result = host.add(Set::Ours, &pod);
        assert_eq!(result.ips[0].address.to_string(), "10.88.0.77/24");
        assert_eq!(result.ips[1].address.to_string(), "fd00:88::77/64");
        assert_eq!(result.dns.nameservers, ["10.0.0.53"]);
        let link = pod.space.ip("link show eth0");
        assert!(
            link.contains("02:11:22:33:44:55") && link.contains("mtu 1400"),
            "{link}"
        );
        assert!(pod.space.ip("route").contains("default via 10.88.0.1"));
        assert!(pod.space.ip("-6 route").contains("default via fd00:88::1"));
        // The same address again, one outside the range, and the gateway's.
        for (bad, word) in [
            ("10.88.0.77", "taken"),
            ("10.99.0.1", "no range"),
            ("10.88.0.1", "gateway"),
        ] {
            let mut other = host.pod(&format!("bad{}", word.len()));
            other.attachment.capabilities.insert("ips".into(), json!([bad]));
            let error = host.add_error(&other);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(host.held("net").len(), 2);
        host.del(Set::Ours, &pod);
        host.assert_clean();
    });
}

#[test]
fn everything_is_gone_with_the_namespace() {
    isolated(name!("everything_is_gone_with_the_namespace"), &[Set::Ours], |host| {
        host.usual();
        let pod = host.pod("one").mapping(&[(8080, 80, "tcp", "")]);
        host.add(Set::Ours, &pod);
        host.remove_space(&pod.space);
        // As after a reboot: the path is there again, and is no namespace.
        std::fs::write(&pod.space.path, "").unwrap();
        std::fs::remove_file(host.dir.join("net.d/10.conflist")).unwrap();
        host.del(Set::Ours, &pod);
        host.assert_clean();
    });
}

#[test]
fn check_finds_what_is_missing() {
    isolated(name!("check_finds_what_is_missing"), &[Set::Ours], |host| {
        host.usual();
        let check = |id: &str, spoil: &dyn Fn(&crate::host::Pod), word: &str| {
            let pod = host.pod(id).mapping(&[(8080, 80, "tcp", "")]);
            host.add(Set::Ours, &pod);
            host.wait(host.cni(Set::Ours).check(&pod.attachment)).unwrap();
            spoil(&pod);
            let error = host.wait(host.cni(Set::Ours).check(&pod.attachment)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            host.del(Set::Ours, &pod);
        };
        check(
            "a",
            &|pod| drop(pod.space.ip("addr flush dev eth0 scope global")),
            "address",
        );
        check("b", &|pod| drop(pod.space.ip("route del default")), "route");
        check(
            "c",
            &|_| {
                drop(crate::host::run(
                    "nft",
                    &["flush", "chain", "ip", "cni_hostport", "hostports"],
                ))
            },
            "rules",
        );
        check("d", &|pod| drop(pod.space.ip("link del eth0")), "eth0");
        let drop_masq = ["flush", "chain", "inet", "cni_plugins_masquerade", "masq_checks"];
        check("e", &|_| drop(crate::host::run("nft", &drop_masq)), "masquerading");
        host.assert_clean();
    });
}

#[test]
fn gc_frees_what_nobody_owns() {
    isolated(name!("gc_frees_what_nobody_owns"), &[Set::Ours], |host| {
        host.configure("1.1.0", &[host.bridge(&json!({})), host.portmap()]);
        let (keep, lost) = (host.pod("keep"), host.pod("lost"));
        host.add(Set::Ours, &keep);
        host.add(Set::Ours, &lost);
        // Its record is lost as well; only the plugins still know of it.
        std::fs::remove_file(host.dir.join("cache/results/net-lost-eth0")).unwrap();
        let cni = host.cni(Set::Ours);
        host.wait(cni.status()).unwrap();
        host.wait(cni.gc(&[("keep".into(), "eth0".into())])).unwrap();
        assert_eq!(
            host.held("net").into_iter().collect::<Vec<_>>(),
            ["10.88.0.2", "fd00:88::2"]
        );
        assert!(host.ruleset().contains("id: keep") && !host.ruleset().contains("id: lost"));
        lost.space.ip("link del eth0");
        host.wait(cni.gc(&[])).unwrap();
        host.assert_clean();
    });
}

#[test]
fn vlans_keep_pods_apart() {
    isolated(name!("vlans_keep_pods_apart"), &[Set::Ours], |host| {
        let ipam = json!({"type": "host-local", "dataDir": host.dir.join("data"), "subnet": "10.88.0.0/24"});
        let has_vlans = std::process::Command::new("ip")
            .args(["link", "add", "probe0", "type", "bridge", "vlan_filtering", "1"])
            .status()
            .unwrap()
            .success();
        if !has_vlans {
            host.configure("1.0.0", &[host.bridge(&json!({"ipam": ipam, "vlan": 100}))]);
            let error = host.add_error(&host.pod("one"));
            assert!(error.to_string().contains("no VLAN filtering"), "{error}");
            return host.assert_clean();
        }
        let (one, two, other) = (host.pod("one"), host.pod("two"), host.pod("other"));
        host.configure("1.0.0", &[host.bridge(&json!({"ipam": ipam, "vlan": 100}))]);
        let result = host.add(Set::Ours, &one);
        assert_eq!(result.interfaces[3].name, "cni0.100");
        host.add(Set::Ours, &two);
        host.configure(
            "1.0.0",
            &[host.bridge(&json!({"ipam": ipam, "vlan": 200, "isGateway": false}))],
        );
        host.add(Set::Ours, &other);
        serve(Some(&one.space), "one", "0.0.0.0:80");
        serve(None, "host", "0.0.0.0:7000");
        assert_eq!(ask(Some(&two.space), "10.88.0.2:80"), "one 10.88.0.3");
        assert_eq!(ask(Some(&two.space), "10.88.0.1:7000"), "host 10.88.0.3");
        ask_now(Some(&other.space), "10.88.0.2:80").unwrap_err();
        for pod in [&one, &two, &other] {
            host.del(Set::Ours, pod);
        }
    });
}

#[test]
fn isolated_ports_see_the_gateway_only() {
    isolated(name!("isolated_ports_see_the_gateway_only"), &[Set::Ours], |host| {
        host.configure(
            "1.0.0",
            &[host.bridge(&json!({"portIsolation": true, "hairpinMode": false, "promiscMode": true}))],
        );
        let (one, two) = (host.pod("one"), host.pod("two"));
        host.add(Set::Ours, &one);
        host.add(Set::Ours, &two);
        serve(Some(&one.space), "one", "0.0.0.0:80");
        serve(None, "host", "0.0.0.0:7000");
        assert_eq!(ask(Some(&two.space), "10.88.0.1:7000"), "host 10.88.0.3");
        ask_now(Some(&two.space), "10.88.0.2:80").unwrap_err();
        assert!(ip("-d link show cni0").contains("promiscuity 1") || ip("-d link show cni0").contains("PROMISC"));
        host.del(Set::Ours, &one);
        host.del(Set::Ours, &two);
        host.assert_clean();
    });
}

#[test]
fn a_bridge_with_another_address_is_left_alone_unless_forced() {
    isolated(
        name!("a_bridge_with_another_address_is_left_alone_unless_forced"),
        &[Set::Ours],
        |host| {
            host.usual();
            ip("link add cni0 type bridge");
            ip("addr add 10.99.0.1/16 dev cni0");
            let pod = host.pod("one");
            let error = host.add_error(&pod);
            assert!(error.to_string().contains("10.99.0.1/16"), "{error}");
            assert!(!ip("addr show cni0").contains("10.88"), "nothing of ours stays");
            host.configure("1.0.0", &[host.bridge(&json!({"forceAddress": true}))]);
            host.add(Set::Ours, &pod);
            let addresses = ip("addr show cni0");
            assert!(
                addresses.contains("10.88.0.1/24") && !addresses.contains("10.99"),
                "{addresses}"
            );
            host.del(Set::Ours, &pod);
            ip("link del cni0");
            ip("link add cni0 type veth peer name other0");
            let error = host.add_error(&pod);
            assert!(error.to_string().contains("no bridge"), "{error}");
            host.assert_clean();
        },
    );
}

#[test]
fn ipv6_works_at_once_and_after_detection() {
    isolated(name!("ipv6_works_at_once_and_after_detection"), &[Set::Ours], |host| {
        for (id, dad) in [("quick", false), ("careful", true)] {
            host.configure("1.0.0", &[host.bridge(&json!({"enabledad": dad}))]);
            let pod = host.pod(id);
            let result = host.add(Set::Ours, &pod);
            let address = result.ips[1].address.addr();
            // No patience: it can be bound and reached when ADD returns.
            pod.space
                .run(move || std::net::TcpListener::bind((address, 81)).map(drop))
                .unwrap();
            assert!(!pod.space.ip("-6 addr show dev eth0 scope global").contains("tentative"));
            serve(Some(&pod.space), "pod", "[::]:80");
            assert!(ask_now(None, &format!("[{address}]:80")).unwrap().starts_with("pod "));
        }
    });
}

/// A plugin killed at any moment of ADD or DEL leaves nothing that the next DEL does not remove.
#[test]
fn a_call_cut_off_anywhere_can_be_finished() {
    isolated(name!("a_call_cut_off_anywhere_can_be_finished"), &[Set::Ours], |host| {
        host.usual();
        let cni = host.cni(Set::Ours);
        let mut cut = 0;
        for round in 0..40u64 {
            let pod = host
                .pod(&format!("pod{round}"))
                .mapping(&[(8080, 80, "tcp", ""), (8053, 53, "udp", "")]);
            let limit = std::time::Duration::from_micros(300 * (round / 2));
            host.wait(async {
                if round % 2 == 0 {
                    cut += u32::from(tokio::time::timeout(limit, cni.add(&pod.attachment)).await.is_err());
                } else {
                    cni.add(&pod.attachment).await.unwrap();
                    cut += u32::from(tokio::time::timeout(limit, cni.del(&pod.attachment)).await.is_err());
                }
                cni.del(&pod.attachment).await.unwrap();
            });
            host.assert_clean();
            host.remove_space(&pod.space);
        }
        assert!(cut > 5, "only {cut} calls were cut off");
    });
}
