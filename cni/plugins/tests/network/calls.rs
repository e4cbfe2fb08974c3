//! The plugins called by hand: environment, configuration, answers.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host::PROGRAM;

/// Calls a plugin, or several as one; whether it succeeded, and what it printed.
fn call(plugins: &str, environment: &[(&str, &str)], stdin: &str) -> (bool, Value) {
    let mut command = Command::new(PROGRAM);
    command
        .args(plugins.split(' '))
        .env_clear()
        .envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A plugin may answer before it has read everything.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap_or_default();
    let output = child.wait_with_output().unwrap();
    (
        output.status.success(),
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
    )
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_NETNS", "/nowhere"),
    ("CNI_PATH", "/nowhere"),
];

/// Environment, configuration, the code it must be refused with and a word of the reason.
type Case<'a> = (Vec<(&'a str, &'a str)>, &'a str, u32, &'a str);

fn with<'a>(key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    ADD.iter()
        .map(|(k, v)| if *k == key { (*k, value) } else { (*k, *v) })
        .collect()
}

#[test]
fn several_are_called_as_one() {
    let confs = |list: &[Value]| json!(list).to_string();
    let (lo, maps) = (
        json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback"}),
        json!({"cniVersion": "1.0.0", "name": "n", "type": "portmap",
            "runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 1}]}}),
    );
    let netns = with("CNI_NETNS", "/proc/self/ns/net");
    for (plugins, stdin, code, msg) in [
        (
            "loopback portmap",
            confs(std::slice::from_ref(&lo)),
            7,
            "1 configurations for 2 plugins",
        ),
        ("loopback portmap", lo.to_string(), 6, "the configurations"),
        // Whoever failed is named; the one before it had its turn, and gave its result on.
        ("loopback portmap", confs(&[lo, maps.clone()]), 7, "portmap: hostPort"),
        (
            "portmap loopback",
            confs(&[maps.clone(), maps]),
            7,
            "portmap: portmap must be chained",
        ),
    ] {
        let (ok, answer) = call(plugins, &netns, &stdin);
        assert!(!ok && answer["code"] == code, "{answer}");
        assert!(answer["msg"].as_str().unwrap().contains(msg), "{answer}");
    }
    let (ok, answer) = call("loopback nothing", &netns, "[]");
    assert!(!ok && answer.is_null(), "{answer}");
}

#[test]
fn version_needs_nothing() {
    for plugin in ["bridge", "host-local", "loopback", "portmap"] {
        let (ok, answer) = call(plugin, &[("CNI_COMMAND", "VERSION")], "");
        assert!(ok);
        assert_eq!(answer["cniVersion"], "1.1.0");
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            assert!(
                answer["supportedVersions"]
                    .as_array()
                    .unwrap()
                    .contains(&json!(version)),
                "{answer}"
            );
        }
    }
}

#[test]
fn bad_calls_have_their_codes() {
    let good = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#;
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let deep_key = format!(r#"{{"name":"n","type":"bridge","x":{deep}}}"#);
    let cases: [Case<'_>; 16] = [
        (with("CNI_CONTAINERID", ""), good, 4, "CNI_CONTAINERID"),
        (with("CNI_CONTAINERID", "../x"), good, 4, "container id"),
        (with("CNI_IFNAME", "a/b"), good, 4, "interface name"),
        (with("CNI_NETNS", ""), good, 4, "CNI_NETNS"),
        (with("CNI_COMMAND", "FROB"), good, 4, "FROB"),
        (with("CNI_COMMAND", "GC"), good, 1, "GC"),
        (ADD.to_vec(), "", 6, "JSON"),
        (ADD.to_vec(), "{", 6, "JSON"),
        (ADD.to_vec(), &deep, 6, "JSON"),
        (ADD.to_vec(), &deep_key, 6, "JSON"),
        (ADD.to_vec(), r#"{"type":"bridge"}"#, 7, "network name"),
        (ADD.to_vec(), r#"{"name":"../n","type":"bridge"}"#, 7, "network name"),
        (
            ADD.to_vec(),
            r#"{"cniVersion":"7.0.0","name":"n","type":"bridge"}"#,
            1,
            "7.0.0",
        ),
        (
            ADD.to_vec(),
            r#"{"name":"n","type":"bridge","macspoofchk":true}"#,
            2,
            "macspoofchk",
        ),
        (
            ADD.to_vec(),
            r#"{"name":"n","type":"bridge","ipMasq":true,"ipMasqBackend":"iptables"}"#,
            2,
            "nftables",
        ),
        (
            ADD.to_vec(),
            r#"{"name":"n","type":"bridge","ipam":{"type":"../../bin/sh"}}"#,
            7,
            "plugin type",
        ),
    ];
    for (environment, stdin, code, word) in cases {
        let (ok, answer) = call("bridge", &environment, stdin);
        let shown: String = stdin.chars().take(100).collect();
        assert!(!ok, "{shown}");
        assert_eq!(answer["code"], code, "{shown}: {answer}");
        assert!(answer["msg"].as_str().unwrap().contains(word), "{shown}: {answer}");
    }
    let (ok, answer) = call("bridge", &ADD, good);
    assert!(!ok && answer["msg"].as_str().unwrap().contains("/nowhere"), "{answer}");
    let mapped = r#"{"cniVersion":"1.0.0","name":"n","type":"portmap","prevResult":{"cniVersion":"1.0.0"},"#;
    for (more, code, word) in [
        (r#""backend":"iptables"}"#, 2, "iptables"),
        (
            r#""runtimeConfig":{"portMappings":[{"hostPort":0,"containerPort":1}]}}"#,
            7,
            "hostPort",
        ),
        (
            r#""runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":1}]}}"#,
            7,
            "70000",
        ),
        (
            r#""runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"x"}]}}"#,
            7,
            "protocol",
        ),
        (
            r#""runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]}}"#,
            7,
            "hostIP",
        ),
    ] {
        let (ok, answer) = call("portmap", &ADD, &format!("{mapped}{more}"));
        assert!(!ok && answer["code"] == code, "{more}: {answer}");
        assert!(answer["msg"].as_str().unwrap().contains(word), "{more}: {answer}");
    }
}

#[test]
fn del_needs_no_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": dir.path(), "subnet": "10.0.0.0/24"}});
    let environment: Vec<_> = with("CNI_COMMAND", "DEL")
        .into_iter()
        .filter(|(key, _)| *key != "CNI_NETNS")
        .collect();
    assert_eq!(call("host-local", &environment, &conf.to_string()), (true, Value::Null));
    assert_eq!(call("loopback", &environment, &conf.to_string()), (true, Value::Null));
}

#[test]
fn host_local_alone_gives_keeps_and_frees() {
    let dir = tempfile::tempdir().unwrap();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge",
        "ipam": {"type": "host-local", "dataDir": dir.path(), "subnet": "10.0.0.0/24"}})
    .to_string();
    let (ok, answer) = call("host-local", &ADD, &conf);
    assert!(ok, "{answer}");
    assert_eq!(answer["ips"][0]["address"], "10.0.0.2/24");
    let store = dir.path().join("n");
    assert_eq!(std::fs::read_to_string(store.join("10.0.0.2")).unwrap(), "c1\r\neth0");
    assert_eq!(
        std::fs::read_to_string(store.join("last_reserved_ip.0")).unwrap(),
        "10.0.0.2"
    );
    let (ok, answer) = call("host-local", &ADD, &conf);
    assert!(!ok && answer["msg"].as_str().unwrap().contains("10.0.0.2"), "{answer}");
    assert!(call("host-local", &with("CNI_COMMAND", "CHECK"), &conf).0);
    assert!(call("host-local", &with("CNI_COMMAND", "DEL"), &conf).0);
    assert!(!call("host-local", &with("CNI_COMMAND", "CHECK"), &conf).0);
    assert!(!store.join("10.0.0.2").exists());
    let (_, answer) = call("host-local", &ADD, &conf);
    assert_eq!(answer["ips"][0]["address"], "10.0.0.3/24", "round robin");
}
