//! systemd's side of the systemd driver: scopes for containers, slices for pods, over D-Bus.
//!
//! systemd owns the tree and one scope in it for each container; `Delegate=yes` makes the inside of that scope ours. So
//! limits are written to the files by us, and told to systemd as properties too: at a reload of its units it writes
//! again what it knows (security page, R30). Devices are ours alone: systemd is told of none, so it attaches no program.
//!
//! A scope cannot be made empty: the caller brings a process, and lets it go when the container's own one is in.
//!
//! One connection for all calls; replies are matched by their serial numbers, so that calls do not wait for one another.
//! A call is given up after [`PATIENCE`]: a systemd that is stopped must not hang a pod (R29). What was asked for may be
//! done later; `stop` undoes that too. The connection is made anew when it is lost.

use std::time::Duration;

use futures_util::StreamExt as _;
use spec::runtime::LinuxResources;
use tokio::sync::Mutex;
use zbus::OwnedObjectPath;
use zbus::Variant;

use crate::{Error, Host, properties};

/// How long systemd may take.
const PATIENCE: Duration = Duration::from_secs(30);

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH: &str = "org.freedesktop.systemd1.NoSuchUnit";

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Properties<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[(&str, Variant<'_>)]) -> zbus::Result<()>;
    fn attach_processes_to_unit(&self, name: &str, subcgroup: &str, pids: &[u32]) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// The connection to systemd.
#[derive(Debug, Default)]
pub struct Systemd {
    /// A socket without a bus; none is the system bus.
    peer: Option<String>,
    manager: Mutex<Option<ManagerProxy<'static>>>,
}

/// A scope to be made.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Its name, `bulkhead-<id>.scope`.
    pub name: &'a str,
    /// The slice it lies in.
    pub slice: &'a str,
    /// What `systemctl` shows.
    pub description: &'a str,
    /// A process to begin with, as the host counts.
    pub pid: u32,
    /// What it may use, where that is said at its beginning: systemd writes again what it knows, and of what it was not
    /// told it believes that there is no limit.
    pub limits: Option<(&'a Host, &'a LinuxResources)>,
}

/// Why a call came to nothing.
enum Failed {
    Late,
    Said(zbus::Error),
}

impl Failed {
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Said(zbus::Error::MethodError(name, _, _)) if name.as_str() == wanted)
    }
}

async fn within<T>(work: impl Future<Output = zbus::Result<T>>) -> Result<T, Failed> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(Failed::Said),
        Err(_late) => Err(Failed::Late),
    }
}

impl Systemd {
    /// Connects to the systemd of this host.
    ///
    /// # Errors
    /// Where there is no system bus, or no systemd on it.
    pub async fn connect() -> Result<Self, Error> {
        let systemd = Self::default();
        systemd.manager().await?;
        Ok(systemd)
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, Error> {
        let mut kept = self.manager.lock().await;
        if let Some(manager) = kept.as_ref() {
            return Ok(manager.clone());
        }
        let made = within(self.open())
            .await
            .map_err(|failed| told("connect to", "the service manager", failed))?;
        *kept = Some(made.clone());
        Ok(made)
    }

    async fn open(&self) -> zbus::Result<ManagerProxy<'static>> {
        let builder = match &self.peer {
            None => zbus::connection::Builder::system(),
            Some(peer) => zbus::connection::Builder::address(peer.as_str()).p2p(),
        };
        let manager = ManagerProxy::new(&builder.build().await?).await?;
        // Without it systemd sends no signals to us.
        manager.subscribe().await?;
        Ok(manager)
    }

    /// Makes a scope and waits until its process is in it.
    ///
    /// # Errors
    /// What systemd says, or that it took too long.
    pub async fn start_scope(&self, scope: &Scope<'_>) -> Result<(), Error> {
        let mut all = vec![
            ("Description", Variant::from(scope.description)),
            ("Slice", Variant::from(scope.slice)),
            ("PIDs", Variant::from(vec![scope.pid])),
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            // Its end is ours to tell, whatever it was: no unit stays behind as failed.
            ("CollectMode", Variant::from("inactive-or-failed")),
            // A child that dies of OOM is the container's affair, no reason to end the scope.
            ("OOMPolicy", Variant::from("continue")),
        ];
        if let Some((host, limits)) = scope.limits {
            all.extend(properties::of(host, limits)?);
        }
        // Nobody asked for systemd's own limit of each unit (DefaultTasksMax, 15 % of all).
        if all.iter().all(|(name, _)| *name != "TasksMax") {
            all.push(("TasksMax", Variant::from(u64::MAX)));
        }
        match self.start(scope.name, &all).await {
            Ok(()) => Ok(()),
            Err(failed) => Err(self.lost("start", scope.name, failed).await),
        }
    }

    /// Puts a process into a scope, which is made where it is not there.
    ///
    /// # Errors
    /// As [`Systemd::start_scope`].
    pub async fn enter_scope(&self, scope: &Scope<'_>) -> Result<(), Error> {
        let manager = self.manager().await?;
        match within(manager.attach_processes_to_unit(scope.name, "/", &[scope.pid])).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.is(NO_SUCH) => self.start_scope(scope).await,
            Err(failed) => Err(self.lost("attach a process to", scope.name, failed).await),
        }
    }

    /// Makes a slice, so that it is there before its first scope and after its last; one that is there already is fine.
    ///
    /// # Errors
    /// As [`Systemd::start_scope`].
    pub async fn start_slice(&self, name: &str, description: &str) -> Result<(), Error> {
        let all = [
            ("Description", Variant::from(description)),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        match self.start(name, &all).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.is(EXISTS) => Ok(()),
            Err(failed) => Err(self.lost("start", name, failed).await),
        }
    }

    async fn start(&self, name: &str, properties: &[(&str, Variant<'_>)]) -> Result<(), Failed> {
        let manager = self.proxy().await?;
        within(async {
            // Listened for before the order: the job may be done before its name is known.
            let mut removed = manager.receive_job_removed().await?;
            let job = manager.start_transient_unit(name, "replace", properties, &[]).await?;
            match result_of(&mut removed, &job).await?.as_str() {
                "done" => Ok(()),
                other => Err(zbus::Error::Failure(format!("its job ended with {other:?}"))),
            }
        })
        .await
    }

    /// Ends a unit and all that runs in it; one that is not there is fine.
    ///
    /// # Errors
    /// What systemd says, or that it took too long.
    pub async fn stop(&self, name: &str) -> Result<(), Error> {
        let manager = self.manager().await?;
        let done = within(async {
            let mut removed = manager.receive_job_removed().await?;
            let job = manager.stop_unit(name, "replace").await?;
            result_of(&mut removed, &job).await
        });
        match done.await {
            Ok(_) => Ok(()),
            Err(failed) if failed.is(NO_SUCH) => Ok(()),
            Err(failed) => Err(self.lost("stop", name, failed).await),
        }
    }

    /// Tells systemd of limits, so that it writes the same as we.
    ///
    /// # Errors
    /// Limits that this host cannot hold; what systemd says, or that it took too long.
    pub async fn set_limits(&self, host: &Host, name: &str, limits: &LinuxResources) -> Result<(), Error> {
        let all = properties::of(host, limits)?;
        if all.is_empty() {
            return Ok(());
        }
        let manager = self.manager().await?;
        match within(manager.set_unit_properties(name, true, &all)).await {
            Ok(()) => Ok(()),
            Err(failed) => Err(self.lost("set the limits of", name, failed).await),
        }
    }

    async fn proxy(&self) -> Result<ManagerProxy<'static>, Failed> {
        self.manager()
            .await
            .map_err(|error| Failed::Said(zbus::Error::Failure(error.to_string())))
    }

    /// A connection that broke is forgotten, so that the next call makes another.
    async fn lost(&self, op: &'static str, unit: &str, failed: Failed) -> Error {
        if let Failed::Said(zbus::Error::InputOutput(_)) = &failed {
            *self.manager.lock().await = None;
        }
        told(op, unit, failed)
    }
}

fn told(op: &'static str, unit: &str, failed: Failed) -> Error {
    let (is_late, reason) = match failed {
        Failed::Late => (true, format!("no answer in {} s", PATIENCE.as_secs())),
        Failed::Said(zbus::Error::MethodError(name, text, _)) => {
            (false, format!("{}: {}", name.as_str(), text.unwrap_or_default()))
        }
        Failed::Said(other) => (false, other.to_string()),
    };
    Error::Systemd {
        op,
        unit: unit.to_owned(),
        is_late,
        reason,
    }
}

async fn result_of(removed: &mut JobRemovedStream, job: &OwnedObjectPath) -> zbus::Result<String> {
    while let Some(signal) = removed.next().await {
        let args = signal.args()?;
        if args.job() == job {
            return Ok(args.result().clone());
        }
    }
    Err(zbus::Error::Failure("the connection ended before the job".to_owned()))
}

#[cfg(test)]
mod tests;
