//! Plugins that wait for their configuration are started ahead; others never are.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::plugin::{Node, RESULT, attachment, is_dead};

const LONG: Duration = Duration::from_secs(20);

/// A node with plugins `a` and `b`, which tell when they are started and when they act, `a` half a second later. The one
/// that `ours` names is a link to a program with the name of ours.
fn node(ours: &str) -> Node {
    let node = Node::new();
    let (steps, pid) = (node.path("steps"), node.path("pid"));
    for (name, pause) in [("a", 0.5), ("b", 0.0)] {
        let file = if name == ours { "bulkhead-cni" } else { name };
        let text = format!(
            "#!/bin/sh\necho {name} starts >> {steps}\necho $$ > {pid}.{name}\nIN=$(cat)\n[ -n \"$IN\" ] || exit 1\n\
             sleep {pause}\necho {name} $CNI_COMMAND >> {steps}\n[ $CNI_COMMAND != ADD ] || echo '{RESULT}'\n",
            steps = steps.display(),
            pid = pid.display(),
        );
        node.install(file, &text);
    }
    if !ours.is_empty() {
        symlink("bulkhead-cni", node.path("bin").join(ours)).unwrap();
    }
    node.default_conf();
    node
}

fn steps(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.path("steps")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn ours_is_started_while_the_one_before_it_is_at_work() {
    let node = node("b");
    let (cni, target) = (node.cni(LONG), attachment("c1"));
    cni.add(&target).await.unwrap();
    let seen = steps(&node);
    let at = |step: &str| seen.iter().position(|one| one == step).unwrap();
    assert!(at("b starts") < at("a ADD"), "{seen:?}");
    assert!(at("a ADD") < at("b ADD"), "{seen:?}");
    cni.del(&target).await.unwrap();
    let seen = steps(&node);
    assert_eq!(seen[seen.len() - 2..], ["a starts", "a DEL"], "{seen:?}");
}

#[tokio::test]
async fn ours_is_not_started_before_the_one_before_it_knows_what_to_do() {
    let node = node("b");
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(steps(&node).is_empty(), "{:?}", steps(&node));
        Err(cni_invoke::Error::Attachment("no namespace today".to_owned()))
    };
    node.cni(LONG).add_when(&attachment("c1"), later).await.unwrap_err();
    assert!(steps(&node).is_empty(), "{:?}", steps(&node));
}

#[tokio::test]
async fn another_is_started_in_its_turn() {
    let node = node("");
    node.cni(LONG).add(&attachment("c1")).await.unwrap();
    assert_eq!(steps(&node), ["a starts", "a ADD", "b starts", "b ADD"]);
}

#[tokio::test]
async fn the_answer_of_ours_counts_and_its_end_is_waited_for_by_the_next_verb() {
    let node = Node::new();
    let file = node.path("steps");
    let text = format!(
        "#!/bin/sh\nIN=$(cat)\n[ -n \"$IN\" ] || exit 1\necho $CNI_COMMAND >> {steps}\n[ $CNI_COMMAND = ADD ] || exit 0\n\
         echo '{RESULT}'\nexec >&- 2>&-\nsleep 1\necho end >> {steps}\n",
        steps = file.display(),
    );
    node.install("bulkhead-cni", &text);
    symlink("bulkhead-cni", node.path("bin/a")).unwrap();
    node.conf(
        "10.conflist",
        r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"a"}]}"#,
    );
    let (cni, target) = (node.cni(LONG), attachment("c1"));
    cni.add(&target).await.unwrap();
    assert_eq!(steps(&node), ["ADD"], "it was waited for");
    cni.del(&target).await.unwrap();
    assert_eq!(steps(&node), ["ADD", "end", "DEL"]);
}

#[tokio::test]
async fn half_an_answer_of_ours_or_an_error_is_none() {
    for (said, word) in [
        (r#"{"cniVersion":"1.1.0","ips":["#, "exit status: 3"),
        (r#"{"cniVersion":"1.1.0","code":11,"msg":"later"}"#, "later"),
        ("", "exit status: 3"),
    ] {
        let node = Node::new();
        let text = format!(
            "#!/bin/sh\nIN=$(cat)\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{said}'\nexec >&- 2>&-\nsleep 0.2\nexit 3\n"
        );
        node.install("bulkhead-cni", &text);
        symlink("bulkhead-cni", node.path("bin/a")).unwrap();
        node.conf(
            "10.conflist",
            r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"a"}]}"#,
        );
        let error = node.cni(LONG).add(&attachment("c1")).await.unwrap_err();
        assert!(error.to_string().contains(word), "{said}: {error}");
    }
}

#[tokio::test]
async fn what_was_started_in_vain_is_killed_and_was_told_nothing() {
    let node = node("a");
    let cni = node.cni(LONG);
    let pid = node.path("pid.a");
    let failing = async {
        while fs::read_to_string(&pid).unwrap_or_default().trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(cni_invoke::Error::Attachment("no namespace today".to_owned()))
    };
    let error = cni.add_when(&attachment("c1"), failing).await.unwrap_err();
    assert!(error.to_string().contains("no namespace today"), "{error}");
    assert!(is_dead(&pid));
    assert_eq!((steps(&node), node.records()), (vec!["a starts".to_owned()], 0));
}
