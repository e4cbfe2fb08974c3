//! A registry that is away, unknown images, busy servers.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away() {
    let bench = Bench::new();
    let gone = { registry(&image()).await.name("x:1") };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    let error = pull(&bench, &gone, None).await.unwrap_err();
    assert_away(&error);
    assert!(
        error.to_string().contains(&gone) && error.to_string().contains("refused"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_forbidden_images() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    let error = pull(&bench, &registry.name("x:none"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().contains("x:none") && error.to_string().contains("manifest unknown"),
        "{error}"
    );
    registry.script(|_, _| Act::status(403));
    assert_eq!(
        pull(&bench, &registry.name("x:1"), None).await.unwrap_err().kind(),
        Kind::PermissionDenied
    );
    registry.script(|_, _| Act::challenge("Basic realm=\"x\"".into()));
    let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.to_string().contains("no credentials"), "{error}");
    assert_eq!(
        pull(&bench, "UPPER", None).await.unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_waited_for() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    registry.script(|seen, before| match (seen.path.contains("manifests"), before) {
        (true, 0) => Act::Answer(
            http::StatusCode::TOO_MANY_REQUESTS,
            vec![("retry-after", "1".into())],
            "".into(),
        ),
        (true, 1) => Act::status(500),
        _ => Act::Serve,
    });
    let start = Instant::now();
    pull(&bench, &registry.name("x:1"), None).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // One that wants an hour is told to the kubelet, which has a back-off of its own.
    let bench = Bench::new();
    registry.script(|_, _| {
        Act::Answer(
            http::StatusCode::TOO_MANY_REQUESTS,
            vec![("retry-after", "3600".into())],
            "".into(),
        )
    });
    assert_away(&pull(&bench, &registry.name("x:1"), None).await.unwrap_err());
}
