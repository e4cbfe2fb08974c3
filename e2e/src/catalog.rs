//! The images that the suites use, stored once for each version of this file in
//! `.cache/e2e/registry-<key>/`. A registry on that directory is `127.0.0.1:5000` of each
//! node.
//!
//! | reference | what is in it |
//! |---|---|
//! | `busybox:1` `busybox:2` | busybox with its applets; two tags, two image ids; OCI, gzip |
//! | `busybox:user` | runs as `app` (uid 1000, groups 1000 and 2000), WORKDIR, ENV, STOPSIGNAL, ENTRYPOINT |
//! | `busybox:docker` `:zstd` `:plain` | the same by other media types |
//! | `busybox:index` `:list` | an OCI index and a docker manifest list with a foreign platform first |
//! | `busybox:volumes` | VOLUME lines: one directory that is there, one that is not |
//! | `busybox:empty` | neither Cmd nor Entrypoint |
//! | `busybox:far` | files and a directory of ids beyond those of a user namespace |
//! | `layers:1` | whiteouts, an opaque directory, hard links, xattrs, devices, sparse and odd modes |
//! | `pause:1` | the pause program for the peer |
//! | `odd/…` | hostile or broken images, each named by what is wrong with it |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::image::{Compression, Flavor, Image, Layer, Storage, digest};
use crate::places;
use crate::tar::{Entry, Tar};

/// Host and port of the registry in every node's network namespace.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// The image that most tests run.
pub const BUSYBOX: &str = "127.0.0.1:5000/busybox:1";

/// The directory of the stored catalogue, made where it is not there yet.
///
/// # Errors
/// Where busybox is not installed, or the directory cannot be written.
pub fn storage() -> Result<Storage> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK
        .lock()
        .map_err(|_| anyhow::anyhow!("another test failed while it made the images"))?;
    let busybox = fs::read("/bin/busybox").context("read /bin/busybox (package busybox-static; run hack/setup)")?;
    let path = directory(&busybox);
    if !path.exists() {
        let parent = path.parent().context("no parent")?;
        fs::create_dir_all(parent)?;
        let temporary = tempfile::Builder::new().prefix("making-").tempdir_in(parent)?;
        fill(&Storage::new(temporary.path()), &busybox)?;
        let made = temporary.keep();
        if let Err(error) = fs::rename(&made, &path) {
            // Another test program was faster.
            fs::remove_dir_all(&made)?;
            if !path.exists() {
                return Err(error).context("rename the image directory");
            }
        }
    }
    Ok(Storage::new(&path))
}

/// The path that [`storage`] uses.
///
/// # Errors
/// As [`storage`].
pub fn path() -> Result<PathBuf> {
    storage()?;
    Ok(directory(&fs::read("/bin/busybox")?))
}

fn directory(busybox: &[u8]) -> PathBuf {
    let sources = [
        include_str!("catalog.rs"),
        include_str!("image.rs"),
        include_str!("tar.rs"),
    ]
    .concat();
    let key = digest(format!("{sources}{}", digest(busybox)).as_bytes());
    places::cache().join("e2e").join(format!("registry-{}", &key[7..23]))
}

fn fill(storage: &Storage, busybox: &[u8]) -> Result<()> {
    let base = base_layer(busybox)?;
    let image = |flavor, compression, config: Value| -> Result<Image> {
        Ok(Image {
            flavor,
            layers: vec![Layer::new(&base, compression)?],
            config,
        })
    };
    let shell = json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]});
    let oci = Flavor::Oci;
    let first = storage.put("busybox", "1", &image(oci, Compression::Gzip, shell)?)?;
    storage.put(
        "busybox",
        "2",
        &image(
            oci,
            Compression::Gzip,
            json!({"Cmd": ["sh"], "Env": ["PATH=/bin", "TAG=2"]}),
        )?,
    )?;
    storage.put(
        "busybox",
        "user",
        &image(
            oci,
            Compression::Gzip,
            json!({"User": "app", "WorkingDir": "/home/app", "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "StopSignal": "SIGUSR1",
                   "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["sleep 1000"], "Labels": {"made-by": "e2e"}}),
        )?,
    )?;
    storage.put(
        "busybox",
        "volumes",
        &image(
            oci,
            Compression::Gzip,
            json!({"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/srv": {}, "/data/deep": {}}}),
        )?,
    )?;
    storage.put("busybox", "empty", &image(oci, Compression::Gzip, json!({}))?)?;
    let docker = storage.put(
        "busybox",
        "docker",
        &image(Flavor::Docker, Compression::Gzip, marked("docker"))?,
    )?;
    storage.put("busybox", "zstd", &image(oci, Compression::Zstd, marked("zstd"))?)?;
    storage.put("busybox", "plain", &image(oci, Compression::Plain, marked("plain"))?)?;
    let foreign = storage.put("busybox", "foreign", &image(oci, Compression::Gzip, marked("foreign"))?)?;
    storage.put_index(
        "busybox",
        "index",
        oci,
        &[(&foreign, "s390x"), (&first, "amd64"), (&foreign, "arm64")],
    )?;
    storage.put_index(
        "busybox",
        "list",
        Flavor::Docker,
        &[(&foreign, "s390x"), (&docker, "amd64")],
    )?;
    storage.put_index("busybox", "elsewhere", oci, &[(&foreign, "s390x")])?;
    far(storage, &base)?;
    layers(storage, &base)?;
    pause(storage)?;
    odd(storage, &base)
}

fn marked(mark: &str) -> Value {
    json!({"Cmd": ["sh"], "Env": ["PATH=/bin", format!("MARK={mark}")]})
}

fn base_layer(busybox: &[u8]) -> Result<Vec<u8>> {
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("run busybox --list")?;
    let mut tar = Tar::new();
    for directory in [
        "bin/", "etc/", "home/", "root/", "usr/", "usr/bin/", "var/", "var/log/", "proc/", "sys/", "dev/", "srv/",
    ] {
        tar.dir(directory);
    }
    tar.add(&Entry {
        path: "tmp/",
        kind: b'5',
        mode: 0o1777,
        ..Entry::default()
    });
    tar.add(&Entry {
        path: "home/app/",
        kind: b'5',
        mode: 0o755,
        uid: 1000,
        gid: 1000,
        ..Entry::default()
    });
    tar.file("bin/busybox", 0o755, busybox);
    for applet in String::from_utf8(applets.stdout)?
        .lines()
        .filter(|name| *name != "busybox")
    {
        tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    );
    tar.file(
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1000:\nextra:x:2000:app\nother:x:3000:\n",
    );
    tar.file("srv/index.html", 0o644, b"served by the pod\n");
    tar.file("srv/not-executable", 0o644, b"#!/bin/sh\necho no\n");
    tar.file("srv/no-interpreter", 0o755, b"#!/no/such/interpreter\n");
    Ok(tar.finish())
}

fn far(storage: &Storage, base: &[u8]) -> Result<()> {
    let mut tar = Tar::new();
    for (path, kind, mode) in [
        ("far-open", b'0', 0o644),
        ("far-closed", b'0', 0o600),
        ("far-dir/", b'5', 0o755),
    ] {
        tar.add(&Entry {
            path,
            kind,
            mode,
            uid: 100_000,
            gid: 200_000,
            data: if kind == b'0' { b"far\n" } else { b"" },
            ..Entry::default()
        });
    }
    tar.file("far-dir/near", 0o644, b"near\n");
    let layers = [base.to_vec(), tar.finish()];
    let layers = layers.iter().map(|archive| Layer::new(archive, Compression::Gzip));
    let image = Image {
        flavor: Flavor::Oci,
        layers: layers.collect::<Result<_>>()?,
        config: marked("far"),
    };
    storage.put("busybox", "far", &image).map(drop)
}

fn layers(storage: &Storage, base: &[u8]) -> Result<()> {
    let mut lower = Tar::new();
    lower
        .dir("d/")
        .file("d/gone", 0o644, b"lower")
        .file("d/kept", 0o644, b"lower")
        .file("d/changed", 0o644, b"lower");
    lower
        .dir("opaque/")
        .file("opaque/hidden", 0o644, b"lower")
        .dir("opaque/sub/")
        .file("opaque/sub/hidden", 0o644, b"lower");
    lower
        .dir("was-dir/")
        .file("was-dir/inner", 0o644, b"lower")
        .file("was-file", 0o644, b"lower");
    lower.file("hard-a", 0o600, b"linked");
    // The mode is that of the file, as tar writes it; some unpackers apply it again.
    lower.add(&Entry {
        path: "hard-b",
        kind: b'1',
        mode: 0o600,
        link: "hard-a",
        ..Entry::default()
    });
    lower.add(&Entry {
        path: "setuid",
        mode: 0o4755,
        uid: 0,
        data: b"x",
        ..Entry::default()
    });
    lower.add(&Entry {
        path: "owned",
        mode: 0o640,
        uid: 1234,
        gid: 5678,
        data: b"x",
        ..Entry::default()
    });
    let caps: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lower.add(&Entry {
        path: "capable",
        mode: 0o755,
        xattrs: &[("security.capability", caps)],
        data: b"x",
        ..Entry::default()
    });
    lower.add(&Entry {
        path: "null",
        kind: b'3',
        mode: 0o666,
        device: (1, 3),
        ..Entry::default()
    });
    lower.add(&Entry {
        path: "fifo",
        kind: b'6',
        mode: 0o600,
        ..Entry::default()
    });
    let long = format!("long/{}", "n".repeat(200));
    lower.dir("long/").file(&long, 0o644, b"long");
    lower.file("zeroes", 0o644, &vec![0; 4 << 20]);
    let mut upper = Tar::new();
    upper
        .dir("d/")
        .file("d/.wh.gone", 0o644, b"")
        .file("d/changed", 0o644, b"upper");
    upper
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/seen", 0o644, b"upper");
    upper
        .file("was-dir", 0o644, b"upper")
        .dir("was-file/")
        .file("was-file/inner", 0o644, b"upper");
    let layers = [base.to_vec(), lower.finish(), upper.finish()];
    let layers = [Compression::Gzip, Compression::Zstd, Compression::Plain]
        .into_iter()
        .zip(&layers)
        .map(|(compression, archive)| Layer::new(archive, compression))
        .collect::<Result<_>>()?;
    storage.put(
        "layers",
        "1",
        &Image {
            flavor: Flavor::Oci,
            layers,
            config: json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}),
        },
    )?;
    Ok(())
}

fn pause(storage: &Storage) -> Result<()> {
    // Only the peer wants it, but a registry is made once for all: what it lacks then, it lacks for good.
    let mut tar = Tar::new();
    tar.file("pause", 0o755, &fs::read(places::tool("pause")?)?);
    let layers = vec![Layer::new(&tar.finish(), Compression::Gzip)?];
    storage.put(
        "pause",
        "1",
        &Image {
            flavor: Flavor::Docker,
            layers,
            config: json!({"Entrypoint": ["/pause"]}),
        },
    )?;
    Ok(())
}

/// Each has busybox below one layer that must be refused, or that must do no harm.
fn odd(storage: &Storage, base: &[u8]) -> Result<()> {
    let put = |name: &str, layer: Layer| -> Result<()> {
        let layers = vec![Layer::new(base, Compression::Gzip)?, layer];
        storage.put(
            "odd",
            name,
            &Image {
                flavor: Flavor::Oci,
                layers,
                config: marked(name),
            },
        )?;
        Ok(())
    };
    let tar = |build: &dyn Fn(&mut Tar)| -> Result<Layer> {
        let mut tar = Tar::new();
        build(&mut tar);
        Layer::new(&tar.finish(), Compression::Gzip)
    };
    put(
        "dotdot",
        tar(&|tar| {
            tar.file("../../../../../../tmp/bulkhead-escaped", 0o644, b"x");
        })?,
    )?;
    put(
        "absolute-symlink",
        tar(&|tar| {
            tar.symlink("out", "/tmp").file("out/bulkhead-escaped", 0o644, b"x");
        })?,
    )?;
    put(
        "relative-symlink",
        tar(&|tar| {
            tar.symlink("out", "../../../../../tmp")
                .file("out/bulkhead-escaped", 0o644, b"x");
        })?,
    )?;
    put(
        "hardlink-out",
        tar(&|tar| {
            tar.hardlink("shadow", "../../../../../../etc/shadow");
        })?,
    )?;
    put(
        "whiteout-root",
        tar(&|tar| {
            tar.file(".wh..", 0o644, b"").file(".wh...", 0o644, b"");
        })?,
    )?;
    let mut whole = Tar::new();
    whole.file("big", 0o644, &vec![b'x'; 200_000]);
    let whole = whole.finish();
    let cut = &whole[..100_000];
    put(
        "truncated-tar",
        Layer::raw(cut.to_vec(), digest(cut), Compression::Plain),
    )?;
    let gzip = Layer::new(&whole, Compression::Gzip)?;
    put("truncated-gzip", gzip.truncated())?;
    put(
        "not-gzip",
        Layer::raw(b"this is not gzip at all".to_vec(), digest(&whole), Compression::Gzip),
    )?;
    put(
        "wrong-diff-id",
        Layer::raw(whole, digest(b"something else"), Compression::Plain),
    )
}

/// Makes one image of `layers` layers of `size` random-looking bytes each and stores it; for the bench.
///
/// # Errors
/// Where it cannot be written.
pub fn big(
    storage: &Storage,
    repository: &str,
    tag: &str,
    compression: Compression,
    sizes: (usize, usize),
) -> Result<()> {
    let (count, size) = sizes;
    let layers = (0..count)
        .map(|layer| Layer::new(&big_layer(layer, size), compression))
        .collect::<Result<_>>()?;
    storage.put(
        repository,
        tag,
        &Image {
            flavor: Flavor::Oci,
            layers,
            config: json!({"Cmd": ["sh"]}),
        },
    )?;
    Ok(())
}

/// A layer of files from 1 kB to 4 MB; about half of it compresses away, as of real programs.
fn big_layer(layer: usize, size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(layer as u64 + 1);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut tar = Tar::new();
    let mut written = 0;
    let mut number = 0;
    while written < size {
        let length = if number % 8 == 0 { 4 << 20 } else { 1024 << (next() % 9) };
        let mut data = Vec::with_capacity(length);
        while data.len() < length {
            let word = next().to_le_bytes();
            data.extend_from_slice(&word);
            data.extend_from_slice(&[word[0] & 15; 8]);
        }
        if number % 64 == 0 {
            tar.dir(&format!("layer{layer}/"));
            tar.dir(&format!("layer{layer}/d{}/", number / 64));
        }
        tar.file(&format!("layer{layer}/d{}/f{number}", number / 64), 0o644, &data);
        written += length;
        number += 1;
    }
    tar.finish()
}

/// The directory of the image store of the bench.
#[must_use]
pub fn bench_directory(parent: &Path) -> PathBuf {
    parent.join("bench-registry-1")
}
