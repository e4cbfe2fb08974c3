//! Requests that are wrong, late, or too big.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::bed::refused_any;
use e2e::catalog::BUSYBOX;
use e2e::cri::with_deadline;
use e2e::{Bed, Node, container, pod, refused, sleeper, test};
use proto::cri as v1;
use tonic::Code;

/// The code that we promise; the peer often says Unknown.
fn codes(node: &Node, ours: &'static [Code]) -> &'static [Code] {
    const ANY: [Code; 7] = [
        Code::Unknown,
        Code::InvalidArgument,
        Code::NotFound,
        Code::FailedPrecondition,
        Code::AlreadyExists,
        Code::Internal,
        Code::ResourceExhausted,
    ];
    if node.ours() { ours } else { &ANY }
}

#[test]
fn an_image_that_was_not_pulled() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let name = "127.0.0.1:5000/never:pulled";
        refused_any(
            bed.create(&container("main", name, &["true"])).await,
            codes(node, &[Code::NotFound]),
            &[name],
        )
    });
}

#[test]
fn no_image_named_at_all() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("main");
        config.image = None;
        refused_any(
            bed.create(&config).await,
            codes(node, &[Code::InvalidArgument]),
            &["image"],
        )?;
        config.image = Some(v1::ImageSpec::default());
        refused_any(
            bed.create(&config).await,
            codes(node, &[Code::InvalidArgument, Code::NotFound]),
            &["image"],
        )?;
        refused_any(bed.cri.pull("").await, codes(node, &[Code::InvalidArgument]), &[])
    });
}

#[test]
fn metadata_missing_in_the_request() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let mut config = pod(node, "other");
        config.metadata = None;
        refused(
            bed.cri.run_pod(&config).await,
            Code::InvalidArgument,
            &["config.metadata is missing: give the pod"],
        )?;
        let mut config = pod(node, "other");
        config.metadata.get_or_insert_default().uid.clear();
        refused(
            bed.cri.run_pod(&config).await,
            Code::InvalidArgument,
            &["config.metadata.uid is empty"],
        )?;
        let mut config = pod(node, "other");
        config.metadata.get_or_insert_default().name.clear();
        refused(
            bed.cri.run_pod(&config).await,
            Code::InvalidArgument,
            &["config.metadata.name is empty"],
        )?;
        let mut config = sleeper("main");
        config.metadata = None;
        refused(
            bed.create(&config).await,
            Code::InvalidArgument,
            &["config.metadata is missing: give the container"],
        )?;
        let mut runtime = bed.cri.runtime.clone();
        refused(
            runtime.run_pod_sandbox(v1::RunPodSandboxRequest::default()).await,
            Code::InvalidArgument,
            &["config is missing: RunPodSandbox needs the pod's configuration, at least its metadata"],
        )?;
        let empty = v1::CreateContainerRequest {
            pod_sandbox_id: bed.pod.clone(),
            ..Default::default()
        };
        refused(
            runtime.create_container(empty).await,
            Code::InvalidArgument,
            &[
                "config is missing: CreateContainer needs the container's configuration, at least its metadata and image",
            ],
        )?;
        let nothing = v1::ExecSyncRequest {
            container_id: bed.sleeper("main").await?,
            ..Default::default()
        };
        refused(runtime.exec_sync(nothing).await, Code::InvalidArgument, &[])
    });
}

#[test]
fn an_id_that_is_no_id() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let codes = codes(node, &[Code::NotFound, Code::InvalidArgument]);
        for id in ["", "../../etc", "x y", "ZZZZ", &"a".repeat(5000)] {
            refused_any(cri.container_status(id).await, codes, &[])?;
            refused_any(cri.pod_status(id).await, codes, &[])?;
        }
        Ok(())
    });
}

#[test]
fn a_container_in_a_pod_that_does_not_exist() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let answer = bed.cri.create(&"f".repeat(64), &sleeper("main"), &bed.config).await;
        refused_any(answer, codes(node, &[Code::NotFound]), &[])
    });
}

#[test]
fn a_name_that_is_taken_by_another_configuration() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        bed.create(&sleeper("main")).await?;
        let other = container("main", BUSYBOX, &["echo", "another"]);
        refused(bed.create(&other).await, Code::AlreadyExists, &["main"])
    });
}

#[test]
fn a_program_that_is_missing_or_not_executable() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (name, program) in [
            ("missing", "/no/such/program"),
            ("mode", "/srv/not-executable"),
            ("directory", "/srv"),
            ("interpreter", "/srv/no-interpreter"),
        ] {
            if !node.ours() && name == "interpreter" {
                // runc has answered before its execve.
                continue;
            }
            let id = bed.create(&container(name, BUSYBOX, &[program])).await?;
            let answer = bed.cri.start(&id).await;
            refused_any(
                answer,
                codes(
                    node,
                    &[
                        Code::InvalidArgument,
                        Code::NotFound,
                        Code::FailedPrecondition,
                        Code::PermissionDenied,
                    ],
                ),
                &[program],
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_working_directory_that_does_not_exist() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["pwd"]);
        config.working_dir = "/no/such/directory".into();
        // Made, as runc does, or refused with its name: never another directory.
        match bed.output_of(&config).await {
            Ok(output) => ensure!(output == "/no/such/directory\n", "{output}"),
            Err(error) => ensure!(format!("{error:#}").contains("/no/such/directory"), "{error:#}"),
        }
        let mut config = container("file", BUSYBOX, &["pwd"]);
        config.working_dir = "/etc/passwd".into();
        let answer = bed.run(&config).await;
        refused_any(
            answer,
            codes(node, &[Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound]),
            &["/etc/passwd"],
        )
    });
}

#[test]
fn e7_a_mount_source_that_is_missing_is_made_or_refused_by_name() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let missing = node.dir().join("missing/deep");
        let mut config = container("missing", BUSYBOX, &["ls", "/v"]);
        config.mounts.push(v1::Mount {
            container_path: "/v".into(),
            host_path: missing.to_string_lossy().into_owned(),
            ..Default::default()
        });
        // Made as a directory, as both peers do.
        ensure!(bed.output_of(&config).await?.is_empty() && missing.is_dir(), "not made");
        // Relative to the root, as both peers take it; `..` ends there.
        let own = node.dir().join("own");
        std::fs::create_dir(&own)?;
        std::fs::write(own.join("file"), "")?;
        for (name, inside, wanted) in [("relative", "v/w", "/v/w"), ("dots", "../../x/./y/", "/x/y")] {
            let mut config = container(
                name,
                BUSYBOX,
                &[
                    "sh",
                    "-c",
                    &format!("ls -d {wanted}/file; grep -c ' {wanted} ' /proc/mounts"),
                ],
            );
            config.mounts.push(v1::Mount {
                container_path: inside.into(),
                host_path: own.to_string_lossy().into_owned(),
                ..Default::default()
            });
            let output = bed.output_of(&config).await?;
            ensure!(output == format!("{wanted}/file\n1\n"), "{inside}: {output:?}");
            let echoed = bed.cri.containers(None).await?;
            let id = echoed
                .iter()
                .find(|it| it.metadata.as_ref().is_some_and(|m| m.name == name))
                .map(|it| it.id.clone());
            let mounts = bed.cri.container_status(&id.unwrap_or_default()).await?.mounts;
            ensure!(mounts == config.mounts, "not told as it was given: {mounts:?}");
        }
        if node.ours() {
            for (name, inside, outside) in [("host", "/v", "tmp"), ("empty", "", "/tmp"), ("root", "/", "/tmp")] {
                let mut config = container(name, BUSYBOX, &["true"]);
                config.mounts.push(v1::Mount {
                    container_path: inside.into(),
                    host_path: outside.into(),
                    ..Default::default()
                });
                refused(bed.run(&config).await, Code::InvalidArgument, &[])
                    .with_context(|| format!("mount {inside:?} from {outside:?}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn e5_a_log_path_that_leaves_the_pods_directory_is_refused() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let mut config = sleeper("main");
        config.log_path = "../../escaped.log".into();
        refused(bed.run(&config).await, Code::InvalidArgument, &["log"])?;
        ensure!(!node.dir().join("escaped.log").exists(), "it was made");
        Ok(())
    });
}

#[test]
fn one_mib_of_annotations() {
    let filled = |count: usize| -> std::collections::HashMap<String, String> {
        (0..count)
            .map(|number| (format!("key-{number}"), "v".repeat(16 << 10)))
            .collect()
    };
    test(async |node| -> Result<()> {
        // As much as Kubernetes allows comes back as it was given.
        let allowed = filled(15);
        let bed = Bed::with(node, |config| config.annotations.clone_from(&allowed)).await?;
        ensure!(
            bed.cri.pod_status(&bed.pod).await?.annotations == allowed,
            "not as given"
        );
        let mut config = sleeper("main");
        config.annotations.clone_from(&allowed);
        let id = bed.run(&config).await?;
        ensure!(
            bed.cri.container_status(&id).await?.annotations == allowed,
            "not as given"
        );
        // 1 MiB of values too, as of the peers: the API server lets no more than 256 KiB through, other callers may
        // have more to say.
        let mut big = pod(node, "big");
        big.annotations = filled(64);
        let big_pod = bed.cri.run_pod(&big).await?;
        let mut big_config = sleeper("big");
        big_config.annotations = filled(64);
        let big_id = bed.cri.run(&big_pod, &big_config, &big).await?;
        let cri = if node.ours() {
            node.restart().await?
        } else {
            bed.cri.clone()
        };
        ensure!(
            cri.pod_status(&big_pod).await?.annotations == big.annotations,
            "not as given"
        );
        ensure!(
            cri.container_status(&big_id).await?.annotations == big_config.annotations,
            "not as given"
        );
        ensure!(
            cri.pods(None)
                .await?
                .iter()
                .any(|it| it.id == big_pod && it.annotations == big.annotations),
            "not in the list"
        );
        // What nobody can mean would sit in memory for as long as the pod lives.
        if node.ours() {
            big.annotations = filled(192);
            big.metadata.get_or_insert_default().name = "bigger".into();
            refused(
                cri.run_pod(&big).await,
                Code::InvalidArgument,
                &["annotations", "bytes"],
            )?;
            big_config.annotations = filled(192);
            big_config.metadata.get_or_insert_default().name = "bigger".into();
            let answer = cri.create(&big_pod, &big_config, &big).await;
            refused(answer, Code::InvalidArgument, &["annotations", "bytes"])?;
        }
        ensure!(cri.containers(None).await?.iter().any(|it| it.id == id), "the list");
        Ok(())
    });
}

#[test]
fn text_that_is_not_utf8_on_the_wire() {
    test(async |node| -> Result<()> {
        // prost and Go refuse it while decoding; it must not end the server.
        let cri = node.cri();
        let answer = e2e::cri::raw_status(&cri, b"\x0a\x04\xff\xfe\xfd\xfc").await;
        ensure!(answer.is_err(), "accepted");
        cri.version().await?;
        Ok(())
    });
}

#[test]
fn the_callers_deadline_passes_in_the_middle_of_a_verb() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd may hold the name of what was given up for ever.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let other = pod(node, "late");
        let mut runtime = bed.cri.runtime.clone();
        for limit in [1, 3, 10, 30] {
            let limit = Duration::from_millis(limit);
            let request = v1::RunPodSandboxRequest {
                config: Some(other.clone()),
                runtime_handler: String::new(),
            };
            let answer = runtime.run_pod_sandbox(with_deadline(request, limit)).await;
            if let Err(status) = answer
                && (node.ours() || !status.message().contains("reserved"))
            {
                ensure!(
                    matches!(
                        status.code(),
                        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Unknown | Code::Unavailable
                    ),
                    "{status:?}"
                );
            }
        }
        // The retry finds or makes exactly one.
        let id = again(|| bed.cri.run_pod(&other)).await?;
        ensure!(bed.cri.pods(None).await?.len() == 2, "{:?}", bed.cri.pods(None).await?);
        let config = sleeper("late");
        for limit in [1, 3, 10, 30] {
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: id.clone(),
                config: Some(config.clone()),
                sandbox_config: Some(other.clone()),
            };
            // Whichever way it ends, the retry decides.
            runtime
                .create_container(with_deadline(request, Duration::from_millis(limit)))
                .await
                .ok();
        }
        let container = again(|| bed.cri.create(&id, &config, &other)).await?;
        ensure!(
            bed.cri.containers(None).await?.len() == 1,
            "{:?}",
            bed.cri.containers(None).await?
        );
        let request = v1::StartContainerRequest {
            container_id: container.clone(),
        };
        runtime
            .start_container(with_deadline(request, Duration::from_millis(1)))
            .await
            .ok();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if bed.cri.container_status(&container).await?.state() == v1::ContainerState::ContainerCreated {
            bed.cri.start(&container).await?;
        }
        let request = v1::StopContainerRequest {
            container_id: container.clone(),
            timeout: 5,
        };
        runtime
            .stop_container(with_deadline(request, Duration::from_millis(1)))
            .await
            .ok();
        bed.cri.stop(&container, 5).await?;
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        runtime
            .remove_pod_sandbox(with_deadline(request, Duration::from_millis(1)))
            .await
            .ok();
        bed.cri.stop_pod(&id).await?;
        bed.cri.remove_pod(&id).await?;
        Ok(())
    });
}

/// Repeats while the answer is that the name is still reserved, as the kubelet does.
async fn again(call: impl AsyncFn() -> e2e::cri::Answer<String>) -> Result<String> {
    e2e::wait::until("the retry is answered", Duration::from_secs(20), async || {
        match call().await {
            Ok(id) => Ok(Some(id)),
            Err(status) if status.message().contains("reserved") => Ok(None),
            Err(status) => Err(status.into()),
        }
    })
    .await
}

#[test]
fn e3_callers_that_hang_up_leave_nothing_locked() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for _ in 0..20 {
            let cri = node.cri();
            let task_id = id.clone();
            let task = tokio::spawn(async move { cri.exec_with(&task_id, &["sleep", "34567"], 2).await });
            tokio::time::sleep(Duration::from_millis(20)).await;
            task.abort();
        }
        bed.cri.stop(&id, 5).await?;
        let left: Vec<_> = e2e::leak::living(node.init())
            .into_iter()
            .filter(|process| process.command.contains("34567"))
            .collect();
        ensure!(left.is_empty(), "still alive: {left:?}");
        Ok(())
    });
}
