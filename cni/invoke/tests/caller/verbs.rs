//! The verbs over well-behaved plugins: order, what each gets, what is recorded.

use std::time::Duration;

use crate::plugin::{Node, attachment};
use spec::Kind;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn add_goes_forward_and_del_backward_with_what_was_recorded() {
    let node = Node::new();
    node.good("a");
    node.good("b");
    node.default_conf();
    let cni = node.cni(LONG);
    cni.status().await.unwrap();
    let result = cni.add(&attachment("c1")).await.unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.2.3/24");
    assert_eq!(node.calls(), ["a STATUS ", "b STATUS ", "a ADD c1", "b ADD c1"]);
    let log = node.log();
    assert_eq!(log[2].netns, "/proc/self/ns/net");
    assert_eq!(log[2].args, "IgnoreUnknown=1;K8S_POD_NAME=p");
    assert_eq!(log[2].conf["name"], "net");
    assert_eq!(log[2].conf["key"], 1);
    assert!(log[2].conf.get("prevResult").is_none() && log[2].conf.get("runtimeConfig").is_none());
    assert_eq!(log[3].conf["prevResult"]["ips"][0]["address"], "10.1.2.3/24");
    assert_eq!(
        log[3].conf["runtimeConfig"].to_string(),
        r#"{"portMappings":[{"hostPort":1}]}"#
    );
    cni.check(&attachment("c1")).await.unwrap();
    assert_eq!(node.records(), 1);

    // The configuration is gone and the namespace too: DEL knows both from its record.
    std::fs::remove_dir_all(node.path("net.d")).unwrap();
    cni.reload();
    let mut gone = attachment("c1");
    gone.netns = Some("/run/netns/gone".into());
    gone.capabilities.clear();
    cni.del(&gone).await.unwrap();
    let log = node.log();
    let last: Vec<_> = log[log.len() - 2..].iter().map(|line| line.call.as_str()).collect();
    assert_eq!(last, ["b DEL c1", "a DEL c1"]);
    let del = &log[log.len() - 2];
    assert_eq!(
        (del.netns.as_str(), del.args.as_str()),
        ("", "IgnoreUnknown=1;K8S_POD_NAME=p")
    );
    assert_eq!(del.conf["prevResult"]["ips"][0]["address"], "10.1.2.3/24");
    assert_eq!(del.conf["runtimeConfig"]["portMappings"][0]["hostPort"], 1);
    assert_eq!(node.records(), 0);
    // Again, with nothing known any more.
    cni.del(&gone).await.unwrap();
    assert_eq!(node.log().len(), log.len());
}

#[tokio::test]
async fn a_plain_file_is_no_namespace_to_del() {
    let node = Node::new();
    node.good("a");
    node.good("b");
    node.default_conf();
    let cni = node.cni(LONG);
    let mut rebooted = attachment("c1");
    rebooted.netns = Some(node.path("net.d/10.conflist"));
    let error = cni.add(&rebooted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(node.calls().is_empty());
    cni.del(&rebooted).await.unwrap();
    assert!(node.log().iter().all(|line| line.netns.is_empty()));
    assert_eq!(node.calls(), ["b DEL c1", "a DEL c1"]);
}

#[tokio::test]
async fn a_damaged_record_does_not_stop_del() {
    let node = Node::new();
    node.good("a");
    node.good("b");
    node.default_conf();
    let cni = node.cni(LONG);
    cni.add(&attachment("c1")).await.unwrap();
    std::fs::write(node.path("cache/results/net-c1-eth0"), "{").unwrap();
    cni.del(&attachment("c1")).await.unwrap();
    assert_eq!(node.calls()[2..], ["b DEL c1", "a DEL c1"]);
}

#[tokio::test]
async fn gc_detaches_what_is_not_valid_and_tells_the_plugins() {
    let node = Node::new();
    node.good("a");
    node.good("b");
    node.default_conf();
    let cni = node.cni(LONG);
    for id in ["keep", "stale"] {
        cni.add(&attachment(id)).await.unwrap();
    }
    cni.gc(&[("keep".to_owned(), "eth0".to_owned())]).await.unwrap();
    assert_eq!(node.calls()[4..], ["b DEL stale", "a DEL stale", "a GC ", "b GC "]);
    let log = node.log();
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(
            log[6].conf[key].to_string(),
            r#"[{"containerID":"keep","ifname":"eth0"}]"#
        );
    }
    assert_eq!(node.records(), 1);
}

#[tokio::test]
async fn old_versions_have_no_check_status_or_gc() {
    let node = Node::new();
    node.plugin(
        "a",
        r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"1.2.3.4/8"}]}'"#,
    );
    node.conf("1.conf", r#"{"cniVersion":"0.3.1","name":"old","type":"a"}"#);
    let cni = node.cni(LONG);
    cni.status().await.unwrap();
    cni.add(&attachment("c1")).await.unwrap();
    assert_eq!(
        cni.check(&attachment("c1")).await.unwrap_err().kind(),
        Kind::Unimplemented
    );
    cni.gc(&[("c1".to_owned(), "eth0".to_owned())]).await.unwrap();
    cni.del(&attachment("c1")).await.unwrap();
    assert_eq!(node.calls(), ["a ADD c1", "a DEL c1"]);
    assert!(node.log()[1].conf.get("prevResult").is_none());
}

#[tokio::test]
async fn a_record_of_libcni_is_understood() {
    let node = Node::new();
    node.good("a");
    let cni = node.cni(LONG);
    std::fs::create_dir_all(node.path("cache/results")).unwrap();
    // As libcni v1.3.0 wrote it; the configuration is {"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a"}]}.
    let config = "eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6ImEifV19";
    let record = format!(
        r#"{{"kind":"cniCacheV1","containerId":"c9","config":"{config}","ifName":"eth0","networkName":"net","netns":"/run/netns/x","cniArgs":[["K","V"]],"result":{{"cniVersion":"1.0.0","dns":{{}},"ips":[{{"address":"10.0.0.9/24"}}]}}}}"#
    );
    std::fs::write(node.path("cache/results/net-c9-eth0"), record).unwrap();
    cni.gc(&[]).await.unwrap();
    let log = node.log();
    assert_eq!(
        (log.len(), log[0].call.as_str(), log[0].args.as_str()),
        (1, "a DEL c9", "K=V")
    );
    assert_eq!(log[0].conf["prevResult"]["ips"][0]["address"], "10.0.0.9/24");
}
