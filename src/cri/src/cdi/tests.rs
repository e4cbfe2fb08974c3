//! From files and names to a changed specification.

use super::*;
use spec::runtime::LinuxDeviceType;
use std::fs;
use std::path::Path;

fn config(devices: &[&str], annotations: &[(&str, &str)]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        cdi_devices: devices
            .iter()
            .map(|name| cri::CdiDevice { name: (*name).into() })
            .collect(),
        annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ..Default::default()
    }
}

fn names(config: &cri::ContainerConfig) -> Vec<String> {
    wanted(config).unwrap().iter().map(ToString::to_string).collect()
}

fn same(uid: u32, gid: u32) -> (u32, u32) {
    (uid, gid)
}

const JSON: &str = r#"{
  "cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "annotations": {"a": "b"},
  "containerEdits": {"env": ["ALL=1"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["GPU=0", "PATH=/vendor"],
      "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}],
      "mounts": [{"hostPath": "/lib/vendor", "containerPath": "/usr/lib/vendor", "options": ["ro", "nosuid", "bind"]}],
      "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 4}],
      "additionalGids": [44, 0, 7]}},
    {"name": "1", "containerEdits": {"env": ["GPU=1"]}}]}"#;

const YAML: &str = "cdiVersion: 1.0.0\nkind: other.org/net_card\ndevices:\n- name: eth.0\n  containerEdits:\n    deviceNodes:\n    \
                    - path: /dev/card\n      type: c\n      major: 10\n      minor: 3\n      uid: 5\n      fileMode: 384\n";

fn spec() -> Spec {
    serde_json::from_value(serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [7]}, "args": ["x"], "env": ["PATH=/bin", "A=b"], "cwd": "/"},
        "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/usr/lib/vendor", "type": "tmpfs"}],
        "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    }))
    .unwrap()
}

fn injected(dir: &Path, devices: &[&str]) -> Result<Spec, Error> {
    let mut spec = spec();
    let dirs = [dir.join("etc"), dir.join("run"), dir.join("none")];
    inject(&mut spec, &wanted(&config(devices, &[]))?, &dirs, &same)?;
    Ok(spec)
}

fn files(list: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in list {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn names_come_from_the_field_and_from_annotations_once() {
    let config = config(
        &["vendor.com/gpu=0", "vendor.com/gpu=0"],
        &[
            ("cdi.k8s.io/b", "vendor.com/gpu=1, vendor.com/gpu=0"),
            ("cdi.k8s.io/a", "other.org/net_card=eth.0"),
            ("example.com/cdi.k8s.io/x", "not a name"),
        ],
    );
    assert_eq!(
        names(&config),
        ["vendor.com/gpu=0", "other.org/net_card=eth.0", "vendor.com/gpu=1"]
    );
    assert!(wanted(&cri::ContainerConfig::default()).unwrap().is_empty());
}

#[test]
fn a_name_that_is_none_is_refused() {
    for bad in [
        "",
        "gpu",
        "gpu=0",
        "vendor.com/gpu",
        "vendor.com/gpu=",
        "/gpu=0",
        "vendor.com/=0",
        "1v/gpu=0",
        "vendor.com/gpu=../../x",
        "vendor.com/gp.u=0",
        "vendor.com/gpu=0\n",
        "vendor.com/gpu=-",
    ] {
        let error = wanted(&config(&[bad], &[])).unwrap_err();
        assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{bad:?}");
    }
    assert!(wanted(&config(&[], &[("cdi.k8s.io/x", "a,b")])).is_err());
}

#[test]
fn all_edits_arrive() {
    let dir = files(&[("etc/vendor.json", JSON)]);
    let spec = injected(dir.path(), &["vendor.com/gpu=0", "vendor.com/gpu=1"]).unwrap();
    let process = spec.process().clone().unwrap();
    // The file's own once, the device's in order, a later value in the place of an earlier one.
    assert_eq!(
        process.env().as_ref().unwrap(),
        &["A=b", "ALL=1", "PATH=/vendor", "GPU=1"]
    );
    assert_eq!(process.user().additional_gids(), &Some(vec![7, 44]));
    let linux = spec.linux().clone().unwrap();
    let node = &linux.devices().as_ref().unwrap()[0];
    assert_eq!(
        (node.path().to_str(), node.typ(), node.major(), node.minor(), node.uid()),
        (Some("/dev/gpu0"), LinuxDeviceType::C, 1, 3, Some(1000))
    );
    let resources = linux.resources().clone().unwrap();
    let rule = resources.devices().as_ref().unwrap().last().unwrap().clone();
    assert_eq!(
        (rule.allow(), rule.major(), rule.minor(), rule.access().as_deref()),
        (true, Some(1), Some(3), Some("rw"))
    );
    let mounts = spec.mounts().clone().unwrap();
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/lib/vendor")));
    assert_eq!(mounts[1].options().as_ref().unwrap(), &["ro", "nosuid", "bind"]);
    let hooks = spec.hooks().clone().unwrap();
    let hook = &hooks.create_container().as_ref().unwrap()[0];
    assert_eq!((hook.path().to_str(), hook.timeout()), (Some("/bin/hook"), Some(4)));
}

#[test]
fn yaml_is_read_and_owners_are_the_hosts() {
    let dir = files(&[("run/card.yaml", YAML)]);
    let mut spec = spec();
    let names = wanted(&config(&["other.org/net_card=eth.0"], &[])).unwrap();
    inject(&mut spec, &names, &[dir.path().join("run")], &|uid, gid| {
        (uid + 100, gid + 200)
    })
    .unwrap();
    let node = spec.linux().as_ref().unwrap().devices().as_ref().unwrap()[0].clone();
    assert_eq!((node.major(), node.minor(), node.file_mode()), (10, 3, Some(0o600)));
    assert_eq!((node.uid(), node.gid()), (Some(105), Some(1200)));
}

#[test]
fn a_later_directory_stands_and_a_tie_is_nobodys() {
    let changed = JSON.replace("GPU=0", "GPU=run");
    let dir = files(&[("etc/a.json", JSON), ("run/a.json", &changed)]);
    let spec = injected(dir.path(), &["vendor.com/gpu=0"]).unwrap();
    let process = spec.process().clone().unwrap();
    assert!(process.env().as_ref().unwrap().contains(&"GPU=run".to_owned()));
    fs::write(dir.path().join("run/b.json"), JSON).unwrap();
    let error = injected(dir.path(), &["vendor.com/gpu=0"]).unwrap_err();
    assert!(error.to_string().contains("described more than once"), "{error}");
}

#[test]
fn an_unknown_device_and_a_broken_file_are_named() {
    let dir = files(&[("etc/bad.json", "{"), ("etc/vendor.json", JSON), ("etc/notes.txt", "x")]);
    // The broken file does not take the others with it.
    assert!(injected(dir.path(), &["vendor.com/gpu=1"]).is_ok());
    let error = injected(dir.path(), &["vendor.com/gpu=9"]).unwrap_err();
    assert_eq!(error.kind(), spec::Kind::InvalidArgument);
    let text = error.to_string();
    assert!(
        text.contains("CDI device vendor.com/gpu=9 is not known") && text.contains("etc/bad.json"),
        "{text}"
    );
}

#[test]
fn files_that_say_what_is_not_known_are_broken() {
    let with = |from: &str, to: &str| {
        let text = JSON.replace(from, to);
        assert_ne!(text, JSON, "{from}");
        let dir = files(&[("etc/vendor.json", &text)]);
        injected(dir.path(), &["vendor.com/gpu=0"]).unwrap_err()
    };
    for (from, to) in [
        ("0.6.0", "9.0.0"),
        ("vendor.com/gpu\"", "vendor\""),
        ("\"env\": [\"ALL=1\"]", "\"env\": [\"ALL\"]"),
        ("\"env\": [\"ALL=1\"]", "\"unknown\": 1"),
        ("createContainer", "whenever"),
        ("\"/dev/gpu0\"", "\"dev/gpu0\""),
        ("\"rw\"", "\"rx\""),
        ("\"/bin/hook\"", "\"hook\""),
        ("\"name\": \"1\"", "\"name\": \"0\""),
    ] {
        assert_eq!(with(from, to).kind(), spec::Kind::InvalidArgument, "{to}");
    }
    for (from, to) in [
        ("\"env\": [\"ALL=1\"]", "\"intelRdt\": {\"closID\": \"x\"}"),
        (
            "\"env\": [\"ALL=1\"]",
            "\"netDevices\": [{\"hostInterfaceName\": \"eth7\"}]",
        ),
    ] {
        assert_eq!(with(from, to).kind(), spec::Kind::Unimplemented, "{to}");
    }
    assert_eq!(with("/dev/null", "/dev/no-such").kind(), spec::Kind::NotFound);
    assert_eq!(with("/dev/null", "/etc").kind(), spec::Kind::InvalidArgument);
}
