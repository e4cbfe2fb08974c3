//! Every verb, at every step, killed and made to fail. The server is a build with fail
//! points (`cargo xtask build --failpoints`), found by `BULKHEAD_FAILPOINT_BIN_DIR`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::cri::Cri;
use e2e::{Bed, Node, Options, pod, run, sleeper, wait};
use proto::cri as v1;
use std::time::Duration;

use super::failpoints;

/// Three layers, the first of them also busybox's.
const LAYERS: &str = "127.0.0.1:5000/layers:1";

/// A pod and a container, and where they stand.
struct Ship {
    config: v1::PodSandboxConfig,
    container: v1::ContainerConfig,
    pod: String,
    id: String,
}

impl Ship {
    fn new(node: &Node) -> Self {
        let mut config = pod(node, "victim");
        // A shared pid namespace, so that the steps of its init are passed as well.
        e2e::config::pod_namespaces(&mut config).pid = v1::NamespaceMode::Pod.into();
        let mut container = sleeper("victim");
        e2e::config::security(&mut container)
            .namespace_options
            .get_or_insert_default()
            .pid = v1::NamespaceMode::Pod.into();
        Self {
            config,
            container,
            pod: String::new(),
            id: String::new(),
        }
    }

    /// Everything that comes before `verb`.
    async fn prepare(&mut self, cri: &Cri, verb: &str) -> Result<()> {
        match verb {
            "run_pod" | "pull_image" => return Ok(()),
            "remove_image" => return Ok(cri.pull(LAYERS).await.map(drop)?),
            _ => {}
        }
        self.pod = cri.run_pod(&self.config).await?;
        if verb == "create_container" {
            return Ok(());
        }
        self.id = cri.create(&self.pod, &self.container, &self.config).await?;
        if verb != "start_container" {
            cri.start(&self.id).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, cri: &Cri, verb: &str) -> e2e::cri::Answer<()> {
        match verb {
            "run_pod" => self.pod = cri.run_pod(&self.config).await?,
            "create_container" => self.id = cri.create(&self.pod, &self.container, &self.config).await?,
            "start_container" => cri.start(&self.id).await?,
            "stop_container" => cri.stop(&self.id, 2).await?,
            "remove_container" => cri.remove(&self.id).await?,
            "stop_pod" => cri.stop_pod(&self.pod).await?,
            "remove_pod" => cri.remove_pod(&self.pod).await?,
            "pull_image" => cri.pull(LAYERS).await.map(drop)?,
            "remove_image" => cri.remove_image(LAYERS).await?,
            other => {
                return Err(tonic::Status::unimplemented(format!(
                    "the matrix does not know the verb {other}"
                )));
            }
        }
        Ok(())
    }

    /// What `layers:1` is to contain, its lower layers' files among them; and that nothing of it is there twice.
    async fn image_is_whole(&mut self, node: &Node, cri: &Cri, verb: &str) -> Result<()> {
        if verb == "remove_image" {
            ensure!(cri.image(LAYERS).await?.is_none(), "it is listed yet");
            layers_on_disk(node, 1).await?;
            cri.pull(LAYERS).await.context("pull what was removed")?;
        }
        layers_on_disk(node, 3).await?;
        self.pod = cri.run_pod(&self.config).await?;
        let container = e2e::container("whole", LAYERS, &["sleep", "100000"]);
        let id = cri.run(&self.pod, &container, &self.config).await?;
        let found = cri
            .sh(
                &id,
                "cat /d/changed /d/kept; stat -c %s /zeroes; ls -A /opaque; stat -c %u /owned",
            )
            .await?;
        ensure!(
            found == "upperlower4194304\nseen\n1234\n",
            "the image is not whole: {found:?}"
        );
        Ok(())
    }

    /// After the new server's start: the verb again, as the kubelet would, and then the whole way down.
    async fn recover(&mut self, node: &Node, verb: &str) -> Result<()> {
        let cri = &node.cri();
        match verb {
            // The kubelet does not start twice what runs or has ended.
            "start_container" => {
                let state = cri.container_status(&self.id).await?.state();
                if state == v1::ContainerState::ContainerCreated {
                    cri.start(&self.id).await?;
                }
            }
            _ => self.perform(cri, verb).await.with_context(|| format!("{verb} again"))?,
        }
        if matches!(verb, "pull_image" | "remove_image") {
            return self.image_is_whole(node, cri, verb).await;
        }
        if verb == "run_pod" {
            self.id = cri
                .create(&self.pod, &self.container, &self.config)
                .await
                .context("create in the pod")?;
        }
        if matches!(verb, "run_pod" | "create_container") {
            cri.start(&self.id).await.context("start")?;
            ensure!(cri.sh(&self.id, "echo fine").await? == "fine\n", "exec");
        }
        Ok(())
    }
}

/// Waits until `count` layers, and nothing else, are on the disk.
async fn layers_on_disk(node: &Node, count: usize) -> Result<()> {
    let directory = node.inside(&node.root_dir().join("layers"));
    wait::until(
        &format!("{count} layers are on the disk"),
        Duration::from_secs(10),
        async || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&directory)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            let finished = names.iter().all(|name| !name.starts_with('.'));
            Ok((finished && names.len() == count).then_some(()))
        },
    )
    .await
}

fn options(point: &str, action: &str) -> Result<Option<Options>> {
    if e2e::engine::Engine::chosen() != e2e::engine::Engine::Bulkhead {
        return Ok(None);
    }
    let programs = std::env::var_os("BULKHEAD_FAILPOINT_BIN_DIR").map(PathBuf::from);
    let programs = programs.context("BULKHEAD_FAILPOINT_BIN_DIR is not set: run hack/test restart")?;
    let env = vec![("BULKHEAD_FAILPOINT".to_owned(), format!("{point}={action}"))];
    Ok(Some(Options {
        env,
        programs: Some(programs),
        ..Options::default()
    }))
}

/// One cell of the matrix.
async fn cell(verb: &str, step: &str, action: &str) -> Result<()> {
    let point = format!("{verb}.{step}");
    let Some(options) = options(&point, action)? else {
        return Ok(());
    };
    let mut node = Node::start(Options {
        env: Vec::new(),
        ..options.clone()
    })
    .await?;
    let outcome = async {
        let bed = Bed::new(&node).await?;
        let bystander = bed.sleeper("bystander").await?;
        let before = (
            bed.cri.container_pid(&bystander).await?,
            bed.cri.container_status(&bystander).await?,
        );
        let mut ship = Ship::new(&node);
        ship.prepare(&bed.cri, verb).await.context("prepare")?;
        node.stop_daemon().await?;
        node.set_env(&[("BULKHEAD_FAILPOINT", &format!("{point}={action}"))]);
        node.start_daemon().await?;
        let answer = ship.perform(&node.cri(), verb).await;
        if action == "kill" {
            ensure!(
                answer.is_err(),
                "the verb was acknowledged though the server was to die in it: is the step ever passed?"
            );
            let how = wait::blocking("the server dies", Duration::from_secs(5), || node.daemon()?.ended())?;
            ensure!(how.contains("signal") || how.contains("137"), "it ended with {how}");
        } else {
            ensure!(
                answer.is_err(),
                "the verb succeeded though its step failed: is the step ever passed?"
            );
        }
        node.kill_daemon()?;
        node.set_env(&[]);
        node.start_daemon().await?;
        let cri = node.cri();
        ensure!(cri.image(BUSYBOX).await?.is_some(), "the image is lost");
        // By the logs that are there the kubelet counts the attempts.
        let log = e2e::logs::path(&ship.config, &ship.container);
        let known = cri.containers(None).await?;
        let acknowledged = known.iter().any(|one| one.metadata == ship.container.metadata);
        ensure!(
            verb != "create_container" || acknowledged || !log.exists(),
            "{} stayed though the container was never made",
            log.display()
        );
        ship.recover(&node, verb).await?;
        let after = (
            cri.container_pid(&bystander).await?,
            cri.container_status(&bystander).await?,
        );
        ensure!(before == after, "the bystander changed: {before:?} {after:?}");
        Ok(())
    }
    .await;
    if outcome.is_err() {
        return outcome.with_context(|| format!("{point}={action}; the log ends with:\n{}", node.log_tail(12)));
    }
    node.finish().await.with_context(|| format!("{point}={action}"))
}

fn row(verb: &str) {
    let result = run::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let steps: Vec<String> = failpoints::all()?
                .into_iter()
                .filter(|(of, _)| of == verb)
                .map(|(_, step)| step)
                .collect();
            let mut failures = Vec::new();
            for step in &steps {
                for action in ["kill", "error"] {
                    if let Err(error) = cell(verb, step, action).await {
                        failures.push(format!("{error:#}"));
                    }
                }
            }
            if !failures.is_empty() {
                bail!(
                    "{} of {} cells:\n{}",
                    failures.len(),
                    steps.len() * 2,
                    failures.join("\n")
                );
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{verb}: {error:#}");
    }
}

const VERBS: [&str; 9] = [
    "run_pod",
    "create_container",
    "start_container",
    "stop_container",
    "remove_container",
    "stop_pod",
    "remove_pod",
    "pull_image",
    "remove_image",
];

#[test]
fn every_verb_of_the_sources_is_in_the_matrix() {
    let found = failpoints::all().expect("the sources are there");
    assert!(found.len() >= 10, "only {} fail points: {found:?}", found.len());
    let strangers: Vec<_> = found
        .iter()
        .filter(|(verb, _)| !VERBS.contains(&verb.as_str()))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    for verb in [
        "run_pod",
        "create_container",
        "start_container",
        "remove_container",
        "stop_pod",
        "remove_pod",
        "pull_image",
        "remove_image",
    ] {
        assert!(found.iter().any(|(of, _)| of == verb), "{verb} has no fail point");
    }
}

#[test]
fn run_pod_at_every_step() {
    row("run_pod");
}

#[test]
fn create_container_at_every_step() {
    row("create_container");
}

#[test]
fn start_container_at_every_step() {
    row("start_container");
}

#[test]
fn stop_container_at_every_step() {
    row("stop_container");
}

#[test]
fn remove_container_at_every_step() {
    row("remove_container");
}

#[test]
fn stop_pod_at_every_step() {
    row("stop_pod");
}

#[test]
fn remove_pod_at_every_step() {
    row("remove_pod");
}

#[test]
fn pull_image_at_every_step() {
    row("pull_image");
}

#[test]
fn remove_image_at_every_step() {
    row("remove_image");
}
