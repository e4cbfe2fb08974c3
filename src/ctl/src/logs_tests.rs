//! Lines, tails, rotations.

use super::*;

fn printer() -> Printer {
    Printer {
        timestamps: false,
        since: None,
        only: None,
        left: None,
        partial: [false; 2],
    }
}

fn printed(printer: &mut Printer, lines: &[&str]) -> String {
    let mut out = Vec::new();
    for line in lines {
        if !printer.print(line.as_bytes(), &mut out).unwrap() {
            break;
        }
    }
    String::from_utf8(out).unwrap()
}

const LINES: [&str; 4] = [
    "2026-01-01T00:00:00.000000001Z stdout P one \n",
    "2026-01-01T00:00:01Z stdout F:tag two\n",
    "2026-01-01T00:00:02Z stdout F \n",
    "2026-01-01T00:00:03Z stdout F last word\n",
];

#[test]
fn partial_lines_are_joined() {
    assert_eq!(printed(&mut printer(), &LINES), "one two\n\nlast word\n");
    let mut stamped = Printer {
        timestamps: true,
        ..printer()
    };
    let expected = "2026-01-01T00:00:00.000000001Z one two\n2026-01-01T00:00:02Z \n2026-01-01T00:00:03Z last word\n";
    assert_eq!(printed(&mut stamped, &LINES), expected);
}

#[test]
fn an_empty_text_may_lack_its_space() {
    assert_eq!(
        parse(b"t stderr F").unwrap(),
        Entry {
            time: "t",
            stderr: true,
            partial: false,
            text: b""
        }
    );
    assert_eq!(parse(b"t stdout F a  b \n").unwrap().text, b"a  b ");
    for wrong in ["", "t", "t stdlog F x", "t stdout"] {
        assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn since_and_limits_cut() {
    let mut since = Printer {
        since: Some("2026-01-01T00:00:02Z".parse().unwrap()),
        ..printer()
    };
    assert_eq!(printed(&mut since, &LINES), "\nlast word\n");
    let mut limited = Printer {
        left: Some(6),
        ..printer()
    };
    assert_eq!(printed(&mut limited, &LINES), "one tw");
    let mut other = Printer {
        only: Some("stderr".to_owned()),
        ..printer()
    };
    assert_eq!(printed(&mut other, &LINES), "");
}

#[test]
fn times() {
    assert_eq!(
        parse_since("2013-01-02T13:23:37").unwrap().to_string(),
        "2013-01-02T13:23:37Z"
    );
    assert_eq!(
        parse_since("2013-01-02T13:23:37.5+01:00").unwrap().to_string(),
        "2013-01-02T12:23:37.5Z"
    );
    assert_eq!(parse_since("1136073845").unwrap().as_second(), 1_136_073_845);
    let ago = Timestamp::now().as_second() - parse_since("42m").unwrap().as_second();
    assert!((2519..=2521).contains(&ago), "{ago}");
    parse_since("yesterday").unwrap_err();
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bulkhead-ctl-logs-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn tails_begin_at_a_line() {
    let scratch = Scratch::new("tail");
    let path = scratch.0.join("log");
    let line = format!("{}\n", "x".repeat(1000));
    std::fs::write(&path, line.repeat(300)).unwrap();
    let mut file = File::open(&path).unwrap();
    for (lines, expected) in [(0, 300), (1, 299), (3, 297), (299, 1), (300, 0), (1000, 0)] {
        assert_eq!(tail(&mut file, lines).unwrap(), expected * 1001, "{lines}");
    }
    std::fs::write(&path, "a\nb\nunended").unwrap();
    assert_eq!(tail(&mut File::open(&path).unwrap(), 2).unwrap(), 2);
}

#[test]
fn a_growing_and_rotated_file_loses_no_line() {
    let scratch = Scratch::new("rotate");
    let path = scratch.0.join("log");
    std::fs::write(&path, "1\n2\nha").unwrap();
    let mut lines = Lines::new(File::open(&path).unwrap());
    assert_eq!(lines.next().unwrap(), Some(b"1\n".as_slice()));
    assert_eq!(lines.next().unwrap(), Some(b"2\n".as_slice()));
    assert_eq!(lines.next().unwrap(), None);
    assert!(lines.rotated(&path).is_none());
    let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::fs::rename(&path, scratch.0.join("log.1")).unwrap();
    assert!(lines.rotated(&path).is_none(), "no new file yet");
    std::fs::write(&path, "4\n").unwrap();
    old.write_all(b"lf\n").unwrap();
    assert!(lines.rotated(&path).is_none(), "the old one has more");
    assert_eq!(lines.next().unwrap(), Some(b"half\n".as_slice()));
    assert_eq!(lines.next().unwrap(), None);
    let mut lines = Lines::new(lines.rotated(&path).unwrap());
    assert_eq!(lines.next().unwrap(), Some(b"4\n".as_slice()));
    std::fs::write(&path, "4\nend").unwrap();
    assert_eq!(lines.next().unwrap(), None);
    assert_eq!(lines.rest().unwrap(), b"end");
}

#[test]
fn the_attempt_before() {
    let mut status = ContainerStatus::default();
    let path = Path::new("/var/log/pods/p/c/2.log");
    previous(path, &status).unwrap_err();
    status.metadata = Some(proto::cri::ContainerMetadata {
        attempt: 2,
        ..Default::default()
    });
    assert_eq!(previous(path, &status).unwrap(), Path::new("/var/log/pods/p/c/1.log"));
}
