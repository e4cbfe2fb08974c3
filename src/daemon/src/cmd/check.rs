//! `bulkhead check`: one line for each thing looked at, with what follows from it. Exit
//! code 1 where something is missing without which containers cannot run.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::check::{self, Finding, Level};
use crate::cli::CheckArgs;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&args.sources.sources())?;
    let findings = check::all(&loaded.config);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write(&mut out, &findings)?;
    }
    let is_usable = findings.iter().all(|finding| finding.level != Level::Missing);
    Ok(if is_usable {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn write(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or_default();
    for Finding {
        name,
        level,
        found,
        consequence,
    } in findings
    {
        writeln!(out, "{level:<8}{name:<width$}  {found}")?;
        if !consequence.is_empty() {
            writeln!(out, "{:8}{:width$}  -> {consequence}", "", "")?;
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    writeln!(
        out,
        "\n{} ok, {} with a warning, {} missing",
        count(Level::Ok),
        count(Level::Warn),
        count(Level::Missing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consequence_stands_below_its_finding() {
        let finding = |level, consequence: &str| Finding {
            name: "thing",
            level,
            found: "so".into(),
            consequence: consequence.into(),
        };
        let mut out = Vec::new();
        write(&mut out, &[finding(Level::Ok, ""), finding(Level::Missing, "no pods")]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "ok      thing  so\nmissing thing  so\n               -> no pods\n\n1 ok, 0 with a warning, 1 missing\n"
        );
    }
}
