//! Places in a message and what can be put there.

use std::collections::HashMap;
use std::path::Path;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// A field, and the fields that lead to it from the top.
#[derive(Debug, Clone)]
pub struct Place(Vec<FieldDescriptor>);

/// Deeper than any message of the CRI.
const DEPTH: usize = 8;

/// Entries in a list or map that is too long.
const MANY: usize = 1000;

/// Every place in a message.
#[must_use]
pub fn places(message: &MessageDescriptor) -> Vec<Place> {
    let mut found = Vec::new();
    below(message, &mut Vec::new(), &mut found);
    found
}

fn below(message: &MessageDescriptor, way: &mut Vec<FieldDescriptor>, found: &mut Vec<Place>) {
    if way.len() >= DEPTH {
        return;
    }
    for field in message.fields() {
        way.push(field.clone());
        found.push(Place(way.clone()));
        if let (Kind::Message(inner), false) = (field.kind(), field.is_map()) {
            below(&inner, way, found);
        }
        way.pop();
    }
}

impl Place {
    /// `config.linux.resources.cpu_shares`.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(FieldDescriptor::name).collect();
        names.join(".")
    }

    fn field(&self) -> Option<&FieldDescriptor> {
        self.0.last()
    }

    /// Removes the field.
    pub fn clear(&self, message: &mut DynamicMessage) {
        self.reach(message, |parent, field| parent.clear_field(field));
    }

    /// Puts a value there; messages on the way that are missing are made.
    pub fn set(&self, message: &mut DynamicMessage, value: Value) {
        self.reach(message, |parent, field| parent.set_field(field, value));
    }

    fn reach(&self, message: &mut DynamicMessage, act: impl FnOnce(&mut DynamicMessage, &FieldDescriptor)) {
        let Some((field, way)) = self.0.split_last() else {
            return;
        };
        let mut parent = message;
        for step in way {
            let value = parent.get_field_mut(step);
            let next = match value {
                Value::List(items) => {
                    if let (true, Kind::Message(kind)) = (items.is_empty(), step.kind()) {
                        items.push(Value::Message(DynamicMessage::new(kind)));
                    }
                    items.first_mut().and_then(as_message)
                }
                other => as_message(other),
            };
            match next {
                Some(message) => parent = message,
                None => return,
            }
        }
        act(parent, field);
    }

    /// The values that are put there besides nothing at all: empty, at the limits, absurd.
    /// `home` is a directory in which the server may make files.
    #[must_use]
    pub fn values(&self, home: &Path) -> Vec<Value> {
        let Some(field) = self.field() else { return Vec::new() };
        if field.is_map() {
            return maps(field);
        }
        let single = scalars(field, home);
        if !field.is_list() {
            return single;
        }
        let one = element(field);
        let mut lists = vec![
            Value::List(Vec::new()),
            Value::List(vec![one.clone()]),
            Value::List(vec![one; MANY]),
        ];
        lists.extend(single.into_iter().map(|value| Value::List(vec![value])));
        lists
    }
}

fn as_message(value: &mut Value) -> Option<&mut DynamicMessage> {
    match value {
        Value::Message(message) => Some(message),
        _ => None,
    }
}

/// The empty value of a field, or of one entry of a list.
fn element(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::Message(kind) => Value::Message(DynamicMessage::new(kind)),
        kind => Value::default_value(&kind),
    }
}

fn scalars(field: &FieldDescriptor, home: &Path) -> Vec<Value> {
    let integers = |list: [i64; 6]| list.map(Value::I64).to_vec();
    match field.kind() {
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integers([0, 1, -1, i64::MAX, i64::MIN, 1 << 40]),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => [0, 1, -1, i32::MAX, i32::MIN, 70_000].map(Value::I32).to_vec(),
        Kind::Uint64 | Kind::Fixed64 => [0, 1, u64::MAX, 1 << 63, 1 << 40].map(Value::U64).to_vec(),
        Kind::Uint32 | Kind::Fixed32 => [0, 1, u32::MAX, 1 << 31, 70_000].map(Value::U32).to_vec(),
        Kind::Double => [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX].map(Value::F64).to_vec(),
        Kind::Float => [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX].map(Value::F32).to_vec(),
        Kind::Bool => vec![Value::Bool(false), Value::Bool(true)],
        Kind::Enum(kind) => {
            let last = kind.values().map(|value| value.number()).max().unwrap_or(0);
            [0, last, last.saturating_add(1), -1, i32::MAX, i32::MIN]
                .map(Value::EnumNumber)
                .to_vec()
        }
        Kind::Bytes => vec![
            Value::Bytes(bytes::Bytes::new()),
            Value::Bytes(vec![0xff; 70_000].into()),
        ],
        Kind::Message(kind) => vec![Value::Message(DynamicMessage::new(kind))],
        Kind::String => texts(field.name(), home).into_iter().map(Value::String).collect(),
    }
}

/// Texts that a string field is given. None of them is a path at which a server that does
/// as it is told could harm the machine: absolute ones lie below `home`.
fn texts(name: &str, home: &Path) -> Vec<String> {
    if name == "cgroup_parent" {
        // What is made there must be found by the leak check, which knows the node's name.
        let own = home
            .file_name()
            .map(|name| name.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        return [
            String::new(),
            "/".into(),
            format!("/{own}/fuzz-parent"),
            format!("{own}/fuzz-relative"),
            format!("/{own}/../{own}/fuzz-up"),
            format!("/{own}/fuzz.slice"),
            format!("/{own}/nul\0"),
            format!("/{own}/line\nfeed"),
            format!("/{own}/{}", "a".repeat(300)),
        ]
        .to_vec();
    }
    [
        String::new(),
        " ".into(),
        "a".into(),
        "A".repeat(300),
        "b".repeat(70_000),
        "nul\0in it".into(),
        "line\nfeed".into(),
        "..".into(),
        "../../../../../../proc/self/mem".into(),
        "a/b//c/./d".into(),
        "-1".into(),
        "--help".into(),
        "%s%n%x{}$(id)`id`".into(),
        "ü🚢\u{202e}\u{feff}".into(),
        "k=v,w=x;y:z".into(),
        "sha256:zz".into(),
        "host:port:1/Upper@sha256:".into(),
        "0-3,^x".into(),
        home.join("fuzz-path").to_string_lossy().into_owned(),
    ]
    .to_vec()
}

fn maps(field: &FieldDescriptor) -> Vec<Value> {
    let Kind::Message(entry) = field.kind() else {
        return Vec::new();
    };
    let value_of = |text: &str| match entry.map_entry_value_field().kind() {
        Kind::String => Value::String(text.into()),
        kind => Value::default_value(&kind),
    };
    let map = |pairs: Vec<(String, String)>| {
        let pairs = pairs
            .into_iter()
            .map(|(key, text)| (MapKey::String(key), value_of(&text)));
        Value::Map(pairs.collect::<HashMap<_, _>>())
    };
    if entry.map_entry_key_field().kind() != Kind::String {
        return vec![Value::Map(HashMap::new())];
    }
    let pair = |key: &str, value: &str| map(vec![(key.into(), value.into())]);
    vec![
        map(Vec::new()),
        pair("", ""),
        pair("key", ""),
        pair("", "value"),
        pair("nul\0", "nul\0"),
        pair("../../x", "line\nfeed"),
        pair(&"k".repeat(70_000), &"v".repeat(70_000)),
        map((0..MANY).map(|number| (format!("k{number}"), "v".into())).collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_request_is_a_place() {
        let methods = crate::fuzz::methods().unwrap();
        let method = methods
            .iter()
            .find(|method| method.name() == "CreateContainer")
            .unwrap();
        let names: Vec<String> = places(&method.input()).iter().map(Place::name).collect();
        for name in [
            "pod_sandbox_id",
            "config.metadata.attempt",
            "config.mounts.uidMappings.host_id",
            "config.linux.security_context.capabilities.drop_capabilities",
            "sandbox_config.linux.security_context.namespace_options.userns_options.uids.length",
        ] {
            assert!(names.iter().any(|it| it == name), "{name} is not among {}", names.len());
        }
    }

    #[test]
    fn a_value_arrives_where_it_was_put() {
        let methods = crate::fuzz::methods().unwrap();
        let method = methods
            .iter()
            .find(|method| method.name() == "CreateContainer")
            .unwrap();
        let mut message = DynamicMessage::new(method.input());
        let all = places(&method.input());
        let place = all
            .iter()
            .find(|place| place.name() == "config.mounts.host_path")
            .unwrap();
        place.set(&mut message, Value::String("x".into()));
        let bytes = prost::Message::encode_to_vec(&message);
        let typed: proto::cri::CreateContainerRequest = prost::Message::decode(bytes.as_slice()).unwrap();
        assert_eq!(typed.config.unwrap().mounts[0].host_path, "x");
        place.clear(&mut message);
        assert!(!prost::Message::encode_to_vec(&message).contains(&b'x'));
    }
}
