//! What `inspect`, `inspectp`, `inspecti`, `info` and `imagefsinfo` print: the status and, beside
//! it, the server's verbose `info` with each JSON text unpacked.

use std::collections::HashMap;
use std::io::Write;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::json;

/// How to print one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Indented JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Lines for people.
    Table,
    /// Go's templates are not to be had outside of Go.
    #[value(name = "go-template")]
    GoTemplate,
}

impl Format {
    /// Refuses what cannot be printed, before anything is asked for.
    pub(crate) fn check(self) -> Result<Self> {
        if self == Self::GoTemplate {
            bail!("go-template is not supported here: use --output json with a JSON processor");
        }
        Ok(self)
    }
}

/// One object.
pub(crate) fn entry(status: Value, info: &HashMap<String, String>) -> Result<Map<String, Value>> {
    let mut entry = Map::new();
    entry.insert("status".to_owned(), status);
    for (key, text) in info {
        let value = if text.starts_with('{') {
            serde_json::from_str(text).with_context(|| format!("unmarshal status info JSON of {key:?}"))?
        } else {
            Value::String(text.trim_matches('"').to_owned())
        };
        entry.insert(key.clone(), value);
    }
    Ok(entry)
}

/// Prints objects: one alone, or several as a list.
pub(crate) fn print(out: &mut dyn Write, mut entries: Vec<Map<String, Value>>, format: Format) -> Result<()> {
    let value = match entries.len() {
        0 => return Ok(()),
        1 => Value::Object(entries.remove(0)),
        _ => Value::Array(entries.into_iter().map(Value::Object).collect()),
    };
    if format == Format::Yaml {
        return json::yaml(out, &value);
    }
    serde_json::to_writer_pretty(&mut *out, &value)?;
    writeln!(out)?;
    Ok(())
}

/// The `Labels:` and `Annotations:` of a table.
pub(crate) fn pairs(out: &mut dyn Write, title: &str, pairs: &HashMap<String, String>) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}:")?;
    let mut sorted: Vec<_> = pairs.iter().collect();
    sorted.sort();
    for (key, value) in sorted {
        writeln!(out, "\t{key} -> {value}")?;
    }
    Ok(())
}

/// The `Info:` of a table, as Go prints a map.
pub(crate) fn info_line(out: &mut dyn Write, info: &HashMap<String, String>) -> Result<()> {
    let mut sorted: Vec<_> = info.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    sorted.sort();
    writeln!(out, "Info: map[{}]", sorted.join(" "))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_unpacked_beside_the_status() {
        let info = HashMap::from([
            ("pid".to_owned(), "42".to_owned()),
            ("info".to_owned(), "{\"a\":1}".to_owned()),
            ("s".to_owned(), "\"x\"".to_owned()),
        ]);
        let mut out = Vec::new();
        print(
            &mut out,
            vec![entry(serde_json::json!({"id": "c"}), &info).unwrap()],
            Format::Json,
        )
        .unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"info": {"a": 1}, "pid": "42", "s": "x", "status": {"id": "c"}})
        );
        entry(Value::Null, &HashMap::from([("bad".to_owned(), "{".to_owned())])).unwrap_err();
    }

    #[test]
    fn several_are_a_list() {
        let one = || entry(Value::Null, &HashMap::new()).unwrap();
        let mut out = Vec::new();
        print(&mut out, vec![one(), one()], Format::Yaml).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().matches("- status:").count(), 2);
        Format::GoTemplate.check().unwrap_err();
    }
}
