//! The configuration directory while it changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plugin::{Node, attachment};
use cni_invoke::Cni;
use spec::Kind;

const LONG: Duration = Duration::from_secs(20);

fn name(cni: &Arc<Cni>) -> Option<String> {
    cni.network().map(|network| network.list.name.clone())
}

/// How long it takes until the network is called `wanted`.
async fn becomes(cni: &Arc<Cni>, wanted: Option<&str>) -> Duration {
    let start = Instant::now();
    while name(cni).as_deref() != wanted {
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "still {:?}, not {wanted:?}",
            name(cni)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_appears_changes_and_goes_without_a_restart() {
    let node = Node::new();
    node.good("a");
    let cni = node.cni(LONG);
    let error = cni.add(&attachment("c1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("net.d"), "{error}");
    assert_eq!(cni.status().await.unwrap_err().kind(), Kind::FailedPrecondition);
    tokio::time::sleep(Duration::from_millis(50)).await;

    // The folder does not exist yet either. By events, not by the look that comes without one.
    node.conf("20.conf", r#"{"cniVersion":"1.0.0","name":"one","type":"a"}"#);
    assert!(becomes(&cni, Some("one")).await < Duration::from_secs(3));
    cni.status().await.unwrap();
    node.conf("10.conf", r#"{"cniVersion":"1.0.0","name":"two","type":"a"}"#);
    assert!(becomes(&cni, Some("two")).await < Duration::from_secs(3));
    std::fs::write(
        node.path("net.d/.new"),
        r#"{"cniVersion":"1.0.0","name":"three","type":"a"}"#,
    )
    .unwrap();
    std::fs::rename(node.path("net.d/.new"), node.path("net.d/10.conf")).unwrap();
    assert!(becomes(&cni, Some("three")).await < Duration::from_secs(3));
    std::fs::remove_file(node.path("net.d/10.conf")).unwrap();
    assert!(becomes(&cni, Some("one")).await < Duration::from_secs(3));

    // Another folder takes its place.
    std::fs::rename(node.path("net.d"), node.path("old.d")).unwrap();
    assert!(becomes(&cni, None).await < Duration::from_secs(3));
    node.conf("1.conf", r#"{"cniVersion":"1.0.0","name":"four","type":"a"}"#);
    assert!(becomes(&cni, Some("four")).await < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_is_reported_and_the_network_stays() {
    let node = Node::new();
    node.good("a");
    node.conf("1.conf", r#"{"cniVersion":"1.0.0","name":"one","type":"a"}"#);
    let cni = node.cni(LONG);
    node.conf("1.conf", r#"{"cniVersion":"1.0.0","na"#);
    let start = Instant::now();
    while cni.problems().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(8));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(cni.problems()[0].contains("1.conf"), "{:?}", cni.problems());
    assert_eq!(name(&cni).as_deref(), Some("one"));
    cni.status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rewrites_never_show_a_gap() {
    let node = Node::new();
    node.good("a");
    let text = |name: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"{name}","type":"a","pad":"{}"}}"#,
            "x".repeat(9000)
        )
    };
    node.conf("1.conf", &text("even"));
    let cni = node.cni(LONG);
    let dir = node.path("net.d");
    let writer = tokio::task::spawn_blocking(move || {
        for round in 0..1000 {
            let text = text(if round % 2 == 0 { "odd" } else { "even" });
            let path = dir.join("1.conf");
            match round % 3 {
                0 => std::fs::write(&path, &text).unwrap(),
                1 => {
                    use std::io::Write as _;
                    let mut file = std::fs::File::create(&path).unwrap();
                    for piece in text.as_bytes().chunks(1000) {
                        file.write_all(piece).unwrap();
                    }
                }
                _ => {
                    std::fs::write(dir.join("new"), &text).unwrap();
                    std::fs::rename(dir.join("new"), &path).unwrap();
                }
            }
        }
    });
    let mut looks = 0u32;
    while !writer.is_finished() {
        cni.reload();
        let name = name(&cni);
        assert!(matches!(name.as_deref(), Some("odd" | "even")), "{name:?}");
        looks += 1;
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(looks > 20);
    becomes(&cni, Some("even")).await;
}
