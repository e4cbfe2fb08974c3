//! CDI devices and security profiles, from CRI to what the container finds.

use proto::cri as api;
use tonic::Code;

use crate::bed::{Bed, Life, container, create, pod, run, start};

fn text(life: &Life, id: &str, script: &str) -> String {
    let out = life.exec(id, script);
    String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
}

#[test]
fn a_device_by_field_and_by_annotation_is_there() {
    let bed = Bed::new();
    let cdi = bed.path("cdi");
    std::fs::create_dir(&cdi).unwrap();
    let (library, seen) = (bed.path("library"), bed.path("seen"));
    std::fs::write(&library, "vendor\n").unwrap();
    let hook = format!(
        "tr '\\0' '\\n' < /proc/self/environ > {0}; pwd >> {0}; cat > {0}.state",
        seen.display()
    );
    let description = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "devices": [{"name": "one", "containerEdits": {
            "env": ["GPU=one"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/full"}],
            "mounts": [{"hostPath": library, "containerPath": "/usr/lib/gpu.so", "options": ["ro", "bind"]}],
            "additionalGids": [4444],
            "hooks": [{"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["MINE=1"]}],
        }}],
    });
    std::fs::write(cdi.join("gpu.json"), description.to_string()).unwrap();
    std::fs::write(
        cdi.join("two.yaml"),
        "cdiVersion: 1.0.0\nkind: vendor.com/two\ndevices:\n- name: x\n  containerEdits:\n    env: [TWO=x]\n",
    )
    .unwrap();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "cdi"));
    let mut config = container(&bed, "gpu", "exec sleep 1000");
    config.cdi_devices = vec![api::CdiDevice {
        name: "vendor.com/gpu=one".into(),
    }];
    config
        .annotations
        .insert("cdi.k8s.io/two".into(), "vendor.com/two=x,vendor.com/gpu=one".into());
    // What the pod puts into the environment is not the hook's (CVE-2025-23266).
    config.envs = vec![api::KeyValue {
        key: "LD_LIBRARY_PATH".into(),
        value: "/evil".into(),
    }];
    let id = create(&life, &pod, config).unwrap();
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "MINE=1\n/\n");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(bed.path("seen.state")).unwrap()).unwrap();
    assert_eq!(
        (state["id"].as_str(), state["status"].as_str()),
        (Some(id.as_str()), Some("creating"))
    );
    start(&life, &id).unwrap();
    assert_eq!(
        text(&life, &id, "echo $GPU $TWO; id -G; cat /usr/lib/gpu.so"),
        "one x\n0 4444\nvendor\n"
    );
    // The node is there and its rule is too: /dev/full answers ENOSPC, not EPERM.
    let full = text(&life, &id, "cat /usr/lib/gpu.so > /dev/gpu0");
    assert!(full.contains("No space left"), "{full}");
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn an_unknown_device_and_a_failing_hook_leave_nothing() {
    let bed = Bed::new();
    let cdi = bed.path("cdi");
    std::fs::create_dir(&cdi).unwrap();
    std::fs::write(
        cdi.join("bad.yaml"),
        "cdiVersion: 0.6.0\nkind: vendor.com/bad\ndevices:\n- name: hook\n  containerEdits:\n    hooks:\n    - hookName: \
         createRuntime\n      path: /bin/sh\n      args: [sh, -c, 'echo no such card >&2; exit 4']\n",
    )
    .unwrap();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "unknown"));
    let with = |name: &str| {
        let mut config = container(&bed, "c", "true");
        config.cdi_devices = vec![api::CdiDevice { name: name.into() }];
        create(&life, &pod, config).unwrap_err()
    };
    let error = with("vendor.com/bad=none");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error
            .message()
            .contains("vendor.com/bad=none is not known on this node"),
        "{error}"
    );
    assert_eq!(with("no name").code(), Code::InvalidArgument);
    let error = with("vendor.com/bad=hook");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error
            .message()
            .contains("hooks.createRuntime[0]: /bin/sh: ended with code 4: no such card"),
        "{error}"
    );
    assert!(life.list_containers(Default::default()).unwrap().containers.is_empty());
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn profiles_of_modules_that_this_host_has_not() {
    if std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with('Y')) {
        // A host that has it shows the other half.
        return;
    }
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "profiles"));
    let with = |kind: api::security_profile::ProfileType, name: &str| {
        let mut config = container(&bed, "c", "true");
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.apparmor = Some(api::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.into(),
        });
        create(&life, &pod, config)
    };
    use api::security_profile::ProfileType::{Localhost, RuntimeDefault};
    let error = with(Localhost, "mine").unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("this node has no AppArmor"), "{error}");
    let id = with(RuntimeDefault, "").unwrap();
    start(&life, &id).unwrap();
    assert_eq!(life.wait_exit(&id).exit_code, 0);
    life.remove_pod(&pod);
    bed.assert_clean();
}
