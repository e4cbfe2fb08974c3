//! Network configuration: a list of plugins, each with its own JSON object, which is kept as it
//! was written, because a plugin may read keys that nobody else knows.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Code, Error};
use crate::name;
use crate::version::Version;

/// The configuration of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// `type`: the file name of the plugin.
    pub plugin: String,
    /// `capabilities` that are switched on.
    pub capabilities: Vec<String>,
    /// The whole object.
    pub raw: Map<String, Value>,
}

/// A network: its plugins in the order of ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// `name`.
    pub name: String,
    /// `cniVersion`, or the highest of `cniVersions` that is spoken.
    pub version: Version,
    /// `disableCheck`.
    pub disable_check: bool,
    /// `disableGC`.
    pub disable_gc: bool,
    /// `loadOnlyInlinedPlugins`.
    pub load_only_inlined: bool,
    /// The plugins.
    pub plugins: Vec<PluginConf>,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, text)
}

fn decode(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::new(Code::Decoding, "the configuration is no JSON object")),
        Err(error) => Err(Error::new(
            Code::Decoding,
            format!("the configuration is no JSON: {error}"),
        )),
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("{key:?} must be a string"))),
    }
}

/// A flag; `"true"` and `"false"` as strings are taken too, as libcni does.
fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(value)) if value == "true" => Ok(true),
        Some(Value::String(value)) if value == "false" => Ok(false),
        Some(_) => Err(invalid(format!("{key:?} must be true or false"))),
    }
}

/// The version a configuration asks for: the highest of `cniVersion` and `cniVersions` that is
/// spoken.
///
/// # Errors
/// When it is malformed, or none of them is spoken.
pub fn version(map: &Map<String, Value>) -> Result<Version, Error> {
    let bad = |error: crate::version::BadVersion| invalid(format!("cniVersion: {error}"));
    let mut asked = Vec::new();
    if let Some(text) = text(map, "cniVersion")? {
        asked.push(text.parse::<Version>().map_err(bad)?);
    }
    if let Some(list) = map.get("cniVersions").filter(|value| !value.is_null()) {
        let list = Vec::<String>::deserialize(list).map_err(|e| invalid(format!("cniVersions: {e}")))?;
        for text in list {
            asked.push(text.parse::<Version>().map_err(bad)?);
        }
    }
    if asked.is_empty() {
        asked.push(Version::UNNAMED);
    }
    asked
        .iter()
        .copied()
        .filter(|version| version.is_supported())
        .max()
        .ok_or_else(|| {
            let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
            Error::new(
                Code::IncompatibleVersion,
                format!("CNI version {} is not spoken", asked.join(", ")),
            )
            .with_details(format!("spoken are {}", Version::supported().join(", ")))
        })
}

impl PluginConf {
    /// Reads one plugin's object.
    ///
    /// # Errors
    /// When its type or its capabilities are malformed.
    pub fn from_map(raw: Map<String, Value>) -> Result<Self, Error> {
        let plugin = text(&raw, "type")?.unwrap_or_default().to_owned();
        if plugin.is_empty() {
            return Err(invalid("a plugin without \"type\""));
        }
        name::plugin(&plugin).map_err(|error| invalid(error.to_string()))?;
        let capabilities = match raw.get("capabilities").filter(|value| !value.is_null()) {
            None => Vec::new(),
            Some(value) => BTreeMap::<String, bool>::deserialize(value)
                .map_err(|error| invalid(format!("capabilities of plugin {plugin}: {error}")))?
                .into_iter()
                .filter_map(|(key, on)| on.then_some(key))
                .collect(),
        };
        Ok(Self {
            plugin,
            capabilities,
            raw,
        })
    }

    /// Reads the object that a caller hands to a plugin, or a file with one plugin only.
    ///
    /// # Errors
    /// When it is no JSON or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::from_map(decode(bytes)?)
    }
}

impl NetworkList {
    /// Reads a list (`*.conflist`).
    ///
    /// # Errors
    /// When it is no JSON, malformed, or of a version that is not spoken.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let map = decode(bytes)?;
        let name = text(&map, "name")?.unwrap_or_default().to_owned();
        name::network(&name).map_err(|error| invalid(error.to_string()))?;
        let plugins = match map.get("plugins") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(|plugin| match plugin {
                    Value::Object(plugin) => PluginConf::from_map(plugin.clone()),
                    _ => Err(invalid("\"plugins\" must hold objects")),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(invalid("\"plugins\" must be a list")),
        };
        Ok(Self {
            version: version(&map)?,
            disable_check: flag(&map, "disableCheck")?,
            disable_gc: flag(&map, "disableGC")?,
            load_only_inlined: flag(&map, "loadOnlyInlinedPlugins")?,
            name,
            plugins,
        })
    }

    /// Reads a file with one plugin only (`*.conf`) as a list of it.
    ///
    /// # Errors
    /// As [`NetworkList::parse`].
    pub fn parse_single(bytes: &[u8]) -> Result<Self, Error> {
        let map = decode(bytes)?;
        if map.contains_key("plugins") {
            return Self::parse(bytes);
        }
        let name = text(&map, "name")?.unwrap_or_default().to_owned();
        name::network(&name).map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            version: version(&map)?,
            disable_check: false,
            disable_gc: false,
            load_only_inlined: true,
            name,
            plugins: vec![PluginConf::from_map(map)?],
        })
    }

    /// The list with every plugin inlined, as it is stored beside a cached result.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "loadOnlyInlinedPlugins": true,
            "plugins": self.plugins.iter().map(|plugin| &plugin.raw).collect::<Vec<_>>(),
        })
    }

    /// Whether any plugin takes the capability `key`.
    #[must_use]
    pub fn has_capability(&self, key: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.capabilities.iter().any(|have| have == key))
    }
}

/// `CNI_ARGS`: `KEY=VALUE` pairs between semicolons.
///
/// # Errors
/// When a pair has no `=`.
pub fn parse_args(args: &str) -> Result<Vec<(String, String)>, Error> {
    args.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::new(
                Code::InvalidEnvironment,
                format!("CNI_ARGS: {pair:?} is no KEY=VALUE pair"),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_what_it_does_not_know() {
        let text = br#"{"cniVersion":"0.4.0","cniVersions":["1.1.0","7.0.0"],"name":"n","disableGC":"true","plugins":[
            {"type":"bridge","odd":{"deep":[1]}},{"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#;
        let list = NetworkList::parse(text).unwrap();
        assert_eq!(
            (list.version, list.disable_gc, list.disable_check),
            (Version::STATUS, true, false)
        );
        assert_eq!(list.plugins[0].raw["odd"]["deep"][0], 1);
        assert!(list.has_capability("portMappings") && !list.has_capability("x"));
        let again = NetworkList::parse(&serde_json::to_vec(&list.to_value()).unwrap()).unwrap();
        assert_eq!(again.plugins, list.plugins);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = NetworkList::parse_single(br#"{"name":"n","type":"bridge","cniVersion":"0.3.1"}"#).unwrap();
        assert_eq!((list.plugins.len(), list.version.to_string().as_str()), (1, "0.3.1"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (r#"{"name":"n","plugins":[{"type":"../../bin/sh"}]}"#, "plugin type"),
            (r#"{"name":"n","plugins":[{}]}"#, "type"),
            (r#"{"name":"a/b","plugins":[]}"#, "network name"),
            (r#"{"name":"n","plugins":{}}"#, "plugins"),
            (r#"{"name":"n","cniVersion":"9.9.9","plugins":[]}"#, "9.9.9"),
            (r#"{"name":"n","disableGC":3}"#, "disableGC"),
            (r#"{"name":"n""#, "JSON"),
            ("", "JSON"),
        ];
        for (text, word) in cases {
            let error = NetworkList::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn args_are_pairs() {
        let args = parse_args("IgnoreUnknown=1;K8S_POD_NAME=a=b;").unwrap();
        assert_eq!(args[1], ("K8S_POD_NAME".to_owned(), "a=b".to_owned()));
        assert!(parse_args("x").is_err());
    }
}
