//! The command line, as types. Every flag here that sets a configuration value has the
//! last word over the files (`config::load`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use config::{Flags, LogLevel, Sources};

/// A Kubernetes node runtime: CRI server, image store and CNI caller.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground.
    Serve(SourceArgs),
    /// Print the effective configuration: every key, its default, where its value is from.
    Config(SourceArgs),
    /// Say what this host offers, what is missing, and what follows from it.
    Check(CheckArgs),
    /// Ask the running daemon how it is.
    Status(StatusArgs),
    /// Remove all state of a stopped daemon: containers, pods, images, records.
    Wipe(WipeArgs),
    /// A CRI client with crictl's verbs and flags.
    #[command(disable_help_flag = true)]
    Ctl(CtlArgs),
    /// Print a completion script for a shell.
    Completion(CompletionArgs),
    /// Print the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// Configuration file [default: /etc/bulkhead/config.yaml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of drop-ins, *.yaml, in lexical order [default: /etc/bulkhead/config.d].
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Lasting state.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// State that ends with the boot.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// Directory of network configurations.
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given several times.
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Vec<PathBuf>,
    /// Directory with a hosts.toml for each registry.
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

impl SourceArgs {
    /// The same for `config::load`.
    pub(crate) fn sources(&self) -> Sources {
        let all = self.clone();
        Sources {
            file: all.config,
            dir: all.config_dir,
            flags: Flags {
                root: all.root,
                state: all.state,
                listen: all.listen,
                cni_conf_dir: all.cni_conf_dir,
                cni_bin_dirs: all.cni_bin_dir,
                hosts_dir: all.hosts_dir,
                log_level: all.log_level,
            },
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WipeArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Print what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Verb and flags, as crictl has them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// bash, elvish, fish, powershell or zsh.
    pub(crate) shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_configuration() {
        let line = "bulkhead serve --root /r --state /s --cni-bin-dir /a --cni-bin-dir /b --log-level debug";
        let Command::Serve(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not serve")
        };
        let flags = args.sources().flags;
        assert_eq!(flags.root, Some("/r".into()));
        assert_eq!(flags.cni_bin_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(flags.log_level, Some(LogLevel::Debug));
        assert!(Cli::try_parse_from(["bulkhead", "serve", "--log-level", "loud"]).is_err());
    }

    #[test]
    fn ctl_takes_every_word_as_it_is() {
        let line = "bulkhead ctl ps -a -o json --help";
        let Command::Ctl(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not ctl")
        };
        assert_eq!(args.words, ["ps", "-a", "-o", "json", "--help"]);
    }
}
