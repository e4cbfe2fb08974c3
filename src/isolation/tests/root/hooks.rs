//! Hooks: where each runs, what it is given, what becomes of one that fails, hangs or leaves children.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spec::Kind;
use sys::process::{Exit, wait_pidfd};

use crate::fixture::{Bundle, finish, in_cgroup};

/// A hook of the host's shell.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 10})
}

#[test]
fn each_stage_runs_once_in_order_and_place() {
    let mut bundle = Bundle::shell("echo container; cat /etc/made");
    let log = bundle.dir.join("log");
    let say = |word: &str| {
        hook(&format!(
            "echo {word} $(cat | tr -d ' ' | sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/') $(readlink /proc/self/ns/net) >> {}",
            log.display()
        ))
    };
    let made = bundle.root().join("etc/made");
    // The root with its mounts, below the bundle; what is made there is in the container.
    let look = format!(
        "test -e {root}/proc/self/status && test -c {root}/dev/null && echo by hook > {}",
        made.display(),
        root = bundle.root().display()
    );
    bundle.spec["hooks"] = json!({
        "prestart": [say("prestart")],
        "createRuntime": [say("createRuntime"), say("again")],
        "createContainer": [say("createContainer"), hook(&look)],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat /proc/self/status > /tmp/start; id -u >> /tmp/start"],
                            "env": ["PATH=/bin"]}],
        "poststart": [say("poststart")],
        "poststop": [say("poststop")],
    });
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1000});
    fs::set_permissions(
        bundle.root().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let (mut created, pipes) = bundle.create().unwrap();
    let words = || -> Vec<(String, String, bool)> {
        let host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        let text = fs::read_to_string(&log).unwrap();
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap();
            (next(), next(), next() == host)
        };
        text.lines().map(line).collect()
    };
    let of = |word: &str, status: &str, host| (word.to_owned(), status.to_owned(), host);
    let mut wanted = vec![
        of("prestart", "creating", true),
        of("createRuntime", "creating", true),
        of("again", "creating", true),
        of("createContainer", "creating", false),
    ];
    assert_eq!(words(), wanted);
    assert!(created.start().unwrap().is_none());
    wanted.push(of("poststart", "running", true));
    assert_eq!(words(), wanted);
    let pidfd = created.pidfd.try_clone().unwrap();
    assert_eq!(finish(pidfd, pipes).out, "container\nby hook\n");
    created.poststop().unwrap();
    wanted.push(of("poststop", "stopped", true));
    assert_eq!(words(), wanted);
    // In the container, as its user.
    let start = fs::read_to_string(bundle.root().join("tmp/start")).unwrap();
    assert!(start.contains("NSpid:") && start.ends_with("1000\n"), "{start}");
}

#[test]
fn a_hook_knows_the_container_and_has_only_its_own_environment() {
    let mut bundle = Bundle::shell("true");
    let (state, env) = (bundle.dir.join("state"), bundle.dir.join("env"));
    // What an image or pod puts into the container's environment (CVE-2025-23266).
    bundle.process()["env"] = json!(["LD_PRELOAD=/evil.so", "PATH=/bin", "BASH_ENV=/evil"]);
    let script = format!(
        "cat > {}; tr '\\0' '\\n' < /proc/self/environ > {}; pwd >> {1}",
        state.display(),
        env.display()
    );
    bundle.spec["hooks"] =
        json!({"createContainer": [hook(&script)], "poststart": [hook(&format!("cat > {}2", state.display()))]});
    bundle.spec["annotations"] = json!({"key": "value"});
    let (created, pipes) = bundle.start().unwrap();
    let state = |name: &str| -> Value { serde_json::from_slice(&fs::read(bundle.dir.join(name)).unwrap()).unwrap() };
    let (inside, outside) = (state("state"), state("state2"));
    assert_eq!(inside["pid"], 1);
    assert_eq!(
        outside,
        json!({"ociVersion": "1.3.0", "id": bundle.id, "bundle": bundle.dir, "pid": created.pid, "status": "running",
               "annotations": {"key": "value"}})
    );
    assert_eq!(fs::read_to_string(env).unwrap(), "PATH=/bin:/usr/bin\n/\n");
    assert_eq!(finish(created.pidfd, pipes).exit, Exit::Code(0));
}

#[test]
fn one_that_fails_undoes_everything_and_says_why() {
    for stage in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut bundle = Bundle::shell("true");
        let mut bad = hook("echo some reason >&2; exit 3");
        if stage == "startContainer" {
            bad["env"] = json!(["PATH=/bin"]);
        }
        let mut hooks = json!({});
        hooks[stage] = json!([hook("exit 0"), bad]);
        bundle.spec["hooks"] = hooks;
        let (kind, text) = bundle.refused();
        assert_eq!(kind, Kind::FailedPrecondition);
        assert!(
            text.contains(&format!("hooks.{stage}[1]: /bin/sh: ended with code 3: some reason")),
            "{text}"
        );
        assert_eq!(in_cgroup(&bundle), [] as [i32; 0]);
    }
    let mut bundle = Bundle::shell("true");
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/no/such/hook"}]});
    let (kind, text) = bundle.refused();
    assert!(
        kind == Kind::NotFound && text.contains("hooks.createRuntime[0]: /no/such/hook"),
        "{text}"
    );
}

#[test]
fn one_that_hangs_is_killed_with_its_children() {
    let mut bundle = Bundle::shell("true");
    let pid = bundle.dir.join("pid");
    for stage in ["createRuntime", "createContainer"] {
        let mut hang = hook(&format!("sleep 1000 & echo $! > {}; wait", pid.display()));
        hang["timeout"] = json!(1);
        let mut hooks = json!({});
        hooks[stage] = json!([hang]);
        bundle.spec["hooks"] = hooks;
        let before = Instant::now();
        let (kind, text) = bundle.refused();
        assert_eq!(kind, Kind::DeadlineExceeded);
        assert!(
            text.contains("was killed after 1 s") && before.elapsed() < Duration::from_secs(9),
            "{text}"
        );
        if stage == "createRuntime" {
            let left: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
            let gone = || fs::read_to_string(format!("/proc/{left}/cmdline")).is_ok_and(|line| line.contains("sleep"));
            while gone() && before.elapsed() < Duration::from_secs(9) {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(!gone());
        }
    }
}

#[test]
fn a_failed_poststart_hook_is_told_and_harms_nothing() {
    let mut bundle = Bundle::shell("sleep 0.2; echo alive");
    bundle.spec["hooks"] = json!({"poststart": [hook("exit 9")], "poststop": [hook("exit 8")]});
    let (mut created, pipes) = bundle.create().unwrap();
    let warning = created.start().unwrap().unwrap();
    assert!(
        warning
            .chain()
            .join(": ")
            .contains("hooks.poststart[0]: /bin/sh: ended with code 9")
    );
    let pidfd = created.pidfd.try_clone().unwrap();
    assert_eq!(finish(pidfd, pipes).out, "alive\n");
    assert!(created.poststop().unwrap_err().chain().join(": ").contains("code 8"));
}

#[test]
fn links_of_the_image_lead_nowhere_while_hooks_can_see_the_host() {
    use std::os::unix::fs::symlink;
    let mut bundle = Bundle::shell("ls /data; cat /etc/resolv.conf");
    for name in ["etc/resolv.conf", "vol", "dev"] {
        let path = bundle.root().join(name);
        fs::remove_dir(&path).ok();
        symlink(bundle.canary(), path).unwrap();
    }
    fs::write(bundle.dir.join("source"), "source\n").unwrap();
    fs::remove_file(bundle.root().join("etc/resolv.conf")).unwrap();
    symlink("/../../../../run/resolv", bundle.root().join("etc/resolv.conf")).unwrap();
    bundle.spec["hooks"] = json!({"createRuntime": [hook("exit 0")]});
    bundle.add_mount(
        json!({"destination": "/etc/resolv.conf", "source": bundle.dir.join("source"), "options": ["bind"]}),
    );
    bundle.add_mount(json!({"destination": "/vol/x", "type": "tmpfs", "source": "tmpfs"}));
    // /dev is a link: refused as without hooks.
    let (kind, text) = bundle.refused();
    assert!(
        kind == Kind::FailedPrecondition && text.contains("symbolic link"),
        "{text}"
    );
    bundle.assert_canary();
    fs::remove_file(bundle.root().join("dev")).unwrap();
    fs::create_dir(bundle.root().join("dev")).unwrap();
    assert_eq!(bundle.out(), "source\n");
    bundle.assert_canary();
}

#[test]
fn in_a_user_namespace_hooks_of_the_container_are_its_root() {
    let mut bundle = Bundle::shell("cat /etc/made");
    bundle.map(700_000);
    let made = bundle.root().join("etc/made");
    let script = format!(
        "id -u > {}; cat {}/config.json > /dev/null",
        made.display(),
        bundle.dir.display()
    );
    let host = bundle.dir.join("host");
    bundle.spec["hooks"] = json!({
        "createContainer": [hook(&script)],
        "createRuntime": [hook(&format!("cat /proc/self/uid_map > {}", host.display()))],
    });
    // The way to the bundle, as the daemon makes it.
    let (created, pipes) = bundle.start().unwrap_or_else(|error| panic!("{:?}", error.chain()));
    assert_eq!(finish(created.pidfd.try_clone().unwrap(), pipes).out, "0\n");
    assert!(wait_pidfd(created.pidfd.as_fd()).is_err());
    let map = fs::read_to_string(host).unwrap();
    assert_eq!(map.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
}
