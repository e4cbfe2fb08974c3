//! Entries that replace others, whiteouts, attributes of the overlay.

use super::*;

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
