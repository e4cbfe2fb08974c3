//! Two servers on one machine, and the programs' command lines.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::engine::Engine;
use e2e::{Bed, Node, container, engine, places, pod, test};

/// Two servers with different directories in the same network, mount and pid namespaces.
#[test]
fn two_servers_live_side_by_side() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let second = Node::companion(node)?;
        let (one, two) = (Bed::new(node).await?, {
            let cri = second.cri();
            cri.pull(BUSYBOX).await?;
            let config = pod(node, "pod");
            let pod = cri.run_pod(&config).await?;
            Bed { cri, config, pod }
        });
        let (first, other) = (one.sleeper("main").await?, two.sleeper("main").await?);
        ensure!(
            one.cri.pods(None).await?.len() == 1 && two.cri.pods(None).await?.len() == 1,
            "they see one another's pods"
        );
        ensure!(
            one.cri.container_status(&other).await.is_err(),
            "a container of the other"
        );
        // The restart of one, with its cleaning at start, is nothing to the other.
        node.restart().await?;
        ensure!(node.cri().sh(&first, "echo fine").await? == "fine\n", "the first");
        ensure!(two.cri.sh(&other, "echo fine").await? == "fine\n", "the second");
        let addresses = (node.cri().pod_ip(&one.pod).await?, two.cri.pod_ip(&two.pod).await?);
        ensure!(addresses.0 != addresses.1, "{addresses:?}");
        two.cri.remove_everything().await?;
        ensure!(
            node.cri().sh(&first, "echo fine").await? == "fine\n",
            "the first, after the second's removal"
        );
        second.stop().await
    });
}

#[test]
fn a_second_server_on_the_same_directories_is_refused() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let output = engine::command(node)?.output()?;
        ensure!(!output.status.success(), "it started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!said.trim().is_empty(), "it did not say why");
        node.cri().version().await?;
        Ok(())
    });
}

#[test]
fn the_socket_is_not_for_everyone() {
    test(async |node| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(node.socket())?.permissions().mode() & 0o777;
        ensure!(mode & 0o117 == 0, "mode {mode:o}");
        ensure!(!node.ours() || mode == 0o600, "mode {mode:o}");
        Ok(())
    });
}

#[test]
fn sigterm_stops_the_server_and_leaves_the_containers() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let pid = bed.cri.container_pid(&id).await?;
        node.stop_daemon().await?;
        ensure!(
            e2e::leak::living(node.init())
                .iter()
                .any(|process| process.command.contains("sleep 100000")),
            "the container died"
        );
        node.start_daemon().await?;
        ensure!(node.cri().container_pid(&id).await? == pid, "another process");
        ensure!(node.cri().sh(&id, "echo fine").await? == "fine\n", "exec");
        Ok(())
    });
}

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    if Engine::chosen() != Engine::Bulkhead {
        return;
    }
    let run = || -> Result<()> {
        let directory = places::scratch()?;
        for (text, words) in [
            ("root: /x\nno_such_key: 1\n", ["no_such_key", "2"]),
            ("image:\n  max_parallel_layers: many\n", ["max_parallel_layers", "2"]),
            (
                "root: /x\nimage:\n  max_parallel_layers: 0\n",
                ["max_parallel_layers", "3"],
            ),
        ] {
            let file = directory.path().join("config.yaml");
            std::fs::write(&file, text)?;
            let output = std::process::Command::new(places::product("bulkhead")?)
                .arg("config")
                .arg("--config")
                .arg(&file)
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "accepted: {text}");
            ensure!(
                said.contains("config.yaml") && words.iter().all(|word| said.contains(word)),
                "{said}"
            );
        }
        Ok(())
    };
    run().expect("the configuration is checked");
}

#[test]
fn ctl_does_what_crictl_does() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bulkhead = places::product("bulkhead")?;
        let ctl = |words: &str| {
            node.sh(&format!(
                "{} ctl -r unix://{} {words}",
                bulkhead.display(),
                node.socket().display()
            ))
        };
        ensure!(ctl("version")?.contains("bulkhead"), "version");
        ctl(&format!("pull {BUSYBOX}"))?;
        ensure!(ctl("images")?.contains("127.0.0.1:5000/busybox"), "images");
        let write = |name: &str, text: serde_json::Value| -> Result<String> {
            let path = node.dir().join(name);
            std::fs::write(&path, text.to_string())?;
            Ok(path.display().to_string())
        };
        let pod_file = write(
            "pod.json",
            serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "attempt": 1}, "log_directory": node.logs_dir(), "linux": {}}),
        )?;
        let container_file = write(
            "container.json",
            serde_json::json!({"metadata": {"name": "c"}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", "echo hello; sleep 100000"], "log_path": "c.log", "linux": {}}),
        )?;
        let pod = ctl(&format!("runp {pod_file}"))?.trim().to_owned();
        ensure!(pod.len() == 64, "{pod}");
        let id = ctl(&format!("create {pod} {container_file} {pod_file}"))?
            .trim()
            .to_owned();
        ctl(&format!("start {id}"))?;
        ensure!(
            ctl("pods")?.contains(&pod[..13]) && ctl("ps")?.contains(&id[..13]),
            "lists"
        );
        ensure!(ctl("ps -q")?.trim() == id, "quiet list");
        let json: serde_json::Value = serde_json::from_str(&ctl("ps -o json")?)?;
        ensure!(
            json["containers"][0]["id"] == id.as_str() && json["containers"][0]["state"] == "CONTAINER_RUNNING",
            "{json}"
        );
        let json: serde_json::Value = serde_json::from_str(&ctl(&format!("inspect {id}"))?)?;
        ensure!(
            json["status"]["id"] == id.as_str() && json["info"]["pid"].is_number(),
            "{json}"
        );
        ensure!(ctl(&format!("exec {id} echo from exec"))?.contains("from exec"), "exec");
        ensure!(
            ctl(&format!("exec -s {id} echo from sync"))?.contains("from sync"),
            "exec -s"
        );
        ensure!(
            ctl(&format!("exec {id} sh -c 'exit 3'")).is_err(),
            "an exit code is passed on"
        );
        ensure!(ctl(&format!("logs {id}"))? == "hello\n", "logs");
        ensure!(ctl("stats")?.contains(&id[..13]), "stats");
        ctl(&format!("stop {id}"))?;
        ensure!(
            ctl("ps -q")?.trim().is_empty() && ctl("ps -a -q")?.trim() == id,
            "ps -a"
        );
        ctl(&format!("rm {id}"))?;
        ctl(&format!("stopp {pod}"))?;
        ctl(&format!("rmp {pod}"))?;
        ensure!(ctl("pods -q")?.trim().is_empty(), "pods");
        ctl(&format!("rmi {BUSYBOX}"))?;
        ensure!(ctl("inspect nothing").is_err(), "an unknown id is an error");
        let info: serde_json::Value = serde_json::from_str(&ctl("info")?)?;
        ensure!(info["status"]["conditions"].is_array(), "{info}");
        Ok(())
    });
}

#[test]
fn many_containers_in_a_pod_and_many_pods() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (cri, pod, config) = (bed.cri.clone(), bed.pod.clone(), bed.config.clone());
            tasks.spawn(async move {
                let line = format!("exit {number}");
                let container = container(&format!("c{number}"), BUSYBOX, &["sh", "-c", &line]);
                (number, cri.run(&pod, &container, &config).await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, id) = done?;
            let code = bed.cri.exited(&id?).await?.exit_code;
            ensure!(
                number == code,
                "the container that ends with {number} ended with {code}"
            );
        }
        Ok(())
    });
}
