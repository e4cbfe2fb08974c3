//! Images that a container mounts as volumes: found, noted in the record (so that they are not
//! removed, and ContainerStatus can name them), mounted by the image store as descriptors, and
//! handed to the monitor with the root's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::ImageVolume;
use proto::cri;
use proto::frame::MAX_FDS;
use spec::runtime::Spec;
use spec::{ContainerId, ImageId, Kind};

use super::plan;
use super::plan::wanted::{ImageWish, Wanted, image_volume_failed};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox::userns;
use crate::store::records::{ContainerRecord, SandboxRecord};

/// The root's descriptor goes with them.
const MOST: usize = MAX_FDS - 1;

fn wishes(wanted: &[Wanted]) -> Vec<(&Path, &ImageWish)> {
    let mut list: Vec<_> = wanted
        .iter()
        .filter_map(|w| w.image.as_ref().map(|image| (w.target.as_path(), image)))
        .collect();
    list.sort_by_key(|(_, image)| image.number);
    list
}

/// The images of the image volumes, in the order of the request.
pub(super) fn find(rt: &Runtime, wanted: &[Wanted]) -> Result<Vec<Arc<image::Image>>, Error> {
    let list = wishes(wanted);
    if list.len() > MOST {
        return Err(Error::invalid(format!(
            "{} image volumes in one container: at most {MOST} are possible",
            list.len()
        )));
    }
    let find = |(target, wish): (&Path, &ImageWish)| {
        let missing = || Error::not_found(format!("image {:?} is not on this node; pull it first", wish.reference));
        let found = rt.images.resolve(&wish.reference);
        let found = found.map_err(|e| Error::at("find the image", &wish.reference, &e));
        found
            .and_then(|image| image.ok_or_else(missing))
            .map_err(|e| image_volume_failed(target, &e))
    };
    list.into_iter().map(find).collect()
}

/// Mounts them, in the same order, and gives each wish its source. Blocking.
pub(super) fn mount(
    rt: &Runtime,
    id: &ContainerId,
    record: &ContainerRecord,
    wanted: &mut [Wanted],
    pod: &SandboxRecord,
) -> Result<Vec<OwnedFd>, Error> {
    let mut made = Vec::new();
    let user = userns::open_of(pod)?;
    let label = plan::file_label(record, pod, &rt.host)?;
    for (target, wish) in wishes(wanted) {
        let image = record
            .volume_images
            .get(wish.number)
            .map(String::as_str)
            .unwrap_or_default();
        let image = ImageId::parse(image).map_err(|e| Error::new(Kind::Internal, format!("recorded image: {e}")))?;
        let volume = ImageVolume {
            number: wish.number,
            image: &image,
            sub_path: Path::new(&wish.sub_path),
            shift: pod.shift(),
            userns: user.as_ref().map(AsFd::as_fd),
            label: label.as_deref(),
        };
        let mounted = rt.images.image_volume(id, volume);
        made.push(
            mounted.map_err(|e| {
                image_volume_failed(target, &Error::at("mount", format!("image {}", wish.reference), &e))
            })?,
        );
    }
    for want in wanted.iter_mut() {
        if let Some(image) = &want.image {
            want.source = rt.images.image_volume_dir(id, image.number);
        }
    }
    Ok(made)
}

/// Where in the specification's list of mounts the image volumes are, in their order.
pub(super) fn places(spec: &Spec, rt: &Runtime, id: &ContainerId, count: usize) -> Result<Vec<u32>, Error> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let place = |number: usize| {
        let source: PathBuf = rt.images.image_volume_dir(id, number);
        let place = mounts.iter().position(|m| m.source().as_ref() == Some(&source));
        let place = place.and_then(|place| u32::try_from(place).ok());
        place.ok_or_else(|| Error::new(Kind::Internal, format!("image volume {number} is not in the plan")))
    };
    (0..count).map(place).collect()
}

/// The mounts as ContainerStatus shows them: as they came, and for an image volume the image that it is
/// (KEP 5365).
pub(crate) fn echo(config: &cri::ContainerConfig, record: &ContainerRecord) -> Vec<cri::Mount> {
    let mut mounts = config.mounts.clone();
    let volumes = mounts
        .iter_mut()
        .filter_map(|m| m.image.as_mut())
        .filter(|image| !image.image.is_empty());
    for (volume, id) in volumes.zip(&record.volume_images) {
        volume.image_ref = format!("sha256:{id}");
    }
    mounts
}
