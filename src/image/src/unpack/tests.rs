//! The extractor on good, odd and hostile archives. Every hostile case runs beside a canary
//! that must not change.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::*;

#[path = "../../tests/support/tar.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the tests of whole pulls")]
mod writer;
use writer::{Header, Tar, checksum};

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("canary")).unwrap();
        fs::write(dir.path().join("canary/file"), "untouched").unwrap();
        fs::set_permissions(dir.path().join("canary/file"), fs::Permissions::from_mode(0o640)).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        let root = rustix::fs::open(self.root(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        unpack(tar, root, Limits::default()).map_err(|(e, _)| e)
    }

    fn assert_canary(&self, case: &str) {
        let dir = fs::symlink_metadata(self.canary()).unwrap();
        assert_eq!(dir.mode() & 0o7777, 0o755, "{case}");
        assert!(dir.is_dir());
        let names: Vec<_> = fs::read_dir(self.canary())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "{case}");
        let meta = fs::symlink_metadata(self.canary().join("file")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.nlink(), meta.uid()),
            (0o640, 1, 0),
            "{case}"
        );
        assert_eq!(fs::read(self.canary().join("file")).unwrap(), b"untouched", "{case}");
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(beside.len(), 2, "{case}");
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 256];
    let count = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(count);
    Some(value)
}

#[test]
fn all_kinds_with_owner_mode_time_and_attributes() {
    let bench = Bench::new();
    let cap = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .raw(
            Header {
                mode: 0o1777,
                ..Header::new(b'5', "./")
            },
            b"",
        )
        .raw(
            Header {
                uid: 1000,
                gid: 1001,
                mode: 0o2750,
                ..Header::new(b'5', "d/")
            },
            b"",
        )
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("SCHILY.xattr.security.capability", &cap),
            ("SCHILY.xattr.user.x", b"\0y"),
        ])
        .raw(
            Header {
                uid: 5,
                gid: 6,
                mode: 0o4755,
                ..Header::new(b'0', "d/f")
            },
            b"content",
        )
        .link(b'1', "d/hard", "d/f")
        .link(b'2', "d/soft", "/etc/passwd")
        .link(b'1', "d/hardsoft", "d/soft")
        .raw(
            Header {
                device: (1, 3),
                mode: 0o666,
                ..Header::new(b'3', "null")
            },
            b"",
        )
        .raw(
            Header {
                device: (7, 300),
                ..Header::new(b'4', "blk")
            },
            b"",
        )
        .raw(
            Header {
                mode: 0o600,
                ..Header::new(b'6', "pipe")
            },
            b"",
        )
        .raw(Header::new(b'7', "contiguous"), b"c")
        .finish();
    let done = bench.unpack(&tar).unwrap();
    assert!(done.implicit.is_empty());
    let root = bench.root();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(&root).unwrap().mtime(), 1_000_000_000);
    let d = fs::metadata(root.join("d")).unwrap();
    assert_eq!(
        (d.uid(), d.gid(), d.mode() & 0o7777, d.mtime()),
        (1000, 1001, 0o2750, 1_000_000_000)
    );
    let f = fs::metadata(root.join("d/f")).unwrap();
    // In a set-gid directory, and set-uid itself: both must come out as the archive says.
    assert_eq!((f.uid(), f.gid(), f.mode() & 0o7777, f.nlink()), (5, 6, 0o4755, 2));
    assert_eq!((f.mtime(), f.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(xattr(&root.join("d/f"), "security.capability").unwrap(), cap);
    if let Some(user) = xattr(&root.join("d/f"), "user.x") {
        assert_eq!(user, b"\0y");
    }
    assert_eq!(fs::read_link(root.join("d/soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(
        fs::read_link(root.join("d/hardsoft")).unwrap(),
        Path::new("/etc/passwd")
    );
    let null = fs::metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o777), (makedev(1, 3), 0o666));
    assert_eq!(fs::metadata(root.join("blk")).unwrap().rdev(), makedev(7, 300));
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(read(root.join("contiguous")), "c");
}

#[test]
fn long_names_in_both_dialects_and_old_formats() {
    let bench = Bench::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut star = Header::new(b'0', "name").bytes();
    star[345..351].copy_from_slice(b"prefix");
    checksum(&mut star);
    let mut v7 = Header::new(0, "v7dir/").bytes();
    v7[257..265].fill(0);
    checksum(&mut v7);
    let mut big_uid = Header::new(b'0', "biguid").bytes();
    big_uid[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    big_uid[136..148].copy_from_slice(&[0xff; 12]);
    checksum(&mut big_uid);
    let tar = Tar::new()
        .pax_of(b'g', &[("comment", b"ignored"), ("path", b"not-this")])
        .long(b'L', &long)
        .file("short", b"gnu")
        .pax(&[("path", format!("pax/{long}").as_bytes())])
        .file("short", b"pax")
        .long(b'K', &"t".repeat(300))
        .raw(
            Header {
                gnu: true,
                mode: 0o777,
                link: b"x".to_vec(),
                ..Header::new(b'2', "longlink")
            },
            b"",
        );
    let tar = Tar([tar.0, star.to_vec(), v7.to_vec(), big_uid.to_vec()].concat());
    let done = bench.unpack(&tar.finish()).unwrap();
    let root = bench.root();
    assert_eq!(read(root.join(&long)), "gnu");
    assert_eq!(read(root.join("pax").join(&long)), "pax");
    assert_eq!(fs::read_link(root.join("longlink")).unwrap().as_os_str().len(), 300);
    assert!(root.join("prefix/name").is_file() && root.join("v7dir").is_dir());
    let meta = fs::metadata(root.join("biguid")).unwrap();
    assert_eq!((meta.uid(), meta.mtime()), (0x7fff_ffff, -1));
    assert_eq!(done.implicit.len(), 4, "{:?}", done.implicit);
    let implicit = fs::metadata(root.join("pax")).unwrap();
    assert_eq!(implicit.mode() & 0o7777, 0o755);
}

#[test]
fn absolute_names_stay_inside() {
    let bench = Bench::new();
    let target = bench.canary().join("file");
    let tar = Tar::new()
        .file(target.to_str().unwrap(), b"inside")
        .file("/abs", b"x")
        .link(b'1', "/h", "/abs")
        .finish();
    bench.unpack(&tar).unwrap();
    bench.assert_canary("absolute");
    assert_eq!(read(bench.root().join(target.strip_prefix("/").unwrap())), "inside");
    assert_eq!(read(bench.root().join("h")), "x");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn hostile_archives_change_nothing_outside() {
    let outside = |bench: &Bench| bench.canary().to_str().unwrap().to_owned();
    type Case = (&'static str, Box<dyn Fn(&str) -> Tar>);
    let cases: Vec<Case> = vec![
        ("dotdot", Box::new(|_| Tar::new().file("../canary/file", b"evil"))),
        (
            "dotdot inside",
            Box::new(|_| Tar::new().dir("a").file("a/../../canary/file", b"evil")),
        ),
        (
            "dotdot absolute",
            Box::new(|_| Tar::new().file("/../canary/file", b"evil")),
        ),
        (
            "file through a link",
            Box::new(|c| Tar::new().link(b'2', "l", c).file("l/file", b"evil")),
        ),
        (
            "file through a relative link",
            Box::new(|_| Tar::new().link(b'2', "l", "../canary").file("l/file", b"evil")),
        ),
        (
            "file through a chain of links",
            Box::new(|_| {
                Tar::new()
                    .dir("a")
                    .link(b'2', "a/up", "..")
                    .link(b'2', "b", "a/up/../canary")
                    .file("b/file", b"evil")
            }),
        ),
        (
            "directory through a link",
            Box::new(|c| Tar::new().link(b'2', "l", c).dir("l/new")),
        ),
        (
            "hard link out",
            Box::new(|c| Tar::new().link(b'1', "h", &format!("{c}/file"))),
        ),
        (
            "hard link dotdot",
            Box::new(|_| Tar::new().link(b'1', "h", "../canary/file")),
        ),
        (
            "hard link through a link",
            Box::new(|c| Tar::new().link(b'2', "l", c).link(b'1', "h", "l/file")),
        ),
        (
            "hard link to itself",
            Box::new(|_| Tar::new().file("h", b"").link(b'1', "h", "./h")),
        ),
        (
            "hard link to a directory",
            Box::new(|_| Tar::new().dir("d").link(b'1', "h", "d")),
        ),
        ("hard link to the root", Box::new(|_| Tar::new().link(b'1', "h", "/"))),
        ("root as a link", Box::new(|c| Tar::new().link(b'2', "./", c))),
        ("root as a file", Box::new(|_| Tar::new().file("/", b"x"))),
        ("dot as a hard link", Box::new(|c| Tar::new().link(b'1', ".", c))),
        (
            "device through a link",
            Box::new(|c| {
                Tar::new().link(b'2', "l", c).raw(
                    Header {
                        device: (1, 3),
                        ..Header::new(b'3', "l/n")
                    },
                    b"",
                )
            }),
        ),
        (
            "whiteout through a link",
            Box::new(|c| Tar::new().link(b'2', "l", c).file("l/.wh.file", b"")),
        ),
        (
            "opaque through a link",
            Box::new(|c| Tar::new().link(b'2', "l", c).file("l/.wh..wh..opq", b"")),
        ),
        (
            "whiteout of dotdot",
            Box::new(|_| Tar::new().dir("d").file("d/.wh...", b"")),
        ),
        (
            "whiteout of dot",
            Box::new(|_| Tar::new().dir("d").file("d/.wh..", b"")),
        ),
        ("whiteout of nothing", Box::new(|_| Tar::new().file(".wh.", b""))),
        (
            "parent is a file",
            Box::new(|_| Tar::new().file("f", b"").file("f/x", b"")),
        ),
        (
            "pax path dotdot",
            Box::new(|_| Tar::new().pax(&[("path", b"../canary/file")]).file("ok", b"evil")),
        ),
        (
            "pax linkpath out",
            Box::new(|_| Tar::new().pax(&[("linkpath", b"../canary/file")]).link(b'1', "ok", "x")),
        ),
        (
            "gnu name dotdot",
            Box::new(|_| Tar::new().long(b'L', "../canary/file").file("ok", b"evil")),
        ),
        (
            "pax path with zero",
            Box::new(|_| Tar::new().pax(&[("path", b"a\0b")]).file("ok", b"evil")),
        ),
        ("empty symlink", Box::new(|_| Tar::new().link(b'2', "l", ""))),
        (
            "owner that is no id",
            Box::new(|_| Tar::new().pax(&[("uid", b"4294967295")]).file("f", b"")),
        ),
        (
            "unknown type",
            Box::new(|_| Tar::new().raw(Header::new(b'V', "v"), b"")),
        ),
        (
            "gnu and pax names",
            Box::new(|_| Tar::new().long(b'L', "a").pax(&[("path", b"b")]).file("c", b"")),
        ),
        (
            "two pax headers",
            Box::new(|_| Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", b"")),
        ),
        (
            "pax, global, file",
            Box::new(|_| {
                Tar::new()
                    .pax(&[("path", b"a")])
                    .pax_of(b'g', &[("x", b"y")])
                    .file("c", b"")
            }),
        ),
        ("pax at the end", Box::new(|_| Tar::new().pax(&[("path", b"a")]))),
        (
            "pax with a huge size",
            Box::new(|_| {
                Tar::new().header(&Header {
                    size: 1 << 32,
                    ..Header::new(b'x', "x")
                })
            }),
        ),
        (
            "deep",
            Box::new(|_| Tar::new().pax(&[("path", "d/".repeat(300).as_bytes())]).dir("x")),
        ),
        (
            "long component",
            Box::new(|_| Tar::new().pax(&[("path", "n".repeat(256).as_bytes())]).file("x", b"")),
        ),
        (
            "sparse that lies",
            Box::new(|_| {
                Tar::new()
                    .pax(&[("GNU.sparse.map", b"0,5,3,5"), ("GNU.sparse.size", b"20")])
                    .file("s", b"0123456789")
            }),
        ),
        (
            "sparse without end",
            Box::new(|_| {
                Tar::new()
                    .pax(&[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.realsize", b"9"),
                    ])
                    .file("s", b"1000000000\n")
            }),
        ),
    ];
    for (name, make) in &cases {
        let bench = Bench::new();
        let result = bench.unpack(&make(&outside(&bench)).finish());
        bench.assert_canary(name);
        let error = result.expect_err(name);
        assert!(
            matches!(error.kind(), Kind::InvalidArgument | Kind::DataLoss),
            "{name}: {error} {:?}",
            error.kind()
        );
    }
}

#[test]
fn links_that_are_replaced_are_not_followed() {
    let bench = Bench::new();
    let canary = bench.canary();
    let target = canary.to_str().unwrap();
    let file = canary.join("file");
    let tar = Tar::new()
        // CVE-2021-32760, CVE-2026-33056: a mode applied through a link of the same name.
        .link(b'2', "d", target)
        .raw(
            Header {
                mode: 0o777,
                ..Header::new(b'5', "d")
            },
            b"",
        )
        .file("d/file", b"mine")
        .link(b'2', "f", file.to_str().unwrap())
        .file("f", b"mine")
        .link(b'1', "h", "f")
        .file("h", b"new")
        .finish();
    bench.unpack(&tar).unwrap();
    bench.assert_canary("replaced links");
    assert_eq!(read(bench.root().join("d/file")), "mine");
    // Writing to a name that is a hard link makes a new file.
    assert_eq!(
        (read(bench.root().join("f")), read(bench.root().join("h"))),
        ("mine".into(), "new".into())
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let bench = Bench::new();
    let tar = Tar::new()
        .dir("a")
        .file("a/x", b"1")
        .file("a/sub/deep", b"1")
        .file("a", b"now a file")
        .file("b", b"now a directory later")
        .raw(
            Header {
                mode: 0o700,
                ..Header::new(b'5', "b")
            },
            b"",
        )
        .file("b/x", b"2")
        .raw(
            Header {
                mode: 0o711,
                ..Header::new(b'5', "b")
            },
            b"",
        )
        .file("c", b"old")
        .link(b'2', "c", "b")
        .finish();
    let done = bench.unpack(&tar).unwrap();
    let root = bench.root();
    assert_eq!(read(root.join("a")), "now a file");
    assert_eq!(read(root.join("b/x")), "2");
    assert_eq!(fs::metadata(root.join("b")).unwrap().mode() & 0o777, 0o711);
    assert_eq!(fs::read_link(root.join("c")).unwrap(), Path::new("b"));
    assert!(done.implicit.is_empty());
}

#[test]
fn whiteouts_speak_of_lower_layers_only() {
    let bench = Bench::new();
    let tar = Tar::new()
        .file("gone/.wh.x", b"")
        .dir("opaque")
        .file("opaque/before", b"1")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"1")
        .file("kept", b"1")
        .file(".wh.kept", b"")
        .file(".wh.back", b"")
        .file("back", b"1")
        .file(".wh.dir", b"")
        .dir("dir")
        .file(".wh.implied", b"")
        .file("implied/x", b"1")
        .dir("both")
        .file(".wh.both", b"")
        .file(".wh..wh.plnk/1.2", b"")
        .file(".wh..wh.aufs", b"")
        .finish();
    let done = bench.unpack(&tar).unwrap();
    let root = bench.root();
    let gone = fs::symlink_metadata(root.join("gone/x")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(root.join("opaque/before").is_file() && root.join("opaque/after").is_file());
    assert_eq!(
        (read(root.join("kept")), read(root.join("back"))),
        ("1".into(), "1".into())
    );
    for dir in ["opaque", "dir", "implied", "both"] {
        assert_eq!(
            xattr(&root.join(dir), tree::OPAQUE).as_deref(),
            Some(b"y".as_slice()),
            "{dir}"
        );
    }
    assert_eq!(xattr(&root.join("gone"), tree::OPAQUE), None);
    assert_eq!(done.implicit, [b"gone".to_vec()]);
    let names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|n| n.starts_with(".wh.")), "{names:?}");
}

#[test]
fn attributes_that_steer_the_overlay_are_dropped() {
    let bench = Bench::new();
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.trusted.other", b"x"),
        ])
        .dir("d")
        .finish();
    bench.unpack(&tar).unwrap();
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.other",
    ] {
        assert_eq!(xattr(&bench.root().join("d"), name), None, "{name}");
    }
}

#[test]
fn sparse_files_of_every_dialect() {
    let bench = Bench::new();
    let data = b"0123456789";
    let mut old = Header {
        gnu: true,
        size: 10,
        ..Header::new(b'S', "old")
    }
    .bytes();
    for (at, value) in [(386, 100), (398, 4), (410, 1000), (422, 6), (483, 5000)] {
        old[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    }
    checksum(&mut old);
    let mut v1 = b"2\n100\n4\n1000\n6\n".to_vec();
    v1.resize(512, 0);
    v1.extend(data);
    let sizes: [(&str, &[u8]); 1] = [("GNU.sparse.size", b"5000")];
    let v00 = [
        &sizes[..],
        &[
            ("GNU.sparse.offset", b"100".as_slice()),
            ("GNU.sparse.numbytes", b"4"),
            ("GNU.sparse.offset", b"1000"),
            ("GNU.sparse.numbytes", b"6"),
        ],
    ]
    .concat();
    let v01 = [
        &sizes[..],
        &[
            ("GNU.sparse.map", b"100,4,1000,6".as_slice()),
            ("GNU.sparse.name", b"v01"),
        ],
    ]
    .concat();
    let v10: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"v10"),
        ("GNU.sparse.realsize", b"5000"),
    ];
    let tar = Tar(old.to_vec())
        .data(data)
        .pax(&v00)
        .file("v00", data)
        .pax(&v01)
        .file("GNUSparse.0/v01", data)
        .pax(&v10)
        .file("GNUSparse.0/v10", &v1);
    bench.unpack(&tar.file("after", b"in step").finish()).unwrap();
    let mut wanted = vec![0u8; 5000];
    wanted[100..104].copy_from_slice(b"0123");
    wanted[1000..1006].copy_from_slice(b"456789");
    for name in ["old", "v00", "v01", "v10"] {
        assert!(fs::read(bench.root().join(name)).unwrap() == wanted, "{name}");
    }
    assert_eq!(read(bench.root().join("after")), "in step");
}

#[test]
fn sizes_that_would_put_parsers_out_of_step() {
    // CVE-2025-62518: an inner archive must never become outer entries.
    let inner = Tar::new().file("inner", b"evil").finish();
    let bench = Bench::new();
    let mut header = Header::new(b'0', "nested.tar");
    header.size = 0;
    let tar = Tar::new()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .header(&header)
        .data(&inner)
        .file("after", b"1")
        .finish();
    bench.unpack(&tar).unwrap();
    assert!(!bench.root().join("inner").exists());
    assert_eq!(
        fs::metadata(bench.root().join("nested.tar")).unwrap().len(),
        inner.len() as u64
    );
    assert_eq!(read(bench.root().join("after")), "1");
    // Links and directories have no data, whatever their size says.
    let bench = Bench::new();
    let tar = Tar::new()
        .file("f", b"1")
        .header(&Header {
            size: 512,
            link: b"f".to_vec(),
            ..Header::new(b'1', "h")
        })
        .header(&Header {
            size: 512,
            ..Header::new(b'5', "d")
        })
        .file("after", b"1")
        .finish();
    bench.unpack(&tar).unwrap();
    assert_eq!(read(bench.root().join("after")), "1");
}

#[test]
fn truncation_anywhere_is_an_error_or_a_whole_entry() {
    let whole = Tar::new()
        .dir("d")
        .file("d/f", &[7; 1500])
        .pax(&[("path", b"long")])
        .file("x", b"1")
        .finish();
    for cut in (1..whole.len() - 1024).step_by(97) {
        let bench = Bench::new();
        let result = bench.unpack(&whole[..cut]);
        // Only at the border of an entry may an archive end.
        assert!(result.is_err() || cut % 512 == 0, "{cut}");
    }
    for noise in 0..64u8 {
        let mut broken = whole.clone();
        broken[usize::from(noise) * 8] ^= 0x55;
        let bench = Bench::new();
        assert!(bench.unpack(&broken).is_err(), "{noise}");
    }
}

#[test]
fn empty_archives_and_stray_zeros() {
    for tar in [vec![], Tar::new().finish(), Tar(vec![0; 512]).file("a", b"").finish()] {
        Bench::new().unpack(&tar).unwrap();
    }
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_it_is_written() {
    let bench = Bench::new();
    let tar = Tar::new()
        .header(&Header {
            size: 0o77777777777,
            ..Header::new(b'0', "huge")
        })
        .finish();
    let mut big = tar;
    // 2^62 bytes, base 256.
    big[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let mut block: [u8; 512] = big[..512].try_into().unwrap();
    checksum(&mut block);
    big[..512].copy_from_slice(&block);
    let error = bench.unpack(&big).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    assert!(!bench.root().join("huge").exists());
}

/// What tar-core reads, we read, and to the same entries, unless we refuse.
#[test]
fn the_parser_agrees_with_tar_core() {
    use tar_core::parse::{Limits as CoreLimits, ParseEvent, Parser};
    let tar = Tar::new()
        .dir("a/")
        .raw(
            Header {
                uid: 3,
                gid: 4,
                mode: 0o640,
                mtime: 77,
                ..Header::new(b'0', "a/f")
            },
            b"0123456789",
        )
        .pax(&[("path", b"a/p"), ("uid", b"70000"), ("SCHILY.xattr.user.k", b"v")])
        .file("short", &[1; 600])
        .long(b'L', &"n/".repeat(100))
        .dir("n")
        .link(b'1', "h", "a/f")
        .link(b'2', "s", "target")
        .raw(
            Header {
                device: (5, 6),
                ..Header::new(b'3', "dev")
            },
            b"",
        )
        .finish();
    let mut parser = Parser::new(CoreLimits::default());
    let (mut at, mut theirs) = (0, Vec::new());
    loop {
        match parser.parse(&tar[at..]).unwrap() {
            ParseEvent::Entry { consumed, entry } => {
                theirs.push((
                    entry.path.to_vec(),
                    entry.link_target.clone().unwrap_or_default().to_vec(),
                    entry.uid,
                    entry.mode,
                    entry.size,
                    entry.xattrs.len(),
                ));
                at += consumed + usize::try_from(entry.padded_size()).unwrap();
            }
            ParseEvent::End { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let mut ours = Vec::new();
    let mut archive = Archive::new(tar.as_slice());
    while let Some(e) = archive.next_entry().unwrap() {
        ours.push((e.path, e.link, u64::from(e.uid), e.mode, e.size, e.xattrs.len()));
    }
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 7);
}
