//! Images that try to lead us out. The canary is a directory of the host next to the bundle: nothing may change there.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use spec::Kind;

use crate::fixture::Bundle;

/// Replaces `path` of the image by a link to the canary.
fn plant(bundle: &Bundle, path: &str) {
    let at = bundle.root().join(path);
    if at.is_dir() {
        fs::remove_dir(&at).unwrap();
    }
    symlink(bundle.canary(), at).unwrap();
}

#[test]
fn proc_sys_and_dev_as_links_are_refused() {
    for dir in ["proc", "sys", "dev"] {
        let bundle = Bundle::shell("true");
        plant(&bundle, dir);
        let (kind, text) = bundle.refused();
        assert_eq!(
            (kind, text.contains("symbolic link")),
            (Kind::FailedPrecondition, true),
            "{dir}: {text}"
        );
        bundle.assert_canary();
        let bundle = Bundle::shell("true");
        fs::remove_dir(bundle.root().join(dir)).unwrap();
        symlink("/", bundle.root().join(dir)).unwrap();
        assert_eq!(bundle.refused().0, Kind::FailedPrecondition, "{dir} -> /");
    }
}

#[test]
fn mount_targets_through_links_stay_inside() {
    let mut bundle = Bundle::shell("true");
    plant(&bundle, "link");
    symlink("../../../../../../../../../..", bundle.root().join("up")).unwrap();
    fs::write(bundle.dir.join("one"), "one\n").unwrap();
    let source = bundle.dir.join("one");
    bundle.add_mount(json!({"destination": "/up/inside/file", "source": source, "options": ["bind"]}));
    bundle.out();
    assert!(bundle.root().join("inside/file").exists());
    // The canary's path does not exist inside: it is made there.
    bundle.add_mount(json!({"destination": "/link/new", "source": source, "options": ["bind"]}));
    bundle.out();
    bundle.assert_canary();
}

#[test]
fn a_volume_led_to_proc_by_a_link_is_refused() {
    let mut bundle = Bundle::shell("true");
    symlink("/proc", bundle.root().join("to-proc")).unwrap();
    let dir = bundle.dir.clone();
    bundle.add_mount(json!({"destination": "/to-proc/self", "source": dir.join("canary"), "options": ["bind"]}));
    assert!(bundle.refused().1.contains("/to-proc/self"));
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.add_mount(json!({"destination": "/proc/sys", "source": dir.join("canary"), "options": ["bind"]}));
    assert_eq!(bundle.refused().0, Kind::InvalidArgument);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.add_mount(json!({"destination": "/dev/../proc", "source": dir.join("canary"), "options": ["bind"]}));
    assert_eq!(bundle.refused().0, Kind::InvalidArgument);
    bundle.assert_canary();
}

#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    // A directory of the host that a careless runtime would leave open.
    let _leak = fs::File::open("/").unwrap();
    for n in 3..24 {
        for tail in ["", "/../.."] {
            let mut bundle = Bundle::shell("pwd; ls");
            bundle.process()["cwd"] = json!(format!("/proc/self/fd/{n}{tail}"));
            let (kind, text) = bundle.refused();
            assert_ne!(kind, Kind::Internal, "{text}");
        }
    }
}

#[test]
fn a_working_directory_through_links_is_made_inside() {
    let mut bundle = Bundle::shell("pwd");
    symlink("../../../..", bundle.root().join("up")).unwrap();
    bundle.process()["cwd"] = json!("/up/new/dir");
    assert_eq!(bundle.out(), "/new/dir\n");
    let mut bundle = Bundle::shell("pwd");
    plant(&bundle, "link");
    bundle.process()["cwd"] = json!("/link/new");
    assert_eq!(bundle.out(), format!("{}/new\n", bundle.canary().display()));
    bundle.assert_canary();
}

#[test]
fn devices_and_console_as_links_make_nothing_outside() {
    let mut bundle = Bundle::shell("true");
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] == "/proc");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    symlink(bundle.canary().join("new"), bundle.root().join("dev/null")).unwrap();
    assert!(bundle.refused().1.contains("/dev/null"));
    bundle.assert_canary();

    let mut bundle = Bundle::shell("true");
    bundle.process()["terminal"] = json!(true);
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev");
    symlink(bundle.canary().join("newfile"), bundle.root().join("dev/console")).unwrap();
    let error = bundle.create_with(isolation::Stdio::Terminal).unwrap_err();
    assert!(error.to_string().contains("/dev/console"), "{error}");
    bundle.assert_canary();
}

#[test]
fn a_null_device_that_is_none_masks_nothing() {
    let mut bundle = Bundle::shell("true");
    // The image's own /dev, with the nodes bound over by a hostile volume.
    fs::write(bundle.dir.join("fake"), "").unwrap();
    let dir = bundle.dir.clone();
    bundle.add_mount(json!({"destination": "/dev/null", "source": dir.join("fake"), "options": ["bind"]}));
    let (kind, text) = bundle.refused();
    assert_eq!(
        (kind, text.contains("/dev/null")),
        (Kind::FailedPrecondition, true),
        "{text}"
    );
}

#[test]
fn nothing_of_the_host_is_in_sight() {
    let bundle =
        Bundle::shell("cat /proc/self/mountinfo; ls -d /.. /../bin; ls -l /proc/1/exe /proc/1/cwd /proc/1/root");
    let output = bundle.run().unwrap();
    let roots = output.out.lines().filter(|line| line.contains(" / / ")).count();
    assert!(roots <= 1, "{output:?}");
    assert!(
        !output.out.contains("/etc/hosts") && !output.out.contains("/mnt"),
        "{output:?}"
    );
}
