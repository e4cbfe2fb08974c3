//! Plugins that fail, hang, print rubbish or are not there, and callers that go away.

use std::time::{Duration, Instant};

use crate::plugin::{Node, RESULT, attachment, is_dead};
use cni_invoke::Error;
use spec::Kind;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

fn node_with_good_a() -> Node {
    let node = Node::new();
    node.good("a");
    node.default_conf();
    node
}

#[tokio::test]
async fn a_failing_plugin_is_named_and_everything_is_undone() {
    let node = node_with_good_a();
    node.plugin(
        "b",
        r#"[ $CNI_COMMAND != ADD ] || { echo '{"cniVersion":"1.1.0","code":11,"msg":"no more","details":"pool"}'; exit 1; }"#,
    );
    let error = node.cni(LONG).add(&attachment("c1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    let text = error.to_string();
    for word in ["\"b\"", "\"net\"", "ADD", "code 11", "no more", "pool"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(node.calls(), ["a ADD c1", "b ADD c1", "b DEL c1", "a DEL c1"]);
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn rubbish_is_shown() {
    for (body, status) in [
        ("echo 'panic: oh no'", true),
        ("echo oh no >&2; exit 3", false),
        ("echo '[1]'", true),
    ] {
        let node = node_with_good_a();
        node.plugin("b", &format!("[ $CNI_COMMAND != ADD ] || {{ {body}; }}"));
        let error = node.cni(LONG).add(&attachment("c1")).await.unwrap_err();
        assert!(matches!(error, Error::Rubbish { .. }), "{error}");
        assert_eq!(error.kind(), Kind::Internal);
        let text = error.to_string();
        let shown = if body.contains("[1]") { "[1]" } else { "oh no" };
        assert!(
            text.contains("\"b\"") && text.contains("\"net\"") && text.contains(shown),
            "{text}"
        );
        assert_eq!(text.contains("exit status: 3"), !status, "{text}");
    }
}

#[tokio::test]
async fn endless_output_is_cut() {
    let node = node_with_good_a();
    node.plugin("b", "[ $CNI_COMMAND != ADD ] || head -c 9000000 /dev/zero");
    let error = node.cni(LONG).add(&attachment("c1")).await.unwrap_err().to_string();
    assert!(
        error.contains("more than 4194304 bytes") && error.len() < 4000,
        "{}",
        error.len()
    );
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_all_it_started() {
    let node = node_with_good_a();
    let pid = node.path("pid");
    let hang = format!(
        "[ $CNI_COMMAND != ADD ] || {{ sleep 1000 & echo $! > {}; wait; }}",
        pid.display()
    );
    node.plugin("b", &hang);
    let start = Instant::now();
    let error = node.cni(SHORT).add(&attachment("c1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(error.to_string().contains("\"b\""), "{error}");
    assert!(is_dead(&pid));
    assert_eq!(node.calls()[2..], ["b DEL c1", "a DEL c1"]);
}

#[tokio::test]
async fn an_undo_that_fails_can_be_repeated() {
    let node = node_with_good_a();
    node.plugin("b", "exit 1");
    let cni = node.cni(LONG);
    let error = cni.add(&attachment("c1")).await.unwrap_err();
    assert!(matches!(error, Error::NotUndone { .. }), "{error}");
    assert_eq!(node.records(), 1, "what may be attached stays recorded");
    assert!(cni.del(&attachment("c1")).await.is_err());
    node.good("b");
    cni.del(&attachment("c1")).await.unwrap();
    assert_eq!(
        (node.records(), node.calls().last().map(String::as_str)),
        (0, Some("a DEL c1"))
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_process_and_a_record() {
    let node = node_with_good_a();
    let pid = node.path("pid");
    node.plugin(
        "b",
        &format!(
            "[ $CNI_COMMAND != ADD ] || {{ sleep 1000 & echo $! > {}; wait; }}",
            pid.display()
        ),
    );
    let cni = node.cni(LONG);
    let target = attachment("c1");
    let add = cni.add(&target);
    let seen = async {
        while std::fs::read_to_string(&pid).unwrap_or_default().trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        result = add => panic!("it cannot end: {result:?}"),
        () = seen => {}
    }
    assert!(is_dead(&pid));
    assert_eq!(node.records(), 1);
    cni.del(&target).await.unwrap();
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_does_not_hold_us_up() {
    let node = node_with_good_a();
    let pid = node.path("pid");
    node.plugin(
        "b",
        &format!(
            "[ $CNI_COMMAND != ADD ] || {{ sleep 1000 & echo $! > {}; echo '{RESULT}'; }}",
            pid.display()
        ),
    );
    let start = Instant::now();
    node.cni(LONG).add(&attachment("c1")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // It was asked for by a plugin that succeeded: it lives, and we end it.
    let number = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(number).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[tokio::test]
async fn a_missing_plugin_is_known_before_a_pod_needs_it() {
    let node = node_with_good_a();
    let cni = node.cni(LONG);
    for error in [
        cni.status().await.unwrap_err(),
        cni.add(&attachment("c1")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("\"b\""), "{error}");
    }
    node.plugin(
        "b",
        r#"echo '{"cniVersion":"1.1.0","code":50,"msg":"starting"}'; exit 1"#,
    );
    let error = cni.status().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("starting")),
        (Kind::Unavailable, true)
    );
}

#[tokio::test]
async fn a_slow_plugin_delays_its_own_pod_alone() {
    let node = node_with_good_a();
    node.plugin(
        "b",
        &format!("[ $CNI_COMMAND$CNI_CONTAINERID != ADDslow ] || sleep 2; [ $CNI_COMMAND != ADD ] || echo '{RESULT}'"),
    );
    let cni = node.cni(LONG);
    let slow = tokio::spawn({
        let cni = std::sync::Arc::clone(&cni);
        async move { cni.add(&attachment("slow")).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cni.add(&attachment("fast")).await.unwrap();
    cni.status().await.unwrap();
    assert!(!slow.is_finished());
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn names_that_would_leave_their_place_are_refused() {
    let node = node_with_good_a();
    node.good("b");
    let cni = node.cni(LONG);
    for (id, ifname) in [
        ("../x", "eth0"),
        ("", "eth0"),
        ("c1", "../eth0"),
        ("c1", "waytoolongforalink"),
    ] {
        let mut bad = attachment(id);
        bad.ifname = ifname.to_owned();
        for error in [cni.add(&bad).await.unwrap_err(), cni.del(&bad).await.unwrap_err()] {
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
    }
    let mut bad = attachment("c1");
    bad.args.push(("A".to_owned(), "b;CNI_X=1".to_owned()));
    assert_eq!(cni.add(&bad).await.unwrap_err().kind(), Kind::InvalidArgument);
    assert!(node.calls().is_empty());
}
