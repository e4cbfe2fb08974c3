//! The command line: global flags, one variant for each verb.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::client::Node;
use crate::settings::{Flags, Settings};
use crate::{
    attach, checkpoint, completion, config, create, events, exec, imagefsinfo, images, info, inspect, inspecti,
    inspectp, logs, metricdescs, metricsp, pods, port_forward, ps, pull, rm, rmi, rmp, run, runp, runtime_config,
    start, stats, statsp, stop, stopp, update, update_runtime_config, version,
};

/// Client for CRI
#[derive(Debug, Parser)]
#[command(name = "bulkhead ctl", max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Attach to a running container
    Attach(attach::Args),
    /// Checkpoint one or more running containers
    Checkpoint(checkpoint::Args),
    /// Output shell completion code
    Completion(completion::Args),
    /// Get, set and list client configuration options
    Config(config::Args),
    /// Create a new container
    Create(create::Args),
    /// Stream the events of containers
    #[command(alias = "event")]
    Events(events::Args),
    /// Run a command in a running container
    Exec(exec::Args),
    /// List images
    #[command(alias = "image", alias = "img")]
    Images(images::Args),
    /// Return image filesystem info
    Imagefsinfo(imagefsinfo::Args),
    /// Display information of the container runtime
    Info(info::Args),
    /// Display the status of one or more containers
    Inspect(inspect::Args),
    /// Return the status of one or more images
    Inspecti(inspecti::Args),
    /// Display the status of one or more pods
    Inspectp(inspectp::Args),
    /// Fetch the logs of a container
    Logs(logs::Args),
    /// List metric descriptors
    Metricdescs(metricdescs::Args),
    /// List pod metrics
    Metricsp(metricsp::Args),
    /// List pods
    Pods(pods::Args),
    /// Forward local port to a pod
    PortForward(port_forward::Args),
    /// List containers
    Ps(ps::Args),
    /// Pull an image from a registry
    Pull(pull::Args),
    /// Remove one or more containers
    Rm(rm::Args),
    /// Remove one or more images
    Rmi(rmi::Args),
    /// Remove one or more pods
    Rmp(rmp::Args),
    /// Run a new container inside a sandbox
    Run(run::Args),
    /// Run a new pod
    Runp(runp::Args),
    /// Retrieve the container runtime configuration
    RuntimeConfig,
    /// Start one or more created containers
    Start(start::Args),
    /// List container(s) resource usage statistics
    Stats(stats::Args),
    /// List pod statistics
    Statsp(statsp::Args),
    /// Stop one or more running containers
    Stop(stop::Args),
    /// Stop one or more running pods
    Stopp(stopp::Args),
    /// Update one or more running containers
    Update(update::Args),
    /// Update the runtime configuration
    UpdateRuntimeConfig(update_runtime_config::Args),
    /// Display runtime version information
    Version,
}

/// Runs the verb.
pub(crate) async fn run(cli: Cli, out: &mut dyn Write) -> Result<()> {
    let node = Node {
        settings: Settings::load(&cli.flags).context("get server config")?,
    };
    match cli.verb {
        Verb::Attach(args) => attach::run(args, &node, out)
            .await
            .context("attaching running container failed"),
        Verb::Checkpoint(args) => checkpoint::run(args, &node, out).await,
        Verb::Completion(args) => completion::run(&args, out),
        Verb::Config(args) => config::run(&args, &node, out),
        Verb::Create(args) => create::run(args, &node, out).await.context("creating container"),
        Verb::Events(args) => events::run(args, &node, out).await.context("getting container events"),
        Verb::Exec(args) => exec::run(args, &node, out).await,
        Verb::Images(args) => images::run(args, &node, out).await.context("listing images"),
        Verb::Imagefsinfo(args) => imagefsinfo::run(args, &node, out)
            .await
            .context("image filesystem info request"),
        Verb::Info(args) => info::run(args, &node, out).await.context("getting status of runtime"),
        Verb::Inspect(args) => inspect::run(args, &node, out)
            .await
            .context("get the status of containers"),
        Verb::Inspecti(args) => inspecti::run(args, &node, out).await,
        Verb::Inspectp(args) => inspectp::run(args, &node, out)
            .await
            .context("get the status of pod sandboxes"),
        Verb::Logs(args) => logs::run(args, &node, out).await,
        Verb::Metricdescs(args) => metricdescs::run(&args, &node, out)
            .await
            .context("get metric descriptors"),
        Verb::Metricsp(args) => metricsp::run(&args, &node, out).await.context("get pod metrics"),
        Verb::Pods(args) => pods::run(args, &node, out).await.context("listing pod sandboxes"),
        Verb::PortForward(args) => port_forward::run(args, &node, out).await.context("port forward"),
        Verb::Ps(args) => ps::run(args, &node, out).await.context("listing containers"),
        Verb::Pull(args) => pull::run(args, &node, out).await.context("pulling image"),
        Verb::Rm(args) => rm::run(args, &node, out).await,
        Verb::Rmi(args) => rmi::run(args, &node, out).await,
        Verb::Rmp(args) => rmp::run(args, &node, out).await,
        Verb::Run(args) => run::run(args, &node, out).await.context("running container"),
        Verb::Runp(args) => runp::run(args, &node, out).await.context("run pod sandbox"),
        Verb::RuntimeConfig => runtime_config::run(&node, out).await.context("get runtime config"),
        Verb::Start(args) => start::run(args, &node, out).await,
        Verb::Stats(args) => stats::run(args, &node, out).await.context("get container stats"),
        Verb::Statsp(args) => statsp::run(args, &node, out).await.context("get pod stats"),
        Verb::Stop(args) => stop::run(args, &node, out).await,
        Verb::Stopp(args) => stopp::run(args, &node, out).await,
        Verb::Update(args) => update::run(args, &node, out).await,
        Verb::UpdateRuntimeConfig(args) => update_runtime_config::run(args, &node).await,
        Verb::Version => version::run(&node, out).await.context("getting the runtime version"),
    }
}

/// All of several results: the first error alone, or all of them in one.
pub(crate) fn all(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut failures: Vec<anyhow::Error> = results.into_iter().filter_map(Result::err).collect();
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => bail!(
            "{}",
            failures
                .iter()
                .map(|error| format!("{error:#}"))
                .collect::<Vec<_>>()
                .join("\n")
        ),
    }
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
    /// Columns.
    #[default]
    Table,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn crictls_own_examples_parse() {
        for line in [
            "-r unix:///run/x.sock -t 10s ps -a -q --no-trunc",
            "--timeout=2s --debug pods -o json --label a=b --state ready -n 3",
            "exec -it 0123 sh -c 'ls -la'",
            "exec -s --timeout 5 0123 ls -la /",
            "exec -i -t -r websocket 0123 sh",
            "exec --name web -x ls",
            "runp -r kata -T 10s pod.json",
            "create --no-pull --creds u:p pod container.yaml pod.yaml",
            "run --with-pull --pull-timeout 1m container.json pod.json",
            "logs -f --since 42m -t -s stdout 0123",
            "logs --tail=10 -p 0123",
            "rm -fa -k",
            "rmi --prune",
            "rmi -q",
            "pull --auth abc -a a=b busybox:latest",
            "images --digests --no-trunc -f dangling=true busybox",
            "img -q",
            "inspect -o table -q 1 2",
            "inspecti --filter reference=x",
            "stats -a -o json -s 2 -w 0123",
            "stop -t 5 1 2",
            "port-forward -r spdy pod 8080:80 443",
            "imagefsinfo -o yaml",
            "info -q",
            "version",
            "config --list",
            "config --set timeout=3 --set debug=true",
            "config runtime-endpoint unix:///x",
            "metricdescs -o yaml",
            "metricsp -w",
            "checkpoint --export x.tar 0123",
            "completion zsh",
            "update-runtime-config --pod-cidr 10.0.0.0/24",
            "update --cpu-quota 1000 --memory 1048576 0123",
        ] {
            let words = line.replace('\'', "");
            let cli = Cli::try_parse_from(std::iter::once("ctl").chain(words.split(' ')));
            cli.unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
