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
