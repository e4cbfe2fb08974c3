//! Images: pull policies, names that are wrong, and their removal by the kubelet's own thresholds.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::kube::agnhost::AGNHOST;
use e2e::kube::kubelet::{Settings, test, test_with};
use e2e::kube::pods::{STAY, agnhost, container, pod, shell};
use e2e::{Options, wait};
use serde_json::{Value, json};

fn waiting(pod: &Value) -> String {
    container(pod, "main").map_or_else(
        |_| String::new(),
        |main| {
            let waiting = &main["state"]["waiting"];
            format!(
                "{}: {}",
                waiting["reason"].as_str().unwrap_or_default(),
                waiting["message"].as_str().unwrap_or_default()
            )
        },
    )
}

#[test]
fn pull_policies_and_wrong_names_say_what_is_wrong() {
    test(async |kubelet| -> Result<()> {
        let busybox = e2e::catalog::BUSYBOX;
        let with = |name: &str, image: &str, policy: &str| {
            let main = shell("main", STAY, json!({"image": image, "imagePullPolicy": policy}));
            pod(name, &[main], json!({}))
        };
        kubelet.apply(&with("absent", "127.0.0.1:5000/busybox:user", "Never"))?;
        kubelet.apply(&with("unknown", "127.0.0.1:5000/busybox:no-such-tag", "IfNotPresent"))?;
        kubelet.apply(&with("nowhere", "127.0.0.1:5000/no/such/repository", "IfNotPresent"))?;
        kubelet.apply(&with("invalid", "127.0.0.1:5000/Upper:Case:Twice", "IfNotPresent"))?;
        kubelet.apply(&with("always", busybox, "Always"))?;
        kubelet.ready("always").await?;
        kubelet.apply(&with("present", busybox, "Never"))?;
        kubelet.ready("present").await?;
        for (name, reason, words) in [
            ("absent", "ErrImageNeverPull", "not present"),
            ("unknown", "ImagePullBackOff", "no-such-tag"),
            ("nowhere", "ImagePullBackOff", "no/such/repository"),
            ("invalid", "InvalidImageName", "Upper:Case:Twice"),
        ] {
            let pod = kubelet
                .until(name, reason, 60, |pod| waiting(pod).starts_with(reason))
                .await?;
            ensure!(waiting(&pod).contains(words), "{}", waiting(&pod));
        }
        Ok(())
    });
}

/// The kubelet's threshold for the image filesystem is crossed by an image that nobody uses any more.
#[test]
fn unused_images_go_when_the_disk_fills() {
    let settings = Settings {
        options: Options {
            small_disk: Some(160),
            ..Options::default()
        },
        config: json!({"evictionHard": {"imagefs.available": "75%"}, "imageMinimumGCAge": "1s", "evictionPressureTransitionPeriod": "1s"}),
        ..Settings::default()
    };
    test_with(settings, async |kubelet| -> Result<()> {
        kubelet.apply(&pod("small", &[shell("main", STAY, json!({}))], json!({})))?;
        let small = kubelet.ready("small").await?;
        kubelet.apply(&pod("large", &[agnhost("main", &["pause"], json!({}))], json!({})))?;
        kubelet.ready("large").await?;
        let images = async || -> Result<Vec<String>> {
            let list = kubelet.node.cri().image_list().await?;
            Ok(list.into_iter().flat_map(|image| image.repo_tags).collect())
        };
        ensure!(
            images().await?.iter().any(|tag| tag == AGNHOST),
            "{:?}",
            images().await?
        );
        kubelet.delete("large")?;
        wait::until("the unused image is removed", Duration::from_secs(90), async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok((!images().await?.iter().any(|tag| tag == AGNHOST)).then_some(()))
        })
        .await?;
        ensure!(
            images().await?.iter().any(|tag| tag == e2e::catalog::BUSYBOX),
            "an image in use was removed"
        );
        let after = kubelet.ready("small").await?;
        ensure!(
            container(&after, "main")?["containerID"] == container(&small, "main")?["containerID"],
            "restarted"
        );
        Ok(())
    });
}
