//! `logs`: reads a container's log file, which is on this host.
//!
//! A line of the file is `TIME stdout|stderr P|F[:tags] TEXT`; lines that end with tag `P` go on in
//! the next one of their stream. With `--follow` a file that was rotated away is read to its end
//! before the new one is opened, and the end comes once the container no longer runs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use proto::cri::{ContainerState, ContainerStatus, ContainerStatusRequest, ReopenContainerLogRequest};

use crate::client::{Node, Runtime, answer};
use crate::{human, report};

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How often a followed container is asked after.
const ALIVE: u32 = 5;
/// The longest line that a runtime writes, with room: what is longer is not a log.
const MAX_LINE: u64 = 1 << 20;

/// Flags of `logs`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Print the logs for the previous instance of the container in a pod if it exists
    #[arg(short, long)]
    previous: bool,
    /// Reopen the container logs for the provided container
    #[arg(short, long)]
    reopen: bool,
    /// Number of lines to show from the end of the logs, -1 for all
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, conflicts_with = "stream")]
    tail: i64,
    /// Maximum bytes of logs to return, -1 for no limit
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    limit_bytes: i64,
    /// Show logs since timestamp (e.g. 2013-01-02T13:23:37) or relative (e.g. 42m for 42 minutes)
    #[arg(long)]
    since: Option<String>,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show specified stream (stdout or stderr), both by default
    #[arg(short, long, value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
    /// Container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    if args.reopen {
        let request = node.ask(ReopenContainerLogRequest {
            container_id: args.id.clone(),
        });
        answer(runtime.reopen_container_log(request).await).context("reopen container logs")?;
        report::info("Container logs reopened");
    }
    let since = args.since.as_deref().map(parse_since).transpose()?;
    let status = status(node, &mut runtime, &args.id).await?;
    if status.log_path.is_empty() {
        bail!("the container has not set log path");
    }
    let mut path = PathBuf::from(&status.log_path);
    if args.previous {
        path = previous(&path, &status)?;
    }
    let mut printer = Printer {
        timestamps: args.timestamps,
        since,
        only: args.stream.clone(),
        left: u64::try_from(args.limit_bytes).ok(),
        partial: [false; 2],
    };
    let mut file =
        File::open(&path).with_context(|| format!("failed to try resolving symlinks in path {:?}", path.display()))?;
    if let Ok(lines) = u64::try_from(args.tail) {
        let start = tail(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let mut reader = Lines::new(file);
    follow(&args, node, &mut runtime, &path, &mut reader, &mut printer, out).await
}

async fn status(node: &Node, runtime: &mut Runtime, id: &str) -> Result<ContainerStatus> {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    Ok(answer(runtime.container_status(node.ask(request)).await)?
        .status
        .unwrap_or_default())
}

/// The log of the attempt before: the kubelet names logs `ATTEMPT.log`.
fn previous(path: &Path, status: &ContainerStatus) -> Result<PathBuf> {
    let metadata = status.metadata.clone().unwrap_or_default();
    if metadata.attempt == 0 {
        bail!("previous terminated container {} not found", metadata.name);
    }
    let mut name = PathBuf::from((metadata.attempt - 1).to_string());
    if let Some(extension) = path.extension() {
        name.set_extension(extension);
    }
    Ok(path.with_file_name(name))
}

#[expect(clippy::too_many_arguments, reason = "the loop of one verb")]
async fn follow(
    args: &Args,
    node: &Node,
    runtime: &mut Runtime,
    path: &Path,
    lines: &mut Lines,
    printer: &mut Printer,
    out: &mut dyn Write,
) -> Result<()> {
    let mut quiet = 0;
    let mut ended = false;
    loop {
        let mut moved = false;
        while let Some(line) = lines.next()? {
            moved = true;
            if !printer.print(line, out)? {
                return Ok(());
            }
        }
        out.flush()?;
        if moved {
            quiet = 0;
            continue;
        }
        // The last look came after the container's end: what it wrote is out.
        if !args.follow || ended {
            if let Some(rest) = lines.rest() {
                printer.print(&rest, out)?;
            }
            return Ok(());
        }
        if let Some(next) = lines.rotated(path) {
            *lines = Lines::new(next);
            continue;
        }
        quiet += 1;
        if quiet % ALIVE == 0 {
            ended = status(node, runtime, &args.id).await?.state() != ContainerState::ContainerRunning;
        }
        if !ended {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whole lines of a file that may still grow.
#[derive(Debug)]
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    whole: bool,
}

impl Lines {
    fn new(file: File) -> Self {
        Self {
            reader: BufReader::new(file),
            line: Vec::new(),
            whole: true,
        }
    }

    /// The next whole line with its newline, `None` if there is none yet.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.whole {
            self.line.clear();
        }
        let room = MAX_LINE.saturating_sub(self.line.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.line)?;
        self.whole = self.line.ends_with(b"\n") || self.line.len() as u64 >= MAX_LINE;
        Ok(self.whole.then_some(self.line.as_slice()))
    }

    /// A last line that was never ended.
    fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.whole && !self.line.is_empty()).then(|| std::mem::take(&mut self.line))
    }

    /// The file that took this one's name, if one did.
    fn rotated(&self, path: &Path) -> Option<File> {
        let next = File::open(path).ok()?;
        let (old, new) = (self.reader.get_ref().metadata().ok()?, next.metadata().ok()?);
        // Between the look at the end and the rename more may have been written.
        let unread = old.len() > self.reader.get_ref().stream_position_of().unwrap_or(old.len());
        (!unread && (old.ino(), old.dev()) != (new.ino(), new.dev())).then_some(next)
    }
}

/// Where a shared handle stands.
trait Position {
    fn stream_position_of(&self) -> std::io::Result<u64>;
}

impl Position for File {
    fn stream_position_of(&self) -> std::io::Result<u64> {
        let mut handle = self;
        handle.stream_position()
    }
}

/// Where the last `lines` lines begin.
fn tail(file: &mut File, lines: u64) -> Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let end = file.seek(SeekFrom::End(0))?;
    let mut start = end;
    let mut missing = lines;
    let mut block = Vec::new();
    if lines == 0 {
        return Ok(end);
    }
    while start > 0 {
        let size = BLOCK.min(start);
        start -= size;
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(size).read_to_end(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            // The newline at the very end ends the last line, it begins none.
            if after == end {
                continue;
            }
            missing -= 1;
            if missing == 0 {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

/// A line's parts.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a str,
    stderr: bool,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Entry {
        time,
        stderr,
        partial,
        text: parts.next().unwrap_or_default(),
    })
}

/// Decides what of a line is shown, and shows it.
#[derive(Debug)]
struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    only: Option<String>,
    left: Option<u64>,
    /// Whether the last line of stdout, of stderr, goes on.
    partial: [bool; 2],
}

impl Printer {
    /// Prints a line; false when nothing more is to be printed.
    fn print(&mut self, line: &[u8], out: &mut dyn Write) -> Result<bool> {
        let Some(entry) = parse(line) else {
            report::error(&format!("failed to parse log line {:?}", String::from_utf8_lossy(line)));
            return Ok(true);
        };
        if self
            .since
            .is_some_and(|since| entry.time.parse::<Timestamp>().is_ok_and(|time| time < since))
        {
            return Ok(true);
        }
        let goes_on = std::mem::replace(&mut self.partial[usize::from(entry.stderr)], entry.partial);
        let stream = if entry.stderr { "stderr" } else { "stdout" };
        if self.only.as_deref().is_some_and(|only| only != stream) {
            return Ok(true);
        }
        let mut text = Vec::with_capacity(line.len());
        if self.timestamps && !goes_on {
            text.extend_from_slice(entry.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if !entry.partial {
            text.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        if entry.stderr {
            // What came before on stdout is to be seen before it.
            out.flush()?;
            std::io::stderr().write_all(&text)?;
        } else {
            out.write_all(&text)?;
        }
        Ok(self.left != Some(0))
    }
}

/// A time, or how long ago it was. Without a zone it is UTC.
fn parse_since(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        return Ok(time.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp());
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Timestamp::from_second(seconds)?);
    }
    let ago = human::parse_duration(text).map_err(|error| anyhow::anyhow!("--since {text:?}: {error}"))?;
    Ok(Timestamp::now() - ago)
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
