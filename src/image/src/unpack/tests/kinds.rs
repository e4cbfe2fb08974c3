//! What an archive may hold: kinds of files, names, sparse files.

use super::*;

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
fn empty_archives_and_stray_zeros() {
    for tar in [vec![], Tar::new().finish(), Tar(vec![0; 512]).file("a", b"").finish()] {
        Bench::new().unpack(&tar).unwrap();
    }
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
