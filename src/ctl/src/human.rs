//! Ages, sizes and times for people, in the words of docker's go-units, which crictl uses.

use std::time::Duration;

use jiff::Timestamp;

/// An age such as `About a minute`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, the rest is cut.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 0 | 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago a time in nanoseconds since 1970 was: `3 minutes ago`.
pub(crate) fn ago(nanoseconds: i64) -> String {
    let now = Timestamp::now().as_nanosecond();
    let since = u64::try_from(now - i128::from(nanoseconds)).unwrap_or(0);
    format!("{} ago", age(Duration::from_nanos(since)))
}

/// A time in nanoseconds since 1970 as RFC 3339 with as many digits as it needs.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}

/// A time in nanoseconds since 1970 as Go prints it.
pub(crate) fn go_time(nanoseconds: i64) -> String {
    let text = rfc3339(nanoseconds);
    format!("{} +0000 UTC", text.trim_end_matches('Z').replace('T', " "))
}

/// A size in powers of 1000 with `digits` significant digits: `12.3MB`.
#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
pub(crate) fn size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), UNITS[unit])
}

/// C's `%.*g` for values from 0 to 1000.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let limit = i32::try_from(digits).unwrap_or(i32::MAX);
    if power >= limit {
        return format!("{}e+{power:02}", trimmed(mantissa));
    }
    let decimals = usize::try_from(limit - 1 - power).unwrap_or(0);
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// A duration such as `1m30s`, `500ms` or, more generously than Go, `10` for seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("missing unit in {text:?}"))?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(format!("unknown unit {unit:?} in {text:?}")),
        };
        total += number
            .parse::<f64>()
            .map_err(|_| format!("{text:?} is not a duration"))?
            * factor;
        rest = after;
    }
    if text.is_empty() {
        return Err("empty duration".to_owned());
    }
    Duration::try_from_secs_f64(total).map_err(|_| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3 * 60 + 59, "3 minutes"),
            (3600, "About an hour"),
            (3600 * 2 - 1800, "2 hours"),
            (3600 * 47, "47 hours"),
            (3600 * 48, "2 days"),
            (3600 * 24 * 14, "2 weeks"),
            (3600 * 24 * 60, "2 months"),
            (3600 * 24 * 365 * 2, "2 years"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, four, three) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (1_234_567, "1.235MB", "1.23MB"),
            (742_400, "742.4kB", "742kB"),
            (999_950, "1000kB", "1e+03kB"),
            (12_300_000_000, "12.3GB", "12.3GB"),
        ] {
            assert_eq!(
                (size(bytes, 4).as_str(), size(bytes, 3).as_str()),
                (four, three),
                "{bytes}"
            );
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("1.5h").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("10").unwrap(), Duration::from_secs(10));
        for wrong in ["", "x", "1x", "1s2", "s"] {
            parse_duration(wrong).unwrap_err();
        }
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
        assert_eq!(go_time(1_700_000_000_000_000_000), "2023-11-14 22:13:20 +0000 UTC");
    }
}
