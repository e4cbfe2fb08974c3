//! Port mappings beyond the usual: addresses, conditions, replaced pods, neighbours.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::host::{Set, isolated};
use crate::traffic::{ask, ask_now, serve, serve_udp};

macro_rules! name {
    ($test:literal) => {
        concat!(module_path!(), "::", $test)
    };
}

#[test]
fn a_host_address_narrows_the_mapping() {
    isolated(name!("a_host_address_narrows_the_mapping"), &[Set::Ours], |host| {
        host.usual();
        let pod = host.pod("one").mapping(&[
            (8080, 80, "TCP", "127.0.0.1"),
            (8081, 80, "tcp", "0.0.0.0"),
            (8082, 80, "tcp", "2001:db8::1"),
            (8083, 80, "tcp", "198.51.100.9"),
        ]);
        host.add(Set::Ours, &pod);
        serve(Some(&pod.space), "one", "[::]:80");
        assert_eq!(ask(None, "127.0.0.1:8080"), "one 10.88.0.1");
        ask_now(Some(&host.outside), "192.0.2.1:8080").unwrap_err();
        assert_eq!(ask(Some(&host.outside), "192.0.2.1:8081"), "one 192.0.2.2");
        ask_now(Some(&host.outside), "[2001:db8::1]:8081").unwrap_err();
        assert_eq!(ask(Some(&host.outside), "[2001:db8::1]:8082"), "one 2001:db8::2");
        host.del(Set::Ours, &pod);
        host.assert_clean();
    });
}

#[test]
fn a_neighbour_reaches_the_mapping() {
    isolated(name!("a_neighbour_reaches_the_mapping"), &[Set::Ours], |host| {
        host.usual();
        let (one, two) = (host.pod("one").mapping(&[(8080, 80, "tcp", "")]), host.pod("two"));
        host.add(Set::Ours, &one);
        host.add(Set::Ours, &two);
        serve(Some(&one.space), "one", "[::]:80");
        assert_eq!(ask(Some(&two.space), "192.0.2.1:8080"), "one 10.88.0.1");
        assert_eq!(ask(Some(&two.space), "10.88.0.1:8080"), "one 10.88.0.1");
        assert_eq!(ask(Some(&two.space), "[fd00:88::1]:8080"), "one fd00:88::1");
    });
}

/// CVE-2025-67499: what only passes through the host is none of our business.
#[test]
fn traffic_for_others_passes() {
    isolated(name!("traffic_for_others_passes"), &[Set::Ours], |host| {
        host.usual();
        let (one, two) = (host.pod("one").mapping(&[(8080, 80, "tcp", "")]), host.pod("two"));
        host.add(Set::Ours, &one);
        host.add(Set::Ours, &two);
        serve(Some(&one.space), "one", "0.0.0.0:80");
        serve(Some(&host.outside), "outside", "0.0.0.0:8080");
        assert_eq!(ask(Some(&two.space), "192.0.2.2:8080"), "outside 192.0.2.1");
        assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), "one 192.0.2.2");
    });
}

/// CVE-2019-9946: what the host's firewall drops stays dropped, whoever came last.
#[test]
fn the_hosts_firewall_has_the_last_word() {
    isolated(name!("the_hosts_firewall_has_the_last_word"), &[Set::Ours], |host| {
        host.usual();
        let pod = host.pod("one").mapping(&[(8080, 80, "tcp", "")]);
        host.add(Set::Ours, &pod);
        serve(Some(&pod.space), "one", "0.0.0.0:80");
        assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), "one 192.0.2.2");
        let rules = "add table ip f; add chain ip f drops { type filter hook forward priority filter; }; \
                     add rule ip f drops iifname \"out0\" meta l4proto tcp ct original proto-dst 8080 drop";
        crate::host::run("nft", &[rules]);
        ask_now(Some(&host.outside), "192.0.2.1:8080").unwrap_err();
        host.add(Set::Ours, &host.pod("two").mapping(&[(8081, 80, "tcp", "")]));
        ask_now(Some(&host.outside), "192.0.2.1:8080").unwrap_err();
    });
}

#[test]
fn conditions_hold() {
    isolated(name!("conditions_hold"), &[Set::Ours], |host| {
        let mut portmap = host.portmap();
        portmap["conditionsV4"] = json!(["ip", "saddr", "!=", "192.0.2.2"]);
        host.configure("1.0.0", &[host.bridge(&json!({})), portmap]);
        let pod = host.pod("one").mapping(&[(8080, 80, "tcp", "")]);
        host.add(Set::Ours, &pod);
        serve(Some(&pod.space), "one", "[::]:80");
        ask_now(Some(&host.outside), "192.0.2.1:8080").unwrap_err();
        assert_eq!(ask(Some(&host.outside), "[2001:db8::1]:8080"), "one 2001:db8::2");
        host.outside.ip("addr add 192.0.2.3/24 dev out1");
        host.outside.ip("addr del 192.0.2.2/24 dev out1");
        host.outside.ip("addr replace 192.0.2.3/24 dev out1");
        assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), "one 192.0.2.3");
    });
}

#[test]
fn masquerading_all_and_none() {
    isolated(name!("masquerading_all_and_none"), &[Set::Ours], |host| {
        for (id, key, seen) in [
            ("all", json!({"masqAll": true}), "10.88.0.1"),
            ("none", json!({"snat": false}), "192.0.2.2"),
        ] {
            let mut portmap = host.portmap();
            for (key, value) in key.as_object().unwrap() {
                portmap[key] = value.clone();
            }
            host.configure("1.0.0", &[host.bridge(&json!({})), portmap]);
            let pod = host.pod(id).mapping(&[(8080, 80, "tcp", "")]);
            host.add(Set::Ours, &pod);
            serve(Some(&pod.space), "pod", "0.0.0.0:80");
            assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), format!("pod {seen}"));
            host.del(Set::Ours, &pod);
        }
    });
}

/// A UDP client that never stops, from one port: its flow goes to the new pod when the old one
/// is replaced, and to the first when a mapping comes while it is talking already.
#[test]
fn a_udp_flow_follows_the_mapping() {
    isolated(name!("a_udp_flow_follows_the_mapping"), &[Set::Ours], |host| {
        host.usual();
        let client = host.outside.run(|| {
            let socket = UdpSocket::bind("192.0.2.2:5555").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        });
        let answered_by = |wanted: &str| {
            let start = Instant::now();
            let mut buf = [0; 64];
            while start.elapsed() < Duration::from_secs(2) {
                // "Connection refused" by an earlier port is one more reason to ask again.
                client.send_to(b"?", "192.0.2.1:8053").unwrap_or_default();
                if let Ok((len, _)) = client.recv_from(&mut buf)
                    && buf[..len].starts_with(wanted.as_bytes())
                {
                    return true;
                }
            }
            false
        };
        assert!(!answered_by("one"));
        let one = host.pod("one").mapping(&[(8053, 53, "udp", "")]);
        let two = host.pod("two").mapping(&[(8053, 53, "udp", "")]);
        serve_udp(&one.space, "one", "0.0.0.0:53");
        serve_udp(&two.space, "two", "0.0.0.0:53");
        host.add(Set::Ours, &one);
        assert!(answered_by("one"));
        host.del(Set::Ours, &one);
        host.add(Set::Ours, &two);
        assert!(answered_by("two"));
    });
}
