//! E4: stop, exec, attach.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::limits::{Kernel, is_v2};
use e2e::{Bed, container, logs, pod, sleeper, test};
use proto::cri as v1;
use tonic::Code;

use super::processes;

#[test]
fn e4_real_time_signals_have_names() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        // SIGRTMIN is 34 to programs, SIGRTMAX 64.
        for (name, signal, number) in [
            ("min", v1::Signal::Sigrtminplus3, 37),
            ("max", v1::Signal::Sigrtmaxminus2, 62),
        ] {
            let line = format!("trap 'echo got {number}; exit 4' {number}; echo ready; while :; do sleep 0.05; done");
            let mut config = container(name, BUSYBOX, &["sh", "-c", &line]);
            config.stop_signal = signal.into();
            let id = bed.run(&config).await?;
            logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
            bed.cri.stop(&id, 20).await?;
            let status = bed.cri.container_status(&id).await?;
            ensure!(status.exit_code == 4, "{name}: exit code {}", status.exit_code);
            ensure!(status.stop_signal() == signal, "{name}: {:?}", status.stop_signal());
        }
        Ok(())
    });
}

#[test]
fn e4_a_stop_resumes_a_frozen_container() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (name, grace, code) in [("asked", 20, 0), ("killed", 0, 137)] {
            let config = sleeper(name);
            let id = bed.run(&config).await?;
            let kernel = Kernel::of(node, &bed.cri, &id).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            kernel.freeze(true)?;
            let begin = Instant::now();
            let stopped = tokio::time::timeout(Duration::from_secs(15), bed.cri.stop(&id, grace)).await;
            // Else the node could not be taken down.
            kernel.freeze(false).ok();
            stopped.with_context(|| format!("{name}: the stop hangs"))??;
            ensure!(
                begin.elapsed() < Duration::from_secs(10),
                "{name}: took {:?}",
                begin.elapsed()
            );
            let status = bed.cri.container_status(&id).await?;
            ensure!(status.exit_code == code, "{name}: exit code {}", status.exit_code);
        }
        Ok(())
    });
}

/// A frozen cgroup; thawed in any case, else the node could not be taken down. On v1 its processes are in D state and
/// cannot be killed.
struct Frozen(Kernel);

impl Frozen {
    fn new(kernel: Kernel) -> Result<Self> {
        kernel.freeze(true)?;
        Ok(Self(kernel))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.freeze(false).ok();
    }
}

#[test]
fn e4_a_process_in_d_state_holds_up_its_own_container_alone() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let stuck = bed.sleeper("stuck").await?;
        let pid = bed.cri.container_pid(&stuck).await?;
        // The pod's cgroup: resuming the container alone does not wake it.
        let frozen = Frozen::new(Kernel::of(node, &bed.cri, &stuck).await?.parent()?)?;
        if is_v2() {
            // v2's freezer lets SIGKILL through: nothing is stuck, though nobody can thaw it but the pod's owner.
            bed.cri.stop(&stuck, 0).await?;
            let status = bed.cri.exited(&stuck).await?;
            ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
            return Ok(());
        }
        e2e::wait::until("it is in D state", Duration::from_secs(10), async || {
            let stat = node.sh(&format!("cat /proc/{pid}/stat"))?;
            Ok(stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('D'))
                .then_some(()))
        })
        .await?;
        // The caller's patience ends first, and that is told.
        let request = v1::StopContainerRequest {
            container_id: stuck.clone(),
            timeout: 0,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(1));
        let answer = bed.cri.runtime.clone().stop_container(request).await;
        let code = answer.map_err(|status| status.code());
        ensure!(
            matches!(code, Err(Code::DeadlineExceeded | Code::Cancelled)),
            "{code:?}"
        );
        let status = bed.cri.container_status(&stuck).await?;
        ensure!(
            status.state() == v1::ContainerState::ContainerRunning,
            "{:?}",
            status.state()
        );
        // Everybody else goes on.
        let begin = Instant::now();
        ensure!(bed.cri.containers(None).await?.len() == 1, "the list is short");
        bed.cri.stats_list(None).await?;
        let config = pod(node, "other");
        let other = bed.cri.run_pod(&config).await?;
        let fine = bed.cri.run(&other, &sleeper("fine"), &config).await?;
        ensure!(bed.exec(&fine, &["echo", "fine"]).await?.stdout == "fine\n", "no exec");
        bed.cri.stop(&fine, 5).await?;
        bed.cri.stop_pod(&other).await?;
        bed.cri.remove_pod(&other).await?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        // The kill was not forgotten.
        drop(frozen);
        let status = bed.cri.exited(&stuck).await?;
        ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
        bed.cri.stop(&stuck, 0).await?;
        Ok(bed.cri.remove(&stuck).await?)
    });
}

#[test]
fn e4_a_stop_that_takes_long_holds_up_nobody_else() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let stubborn = container(
            "main",
            BUSYBOX,
            &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
        );
        let id = bed.run(&stubborn).await?;
        logs::wait_for(&logs::path(&bed.config, &stubborn), "ready").await?;
        let cri = bed.cri.clone();
        let long = tokio::spawn(async move { cri.stop(&id, 6).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        let other = bed.sleeper("other").await?;
        bed.cri.stop(&other, 5).await?;
        bed.cri.remove(&other).await?;
        let config = pod(node, "another");
        let another = bed.cri.run_pod(&config).await?;
        bed.cri.stop_pod(&another).await?;
        bed.cri.remove_pod(&another).await?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        ensure!(!long.is_finished(), "the long stop was over before");
        long.await??;
        Ok(())
    });
}

#[test]
fn e4_exec_processes_die_with_the_container() {
    test(async |node| -> Result<()> {
        // In a shared pid namespace the kernel does not do it.
        let bed = Bed::with(node, |config| {
            e2e::config::pod_namespaces(config).pid = v1::NamespaceMode::Pod.into()
        })
        .await?;
        let mut config = sleeper("main");
        e2e::config::security(&mut config)
            .namespace_options
            .get_or_insert_default()
            .pid = v1::NamespaceMode::Pod.into();
        let id = bed.run(&config).await?;
        let (cri, own) = (bed.cri.clone(), id.clone());
        let exec = tokio::spawn(async move {
            cri.exec_with(&own, &["sh", "-c", "trap '' TERM; sleep 76543 & sleep 76543"], 60)
                .await
        });
        e2e::wait::until("the exec runs", Duration::from_secs(10), async || {
            // The shell becomes its last command.
            Ok((processes(node, "76543").len() >= 2).then_some(()))
        })
        .await?;
        bed.cri.stop(&id, 2).await?;
        e2e::wait::until("what was exec'd is gone", Duration::from_secs(5), async || {
            Ok(processes(node, "76543").is_empty().then_some(()))
        })
        .await?;
        let outcome = tokio::time::timeout(Duration::from_secs(10), exec)
            .await
            .context("the exec hangs")??;
        ensure!(outcome.map_or(true, |output| output.code == 137), "the exec ended well");
        Ok(())
    });
}

#[test]
fn e4_a_hundred_probes_leave_no_process() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        bed.exec(&id, &["true"]).await?;
        let before = e2e::leak::living(node.init()).len();
        for _ in 0..100 {
            ensure!(
                bed.exec(&id, &["sh", "-c", "sleep 0.001; exit 0"]).await?.code == 0,
                "a probe failed"
            );
        }
        e2e::wait::until("as many processes as before", Duration::from_secs(5), async || {
            Ok((e2e::leak::living(node.init()).len() <= before).then_some(()))
        })
        .await
    });
}

#[test]
fn e4_attach_loses_no_output() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo line $i; sleep 0.005; done; sleep 0.5";
        let config = container("main", BUSYBOX, &["sh", "-c", line]);
        let id = bed.run(&config).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let request = v1::AttachRequest {
            container_id: id.clone(),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let url = bed.cri.runtime.clone().attach(request).await?.into_inner().url;
        let mut client = e2e::ws::Client::open(node, &url, "v5.channel.k8s.io")?;
        let seen = tokio::task::spawn_blocking(move || client.output()).await??;
        let numbers: Vec<usize> = seen
            .lines()
            .skip(1)
            .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
            .collect();
        ensure!(numbers.len() > 50, "only {} lines were seen", numbers.len());
        ensure!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "a gap: {numbers:?}"
        );
        ensure!(
            numbers.last() == Some(&600),
            "the end was not seen: {:?}",
            numbers.last()
        );
        bed.cri.exited(&id).await?;
        let logged = logs::joined(&logs::read(&logs::path(&bed.config, &config))?, "stdout");
        ensure!(
            logged.lines().count() == 600,
            "{} lines in the log",
            logged.lines().count()
        );
        Ok(())
    });
}
