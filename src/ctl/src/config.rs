//! `config`: reads and changes the settings file, line by line so that comments stay.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::client::Node;
use crate::settings::File;
use crate::table::Table;

const KEYS: [&str; 7] = [
    "runtime-endpoint",
    "image-endpoint",
    "timeout",
    "debug",
    "pull-image-on-create",
    "disable-pull-on-run",
    "max-retries",
];

/// Flags of `config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Get the option value
    #[arg(long, value_name = "KEY")]
    get: Option<String>,
    /// Set option (can specify multiple or separate values with commas: opt1=val1,opt2=val2)
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    set: Vec<String>,
    /// Show all option values
    #[arg(long)]
    list: bool,
    /// KEY, to get it, or KEY VALUE, to set it
    #[arg(num_args = 0..=2)]
    words: Vec<String>,
}

pub(crate) fn run(args: &Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let path = &node.settings.file;
    let mut changes = Vec::new();
    for pair in &args.set {
        changes.push(
            pair.split_once('=')
                .with_context(|| format!("invalid option {pair:?}, it must be KEY=VALUE"))?,
        );
    }
    let mut wanted = args.get.as_deref();
    match args.words.as_slice() {
        [key, value] => changes.push((key, value)),
        [key] => wanted = Some(key),
        _ => {}
    }
    if !changes.is_empty() {
        return change(path, &changes);
    }
    let file = File::read(path)?.unwrap_or_default();
    if args.list {
        let mut table = Table::new();
        table.row(["KEY", "VALUE"]);
        for key in KEYS {
            table.row([key.to_owned(), value(&file, key)?]);
        }
        return Ok(table.print(out)?);
    }
    let Some(key) = wanted else {
        bail!("name a key, or use --list, --get or --set")
    };
    writeln!(out, "{}", value(&file, key)?)?;
    Ok(())
}

fn value(file: &File, key: &str) -> Result<String> {
    Ok(match key {
        "runtime-endpoint" => file.runtime_endpoint.clone(),
        "image-endpoint" => file.image_endpoint.clone(),
        "timeout" => file.timeout.to_string(),
        "debug" => file.debug.to_string(),
        "pull-image-on-create" => file.pull_image_on_create.to_string(),
        "disable-pull-on-run" => file.disable_pull_on_run.to_string(),
        "max-retries" => file.max_retries.to_string(),
        _ => bail!("no configuration option named {key:?}"),
    })
}

fn change(path: &Path, changes: &[(&str, &str)]) -> Result<()> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let new = changed(&old, changes)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    std::fs::write(path, new).with_context(|| format!("writing {}", path.display()))
}

/// The file's text with the changes made, if it is still one.
fn changed(old: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut text = old.to_owned();
    for (key, value) in changes {
        if !KEYS.contains(key) {
            bail!("no configuration option named {key:?}");
        }
        let line = format!("{key}: {}", if value.is_empty() { "\"\"" } else { value });
        let is_it = |l: &&str| {
            l.strip_prefix(*key)
                .is_some_and(|rest| rest.trim_start().starts_with(':'))
        };
        if text.lines().any(|l| is_it(&l)) {
            text = text
                .lines()
                .map(|l| if is_it(&l) { line.as_str() } else { l })
                .collect::<Vec<_>>()
                .join("\n")
                + "\n";
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            // Writing to a String cannot fail.
            writeln!(text, "{line}").ok();
        }
    }
    serde_saphyr::from_str::<File>(&text)
        .map_err(|error| anyhow::anyhow!("that would not be a configuration: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_the_rest() {
        let old = "# ours\nruntime-endpoint: unix:///a # why\ntimeout: 5";
        let new = changed(old, &[("timeout", "7"), ("debug", "true")]).unwrap();
        assert_eq!(
            new,
            "# ours\nruntime-endpoint: unix:///a # why\ntimeout: 7\ndebug: true\n"
        );
        changed(old, &[("timeout", "soon")]).unwrap_err();
        changed(old, &[("colour", "red")]).unwrap_err();
    }
}
