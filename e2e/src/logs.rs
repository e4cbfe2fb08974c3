//! The CRI log format, read strictly: `RFC3339Nano stdout|stderr F|P content`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proto::cri as v1;

use crate::wait;

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its time, as written.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line of the program ends here (`F`).
    pub full: bool,
    /// The bytes, without the newline.
    pub content: String,
}

/// Where a container logs.
#[must_use]
pub fn path(pod: &v1::PodSandboxConfig, container: &v1::ContainerConfig) -> std::path::PathBuf {
    Path::new(&pod.log_directory).join(&container.log_path)
}

/// Every line of a log file.
///
/// # Errors
/// Where the file cannot be read, or a line is not in the format.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&String::from_utf8_lossy(&bytes))
}

/// Every line of a log's text.
///
/// # Errors
/// Where a line is not in the format.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "the log does not end with a newline: {text:?}"
    );
    text.split_terminator('\n').map(line).collect()
}

fn line(text: &str) -> Result<Line> {
    let mut parts = text.splitn(4, ' ');
    let (Some(time), Some(stream), Some(tag), Some(content)) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("not a log line: {text:?}");
    };
    check_time(time)?;
    ensure!(stream == "stdout" || stream == "stderr", "unknown stream in {text:?}");
    let full = match tag.split(':').next() {
        Some("F") => true,
        Some("P") => false,
        _ => bail!("unknown tag in {text:?}"),
    };
    Ok(Line {
        time: time.into(),
        stream: stream.into(),
        full,
        content: content.into(),
    })
}

/// `2026-01-02T03:04:05.123456789Z` or with an offset; the kubelet parses with Go's RFC3339Nano.
fn check_time(time: &str) -> Result<()> {
    let bytes = time.as_bytes();
    let date = bytes.len() >= 20
        && bytes[..19].iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            10 => *byte == b'T',
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        });
    ensure!(date, "not a time: {time:?}");
    let rest = &time[19..];
    let fraction = rest
        .strip_prefix('.')
        .map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let zone = &rest[if fraction > 0 { fraction + 1 } else { 0 }..];
    ensure!(
        zone == "Z" || (zone.len() == 6 && (zone.starts_with('+') || zone.starts_with('-'))),
        "no zone in {time:?}"
    );
    Ok(())
}

/// What a program wrote to one stream, with fragments joined.
#[must_use]
pub fn joined(lines: &[Line], stream: &str) -> String {
    let mut text = String::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        text.push_str(&line.content);
        if line.full {
            text.push('\n');
        }
    }
    text
}

/// Waits until the log holds `needle`, and answers its lines.
///
/// # Errors
/// Where it does not in 10 s.
pub async fn wait_for(path: &Path, needle: &str) -> Result<Vec<Line>> {
    wait::until(
        &format!("{needle:?} is in {}", path.display()),
        Duration::from_secs(10),
        async || {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.contains(needle) && text.ends_with('\n') {
                Ok(Some(parse(&text)?))
            } else {
                Ok(None)
            }
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_read_strictly() {
        let good = "2026-01-02T03:04:05.123456789Z stdout F a b  c\n2026-01-02T03:04:05.1+01:00 stderr P:x d\n2026-01-02T03:04:05Z stdout F \n";
        let lines = parse(good).unwrap();
        assert_eq!(lines[0].content, "a b  c");
        assert!(!lines[1].full);
        assert_eq!(lines[2].content, "");
        for bad in [
            "x stdout F a\n",
            "2026-01-02T03:04:05Z stdin F a\n",
            "2026-01-02T03:04:05Z stdout X a\n",
            "2026-01-02T03:04:05Z stdout F a",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
