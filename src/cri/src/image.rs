//! The image RPCs: CRI messages ↔ the image crate.

use std::collections::HashMap;
use std::sync::Arc;

use image::{Credentials, Image};
use proto::cri;
use serde_json::json;
use spec::Kind;

use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::index::shown;
use crate::{blocking, detached};

/// What the image is called; that it is for a runtime handler of this node is seen to.
fn name<'a>(rt: &Runtime, spec: Option<&'a cri::ImageSpec>) -> Result<&'a str, Error> {
    let none = || Error::invalid("no image is named");
    let spec = spec.filter(|spec| !spec.image.is_empty()).ok_or_else(none)?;
    rt.image_handler(spec)?;
    Ok(&spec.image)
}

/// The image's USER as CRI shows it: a number, or a name, never both.
fn user(image: &Image) -> (Option<cri::Int64Value>, String) {
    let text = image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.user().as_deref())
        .unwrap_or("");
    let user = text.split(':').next().unwrap_or("");
    match user.parse::<i64>() {
        Ok(value) => (Some(cri::Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn message(image: &Image) -> cri::Image {
    let (uid, username) = user(image);
    cri::Image {
        id: image.id.with_algorithm(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: None,
        pinned: image.pinned,
    }
}

fn find(rt: &Runtime, wanted: &str) -> Result<Option<Arc<Image>>, Error> {
    rt.images
        .resolve(wanted)
        .map_err(|e| Error::at("find the image", shown(wanted), &e))
}

/// Answers ListImages.
pub(crate) fn list(rt: &Runtime, request: &cri::ListImagesRequest) -> Result<cri::ListImagesResponse, Error> {
    let filter = request.filter.as_ref().and_then(|filter| filter.image.as_ref());
    filter.map_or(Ok(()), |image| rt.image_handler(image))?;
    let wanted = filter.map(|image| image.image.as_str()).unwrap_or_default();
    let images = if wanted.is_empty() {
        rt.images.list()
    } else {
        find(rt, wanted)?.into_iter().collect()
    };
    Ok(cri::ListImagesResponse {
        images: images.iter().map(|i| message(i)).collect(),
    })
}

/// Answers ImageStatus: an unknown image is no error.
pub(crate) fn status(rt: &Runtime, request: &cri::ImageStatusRequest) -> Result<cri::ImageStatusResponse, Error> {
    let Some(image) = find(rt, name(rt, request.image.as_ref())?)? else {
        return Ok(cri::ImageStatusResponse::default());
    };
    let mut info = HashMap::new();
    if request.verbose {
        let config =
            serde_json::to_value(&image.config).map_err(|e| Error::at("encode", "the image's configuration", &e))?;
        let labels = image
            .config
            .config()
            .as_ref()
            .and_then(|c| c.labels().clone())
            .unwrap_or_default();
        info.insert(
            "info".to_owned(),
            json!({"labels": labels, "imageSpec": config}).to_string(),
        );
    }
    Ok(cri::ImageStatusResponse {
        image: Some(message(&image)),
        info,
    })
}

fn credentials(auth: cri::AuthConfig) -> Option<Credentials> {
    let any = [
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.identity_token,
        &auth.registry_token,
    ];
    any.iter().any(|t| !t.is_empty()).then_some(Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    })
}

/// Answers PullImage. The pull belongs to its callers: it goes on while one of them waits
/// (the image crate joins identical ones) and stops when the last has gone.
pub(crate) async fn pull(rt: &Arc<Runtime>, request: cri::PullImageRequest) -> Result<cri::PullImageResponse, Error> {
    let wanted = name(rt, request.image.as_ref())?.to_owned();
    if request.sandbox_config.is_some_and(|pod| pod.windows.is_some()) {
        return Err(Error::invalid("sandbox_config.windows is set: this is a Linux node"));
    }
    let auth = request.auth.and_then(credentials);
    let pulled = rt.counters.pull(rt.images.pull(&wanted, auth)).await;
    // Said in the image crate's own words: the kubelet looks at how they begin.
    let image = pulled.map_err(|e| Error::new(e.kind(), crate::error::chain_of(&e)))?;
    Ok(cri::PullImageResponse {
        image_ref: image.id.with_algorithm(),
    })
}

/// Answers RemoveImage: an unknown image is success; one that a container uses stays.
pub(crate) async fn remove(rt: &Arc<Runtime>, request: cri::RemoveImageRequest) -> Result<(), Error> {
    let wanted = name(rt, request.image.as_ref())?.to_owned();
    let Some(image) = find(rt, &wanted)? else { return Ok(()) };
    let user = rt
        .index
        .containers()
        .into_iter()
        .find(|c| c.record.uses_image(image.id.as_str()));
    if let Some(user) = user {
        return Err(Error::new(
            Kind::FailedPrecondition,
            format!(
                "image {} is in use by container {}; remove the container first",
                shown(&wanted),
                user.id
            ),
        ));
    }
    let rt = Arc::clone(rt);
    detached(async move {
        rt.images
            .remove(&wanted)
            .await
            .map_err(|e| Error::at("remove the image", shown(&wanted), &e))
    })
    .await
}

/// Answers ImageFsInfo: one filesystem for layers and containers.
pub(crate) async fn fs_info(rt: &Arc<Runtime>) -> Result<cri::ImageFsInfoResponse, Error> {
    let rt = Arc::clone(rt);
    let usage = blocking(move || {
        rt.images
            .fs_usage()
            .map_err(|e| Error::at("measure", "the image store", &e))
    })
    .await?;
    let one = cri::FilesystemUsage {
        timestamp: usage.timestamp_ns,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: Some(cri::UInt64Value {
            value: usage.used_bytes,
        }),
        inodes_used: Some(cri::UInt64Value {
            value: usage.inodes_used,
        }),
    };
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![one.clone()],
        container_filesystems: vec![one],
    })
}
