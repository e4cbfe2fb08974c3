//! Against a service manager of our own, on a socket without a bus.

use std::sync::{Arc, Mutex as StdMutex};

use zbus::ObjectPath;
use zbus::OwnedVariant;
use zbus::object_server::SignalEmitter;

use super::*;

#[derive(Default)]
struct Seen {
    calls: StdMutex<Vec<String>>,
}

/// Answers as systemd does, by the name of the unit: one that exists, one that fails, one that never comes.
struct Fake {
    seen: Arc<Seen>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

impl Fake {
    fn note(&self, line: String) {
        self.seen.calls.lock().unwrap().push(line);
    }

    async fn answer(name: &str, emitter: SignalEmitter<'_>) -> Result<OwnedObjectPath, Refusal> {
        let result = if name.starts_with("failing") { "failed" } else { "done" };
        let job = |number: u32| ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).unwrap();
        // Somebody else's job first; ours before the reply, as may happen.
        Self::job_removed(&emitter, 1, job(1), "other.scope", "failed").await?;
        if !name.starts_with("silent") {
            Self::job_removed(&emitter, 2, job(2), name, result).await?;
        }
        Ok(job(2).into())
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Fake {
    fn subscribe(&self) {}

    #[expect(clippy::too_many_arguments, reason = "the method of systemd's interface has them")]
    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedVariant)>,
        _aux: Vec<(String, Vec<(String, OwnedVariant)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        let shown: Vec<String> = properties
            .iter()
            .map(|(key, value)| format!("{key}={}", Variant::from(value.try_clone().unwrap())))
            .collect();
        self.note(format!("start {name} {mode} {}", shown.join(" ")));
        if name.starts_with("there") {
            return Err(Refusal::UnitExists(format!("Unit {name} was already loaded.")));
        }
        Self::answer(&name, emitter).await
    }

    async fn stop_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.note(format!("stop {name} {mode}"));
        if name.starts_with("absent") {
            return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
        }
        Self::answer(&name, emitter).await
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// A fake manager that serves each connection to a socket, and a client of it.
struct Bed {
    seen: Arc<Seen>,
    systemd: Systemd,
    _dir: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let server = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let fake = Fake {
                    seen: Arc::clone(&shared),
                };
                let builder = zbus::connection::Builder::unix_stream(stream.into_std().unwrap())
                    .server(zbus::Guid::generate())
                    .p2p()
                    .serve_at("/org/freedesktop/systemd1", fake);
                connections.push(builder.build().await.unwrap());
            }
        });
        let systemd = Systemd {
            peer: Some(format!("unix:path={}", socket.display())),
            ..Systemd::default()
        };
        Self {
            seen,
            systemd,
            _dir: dir,
            server,
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.calls.lock().unwrap())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn scope(name: &str) -> Scope<'_> {
    Scope {
        name,
        slice: "kubepods-pod1.slice",
        description: "a container",
        pid: 4711,
        limits: None,
    }
}

#[tokio::test]
async fn a_scope_begins_with_its_limits() {
    let bed = Bed::new().await;
    let host = Host::v2_with(&["memory", "cpu", "pids"]);
    let limits = r#"{"memory": {"limit": 33554432}, "cpu": {"quota": 25000, "period": 100000}, "pids": {"limit": 7}}"#;
    let limits: LinuxResources = serde_json::from_str(limits).unwrap();
    let with = Scope {
        limits: Some((&host, &limits)),
        ..scope("one.scope")
    };
    bed.systemd.start_scope(&with).await.unwrap();
    let calls = bed.calls();
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    for property in [
        "MemoryMax=uint64 33554432",
        "CPUQuotaPerSecUSec=uint64 250000",
        "TasksMax=uint64 7",
    ] {
        assert!(call.contains(property), "{property} is not in {call}");
    }
    assert_eq!(call.matches("TasksMax").count(), 1, "{call}");
}

#[tokio::test]
async fn a_scope_is_ours_inside_and_leaves_nothing_behind() {
    let bed = Bed::new().await;
    bed.systemd.start_scope(&scope("one.scope")).await.unwrap();
    let calls = bed.calls();
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    assert!(call.starts_with("start one.scope replace "), "{call}");
    for property in [
        "Slice=\"kubepods-pod1.slice\"",
        "PIDs=[uint32 4711]",
        "Delegate=true",
        "CollectMode=\"inactive-or-failed\"",
        "OOMPolicy=\"continue\"",
        "TasksMax=uint64 18446744073709551615",
    ] {
        assert!(call.contains(property), "{property} is not in {call}");
    }
    assert!(!call.contains("Device"), "{call}");
}

#[tokio::test]
async fn a_job_that_fails_is_an_error_and_another_s_is_not_ours() {
    let bed = Bed::new().await;
    let error = bed.systemd.start_scope(&scope("failing.scope")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "systemd: start failing.scope: its job ended with \"failed\""
    );
    assert_eq!(error.kind(), spec::Kind::Unavailable);
}

#[tokio::test]
async fn a_slice_that_is_there_is_fine_and_a_scope_is_not() {
    let bed = Bed::new().await;
    bed.systemd.start_slice("there.slice", "a pod").await.unwrap();
    let error = bed.systemd.start_scope(&scope("there.scope")).await.unwrap_err();
    assert!(error.to_string().contains("already loaded"), "{error}");
}

#[tokio::test]
async fn stopping_what_is_not_there_is_fine() {
    let bed = Bed::new().await;
    bed.systemd.stop("absent.scope").await.unwrap();
    bed.systemd.stop("one.scope").await.unwrap();
    assert_eq!(bed.calls(), ["stop absent.scope replace", "stop one.scope replace"]);
}

#[tokio::test(start_paused = true)]
async fn a_systemd_that_does_not_answer_is_given_up() {
    let bed = Bed::new().await;
    let error = bed.systemd.start_scope(&scope("silent.scope")).await.unwrap_err();
    assert_eq!(error.kind(), spec::Kind::DeadlineExceeded);
    assert_eq!(error.to_string(), "systemd: start silent.scope: no answer in 30 s");
}

#[tokio::test]
async fn where_there_is_no_systemd_it_is_said() {
    let systemd = Systemd {
        peer: Some("unix:path=/nonexistent/socket".to_owned()),
        ..Systemd::default()
    };
    let error = systemd.stop("one.scope").await.unwrap_err();
    assert!(
        error.to_string().starts_with("systemd: connect to the service manager"),
        "{error}"
    );
}
