//! Pulls at the same time, and callers that go away.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn identical_pulls_and_shared_layers_are_fetched_once() {
    let bench = Bench::new();
    let big = Layer::of(&Tar::new().file("big", &noise(3 << 20, 7)).finish(), Pack::Gzip);
    let one = Image::new(vec![big.clone(), Layer::new(small("1", "1"), Pack::Gzip)], true);
    let two = Image::new(vec![big.clone(), Layer::new(small("2", "2"), Pack::Gzip)], true);
    let registry = registry_with(&[("one", "a", &one), ("two", "a", &two)]).await;
    let slow = big.digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&slow) {
            Act::Trickle(1 << 20, Duration::from_millis(50))
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let mut pulls = tokio::task::JoinSet::new();
    for at in 0..20 {
        let (store, name) = (
            Arc::clone(&store),
            registry.name(if at % 2 == 0 { "one:a" } else { "two:a" }),
        );
        pulls.spawn(async move { store.pull(&name, None).await.unwrap() });
    }
    let images = pulls.join_all().await;
    assert_eq!(images.len(), 20);
    assert_eq!(registry.count(&big.digest), 1);
    assert_eq!(registry.count("one/manifests"), 1);
    assert_eq!(bench.layer_names().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_caller_takes_nothing_from_the_others() {
    let bench = Bench::new();
    let big = Layer::of(&Tar::new().file("big", &noise(2 << 20, 9)).finish(), Pack::Gzip);
    let image = Image::new(vec![Layer::new(small("1", "1"), Pack::Gzip), big.clone()], true);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let slow = big.digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&slow) {
            Act::Trickle(256 << 10, Duration::from_millis(100))
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let spawn = || {
        let (store, name) = (Arc::clone(&store), registry.name("x:1"));
        tokio::spawn(async move { store.pull(&name, None).await })
    };
    let (first, second) = (spawn(), spawn());
    eventually("the layer is asked for", || registry.count(&big.digest) == 1).await;
    first.abort();
    assert!(second.await.unwrap().is_ok());
    assert_eq!(registry.count(&big.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_wants_ends_and_its_retry_goes_on() {
    let bench = Bench::new();
    let (small, big) = (
        Layer::new(small("1", "1"), Pack::Gzip),
        Layer::of(&Tar::new().file("big", &noise(1 << 20, 3)).finish(), Pack::Zstd),
    );
    let image = Image::new(vec![small.clone(), big.clone()], true);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let stall = big.digest.clone();
    registry.script(move |seen, before| {
        if seen.path.contains(&stall) && before == 0 {
            Act::Stall(300_000)
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let task = tokio::spawn({
        let (store, name) = (Arc::clone(&store), registry.name("x:1"));
        async move { store.pull(&name, None).await }
    });
    eventually("the first layer is there", || {
        bench.layer_names().iter().any(|n| *n == small.diff_id[7..])
    })
    .await;
    eventually("the second is on its way", || {
        bench.layer_names().iter().any(|n| n.starts_with(".tmp-"))
    })
    .await;
    task.abort();
    eventually("the unfinished layer is gone", || {
        bench.layer_names() == [small.diff_id[7..].to_owned()]
    })
    .await;
    assert!(store.list().is_empty());
    store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(registry.count(&small.digest), 1, "the finished layer was kept");
    assert_eq!(registry.count(&big.digest), 2);
}
