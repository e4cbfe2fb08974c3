//! The agnhost image: servers for HTTP, gRPC and ports, made from the program that
//! `hack/setup --node` builds. It has a registry of its own, since it is large and only the
//! suites with a kubelet want it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::image::{Compression, Flavor, Image, Layer, Storage, digest};
use crate::node::Node;
use crate::places;
use crate::registry::{Auth, Registry};
use crate::tar::Tar;

/// Host and port of its registry.
pub const REGISTRY: &str = "127.0.0.1:5001";

/// The image.
pub const AGNHOST: &str = "127.0.0.1:5001/agnhost:1";

/// Starts the registry that serves it, and tells the server that it speaks plain HTTP.
///
/// # Errors
/// Where agnhost is not built, or the registry does not start.
pub fn serve(node: &Node) -> Result<Registry> {
    node.write_hosts(
        REGISTRY,
        &format!("server = \"http://{REGISTRY}\"\n[host.\"http://{REGISTRY}\"]\n"),
    )?;
    Registry::start(node, 5001, Auth::None, &stored()?)
}

/// The directory of the stored image, made where it is not there yet.
fn stored() -> Result<PathBuf> {
    let program = fs::read(places::tool("agnhost").context("run hack/setup --node")?)?;
    let key = digest(format!("{}{}", include_str!("agnhost.rs"), digest(&program)).as_bytes());
    let path = places::cache().join("e2e").join(format!("agnhost-{}", &key[7..23]));
    if path.exists() {
        return Ok(path);
    }
    let parent = path.parent().context("no parent")?;
    fs::create_dir_all(parent)?;
    let made = tempfile::Builder::new().prefix("making-").tempdir_in(parent)?;
    let mut tar = Tar::new();
    tar.dir("tmp/").dir("etc/").file("agnhost", 0o755, &program);
    Storage::new(made.path()).put(
        "agnhost",
        "1",
        &Image {
            flavor: Flavor::Oci,
            layers: vec![Layer::new(&tar.finish(), Compression::Zstd)?],
            config: json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": ["PATH=/"]}),
        },
    )?;
    let made = made.keep();
    if let Err(error) = fs::rename(&made, &path) {
        // Another test was faster.
        fs::remove_dir_all(&made)?;
        if !path.exists() {
            return Err(error).context("rename the image directory");
        }
    }
    Ok(path)
}
