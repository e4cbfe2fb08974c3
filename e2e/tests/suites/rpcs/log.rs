//! What the server's log says of a request.

use anyhow::{Context, Result, ensure};
use e2e::{Bed, Options, refused, sleeper, test_with};
use proto::cri as v1;
use tonic::{Code, Request};

fn traced<T>(message: T, trace: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let value = format!("00-{trace}-00f067aa0ba902b7-01")
        .parse()
        .context("traceparent")?;
    request.metadata_mut().insert("traceparent", value);
    Ok(request)
}

/// A node that logs as one in production does.
fn quiet() -> Options {
    Options {
        quiet: true,
        ..Options::default()
    }
}

#[test]
fn a_verb_is_one_line_with_its_names_ids_and_trace() {
    test_with(quiet(), async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&sleeper("main")).await?;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let message = v1::StartContainerRequest {
            container_id: id[..12].into(),
        };
        bed.cri.runtime.clone().start_container(traced(message, trace)?).await?;
        let log = std::fs::read_to_string(node.log_path())?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(trace)).collect();
        ensure!(lines.len() == 1, "{lines:#?}");
        for word in [
            "INFO",
            "StartContainer",
            "done",
            "pod=\"e2e/pod\"",
            "container=\"main\"",
            &format!("pod_id=\"{}\"", bed.pod),
            &format!("container_id=\"{id}\""),
        ] {
            ensure!(lines[0].contains(word), "{word} is not in {}", lines[0]);
        }
        // A request without a trace has one of its own, and names what it made.
        let made = log
            .lines()
            .find(|line| line.contains("RunPodSandbox") && line.contains("done"));
        let made = made.context("no line about RunPodSandbox")?;
        ensure!(made.contains("trace_id=") && made.contains(&bed.pod), "{made}");
        // What only looks says nothing at this level.
        bed.cri.container_status(&id).await?;
        let log = std::fs::read_to_string(node.log_path())?;
        ensure!(!log.contains("ContainerStatus"), "a look is logged");
        Ok(())
    });
}

#[test]
fn an_error_is_logged_once_with_its_trace() {
    test_with(quiet(), async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let message = v1::StartContainerRequest {
            container_id: "f".repeat(64),
        };
        let answer = bed.cri.runtime.clone().start_container(traced(message, trace)?).await;
        refused(answer, Code::NotFound, &["container"])?;
        let log = std::fs::read_to_string(node.log_path())?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(trace)).collect();
        ensure!(
            lines.len() == 1 && lines[0].contains("failed") && lines[0].contains("not_found"),
            "{lines:#?}"
        );
        ensure!(log.matches("there is no container").count() == 1, "{log}");
        Ok(())
    });
}

#[test]
fn a_hangup_takes_the_level_of_the_log_from_the_configuration() {
    test_with(quiet(), async |node| -> Result<()> {
        let file = node.dir().join("config.yaml");
        let before = std::fs::read_to_string(&file)?;
        let pid = node.daemon_pid().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).context("no server")?;
        let log = node.log_path();
        let read = async |text: String, word: &str| -> Result<()> {
            std::fs::write(&file, text)?;
            let count = || Ok::<_, std::io::Error>(std::fs::read_to_string(&log)?.matches(word).count());
            let seen = count()?;
            rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
            e2e::wait::until(
                "the log tells of the signal",
                std::time::Duration::from_secs(20),
                async || Ok((count()? > seen).then_some(())),
            )
            .await
        };
        let cri = node.cri();
        let debug = || Ok::<_, std::io::Error>(std::fs::read_to_string(&log)?.matches(" DEBUG ").count());
        cri.version().await?;
        ensure!(debug()? == 0, "debug lines without a word");
        read(format!("{before}\nlog_level: debug\n"), "configuration read again").await?;
        cri.version().await?;
        ensure!(debug()? > 0, "no debug lines");
        // What is wrong changes nothing.
        read(
            format!("{before}\nlog_level: loud\n"),
            "the new configuration is not taken",
        )
        .await?;
        let lines = debug()?;
        cri.version().await?;
        ensure!(debug()? > lines, "the level has changed");
        read(format!("{before}\nlog_level: info\n"), "configuration read again").await?;
        let lines = debug()?;
        cri.version().await?;
        ensure!(debug()? == lines, "debug lines after the level went back");
        Ok(())
    });
}
