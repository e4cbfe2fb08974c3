//! Names that move, digests without tags, what a second pull fetches.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_fetches_only_the_manifest() {
    let bench = Bench::new();
    let image = two_layers(false, [Pack::Gzip, Pack::Gzip]);
    let registry = registry_with(&[("x", "1", &image), ("x", "2", &image)]).await;
    let store = bench.open();
    let first = store.pull(&registry.name("x:1"), None).await.unwrap();
    registry.forget();
    let again = store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(registry.seen().len(), 1);
    assert_eq!(first.pulled_ns, again.pulled_ns);
    let other = store.pull(&registry.name("x:2"), None).await.unwrap();
    assert_eq!(registry.seen().len(), 2);
    assert_eq!(other.repo_tags, [registry.name("x:1"), registry.name("x:2")]);
    assert_eq!(store.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_move_and_digests_have_no_tag() {
    let bench = Bench::new();
    let (one, two) = (
        Image::new(vec![Layer::new(small("f", "1"), Pack::Gzip)], false),
        Image::new(vec![Layer::new(small("f", "2"), Pack::Gzip)], false),
    );
    let registry = registry_with(&[("x", "t", &one)]).await;
    let store = bench.open();
    let by_digest = registry.name(&format!("x@{}", one.digest()));
    let pulled = store.pull(&by_digest, None).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, std::slice::from_ref(&by_digest));
    let tagged = store.pull(&registry.name("x:t"), None).await.unwrap();
    assert_eq!(tagged.repo_tags, [registry.name("x:t")]);
    registry.content(|content| content.push("x", "t", &two));
    let moved = store.pull(&registry.name("x:t"), None).await.unwrap();
    assert_eq!(moved.id.with_algorithm(), two.id());
    let old = store.resolve(&by_digest).unwrap().unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(store.resolve(&registry.name("x:t")).unwrap().unwrap().id, moved.id);
    assert_eq!(store.resolve(old.id.as_str()).unwrap().unwrap().id, old.id);
}
