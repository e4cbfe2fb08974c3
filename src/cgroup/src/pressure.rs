//! Pressure stall information: how long tasks of a cgroup waited for CPU, memory and I/O
//! (Documentation/accounting/psi.rst).
//!
//! The kernel keeps it for v2 cgroups; on a hybrid host, whose processes are in the v2 tree too, the files are there as
//! well. A kernel without PSI, or with `cgroup.pressure` off, has no files or answers EOPNOTSUPP.

use crate::{Cgroup, Error};

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Share of the last 10 s in which tasks waited, in percent.
    pub avg10: f64,
    /// The same of the last 60 s.
    pub avg60: f64,
    /// The same of the last 300 s.
    pub avg300: f64,
    /// All the time they waited, in microseconds.
    pub total_us: u64,
}

/// What a pressure file says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All of them did, at once.
    pub full: Stall,
}

/// The three resources.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a CPU.
    pub cpu: Option<Pressure>,
    /// Waiting for memory to be reclaimed or read back.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
}

impl Cgroup {
    /// Reads the pressure files; what the kernel does not keep is `None`.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn pressures(&self) -> Result<Pressures, Error> {
        let Some(dir) = self.v2() else {
            return Ok(Pressures::default());
        };
        let read = |name: &'static str| match dir.read(name) {
            Ok(text) => Ok(parse(&text)),
            Err(error) if error.is_missing_file() || error.is_unsupported() => Ok(None),
            Err(error) => Err(error),
        };
        let cpu = read("cpu.pressure")?;
        if cpu.is_none() {
            // All three or none: two reads spared on hosts without it.
            return Ok(Pressures::default());
        }
        Ok(Pressures {
            cpu,
            memory: read("memory.pressure")?,
            io: read("io.pressure")?,
        })
    }
}

fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut found = false;
    for line in text.lines() {
        let (kind, values) = line.split_once(' ')?;
        let stall = match kind {
            "some" => &mut pressure.some,
            // The line is there since Linux 5.13 for the CPU.
            "full" => &mut pressure.full,
            _ => continue,
        };
        found = true;
        for (key, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total_us = value.parse().ok()?,
                _ => {}
            }
        }
    }
    found.then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = "some avg10=98.53 avg60=96.50 avg300=62.04 total=5922528215\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n";
        let read = parse(text).unwrap();
        assert_eq!((read.some.total_us, read.full.total_us), (5_922_528_215, 7));
        assert!((read.some.avg10 - 98.53).abs() < 1e-9 && (read.full.avg10 - 0.1).abs() < 1e-9);
    }

    #[test]
    fn an_older_kernel_has_no_full_line_for_the_cpu() {
        let read = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
        assert_eq!((read.some.total_us, read.full), (5, Stall::default()));
        assert_eq!(parse("rubbish"), None);
        assert_eq!(parse(""), None);
    }
}
