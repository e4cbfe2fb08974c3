//! Downloads that break, stall, or are given up.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_is_resumed_where_it_broke() {
    for restart in [false, true] {
        let bench = Bench::new();
        let whole = image();
        let layer = whole.layers[1].clone();
        let registry = registry(&whole).await;
        let part = layer.digest.clone();
        registry.script(move |seen, before| match before {
            _ if !seen.path.contains(&part) => Act::Serve,
            0 => Act::Break(300_000),
            1 => Act::status(503),
            _ if restart => Act::Whole,
            2 => Act::Break(200_000),
            _ => Act::Serve,
        });
        if restart {
            // A registry that knows no ranges starts anew; what we have is skipped.
            registry.script({
                let part = layer.digest.clone();
                move |seen, before| match before {
                    0 if seen.path.contains(&part) => Act::Break(300_000),
                    _ => Act::Whole,
                }
            });
        }
        pull(&bench, &registry.name("x:1"), None).await.unwrap();
        let asked: Vec<Seen> = registry
            .seen()
            .into_iter()
            .filter(|s| s.path.contains(&layer.digest))
            .collect();
        let ranges: Vec<Option<&str>> = asked.iter().map(|s| s.header("range")).collect();
        assert_eq!((ranges[0], ranges[1]), (None, Some("bytes=300000-")));
        if !restart {
            assert_eq!(ranges[2..], [Some("bytes=300000-"), Some("bytes=500000-")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_starts_elsewhere_is_a_lie() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, before| match before {
        _ if !seen.path.contains(&part) => Act::Serve,
        0 => Act::Break(300_000),
        _ => Act::WrongRange,
    });
    let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.to_string().contains("range"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_without_end_are_given_up() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&part) {
            Act::Break(10)
        } else {
            Act::Serve
        }
    });
    assert_away(
        &tokio::time::timeout(Duration::from_secs(40), pull(&bench, &registry.name("x:1"), None))
            .await
            .unwrap()
            .unwrap_err(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_and_trickles_end() {
    let whole = image();
    let part = whole.layers[1].digest.clone();
    type Make = fn() -> Act;
    let cases: [(&str, Make); 3] = [
        ("after the head", || Act::Stall(0)),
        ("in the middle", || Act::Stall(300_000)),
        ("a trickle", || Act::Trickle(10, Duration::from_millis(50))),
    ];
    for (name, act) in cases {
        let mut bench = Bench::new();
        bench.options.progress_timeout = Duration::from_millis(600);
        let registry = registry(&whole).await;
        let part = part.clone();
        registry.script(move |seen, _| if seen.path.contains(&part) { act() } else { Act::Serve });
        let start = Instant::now();
        let error = pull(&bench, &registry.name("x:1"), None).await.expect_err(name);
        assert_away(&error);
        assert!(error.to_string().contains("no progress"), "{name}: {error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{name}");
    }
    let mut bench = Bench::new();
    bench.options.answer_timeout = Duration::from_millis(300);
    let registry = registry(&whole).await;
    registry.script(|_, _| Act::Hang);
    assert_away(&pull(&bench, &registry.name("x:1"), None).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_at_once() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&part) {
            Act::Stall(300_000)
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let result = tokio::time::timeout(Duration::from_millis(500), store.pull(&registry.name("x:1"), None)).await;
    assert!(result.is_err());
    let start = Instant::now();
    eventually("the temporary is gone", || {
        !bench.layer_names().iter().any(|n| n.starts_with('.'))
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(1));
}
