//! Pods with all that a kubelet puts together: init containers, sidecars, hooks, volumes,
//! the downward API, limits, the namespaces of the node.

use anyhow::{Context, Result, ensure};
use e2e::kube::kubelet::{ADDRESS, NAME, test};
use e2e::kube::pods::{STAY, container, pod, restarts, shell};
use serde_json::{Value, json};

/// Init containers run in their order before the sidecar's startup probe lets the others start.
#[test]
fn init_containers_sidecar_and_hooks_run_in_their_order() {
    test(async |kubelet| -> Result<()> {
        let share = json!({"volumeMounts": [{"name": "share", "mountPath": "/share"}]});
        let with = |mut more: Value| -> Value {
            more["volumeMounts"] = share["volumeMounts"].clone();
            more
        };
        let say = |word: &str| format!("echo {word} >> /share/order");
        let main = shell(
            "main",
            &format!(
                "while ! grep -q hook /share/order; do sleep 0.1; done; {}; cat /share/order; {STAY}",
                say("main")
            ),
            with(json!({"lifecycle": {
                "postStart": {"exec": {"command": ["/bin/sh", "-c", say("hook")]}},
                "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping > /out/pre-stop"]}},
            }})),
        );
        let mut main = main;
        main["volumeMounts"] = json!([{"name": "share", "mountPath": "/share"}, {"name": "out", "mountPath": "/out"}]);
        let out = kubelet.dir().join("out");
        std::fs::create_dir_all(&out)?;
        let spec = json!({
            "initContainers": [
                shell("first", &say("first"), with(json!({}))),
                shell("side", &format!("sleep 1; {}; {STAY}", say("side")), with(json!({
                    "restartPolicy": "Always",
                    "startupProbe": {"exec": {"command": ["grep", "-q", "side", "/share/order"]}, "periodSeconds": 1, "failureThreshold": 30},
                }))),
                shell("last", &say("last"), with(json!({}))),
            ],
            "volumes": [{"name": "share", "emptyDir": {}}, {"name": "out", "hostPath": {"path": out, "type": "Directory"}}],
        });
        kubelet.apply(&pod("order", &[main], spec))?;
        let status = kubelet.ready("order").await?;
        ensure!(restarts(&status) == 0, "{:#}", status["status"]);
        ensure!(
            container(&status, "first")?["state"]["terminated"]["exitCode"] == 0,
            "{:#}",
            status["status"]
        );
        ensure!(
            container(&status, "side")?["state"]["running"].is_object(),
            "{:#}",
            status["status"]
        );
        kubelet
            .logged("order", "main", |log| log == "first\nside\nlast\nhook\nmain\n")
            .await?;
        kubelet.delete("order")?;
        kubelet.gone("order").await?;
        let said = std::fs::read_to_string(out.join("pre-stop")).context("the hook before the stop did not run")?;
        ensure!(said == "stopping\n", "{said:?}");
        Ok(())
    });
}

#[test]
fn volumes_and_the_downward_api_are_inside() {
    test(async |kubelet| -> Result<()> {
        let host = kubelet.dir().join("host");
        std::fs::create_dir_all(&host)?;
        std::fs::write(host.join("file"), "of the host\n")?;
        let script = format!(
            "set -e; echo disk > /disk/file; grep ' /memory ' /proc/mounts | cut -d' ' -f3; cat /host/file; \
             echo written > /host/written; cat /info/labels; echo; echo $POD $IP $HOST $LIMIT; \
             (echo x > /host-ro/file) 2>/dev/null && echo written; true; cat /etc/hosts | grep -c my-alias; hostname; grep nameserver /etc/resolv.conf; {STAY}"
        );
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let main = shell(
            "main",
            &script,
            json!({
                "env": [
                    {"name": "POD", "valueFrom": field("metadata.name")},
                    {"name": "IP", "valueFrom": field("status.podIP")},
                    {"name": "HOST", "valueFrom": field("status.hostIP")},
                    {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                ],
                "resources": {"limits": {"memory": "64Mi"}},
                "volumeMounts": [
                    {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                    {"name": "host", "mountPath": "/host"}, {"name": "host", "mountPath": "/host-ro", "readOnly": true},
                    {"name": "info", "mountPath": "/info"},
                ],
            }),
        );
        let spec = json!({
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["my-alias"]}],
            "volumes": [
                {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "host", "hostPath": {"path": host}},
                {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ],
        });
        kubelet.apply(&pod("volumes", &[main], spec))?;
        let status = kubelet.ready("volumes").await?;
        let ip = status["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        let wanted =
            format!("tmpfs\nof the host\napp=\"volumes\"\nvolumes-{NAME} {ip} {ADDRESS} 67108864\n1\nvolumes-{NAME}\n");
        kubelet
            .logged("volumes", "main", |log| {
                log.starts_with(&wanted) && log.contains("10.96.0.10")
            })
            .await
            .with_context(|| format!("wanted {wanted}"))?;
        ensure!(
            std::fs::read_to_string(host.join("written"))? == "written\n",
            "not written"
        );
        ensure!(
            std::fs::read_to_string(host.join("file"))? == "of the host\n",
            "written read-only"
        );
        Ok(())
    });
}

#[test]
fn limits_are_the_kernels_and_memory_over_them_is_oom_killed() {
    test(async |kubelet| -> Result<()> {
        let limited = shell(
            "limited",
            STAY,
            json!({"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"memory": "32Mi", "cpu": "250m"}}}),
        );
        let hungry = shell(
            "hungry",
            // `tail` keeps what it reads, and /dev/zero has no newline.
            "tail /dev/zero",
            json!({"resources": {"limits": {"memory": "24Mi"}}}),
        );
        kubelet.apply(&pod("limits", &[limited], json!({})))?;
        kubelet.apply(&pod("hungry", &[hungry], json!({"restartPolicy": "Never"})))?;
        let status = kubelet.ready("limits").await?;
        let id = container(&status, "limited")?["containerID"]
            .as_str()
            .unwrap_or_default();
        let id = id.rsplit('/').next().unwrap_or_default().to_owned();
        let cri = kubelet.node.cri();
        let resources = cri
            .container_status(&id)
            .await?
            .resources
            .and_then(|all| all.linux)
            .context("no resources")?;
        ensure!(resources.memory_limit_in_bytes == 64 << 20, "{resources:?}");
        ensure!(resources.cpu_quota * 2 == resources.cpu_period, "{resources:?}");
        let pid = cri.container_pid(&id).await?;
        let groups = kubelet.node.sh(&format!("cat /proc/{pid}/cgroup"))?;
        let uid = status["metadata"]["uid"].as_str().unwrap_or_default();
        ensure!(
            groups.contains(&format!("{}/kubepods/burstable/pod{uid}/", kubelet.cgroup())),
            "{groups}"
        );
        let ended = kubelet
            .until("hungry", "OOM killed", 60, |pod| pod["status"]["phase"] == "Failed")
            .await?;
        let state = &container(&ended, "hungry")?["state"]["terminated"];
        ensure!(state["reason"] == "OOMKilled" && state["exitCode"] == 137, "{state:#}");
        Ok(())
    });
}

#[test]
fn host_network_is_the_nodes() {
    test(async |kubelet| -> Result<()> {
        let main = shell(
            "main",
            &format!("httpd -p 18080 -h /srv; ip addr show eth0 | grep -o 'inet [0-9.]*'; {STAY}"),
            json!({
                "readinessProbe": {"httpGet": {"path": "/index.html", "port": 18080}, "periodSeconds": 1},
                "ports": [{"containerPort": 18080, "hostPort": 18080}],
            }),
        );
        kubelet.apply(&pod(
            "host",
            &[main],
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
        ))?;
        // A kubelet without an API server tells no address of such a pod; the pod itself does.
        kubelet.ready("host").await?;
        kubelet
            .logged("host", "main", |log| {
                log == format!(
                    "inet {ADDRESS}
"
                )
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_shared_pid_namespace_has_one_init_for_all() {
    test(async |kubelet| -> Result<()> {
        let (one, two) = (
            shell("one", "exec sleep 12345", json!({})),
            shell(
                "two",
                &format!("ps -o args | grep -c '[s]leep 12345'; {STAY}"),
                json!({}),
            ),
        );
        kubelet.apply(&pod("shared", &[one, two], json!({"shareProcessNamespace": true})))?;
        kubelet.ready("shared").await?;
        kubelet
            .logged("shared", "two", |log| {
                log == "1
"
            })
            .await?;
        Ok(())
    });
}

/// Root inside is nobody outside, and what it writes to a volume belongs to whom the pod thinks.
#[test]
fn a_pod_in_a_user_namespace_owns_its_volumes() {
    test(async |kubelet| -> Result<()> {
        let main = shell(
            "main",
            &format!("cat /proc/self/uid_map; id -u; touch /disk/file; stat -c %u /disk/file /etc/hosts; {STAY}"),
            json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
                   "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}),
        );
        let spec = json!({"hostUsers": false, "volumes": [{"name": "disk", "emptyDir": {}}]});
        kubelet.apply(&pod("apart", &[main], spec))?;
        let status = kubelet.ready("apart").await?;
        let log = kubelet.logged("apart", "main", |log| log.lines().count() >= 4).await?;
        let lines: Vec<&str> = log.lines().collect();
        let map: Vec<u64> = lines[0]
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        ensure!(
            map.len() == 3 && map[0] == 0 && map[1] >= 65_536 && map[2] == 65_536,
            "{log}"
        );
        ensure!(lines[1..4] == ["0", "0", "0"], "{log}");
        let uid = status["metadata"]["uid"].as_str().context("no uid")?;
        let file = kubelet
            .dir()
            .join("root/pods")
            .join(uid)
            .join("volumes/kubernetes.io~empty-dir/disk/file");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file)?);
        ensure!(
            owner == 0,
            "on the host the file is {owner}'s: the volume is not idmapped"
        );
        Ok(())
    });
}
