//! CRI messages as JSON and back, by their descriptors: protojson's names and forms (lower camel
//! case, 64-bit numbers as strings, enums by name, defaults written out).
//!
//! Files for `runp`, `create` and `run` may be JSON or YAML, with protojson's names or the
//! proto's own, which is what crictl's examples use; enums by name or number. As with crictl, the
//! value of an environment variable is plain text although its field holds bytes.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::report;

fn descriptor(name: &str) -> Result<MessageDescriptor> {
    let pool = DescriptorPool::decode(proto::cri::DESCRIPTORS).context("CRI descriptors")?;
    pool.get_message_by_name(&format!("runtime.v1.{name}"))
        .with_context(|| format!("no CRI message {name}"))
}

fn dynamic<M: Message>(message: &M, name: &str) -> Result<DynamicMessage> {
    Ok(DynamicMessage::decode(
        descriptor(name)?,
        message.encode_to_vec().as_slice(),
    )?)
}

/// A message as protojson writes it, with defaults. Keys are sorted.
pub(crate) fn value<M: Message>(message: &M, name: &str) -> Result<Value> {
    let options = SerializeOptions::new().skip_default_fields(false);
    Ok(dynamic(message, name)?.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// A message as Go's `encoding/json` writes it: the proto's names, no defaults, numbers as numbers.
pub(crate) fn go_value<M: Message>(message: &M, name: &str) -> Result<Value> {
    let options = SerializeOptions::new()
        .skip_default_fields(true)
        .use_proto_field_name(true)
        .use_enum_numbers(true)
        .stringify_64_bit_integers(false);
    Ok(dynamic(message, name)?.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// Prints a message as indented JSON, in the order of its fields.
pub(crate) fn print<M: Message>(out: &mut dyn Write, message: &M, name: &str) -> Result<()> {
    let options = SerializeOptions::new().skip_default_fields(false);
    let message = dynamic(message, name)?;
    message.serialize_with_options(&mut serde_json::Serializer::pretty(&mut *out), &options)?;
    writeln!(out)?;
    Ok(())
}

/// Prints a message as YAML with sorted keys.
pub(crate) fn print_yaml<M: Message>(out: &mut dyn Write, message: &M, name: &str) -> Result<()> {
    yaml(out, &value(message, name)?)
}

/// Prints a value as YAML, with crictl's empty line after it.
pub(crate) fn yaml(out: &mut dyn Write, value: &Value) -> Result<()> {
    let text = serde_saphyr::to_string(value).context("writing YAML")?;
    writeln!(out, "{}\n", text.trim_end())?;
    Ok(())
}

/// Reads a message from a JSON or YAML file.
pub(crate) fn load<M: Message + Default>(path: &Path, name: &str) -> Result<M> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("config at {} not found", path.display()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    parse(&text, name).with_context(|| path.display().to_string())
}

fn parse<M: Message + Default>(text: &str, name: &str) -> Result<M> {
    // Every JSON document is a YAML document; JSON's own parser has the better messages.
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) if text.trim_start().starts_with('{') => return Err(anyhow!("{error}")),
        Err(_) => serde_saphyr::from_str(text).map_err(|error| anyhow!("{error}"))?,
    };
    let value = plain_environment(value);
    let descriptor = descriptor(name)?;
    let read = |value: &Value, strict| {
        let options = DeserializeOptions::new().deny_unknown_fields(strict);
        DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
    };
    let message = match read(&value, true) {
        Ok(message) => message,
        // Files written for another version may have fields that this one does not know.
        Err(strict) => {
            let message = read(&value, false).map_err(|error| anyhow!("{name}: {error}"))?;
            report::warn(&format!("{name}: {strict}: ignored"));
            message
        }
    };
    Ok(M::decode(message.encode_to_vec().as_slice())?)
}

/// `KeyValue.value` is bytes, for which JSON has base64, but files have the text itself.
fn plain_environment(mut value: Value) -> Value {
    let variables = value.get_mut("envs").and_then(Value::as_array_mut);
    for variable in variables.into_iter().flatten() {
        if let Some(Value::String(text)) = variable.get_mut("value") {
            *text = STANDARD.encode(text.as_bytes());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proto::cri::{Container, ContainerConfig, ContainerState, ListContainersResponse, PodSandboxConfig};

    use super::*;

    #[test]
    fn yaml_and_json_of_either_naming_are_read() {
        let snake = "metadata:\n  name: web\n  attempt: 1\nimage:\n  image: busybox\nlog_path: web.log\nenvs:\n- key: A\n  value: plain\nlinux:\n  security_context:\n    namespace_options:\n      pid: 2\n  resources:\n    memory_limit_in_bytes: 1048576\n";
        let camel = r#"{"metadata":{"name":"web","attempt":1},"image":{"image":"busybox"},"logPath":"web.log",
            "envs":[{"key":"A","value":"plain"}],
            "linux":{"securityContext":{"namespaceOptions":{"pid":"NODE"}},"resources":{"memoryLimitInBytes":"1048576"}}}"#;
        let a: ContainerConfig = parse(snake, "ContainerConfig").unwrap();
        let b: ContainerConfig = parse(camel, "ContainerConfig").unwrap();
        assert_eq!(a, b);
        assert_eq!(a.envs[0].value.as_ref(), b"plain");
        assert_eq!(a.linux.unwrap().resources.unwrap().memory_limit_in_bytes, 1_048_576);
    }

    #[test]
    fn wrong_files_are_refused_with_the_field() {
        let error = parse::<PodSandboxConfig>("metadata: 7\n", "PodSandboxConfig").unwrap_err();
        assert!(format!("{error:#}").contains("PodSandboxConfig"), "{error:#}");
        parse::<PodSandboxConfig>("{\"metadata\": ", "PodSandboxConfig").unwrap_err();
        let config: PodSandboxConfig = parse("hostname: h\nnewer_field: 1\n", "PodSandboxConfig").unwrap();
        assert_eq!(config.hostname, "h");
    }

    #[test]
    fn lists_are_written_as_protojson_does() {
        let container = Container {
            id: "1".into(),
            state: ContainerState::ContainerRunning.into(),
            created_at: 5,
            ..Container::default()
        };
        let mut out = Vec::new();
        print(
            &mut out,
            &ListContainersResponse {
                containers: vec![container],
            },
            "ListContainersResponse",
        )
        .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("{\n  \"containers\": [\n    {\n      \"id\": \"1\",\n      \"podSandboxId\": \"\","),
            "{text}"
        );
        assert!(
            text.contains("\"state\": \"CONTAINER_RUNNING\",\n      \"createdAt\": \"5\",\n      \"labels\": {}"),
            "{text}"
        );
        assert!(!text.contains("metadata"), "unset messages are left out: {text}");
    }
}
