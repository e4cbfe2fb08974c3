//! Files on disk in, `Config` or one line of error out.

use std::path::PathBuf;

use super::*;
use crate::reference::reference;

/// A directory with a main file and drop-ins.
struct Host {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Host {
    fn new(main: &str, drop_ins: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        fs::write(&file, main).unwrap();
        let config_d = dir.path().join("config.d");
        fs::create_dir(&config_d).unwrap();
        for (name, text) in drop_ins {
            fs::write(config_d.join(name), text).unwrap();
        }
        let sources = Sources {
            file: Some(file),
            dir: Some(config_d),
            flags: Flags::default(),
        };
        Self { dir, sources }
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error, with the directory's name taken out.
    fn error(&self) -> String {
        let text = load(&self.sources).expect_err("this must not load").to_string();
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn error_of(main: &str) -> String {
    Host::new(main, &[]).error()
}

#[test]
fn nothing_said_is_the_default() {
    for text in [
        "",
        "\n# only words\n",
        "cni:\n  # all keys commented out\nimage:\n",
        "{}\n",
    ] {
        let loaded = Host::new(text, &[]).load();
        assert_eq!(loaded.config, Config::default(), "{text:?}");
        assert_eq!(loaded.origins.of("root"), Origin::Default);
    }
}

#[test]
fn later_wins_key_by_key_and_a_list_replaces_a_list() {
    let host = Host::new(
        "cni:\n  conf_dir: /main\n  bin_dirs: [/a, /b]\n  timeout_seconds: 5\nimage: { pinned: [x] }\n",
        &[
            ("20-late.yaml", "cni:\n  timeout_seconds: 9\n"),
            ("10-early.yaml", "cni:\n  timeout_seconds: 7\n  bin_dirs:\n    - /c\n"),
            ("30-not.yml", "unknown: 1\n"),
            (".40-hidden.yaml", "unknown: 1\n"),
        ],
    );
    let loaded = host.load();
    let cni = &loaded.config.cni;
    assert_eq!(cni.conf_dir, PathBuf::from("/main"));
    assert_eq!(cni.bin_dirs, [PathBuf::from("/c")]);
    assert_eq!(cni.timeout_seconds, 9);
    assert_eq!(loaded.config.image.pinned, ["x"]);
    assert_eq!(loaded.files.len(), 3);
    let late = host.dir.path().join("config.d/20-late.yaml");
    assert_eq!(
        loaded.origins.of("cni.timeout_seconds"),
        Origin::File { path: late, line: 2 }
    );
}

#[test]
fn flags_win_over_files() {
    let mut host = Host::new("root: /from/file\nlog_level: warn\n", &[]);
    host.sources.flags.root = Some("/from/flag".into());
    host.sources.flags.cni_bin_dirs = vec!["/x".into(), "/y".into()];
    let loaded = host.load();
    assert_eq!(loaded.config.root, PathBuf::from("/from/flag"));
    assert_eq!(loaded.config.log_level, LogLevel::Warn);
    assert_eq!(loaded.config.cni.bin_dirs, [PathBuf::from("/x"), PathBuf::from("/y")]);
    assert_eq!(loaded.origins.of("root"), Origin::Flag("--root"));
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    let text = error_of("root: /a\ncni:\n  timeout_secnds: 5\n");
    assert!(text.starts_with("config.yaml:3: cni.timeout_secnds: "), "{text}");
    assert!(text.contains("unknown field"), "{text}");
    let host = Host::new("", &[("50-x.yaml", "\nrooot: /a\n")]);
    assert!(
        host.error().starts_with("config.d/50-x.yaml:2: rooot: "),
        "{}",
        host.error()
    );
}

#[test]
fn a_wrong_type_is_named_with_file_line_and_key() {
    for (main, wanted) in [
        (
            "cni:\n  timeout_seconds: soon\n",
            "config.yaml:2: cni.timeout_seconds: ",
        ),
        ("cni:\n  timeout_seconds: -1\n", "config.yaml:2: cni.timeout_seconds: "),
        ("image:\n  pinned: a\n", "config.yaml:2: image.pinned: "),
        ("root: [/a]\n", "config.yaml:1: root: "),
        ("cni: 5\n", "config.yaml:1: cni: "),
        ("stream:\n  listen: localhost\n", "config.yaml:2: stream.listen: "),
        ("log_level: loud\n", "config.yaml:1: log_level: "),
        ("handlers:\n  x:\n    kind: magic\n", "config.yaml:3: handlers.x.kind: "),
        (
            "handlers:\n  x:\n    kind: runc\n",
            "config.yaml:3: handlers.x.kind: \"runc\": other runtimes behind a handler are not there yet",
        ),
        (
            "handlers:\n  x:\n    rlimits: [nofile=9:1]\n",
            "config.yaml:3: handlers.x.rlimits",
        ),
        (
            "handlers:\n  x:\n    container_annotations: ['a[b]']\n",
            "config.yaml:3: handlers.x.container_annotations: \"a[b]\" is no pattern",
        ),
        (
            "handlers:\n  x:\n    privileged_without_host_devices_all_devices_allowed: true\n",
            "config.yaml:3: handlers.x.privileged_without_host_devices_all_devices_allowed: needs",
        ),
        (
            "handlers:\n  x:\n    default_capabilities: [CAP_CHOWN]\n",
            "config.yaml:3: handlers.x.default_capabilities: \"CAP_CHOWN\" is no capability; write CHOWN",
        ),
        (
            "runtime:\n  timezone: ../../etc/shadow\n",
            "config.yaml:2: runtime.timezone: ",
        ),
        ("root: null\n", "config.yaml:1: root: "),
    ] {
        let text = error_of(main);
        assert!(text.starts_with(wanted), "{main:?} gave {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_key_given_twice_is_refused() {
    let text = error_of("root: /a\nstate: /b\nroot: /c\n");
    assert!(
        text.starts_with("config.yaml:3: root: ") && text.contains("duplicate"),
        "{text}"
    );
    let text = error_of("cni:\n  conf_dir: /a\n  conf_dir: /b\n");
    assert!(text.starts_with("config.yaml:3: cni.conf_dir: "), "{text}");
}

#[test]
fn an_impossible_value_is_named_with_file_line_and_key() {
    for (main, wanted, hint) in [
        ("root: here\n", "config.yaml:1: root: ", "absolute"),
        ("root: /\n", "config.yaml:1: root: ", "directory of its own"),
        ("root: /a/../b\n", "config.yaml:1: root: ", "\"..\""),
        ("\nstate: /var/lib/bulkhead/run\n", "config.yaml:2: state: ", "apart"),
        ("cgroup_driver: openrc\n", "config.yaml:1: cgroup_driver: ", "systemd"),
        (
            "cgroup_driver: systemd\ncgroup_root: a/b\n",
            "config.yaml:2: cgroup_root: ",
            "systemd slice",
        ),
        ("cgroup_root: ../x\n", "config.yaml:1: cgroup_root: ", "no cgroup name"),
        (
            "stream:\n  tls_cert: /c\n",
            "config.yaml:2: stream.tls_cert: ",
            "tls_key",
        ),
        (
            "cni:\n  timeout_seconds: 0\n",
            "config.yaml:2: cni.timeout_seconds: ",
            "out of range",
        ),
        (
            "cni:\n  bin_dirs: []\n",
            "config.yaml:2: cni.bin_dirs: ",
            "at least one",
        ),
        (
            "image:\n  max_parallel_layers: 1000\n",
            "config.yaml:2: image.max_parallel_layers: ",
            "1 to 64",
        ),
        (
            "runtime:\n  default_handler: kata\n",
            "config.yaml:2: runtime.default_handler: ",
            "not among",
        ),
        (
            "runtime:\n  default_capabilities: [CAP_KILL]\n",
            "config.yaml:2: runtime.default_capabilities: ",
            "write KILL",
        ),
        (
            "runtime:\n  max_log_line: 1\n",
            "config.yaml:2: runtime.max_log_line: ",
            "4096",
        ),
        (
            "metrics:\n  listen: 127.0.0.1:0\n",
            "config.yaml:2: metrics.listen: ",
            "port",
        ),
        (
            "handlers:\n  Bad_Name: {}\n",
            "config.yaml: handlers.Bad_Name: ",
            "handler name",
        ),
    ] {
        let text = error_of(main);
        assert!(text.starts_with(wanted) && text.contains(hint), "{main:?} gave {text}");
    }
}

#[test]
fn an_impossible_flag_is_named() {
    let mut host = Host::new("", &[]);
    host.sources.flags.state = Some("relative".into());
    assert_eq!(
        host.error(),
        "flag --state: state: \"relative\" must be an absolute path"
    );
}

#[test]
fn broken_yaml_is_told_with_its_line() {
    for (main, line) in [
        ("root: /a\nstate: \"open\n", 2),
        ("a: b: c\n", 1),
        ("root: /a\n---\nroot: /b\n", 2),
    ] {
        let text = error_of(main);
        let at: u32 = text
            .strip_prefix("config.yaml:")
            .and_then(|t| t.split(':').next())
            .unwrap()
            .parse()
            .unwrap();
        assert!(at >= line && at <= 4, "{main:?} gave {text}");
    }
    assert!(error_of("root: &a [*a]\n").starts_with("config.yaml:1: "));
}

#[test]
fn aliases_that_grow_without_end_are_refused() {
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (name, of) in "bcdefghijk".chars().zip("abcdefghij".chars()) {
        bomb.push_str(&format!(
            "{name}: &{name} [*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of}]\n"
        ));
    }
    bomb.push_str("image:\n  pinned: *k\n");
    assert!(error_of(&bomb).starts_with("config.yaml:"));
    let deep = format!("image: {}", "[".repeat(100_000));
    assert!(error_of(&deep).starts_with("config.yaml:"));
}

#[test]
fn a_named_file_must_be_there_and_be_a_file() {
    let mut host = Host::new("", &[]);
    host.sources.file = Some(host.dir.path().join("absent.yaml"));
    assert!(host.error().contains("absent.yaml"));
    host.sources.file = Some(host.dir.path().to_owned());
    assert!(host.error().contains("not a regular file"));
    host.sources.file = Some("/dev/zero".into());
    assert!(host.error().contains("not a regular file"));
    host.sources.file = None;
    host.sources.dir = Some(host.dir.path().join("absent.d"));
    assert!(host.error().contains("absent.d"));
}

#[test]
fn a_file_that_is_huge_or_no_text_is_refused() {
    let host = Host::new("", &[]);
    let file = host.dir.path().join("config.yaml");
    fs::write(&file, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(host.error().contains("1 MiB"));
    fs::write(&file, b"root: /a\nstate: \xff\n").unwrap();
    assert!(host.error().contains("line 2 is not UTF-8"));
}

#[test]
fn a_null_takes_an_optional_value_away() {
    let host = Host::new(
        "metrics:\n  listen: 127.0.0.1:9\n",
        &[("1.yaml", "metrics:\n  listen: null\n")],
    );
    assert_eq!(host.load().config.metrics.listen, None);
}

#[test]
fn what_the_reference_prints_loads_back_to_the_same() {
    let main = "root: \"/srv/a b: #1\"\nlisten: /run/x.sock\ncgroup_root: \"no\"\nimage:\n  pinned: ['a:1', \"b\\nc\", '#x']\n\
                stream: { tls_cert: /c, tls_key: /k, listen: '[::1]:5' }\nmetrics:\n  listen: 127.0.0.1:9090\n\
                handlers:\n  walled: {kind: isolation}\n  \"0123\":\n  'no': {}\n";
    for main in [main, ""] {
        let mut host = Host::new(main, &[]);
        host.sources.flags.log_level = Some(LogLevel::Trace);
        let first = host.load();
        let text = reference(&first);
        assert!(text.contains("log_level: trace  # from flag --log-level"), "{text}");
        host.sources.flags = Flags::default();
        fs::write(host.dir.path().join("config.yaml"), &text).unwrap();
        assert_eq!(host.load().config, first.config, "{text}");
    }
}
