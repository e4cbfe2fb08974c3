//! The same life of two pods with every pairing of plugin sets.

use serde_json::json;

use crate::host::{Host, Set, isolated};
use crate::traffic::{ask, ask_udp, serve, serve_udp};

/// A test for each pairing: who ADDs, who DELs.
macro_rules! each_pairing {
    ($name:ident, $body:path) => {
        mod $name {
            use super::*;

            #[test]
            fn ours() {
                isolated(concat!(module_path!(), "::ours"), &[Set::Ours], |host| {
                    $body(&host, Set::Ours, Set::Ours)
                });
            }

            #[test]
            fn reference() {
                let sets = [Set::Reference];
                isolated(concat!(module_path!(), "::reference"), &sets, |host| {
                    $body(&host, Set::Reference, Set::Reference);
                });
            }

            #[test]
            fn ours_then_reference() {
                let sets = [Set::Ours, Set::Reference];
                isolated(concat!(module_path!(), "::ours_then_reference"), &sets, |host| {
                    $body(&host, Set::Ours, Set::Reference);
                });
            }

            #[test]
            fn reference_then_ours() {
                let sets = [Set::Ours, Set::Reference];
                isolated(concat!(module_path!(), "::reference_then_ours"), &sets, |host| {
                    $body(&host, Set::Reference, Set::Ours);
                });
            }
        }
    };
}

each_pairing!(life, life_of_two_pods);
each_pairing!(versions, every_version);
each_pairing!(half, the_other_half);

fn life_of_two_pods(host: &Host, adds: Set, dels: Set) {
    host.usual();
    let one = host.pod("one").mapping(&[
        (8080, 80, "tcp", ""),
        (8053, 53, "udp", ""),
        (8081, 80, "tcp", "192.0.2.1"),
    ]);
    let two = host.pod("two");
    let result = host.add(adds, &one);
    assert_eq!(result.ips[0].address.to_string(), "10.88.0.2/24");
    assert_eq!(result.ips[1].address.to_string(), "fd00:88::2/64");
    assert_eq!(result.interfaces.len(), 3);
    host.add(adds, &two);
    assert_eq!(
        host.held("net").into_iter().collect::<Vec<_>>(),
        ["10.88.0.2", "10.88.0.3", "fd00:88::2", "fd00:88::3"]
    );

    serve(Some(&one.space), "one", "[::]:80");
    serve_udp(&one.space, "one", "0.0.0.0:53");
    serve(None, "host", "[::]:7000");
    serve(Some(&host.outside), "outside", "[::]:7001");

    // Pod to gateway, pod to pod: with their own addresses.
    assert_eq!(ask(Some(&two.space), "10.88.0.1:7000"), "host 10.88.0.3");
    assert_eq!(ask(Some(&two.space), "[fd00:88::1]:7000"), "host fd00:88::3");
    assert_eq!(ask(Some(&two.space), "10.88.0.2:80"), "one 10.88.0.3");
    assert_eq!(ask(Some(&two.space), "[fd00:88::2]:80"), "one fd00:88::3");
    // Out: masqueraded.
    assert_eq!(ask(Some(&one.space), "192.0.2.2:7001"), "outside 192.0.2.1");
    assert_eq!(ask(Some(&one.space), "[2001:db8::2]:7001"), "outside 2001:db8::1");
    // In by a port of the host: with the client's own address.
    assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), "one 192.0.2.2");
    assert_eq!(ask(Some(&host.outside), "[2001:db8::1]:8080"), "one 2001:db8::2");
    assert_eq!(ask(Some(&host.outside), "192.0.2.1:8081"), "one 192.0.2.2");
    assert_eq!(ask_udp(Some(&host.outside), "192.0.2.1:8053"), "one 192.0.2.2");
    // From the host itself, by 127.0.0.1 too, and from the pod to itself.
    assert_eq!(ask(None, "192.0.2.1:8080"), "one 192.0.2.1");
    assert_eq!(ask(None, "127.0.0.1:8080"), "one 10.88.0.1");
    assert_eq!(ask(Some(&one.space), "10.88.0.1:8080"), "one 10.88.0.1");

    // Each set finds in order what the other made.
    for set in [adds, dels] {
        host.wait(host.cni(set).check(&one.attachment)).unwrap();
    }
    host.del(dels, &one);
    assert!(!one.space.ip("-o link").contains("eth0"));
    assert_eq!(
        host.held("net").into_iter().collect::<Vec<_>>(),
        ["10.88.0.3", "fd00:88::3"]
    );
    // The neighbour is not disturbed.
    assert_eq!(ask(Some(&two.space), "192.0.2.2:7001"), "outside 192.0.2.1");
    host.del(dels, &one);

    // The namespace first, then DEL.
    host.remove_space(&two.space);
    host.del(dels, &two);
    if dels == Set::Reference {
        // The reference leaves the masquerading rule of a pod whose namespace is gone.
        assert!(host.held("net").is_empty());
    } else {
        host.assert_clean();
    }
}

/// ADD and DEL in every version; the address of DEL comes free for the next, round robin.
fn every_version(host: &Host, adds: Set, dels: Set) {
    for (at, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        host.configure(version, &[host.bridge(&json!({})), host.portmap()]);
        let pod = host.pod(&format!("pod{at}")).mapping(&[(8080, 80, "tcp", "")]);
        let result = host.add(adds, &pod);
        assert_eq!(result.version.to_string(), version);
        assert_eq!(result.ips[0].address.to_string(), format!("10.88.0.{}/24", at + 2));
        if version >= "0.4.0" {
            host.wait(host.cni(dels).check(&pod.attachment)).unwrap();
        }
        host.del(dels, &pod);
        host.assert_clean();
    }
}

/// One pod of each set in one network: the same store, the same bridge, the same tables.
fn the_other_half(host: &Host, adds: Set, dels: Set) {
    host.usual();
    let (one, two) = (
        host.pod("one").mapping(&[(8080, 80, "tcp", "")]),
        host.pod("two").mapping(&[(8081, 80, "tcp", "")]),
    );
    host.add(adds, &one);
    let result = host.add(dels, &two);
    assert_eq!(result.ips[0].address.to_string(), "10.88.0.3/24");
    serve(Some(&one.space), "one", "0.0.0.0:80");
    serve(Some(&two.space), "two", "0.0.0.0:80");
    assert_eq!(ask(Some(&one.space), "10.88.0.3:80"), "two 10.88.0.2");
    assert_eq!(ask(Some(&host.outside), "192.0.2.1:8080"), "one 192.0.2.2");
    assert_eq!(ask(Some(&host.outside), "192.0.2.1:8081"), "two 192.0.2.2");
    host.del(dels, &one);
    assert_eq!(ask(Some(&host.outside), "192.0.2.1:8081"), "two 192.0.2.2");
    host.del(adds, &two);
    host.assert_clean();
}
