//! The node itself, images, and the log.

use std::time::{Duration, Instant};

use proto::cri as api;

use crate::bed::{Bed, container, create, pod, run, start};

fn network_ready(status: &api::StatusResponse) -> (bool, String, String) {
    let conditions = &status.status.as_ref().unwrap().conditions;
    let found = conditions.iter().find(|c| c.r#type == "NetworkReady").unwrap();
    (found.status, found.reason.clone(), found.message.clone())
}

#[test]
fn the_network_is_ready_when_its_configuration_is_there() {
    let bed = Bed::new();
    bed.network(false);
    let life = bed.start();
    let status = life.status(api::StatusRequest { verbose: true }).unwrap();
    let (ready, reason, message) = network_ready(&status);
    assert!(
        !ready && reason == "NetworkPluginNotReady" && message.contains("net.d"),
        "{message}"
    );
    assert!(status.info.contains_key("config"));
    assert!(status.features.unwrap().supplemental_groups_policy);
    let handlers: Vec<&str> = status.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(handlers, ["", "bulkhead"]);
    let request = api::RunPodSandboxRequest {
        config: Some(pod(&bed, "none")),
        runtime_handler: String::new(),
    };
    assert!(life.run_pod_sandbox(request).is_err());
    bed.assert_clean();
    bed.network(true);
    let until = Instant::now() + Duration::from_secs(5);
    while !network_ready(&life.status(Default::default()).unwrap()).0 {
        assert!(Instant::now() < until, "the new configuration is not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn images_are_listed_and_kept_while_in_use() {
    let bed = Bed::new();
    let life = bed.start();
    let spec = |image: &str| {
        Some(api::ImageSpec {
            image: image.into(),
            ..Default::default()
        })
    };
    let status = |image: &str| {
        life.image_status(api::ImageStatusRequest {
            image: spec(image),
            verbose: true,
        })
        .unwrap()
    };
    assert!(status(&bed.image.clone()).image.is_none());
    life.pull(&bed);
    let found = status(&bed.image.clone());
    let image = found.image.unwrap();
    assert_eq!(image.repo_tags, std::slice::from_ref(&bed.image));
    assert!(image.size > 0 && image.repo_digests.len() == 1 && found.info.contains_key("info"));
    assert_eq!(status(&image.id[7..20]).image.unwrap().id, image.id);
    let usage = life.image_fs_info(api::ImageFsInfoRequest {}).unwrap();
    assert!(usage.image_filesystems[0].used_bytes.as_ref().unwrap().value > 0);

    let pod = run(&life, pod(&bed, "image"));
    let id = create(&life, &pod, container(&bed, "c", "exit 0")).unwrap();
    let shown = life.state(&id);
    assert_eq!(shown.image.unwrap().image, bed.image.clone());
    assert_eq!(
        (shown.image_ref, shown.image_id),
        (image.repo_digests[0].clone(), image.id.clone())
    );
    let remove = || life.remove_image(api::RemoveImageRequest { image: spec(&image.id) });
    let error = remove().unwrap_err();
    assert!(
        error.message().contains("in use") && error.code() == tonic::Code::FailedPrecondition,
        "{error:?}"
    );
    life.remove_pod(&pod);
    remove().unwrap();
    remove().unwrap();
    assert!(status(&bed.image.clone()).image.is_none());
    bed.assert_clean();
}

#[test]
fn a_rotated_log_goes_on_in_the_new_file() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "log"));
    let id = create(
        &life,
        &pod,
        container(
            &bed,
            "c",
            "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf tail",
        ),
    )
    .unwrap();
    start(&life, &id).unwrap();
    let log = bed.path("logs/log/c.log");
    let mut old = Vec::new();
    while life.state(&id).state() == api::ContainerState::ContainerRunning {
        let to = bed.path(&format!("logs/log/c.log.{}", old.len()));
        std::fs::rename(&log, &to).unwrap();
        old.push(to);
        match life.reopen_container_log(api::ReopenContainerLogRequest {
            container_id: id.clone(),
        }) {
            Ok(_) => assert!(log.exists()),
            // It ended between the look and the order.
            Err(_) => break,
        }
    }
    life.wait_exit(&id);
    let all: String = old
        .iter()
        .chain([&log])
        .filter_map(|p| std::fs::read_to_string(p).ok())
        .collect();
    let lines: Vec<&str> = all.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap()).collect();
    let wanted: Vec<String> = (0..20000)
        .map(|n| format!("line {n}"))
        .chain(["tail".to_owned()])
        .collect();
    assert!(lines == wanted, "{} lines in {} files", lines.len(), old.len() + 1);
    assert!(all.ends_with(" stdout P tail\n"));
    assert!(
        life.reopen_container_log(api::ReopenContainerLogRequest { container_id: id })
            .is_err()
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}
