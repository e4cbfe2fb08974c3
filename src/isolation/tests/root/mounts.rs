//! Mounts, masks, devices, propagation, sysctls.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use spec::Kind;
use sys::process::Exit;

use crate::fixture::Bundle;

#[test]
fn masked_paths_are_empty_and_read_only_ones_cannot_be_written() {
    let script = "stat -c '%F %t:%T' /proc/meminfo /proc/keys; ls -A /proc/tty /proc/bus; touch /proc/tty/x; \
                  echo x > /proc/sys/kernel/core_pattern; echo x > /proc/irq/default_smp_affinity; echo";
    let mut bundle = Bundle::shell(script);
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let list = json!([
        "/proc/meminfo",
        "/proc/keys",
        "/proc/tty",
        "/proc/bus",
        "/proc/none",
        "/proc/none/below"
    ]);
    bundle.spec["linux"]["maskedPaths"] = list;
    bundle.spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/irq", "/proc/none"]);
    let output = bundle.run().unwrap();
    let null = "character special file 1:3\n";
    assert_eq!(
        output.out,
        format!("{null}{null}/proc/bus:\n\n/proc/tty:\n\n"),
        "{output:?}"
    );
    assert_eq!(output.err.matches("Read-only file system").count(), 3, "{output:?}");

    // The same files without: they are there, full, and (the pattern written back) writable.
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    let text = "stat -c %F /proc/meminfo; [ -e /proc/tty/drivers ] && cat /proc/sys/kernel/core_pattern > /tmp/p; \
                cat /tmp/p > /proc/sys/kernel/core_pattern && echo writable";
    bundle.process()["args"] = json!(["/bin/sh", "-c", text]);
    assert!(bundle.out().ends_with("writable\n"));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

#[test]
fn a_read_only_root_is_read_only_and_its_volumes_are_not() {
    let mut bundle = Bundle::shell("touch /x; touch /tmp/x; touch /dev/shm/x /volume/x && echo volume");
    fs::create_dir(bundle.dir.join("volume")).unwrap();
    let source = bundle.dir.join("volume");
    bundle.add_mount(json!({"destination": "/volume", "type": "bind", "source": source, "options": ["rbind"]}));
    bundle.spec["root"]["readonly"] = json!(true);
    let output = bundle.run().unwrap();
    assert_eq!(
        (output.out.as_str(), output.err.matches("Read-only").count()),
        ("volume\n", 2),
        "{output:?}"
    );
    assert!(source.join("x").exists());
}

#[test]
fn devices_are_the_default_ones_and_those_listed() {
    let mut bundle = Bundle::shell(
        "for d in null zero full random urandom tty mine; do stat -c '%n %F %a %t:%T %u' /dev/$d; done; readlink /dev/fd; readlink /dev/ptmx; ls /dev",
    );
    bundle.spec["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 5, "gid": 6}]);
    let out = bundle.out();
    assert!(out.contains("/dev/null character special file 666 1:3 0\n"), "{out}");
    assert!(out.contains("/dev/tty character special file 666 5:0 0\n"), "{out}");
    assert!(out.contains("/dev/mine character special file 640 1:7 5\n"), "{out}");
    assert!(out.contains("/proc/self/fd\npts/ptmx\n"), "{out}");
    let names: Vec<_> = out.lines().skip(9).collect();
    assert_eq!(
        names,
        [
            "fd", "full", "mine", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero"
        ]
    );
}

#[test]
fn options_of_bind_mounts_hold_for_the_mount_alone_or_for_all_below() {
    let mut bundle = Bundle::shell(
        "grep -E ' /(plain|ro|rro|file)' /proc/self/mountinfo; for d in plain ro ro/sub rro rro/sub; do touch /$d/x && echo $d; done; cat /file",
    );
    let source = bundle.dir.join("volume");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(bundle.dir.join("single"), "single\n").unwrap();
    // A mount below the source, which goes along with rbind.
    let (source, dir) = (source.to_str().unwrap().to_owned(), bundle.dir.clone());
    for (target, options) in [
        ("/plain", json!(["bind", "nosuid", "noexec"])),
        ("/ro", json!(["rbind", "ro"])),
        ("/rro", json!(["rbind", "rro"])),
    ] {
        bundle.add_mount(json!({"destination": target, "type": "bind", "source": source, "options": options}));
    }
    bundle.add_mount(json!({"destination": "/file", "source": dir.join("single"), "options": ["bind", "ro"]}));
    bundle.write();
    let bundle = &bundle;
    let child = sys::process::fork(|| {
        // The submount lives in a mount namespace of its own.
        let run = || {
            sys::ns::unshare(libc::CLONE_NEWNS)?;
            let private = sys::mount::Attr {
                propagation: Some(sys::mount::Propagation::Private),
                ..Default::default()
            };
            sys::mount::set_attr_at(c"/", true, private)?;
            let tmpfs = sys::mount::Context::open("tmpfs")?.mount(0)?;
            let sub = sys::path::Root::open(format!("{source}/sub"))?;
            sys::mount::attach(tmpfs.as_fd(), sub.as_fd())
        };
        if run().is_err() {
            return 1;
        }
        let Ok(output) = bundle.run() else { return 2 };
        let written: Vec<_> = output.out.lines().filter(|line| !line.contains(' ')).collect();
        u8::from(written != ["plain", "ro/sub", "single"]) * 3
    })
    .unwrap();
    assert_eq!(sys::process::wait(child).unwrap(), Exit::Code(0));
    let out = bundle.run().unwrap().out;
    let plain = out.lines().find(|line| line.contains(" /plain ")).unwrap();
    assert!(plain.contains("nosuid") && plain.contains("noexec"), "{plain}");
}

#[test]
fn mount_points_are_made_and_missing_sources_named() {
    let mut bundle = Bundle::shell("cat /a/b/file /a/dir/inner");
    fs::create_dir(bundle.dir.join("dir")).unwrap();
    fs::write(bundle.dir.join("dir/inner"), "inner\n").unwrap();
    fs::write(bundle.dir.join("one"), "one\n").unwrap();
    let dir = bundle.dir.clone();
    bundle.add_mount(json!({"destination": "/a/b/file", "source": dir.join("one"), "options": ["bind"]}));
    bundle.add_mount(json!({"destination": "/a/dir", "source": dir.join("dir"), "options": ["bind"]}));
    assert_eq!(bundle.out(), "one\ninner\n");
    bundle.add_mount(json!({"destination": "/bin", "source": dir.join("one"), "options": ["bind"]}));
    assert!(bundle.refused().1.contains("mounts[/bin]"));
}

#[test]
fn what_a_filesystem_does_not_know_is_an_error_in_its_words() {
    let mut bundle = Bundle::shell("true");
    bundle.add_mount(json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]}));
    let (_, text) = bundle.refused();
    assert!(text.contains("mounts[/x]") && text.contains("nonsense"), "{text}");
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.add_mount(json!({"destination": "/x", "source": "/tmp", "options": ["bind", "nonsense"]}));
    assert_eq!(bundle.refused().0, Kind::Unimplemented);
}

#[test]
fn the_cgroup_view_is_the_containers_own_and_read_only() {
    let bundle =
        Bundle::shell("cat /sys/fs/cgroup/pids/cgroup.procs; mkdir /sys/fs/cgroup/pids/x; cat /proc/self/cgroup");
    let output = bundle.run().unwrap();
    // The shell and cat; no process of the host.
    assert_eq!(output.out.lines().next(), Some("1"), "{output:?}");
    assert!(output.err.contains("Read-only"), "{output:?}");
    assert!(output.out.contains("pids:/\n"), "{output:?}");
}

#[test]
fn propagation_that_the_source_does_not_have_is_refused() {
    let mut bundle = Bundle::shell("true");
    bundle.add_mount(json!({"destination": "/x", "source": "/proc", "options": ["rbind", "rshared"]}));
    let (kind, text) = bundle.refused();
    assert_eq!(
        (kind, text.contains("shared")),
        (Kind::FailedPrecondition, true),
        "{text}"
    );
}

#[test]
fn a_mount_made_on_the_host_reaches_a_slave_and_not_a_private_one() {
    let mut bundle = Bundle::shell("read x; ls /slave/sub /private/sub");
    let source = bundle.dir.join("volume");
    fs::create_dir_all(source.join("sub")).unwrap();
    for (target, mode) in [("/slave", "rslave"), ("/private", "rprivate")] {
        bundle.add_mount(json!({"destination": target, "source": source, "options": ["rbind", mode]}));
    }
    bundle.write();
    let bundle = &bundle;
    let child = sys::process::fork(|| {
        use std::os::fd::AsFd;
        let run = || {
            sys::ns::unshare(libc::CLONE_NEWNS)?;
            let mode = |propagation| sys::mount::Attr {
                propagation: Some(propagation),
                ..Default::default()
            };
            sys::mount::set_attr_at(c"/", true, mode(sys::mount::Propagation::Private))?;
            let tmpfs = || sys::mount::Context::open("tmpfs")?.mount(0);
            let shared = tmpfs()?;
            sys::mount::set_attr(shared.as_fd(), false, mode(sys::mount::Propagation::Shared))?;
            sys::mount::attach(shared.as_fd(), sys::path::Root::open(&source)?.as_fd())?;
            fs::create_dir(source.join("sub"))?;
            let (created, mut pipes) = bundle
                .start()
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            let late = tmpfs()?;
            sys::mount::attach(late.as_fd(), sys::path::Root::open(source.join("sub"))?.as_fd())?;
            fs::write(source.join("sub/arrived"), "")?;
            crate::fixture::say(&mut pipes.stdin, "\n");
            Ok::<_, std::io::Error>(crate::fixture::finish(created.pidfd, pipes).out)
        };
        match run() {
            Ok(out) if out == "/private/sub:\n\n/slave/sub:\narrived\n" => 0,
            Ok(out) if out.contains("arrived") => 1,
            Ok(_) => 2,
            Err(_) => 3,
        }
    })
    .unwrap();
    assert_eq!(sys::process::wait(child).unwrap(), Exit::Code(0));
}

#[test]
fn sysctls_of_the_containers_namespaces_are_written_and_others_refused() {
    let mut bundle = Bundle::shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni");
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"});
    assert_eq!(bundle.out(), "1\n77\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), "77\n");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"});
    assert_eq!(bundle.refused().0, Kind::InvalidArgument);
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.no_such": "1"});
    assert!(bundle.refused().1.contains("no_such"));
}

#[test]
fn a_listed_device_that_the_image_has_as_something_else_is_refused() {
    let mut bundle = Bundle::shell("true");
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    fs::write(bundle.root().join("dev/null"), "").unwrap();
    assert!(bundle.refused().1.contains("/dev/null: the image has something else"));
    fs::remove_file(bundle.root().join("dev/null")).unwrap();
    bundle.out();
    assert_eq!(
        rustix::fs::major(fs::metadata(bundle.root().join("dev/null")).unwrap().rdev()),
        1
    );
}

#[test]
fn a_mount_may_come_as_a_descriptor_and_the_host_never_has_it() {
    let mut bundle = Bundle::shell("cat /volume/file; touch /volume/x");
    bundle.add_mount(
        json!({"destination": "/volume", "type": "bind", "source": "/not/there", "options": ["bind", "ro"]}),
    );
    bundle.write();
    let place = bundle.spec["mounts"].as_array().unwrap().len() - 1;
    let context = sys::mount::Context::open("tmpfs").unwrap();
    let made = context.mount(0).unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&made, "file", flags, rustix::fs::Mode::RUSR).unwrap();
    rustix::io::write(file, b"given\n").unwrap();
    let request = |place: usize, stdio| isolation::CreateRequest {
        id: &bundle.id,
        bundle: &bundle.dir,
        rootfs: None,
        mounts: vec![(place, made.as_fd())],
        seed: None,
        driver: cgroup::DriverKind::Cgroupfs,
        stdio,
    };
    let (stdio, pipes) = crate::fixture::pipes();
    let mut created = isolation::create(request(place, stdio)).unwrap();
    created.start().unwrap();
    let output = crate::fixture::finish(created.pidfd, pipes);
    assert_eq!(output.out, "given\n", "{output:?}");
    assert!(output.err.contains("Read-only file system"), "{output:?}");

    // Not for a mount that has no source, and not for one that is not there.
    for place in [0, place + 1] {
        let error = isolation::create(request(place, crate::fixture::pipes().0)).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{:?}", error.chain());
    }
}

#[test]
fn a_container_begins_from_the_seed_in_which_nothing_of_the_host_is() {
    // Seen from inside by a child, for who enters it does not come back.
    let child = sys::process::fork(|| {
        sys::ns::setns(crate::fixture::seed(), libc::CLONE_NEWNS).unwrap();
        let mut names: Vec<_> = fs::read_dir("/").unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let apart = places
            .filter(|at| !matches!(at.split('/').nth(1), Some("" | "proc" | "sys")))
            .count();
        let is_shared = mounts.contains(" shared:") || mounts.contains(" master:");
        u8::from(names != ["proc", "sys"] || apart > 0 || is_shared)
    })
    .unwrap();
    assert_eq!(sys::process::wait(child).unwrap(), Exit::Code(0));

    let bundle = Bundle::shell("true");
    bundle.write();
    let other = sys::ns::open(Path::new("/proc/self/ns/uts")).unwrap();
    let (stdio, _pipes) = crate::fixture::pipes();
    let error = isolation::create(isolation::CreateRequest {
        id: &bundle.id,
        bundle: &bundle.dir,
        rootfs: None,
        mounts: Vec::new(),
        seed: Some(other.as_fd()),
        driver: cgroup::DriverKind::Cgroupfs,
        stdio,
    })
    .unwrap_err();
    let said = error.chain().join(": ");
    assert!(said.contains("the mount namespace to begin from"), "{said}");
}

#[test]
fn a_tmpfs_with_tmpcopyup_begins_with_what_the_image_has_there() {
    for host in [None, Some(700_000)] {
        let script = "cd /up; stat -c '%a %u %g %n' . file dir dir/deep link; cat file dir/deep; readlink link; \
                      echo new > file && touch more && ls; grep -c ' /up ' /proc/self/mountinfo";
        let mut bundle = Bundle::shell(script);
        if let Some(host) = host {
            bundle.map(host);
        }
        let up = bundle.root().join("up");
        fs::create_dir_all(up.join("dir")).unwrap();
        fs::write(up.join("file"), "file\n").unwrap();
        fs::write(up.join("dir/deep"), "deep\n").unwrap();
        std::os::unix::fs::symlink("/canary", up.join("link")).unwrap();
        let own = |name: &str, mode: u32, id: u32| {
            let id = host.unwrap_or(0) + id;
            std::os::unix::fs::lchown(up.join(name), Some(id), Some(id)).unwrap();
            if name != "link" {
                fs::set_permissions(up.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
        };
        own("", 0o751, 3);
        own("file", 0o4640, 4);
        own("dir", 0o1777, 5);
        own("dir/deep", 0o600, 6);
        own("link", 0, 7);
        bundle.add_mount(
            json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}),
        );
        assert_eq!(
            bundle.out(),
            "751 3 3 .\n4640 4 4 file\n1777 5 5 dir\n600 6 6 dir/deep\n777 7 7 link\nfile\ndeep\n/canary\n\
             dir\nfile\nlink\nmore\n1\n",
            "{host:?}"
        );
        // The image has kept its own.
        assert_eq!(fs::read_to_string(up.join("file")).unwrap(), "file\n");
        assert!(!up.join("more").exists());
    }
}

#[test]
fn tmpcopyup_keeps_what_the_options_say_and_has_bounds() {
    let mut bundle =
        Bundle::shell("stat -c '%a %u %g' /up; cat /up/file; touch /up/x; grep -c ' /none ' /proc/self/mountinfo");
    let up = bundle.root().join("up");
    fs::create_dir(&up).unwrap();
    fs::write(up.join("file"), "file\n").unwrap();
    let options = json!(["tmpcopyup", "ro", "mode=700", "uid=8", "gid=9"]);
    bundle.add_mount(json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": options}));
    // Where the image has nothing there is nothing to copy.
    bundle.add_mount(json!({"destination": "/none", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    let output = bundle.run().unwrap();
    assert_eq!(output.out, "700 8 9\nfile\n1\n", "{output:?}");
    assert!(output.err.contains("Read-only"), "{output:?}");

    let refused = |why: &str| {
        let (kind, text) = bundle.refused();
        assert_eq!(kind, Kind::FailedPrecondition, "{text}");
        assert!(text.contains("mounts[/up]") && text.contains(why), "{text}");
    };
    fs::File::create(up.join("large"))
        .unwrap()
        .set_len((32 << 20) + 1)
        .unwrap();
    refused("more than 32 MiB");
    fs::remove_file(up.join("large")).unwrap();
    let mut deep = up.clone();
    for _ in 0..70 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    refused("directories below one another");
    fs::remove_dir_all(up.join("d")).unwrap();
    for number in 0..10_000 {
        fs::write(up.join(number.to_string()), "").unwrap();
    }
    refused("more than 10000 files");
}
