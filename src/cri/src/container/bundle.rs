//! From records and looks at the host to a plan and a bundle on disk. Blocking.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use config::ImageVolumes;
use spec::runtime::Process;
use spec::{ContainerId, Kind};

use super::plan::wanted::Wanted;
use super::plan::{self, Input, PidNamespace, Planned, mounts};
use super::{relabel, rootfs, sources};
use crate::cdi;
use crate::error::Error;
use crate::handler::Devices;
use crate::runtime::Runtime;
use crate::sandbox::files;
use crate::store::records::ContainerRecord;
use crate::store::sandbox::Sandbox;

/// What the plan is made from.
pub(super) struct Lookup {
    pub(super) rt: Arc<Runtime>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) record: ContainerRecord,
    pub(super) image: Arc<image::Image>,
    pub(super) pid: PidNamespace,
    /// CRI's mounts, checked.
    pub(super) wanted: Vec<Wanted>,
}

/// All blocking looks at the host and the image, the plan, and the bundle.
pub(super) fn look_up_and_plan(at: &Lookup, mount: OwnedFd) -> Result<(Planned, OwnedFd), Error> {
    let Lookup {
        rt,
        sandbox,
        record,
        image,
        ..
    } = at;
    let config = record
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("the container's configuration is missing"))?;
    let context = plan::context(config);
    let wanted = &at.wanted;
    sources::mounts(wanted)?;
    let handler = rt.handler(sandbox.record.handler())?;
    let all = context.privileged && handler.devices == Devices::All;
    let passed = plan::annotations::passed(&handler, config, &sandbox.record);
    let lent = passed.get(plan::devices::ANNOTATION).map(String::as_str);
    let asked = plan::devices::asked(config, lent, &rt.config.runtime)?;
    let devices = sources::devices(&asked, all)?;
    let seccomp = sources::seccomp(&plan::security::seccomp(&context, &handler.default_seccomp)?)?;
    sources::apparmor(plan::lsm::apparmor(&context, plan::pod_apparmor(&sandbox.record), &rt.host)?.as_deref())?;
    let accounts = rootfs::accounts(mount.as_fd())?;
    let id = ContainerId::parse(&record.id).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let bundle = rt.paths.container(&id);
    let passwd_file = bundle.join("passwd");
    let shift = sandbox.record.shift();
    let volumes = volumes(rt, &id, mount.as_fd(), (image, wanted, shift))?;
    let localtime_file = bundle.join("localtime");
    let zone = sources::timezone(rt.config.runtime.timezone.as_deref())?;
    let host_ipc = sandbox.record.ipcns.is_empty();
    let input = Input {
        id: &record.id,
        config,
        image: &image.config,
        sandbox: &sandbox.record,
        files: &files::of(&rt.paths, &sandbox.id, host_ipc),
        accounts: &accounts,
        mounts: wanted,
        volumes: &volumes,
        passwd_file: &passwd_file,
        devices: &devices,
        pid: at.pid.clone(),
        seccomp,
        cgroup: &record.cgroup,
        host: &rt.host,
        handler: &handler,
        localtime: zone.is_some().then_some(&localtime_file),
    };
    let mut planned = plan::plan(&input)?;
    let host_owner = |uid: u32, gid: u32| (shift.uid.saturating_add(uid), shift.gid.saturating_add(gid));
    cdi::inject(
        &mut planned.spec,
        &cdi::wanted(config)?,
        &rt.config.runtime.cdi_dirs,
        &host_owner,
    )?;
    if let Some(label) = plan::file_label(record, &sandbox.record, &rt.host)? {
        for mount in wanted.iter().filter(|mount| mount.relabel) {
            let done = relabel::tree(&mount.source, &label);
            done.map_err(|e| e.during("mount on", mount.target.display()))?;
        }
    }
    // Execs have the environment and the groups too.
    planned.process = planned.spec.process().clone().unwrap_or(planned.process);
    write_bundle(&bundle, &planned.spec)?;
    if let Some(text) = &planned.passwd {
        write_file(&passwd_file, text.as_bytes())?;
        files::give(&passwd_file, shift)?;
    }
    if let Some(zone) = &zone {
        write_file(&localtime_file, zone)?;
    }
    if let Some(parent) = Path::new(&record.log_path).parent().filter(|p| p.is_absolute()) {
        fs::create_dir_all(parent).map_err(|e| Error::at("make the log directory", parent.display(), &e))?;
    }
    Ok((planned, mount))
}

/// A file that the container reads.
fn write_file(path: &Path, text: &[u8]) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| Error::at("write", path.display(), &e))?;
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(path, mode).map_err(|e| Error::at("chmod", path.display(), &e))
}

/// Makes the image's volumes, as the configuration says.
fn volumes(
    rt: &Runtime,
    id: &ContainerId,
    root: BorrowedFd<'_>,
    (image, wanted, shift): (&image::Image, &[Wanted], image::IdShift),
) -> Result<Vec<mounts::Volume>, Error> {
    let lines = image.config.config().as_ref().and_then(|c| c.volumes().clone());
    let (targets, refused) = mounts::volumes(&lines.unwrap_or_default(), wanted);
    for line in &refused {
        tracing::info!(container = %id, line, "a VOLUME of the image lies where the runtime's own mounts are");
    }
    match rt.config.image.image_volumes {
        ImageVolumes::Bind => {}
        ImageVolumes::Ignore => return Ok(Vec::new()),
        ImageVolumes::Mkdir => {
            for target in &targets {
                let made = image::Store::make_dir(root, target, shift);
                made.map_err(|e| Error::at("make the volume", target.display(), &e))?;
            }
            return Ok(Vec::new());
        }
    }
    let made = targets.into_iter().enumerate().map(|(number, target)| {
        let source = rt.images.snapshot_volume(id, number, root, &target, shift);
        let source = source.map_err(|e| Error::at("make the volume", target.display(), &e))?;
        Ok(mounts::Volume { target, source })
    });
    made.collect()
}

/// Writes the bundle. Readable by root alone: the environment may hold secrets.
fn write_bundle(dir: &Path, spec: &spec::runtime::Spec) -> Result<(), Error> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::at("make the bundle", dir.display(), &e))?;
    let path = dir.join("config.json");
    let text = serde_json::to_vec(spec).map_err(|e| Error::at("encode", path.display(), &e))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::at("make", path.display(), &e))?;
    file.write_all(&text)
        .map_err(|e| Error::at("write", path.display(), &e))
}

/// The process of a bundle, from which execs are made; after a restart.
pub(crate) fn process_of(path: &Path) -> Result<Process, Error> {
    // The rest of a specification is many times as long.
    #[derive(serde::Deserialize)]
    struct Bundle {
        process: Option<Process>,
    }
    let text = fs::read(path).map_err(|e| Error::at("read", path.display(), &e))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|e| Error::at("read", path.display(), &e))?;
    bundle
        .process
        .ok_or_else(|| Error::new(Kind::DataLoss, format!("{} has no process", path.display())))
}
