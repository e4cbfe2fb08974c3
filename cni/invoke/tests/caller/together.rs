//! Our plugins that follow one another are one process; others never are.

use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::Value;

use crate::plugin::{Node, RESULT, attachment};

const LONG: Duration = Duration::from_secs(20);

/// A node with the plugins of a list, of which `ours` are links to a program with the name of ours. Each logs its verb, what
/// it was called with, and its configuration.
fn node(list: &[&str], ours: &[&str], body: &str) -> Node {
    let node = Node::new();
    for name in list.iter().filter(|name| !ours.contains(name)) {
        node.good(name);
    }
    let log = node.path("log");
    let text = format!(
        "#!/bin/sh\nIN=$(cat)\necho \"${{0##*/}} $* $CNI_COMMAND|||$IN\" >> {}\n{body}\n",
        log.display()
    );
    node.install("bulkhead-cni", &text);
    for name in ours {
        symlink("bulkhead-cni", node.path("bin").join(name)).unwrap();
    }
    let plugins: Vec<Value> = list
        .iter()
        .map(|name| serde_json::json!({"type": name, "capabilities": {"portMappings": *name == "b"}}))
        .collect();
    let conf = serde_json::json!({"cniVersion": "1.1.0", "name": "net", "plugins": plugins});
    node.conf("10.conflist", &conf.to_string());
    node
}

fn good() -> String {
    format!("[ $CNI_COMMAND != ADD ] || echo '{RESULT}'")
}

#[tokio::test]
async fn ours_in_a_row_are_one_process() {
    let node = node(&["a", "b"], &["a", "b"], &good());
    let (cni, target) = (node.cni(LONG), attachment("c1"));
    cni.add(&target).await.unwrap();
    cni.del(&target).await.unwrap();
    let log = node.log();
    assert_eq!(node.calls(), ["a a b ADD", "b b a DEL"]);
    let (add, del) = (&log[0].conf, &log[1].conf);
    for (conf, types) in [(add, ["a", "b"]), (del, ["b", "a"])] {
        let confs = conf.as_array().unwrap();
        assert_eq!(confs.iter().map(|conf| &conf["type"]).collect::<Vec<_>>(), types);
        for conf in confs {
            assert_eq!((&conf["name"], &conf["cniVersion"]), (&"net".into(), &"1.1.0".into()));
            // Each has what is its own.
            assert_eq!(conf["runtimeConfig"].is_object(), conf["type"] == "b", "{conf}");
        }
    }
    // Of ADD nobody has a result yet, and DEL is told that of all.
    assert!(
        add.as_array()
            .unwrap()
            .iter()
            .all(|conf| conf.get("prevResult").is_none())
    );
    for conf in del.as_array().unwrap() {
        assert_eq!(conf["prevResult"]["ips"][0]["address"], "10.1.2.3/24");
    }
}

#[tokio::test]
async fn another_between_them_is_called_as_ever() {
    let node = node(&["a", "x", "b", "c"], &["a", "b", "c"], &good());
    let (cni, target) = (node.cni(LONG), attachment("c1"));
    cni.add(&target).await.unwrap();
    cni.del(&target).await.unwrap();
    assert_eq!(
        node.calls(),
        ["a  ADD", "x ADD c1", "b b c ADD", "c c b DEL", "x DEL c1", "a  DEL"]
    );
    let log = node.log();
    let second = log[2].conf.as_array().unwrap();
    assert!(log[0].conf.is_object() && log[1].conf["prevResult"].is_object());
    assert!(second[0]["prevResult"].is_object() && second[1].get("prevResult").is_none());
}

#[tokio::test]
async fn a_failure_names_them_all_and_says_what_it_was_told() {
    let body = r#"[ $CNI_COMMAND != ADD ] || { echo '{"code":11,"msg":"b: no port today"}'; exit 1; }"#;
    let node = node(&["a", "b"], &["a", "b"], body);
    let error = node.cni(LONG).add(&attachment("c1")).await.unwrap_err().to_string();
    assert!(
        error.contains(r#""a, b""#) && error.contains("b: no port today"),
        "{error}"
    );
    assert_eq!(
        (node.calls(), node.records()),
        (vec!["a a b ADD".to_owned(), "b b a DEL".to_owned()], 0)
    );
}
