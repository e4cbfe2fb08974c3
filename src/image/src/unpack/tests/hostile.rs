//! Archives that reach out of their root, or would put the parser out of step.

use super::*;

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
