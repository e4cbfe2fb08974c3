//! The images that critest names, made from programs of Debian and a C program,
//! in the storage of docker-registry.
//!
//! What of them is not as in the published ones, each for a trait of Debian's busybox:
//! * `/bin/sh` is a copy of busybox in which the applet name `ls` is another word. Debian's
//!   shell runs its applets without looking at `/bin` (FEATURE_SH_STANDALONE), so a masked
//!   `/bin/ls` would not be noticed; the shell of the published image does look.
//! * `ipcs` and `pgrep` are those of util-linux and procps with their libraries: Debian's
//!   busybox has neither.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::image::{Compression, Flavor, Image, Layer, Storage};
use e2e::places;
use e2e::tar::{Entry, Tar};
use serde_json::{Value, json};

const E2E: &str = "e2e-test-images/";
const STAGING: &str = "k8s-staging-cri-tools/";

/// Makes all of them in `directory`; answers the digest of `test-image-digest`.
pub(crate) fn make(directory: &Path, nginx: Option<&Path>) -> Result<String> {
    let storage = Storage::new(directory);
    let base = base()?;
    let put = |name: &str, tag: &str, layers: &[&[u8]], config: Value| -> Result<String> {
        let layers = layers
            .iter()
            .map(|archive| Layer::new(archive, Compression::Gzip))
            .collect::<Result<_>>()?;
        let image = Image {
            flavor: Flavor::Oci,
            layers,
            config,
        };
        Ok(storage.put(name, tag, &image)?.manifest)
    };
    put(&format!("{E2E}busybox"), "1.29-2", &[&base], shell())?;
    let entry = |program: &str| with(shell(), json!({"Entrypoint": [program], "Cmd": null}));
    let name = format!("{STAGING}hostnet-nginx-amd64");
    for (repository, tag, port) in [(format!("{E2E}nginx"), "1.14-2", 80), (name, "latest", 12003)] {
        match nginx {
            Some(program) => put(
                &repository,
                tag,
                &[&base, &nginx_layer(program, port)?],
                entry("/usr/sbin/start-nginx"),
            )?,
            None => put(
                &repository,
                tag,
                &[&base, &httpd_layer("nginx", port)],
                entry("/usr/sbin/nginx"),
            )?,
        };
    }
    put(
        &format!("{E2E}httpd"),
        "2.4.39-4",
        &[&base, &httpd_layer("httpd", 80)],
        entry("/usr/sbin/httpd"),
    )?;
    let program = fs::read(places::tool("effective-uid")?)?;
    let mut setuid = Tar::new();
    setuid.file("effective-uid", 0o4755, &program);
    put(
        &format!("{E2E}nonewprivs"),
        "1.3",
        &[&setuid.finish()],
        entry("/effective-uid"),
    )?;
    let mut pause = Tar::new();
    pause.file("pause", 0o755, &fs::read(places::tool("pause")?)?);
    put("pause", "3.9", &[&pause.finish()], entry("/pause"))?;
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let config = with(shell(), json!({"User": user}));
        put(&format!("{STAGING}test-image-user-{name}"), "latest", &[&base], config)?;
    }
    let user = with(shell(), json!({"User": "1000"}));
    put(
        &format!("{STAGING}test-image-predefined-group"),
        "latest",
        &[&base, &groups()],
        user,
    )?;
    let mut digest = String::new();
    for (name, tag, mark) in MARKED {
        let mut layer = Tar::new();
        layer.file(mark, 0o644, mark.as_bytes());
        digest = put(
            &format!("{STAGING}test-image-{name}"),
            tag,
            &[&base, &layer.finish()],
            shell(),
        )?;
    }
    Ok(digest)
}

/// Images that differ in one file: the end of the repository, tag, the file's name. The pinned one is last.
const MARKED: [(&str, &str, &str); 10] = [
    ("latest", "latest", "latest"),
    ("tag", "test", "test"),
    ("tag", "all", "all"),
    ("1", "latest", "one"),
    ("2", "latest", "two"),
    ("3", "latest", "three"),
    // Three tags of one image.
    ("tags", "1", "tags"),
    ("tags", "2", "tags"),
    ("tags", "3", "tags"),
    ("digest", "test", "digest"),
];

fn shell() -> Value {
    json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]})
}

fn with(mut config: Value, more: Value) -> Value {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}

fn base() -> Result<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").context("read /bin/busybox (package busybox-static; run hack/setup)")?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?.stdout;
    let mut tar = Tar::new();
    for directory in "bin etc home home/default-user root usr usr/bin usr/sbin var var/run var/log proc sys dev run mnt srv lib lib64"
        .split(' ')
    {
        tar.dir(&format!("{directory}/"));
    }
    tar.add(&Entry {
        path: "tmp/",
        kind: b'5',
        mode: 0o1777,
        ..Entry::default()
    });
    tar.file("bin/busybox", 0o755, &busybox);
    for applet in String::from_utf8(applets)?.lines() {
        if !["busybox", "sh", "ls", "ipcs", "pgrep"].contains(&applet) {
            tar.hardlink(&format!("bin/{applet}"), "bin/busybox");
        }
    }
    tar.file("bin/ls", 0o755, &busybox);
    tar.file("bin/sh", 0o755, &without_ls(&busybox)?);
    for name in ["usr/bin/ipcs", "usr/bin/pgrep"] {
        program(&mut tar, &Path::new("/").join(name), name)?;
    }
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    );
    tar.file("etc/group", 0o644, b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n");
    Ok(tar.finish())
}

/// busybox with `ls` out of its table of applets, which is sorted: `lr` takes the place.
fn without_ls(busybox: &[u8]) -> Result<Vec<u8>> {
    let name = b"\0losetup\0ls\0";
    let at: Vec<usize> = busybox
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| window == name)
        .map(|(at, _)| at)
        .collect();
    ensure!(
        at.len() == 1,
        "busybox has {} tables with losetup and ls, not one",
        at.len()
    );
    let mut changed = busybox.to_vec();
    changed[at[0] + name.len() - 2] = b'r';
    Ok(changed)
}

fn groups() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\n",
    );
    tar.file(
        "etc/group",
        0o644,
        b"root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
    );
    tar.finish()
}

/// busybox's web server under another name; its log begins with that name.
fn httpd_layer(name: &str, port: u16) -> Vec<u8> {
    let mut tar = Tar::new();
    let script = format!(
        "#!/bin/sh\ntrap 'kill $!; exit 0' TERM QUIT\necho \"{name} starts\"\necho $$ >/var/run/{name}.pid\nbusybox httpd -f -p {port} -h /srv & wait\n"
    );
    tar.file(&format!("usr/sbin/{name}"), 0o755, script.as_bytes());
    tar.file("srv/index.html", 0o644, b"Welcome to nginx!\n");
    tar.finish()
}

fn nginx_layer(nginx: &Path, port: u16) -> Result<Vec<u8>> {
    let mut tar = Tar::new();
    program(&mut tar, nginx, "usr/sbin/nginx")?;
    tar.dir("etc/nginx/")
        .dir("var/lib/")
        .dir("var/lib/nginx/")
        .dir("var/log/nginx/")
        .dir("usr/share/")
        .dir("usr/share/nginx/");
    let config = format!(
        "daemon off;\nuser root root;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{ access_log off; server {{ listen {port}; root /srv; }} }}\n"
    );
    tar.file("etc/nginx/nginx.conf", 0o644, config.as_bytes());
    tar.file("srv/index.html", 0o644, b"Welcome to nginx!\n");
    tar.file("usr/sbin/start-nginx", 0o755, b"#!/bin/sh\nexec /usr/sbin/nginx\n");
    Ok(tar.finish())
}

/// Adds a program of this machine with the libraries that its loader would map.
fn program(tar: &mut Tar, from: &Path, to: &str) -> Result<()> {
    tar.file(
        to,
        0o755,
        &fs::read(from).with_context(|| format!("read {}", from.display()))?,
    );
    let listed = Command::new("ldd").arg(from).output().context("run ldd")?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(
        !listed.contains("not found"),
        "{} lacks libraries:\n{listed}",
        from.display()
    );
    for path in listed.lines().filter_map(library) {
        let name = path.strip_prefix("/")?;
        let mut below = PathBuf::new();
        for part in name.parent().context("a library without directory")? {
            below.push(part);
            tar.dir(&format!("{}/", below.display()));
        }
        tar.file(&name.to_string_lossy(), 0o755, &fs::read(&path)?);
    }
    Ok(())
}

/// The path in a line of ldd: `name => /path (address)` or `/path (address)`.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.rsplit_once("=> ").map_or(line, |(_, right)| right).trim();
    let path = line.split(' ').next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}
