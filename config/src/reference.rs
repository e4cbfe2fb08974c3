//! The reference text: the effective configuration as commented YAML, each key with its
//! explanation, its default and where its value came from. What it prints loads back to
//! the same `Config`. Everything is derived from the `section!` lines; there is no second
//! list.

use std::fmt::Write as _;

use serde::ser::Serialize;

use crate::Config;
use crate::load::Loaded;
use crate::origin::Origin;
use crate::section::{Field, flow};

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Dotted key.
    pub key: String,
    /// One line.
    pub explanation: &'static str,
    /// The value in YAML flow style; `None` for a section that has keys.
    pub value: Option<String>,
}

impl Entry {
    pub(crate) fn value<T: Serialize>(key: &str, explanation: &'static str, value: &T) -> Self {
        Self {
            key: key.to_owned(),
            explanation,
            value: Some(flow(value)),
        }
    }

    pub(crate) fn section(key: &str, explanation: &'static str, is_empty: bool) -> Self {
        Self {
            key: key.to_owned(),
            explanation,
            value: is_empty.then(|| "{}".to_owned()),
        }
    }
}

/// All keys of `config`, in the order of declaration.
#[must_use]
pub fn entries(config: &Config) -> Vec<Entry> {
    let mut entries = Vec::new();
    config.describe("", "", &mut entries);
    entries
}

/// The effective configuration as commented YAML.
#[must_use]
pub fn reference(loaded: &Loaded) -> String {
    let defaults = entries(&Config::default());
    let mut text =
        String::from("# The effective configuration of bulkhead: each key, its default, where its value is from.\n");
    for entry in entries(&loaded.config) {
        let default = defaults.iter().find(|default| default.key == entry.key);
        let origin = loaded.origins.of(&entry.key);
        write_entry(&mut text, &entry, default, &origin);
    }
    text
}

fn write_entry(text: &mut String, entry: &Entry, default: Option<&Entry>, origin: &Origin) {
    let indent = "  ".repeat(entry.key.matches('.').count());
    let name = entry.key.rsplit('.').next().unwrap_or_default();
    let mut line = |words: &str| {
        // Writing to a String cannot fail.
        writeln!(text, "{indent}{words}").unwrap_or_default();
    };
    if indent.is_empty() {
        line("");
    }
    if !entry.explanation.is_empty() {
        line(&format!("# {}", entry.explanation));
    }
    let Some(value) = &entry.value else {
        return line(&format!("{}:", flow(&name)));
    };
    if let Some(default) = default.and_then(|default| default.value.as_deref()) {
        line(&format!("# Default: {default}"));
    }
    match origin {
        Origin::Default => line(&format!("{name}: {value}")),
        origin => line(&format!("{name}: {value}  # from {origin}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origins;
    use serde_json::Value;

    /// The checked-in example. To write it anew: `bulkhead config > config/files/config.yaml`,
    /// where no configuration is installed.
    #[test]
    fn the_example_file_is_what_the_generator_prints() {
        let loaded = Loaded {
            config: Config::default(),
            origins: Origins::default(),
            files: Vec::new(),
        };
        assert_eq!(include_str!("../files/config.yaml"), reference(&loaded));
    }

    #[test]
    fn the_example_network_is_a_list_of_plugins_we_have() {
        let list: Value = serde_json::from_str(include_str!("../files/10-bulkhead.conflist")).unwrap();
        let kinds: Vec<&str> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        assert_eq!(list["plugins"][0]["ipam"]["type"], "host-local");
    }

    fn keys(value: &Value, prefix: &str, out: &mut Vec<String>) {
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                let key = crate::section::join(prefix, name);
                keys(value, &key, out);
                out.push(key);
            }
        }
    }

    #[test]
    fn every_key_has_an_explanation_and_no_explanation_lacks_its_key() {
        let config = Config::default();
        let mut wanted = Vec::new();
        keys(&serde_json::to_value(&config).unwrap(), "", &mut wanted);
        let mut explained: Vec<_> = entries(&config)
            .into_iter()
            .filter(|entry| entry.explanation.len() > 10 && entry.explanation.ends_with('.'))
            .map(|entry| entry.key)
            .collect();
        wanted.sort();
        explained.sort();
        assert_eq!(explained, wanted);
    }
}
