//! How a session's end is told to the client on its error channel.
//!
//! Version 4 and later of the remote command protocol take a `metav1.Status` as JSON with the
//! exit code as a cause; earlier ones take plain text, and nothing for success.

use bytes::Bytes;
use serde_json::json;

use crate::backend::BackendError;

/// The form in which the client understands the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `metav1.Status` as JSON.
    Json,
    /// The message alone, and only if something failed.
    Text,
}

impl Format {
    /// The bytes for the error channel after a process ended with a code, or did not run.
    pub(crate) fn encode(self, result: &Result<i32, BackendError>) -> Bytes {
        match (self, result) {
            (Self::Json, Ok(0)) => json(&json!({"metadata": {}, "status": "Success"})),
            (Self::Json, Ok(code)) => json(&json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": exit_message(*code),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })),
            (Self::Json, Err(error)) => json(&json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": format!("Internal error occurred: error executing command in container: {error}"),
                "code": 500,
            })),
            (Self::Text, Ok(0)) => Bytes::new(),
            (Self::Text, Ok(code)) => Bytes::from(exit_message(*code)),
            (Self::Text, Err(error)) => Bytes::from(format!(
                "Internal error occurred: error executing command in container: {error}"
            )),
        }
    }
}

fn exit_message(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

fn json(value: &serde_json::Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[cfg(test)]
mod tests {
    use spec::Kind;

    use super::*;

    #[test]
    fn json_carries_the_exit_code_as_a_cause() {
        let value: serde_json::Value = serde_json::from_slice(&Format::Json.encode(&Ok(137))).unwrap();
        assert_eq!(value["status"], "Failure");
        assert_eq!(value["reason"], "NonZeroExitCode");
        assert_eq!(value["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(value["details"]["causes"][0]["message"], "137");
        let value: serde_json::Value = serde_json::from_slice(&Format::Json.encode(&Ok(0))).unwrap();
        assert_eq!(value["status"], "Success");
        let failed = BackendError {
            kind: Kind::NotFound,
            message: "no such container".to_owned(),
        };
        let value: serde_json::Value = serde_json::from_slice(&Format::Json.encode(&Err(failed))).unwrap();
        assert!(value["message"].as_str().unwrap().ends_with("no such container"));
        assert_eq!(value["code"], 500);
    }

    #[test]
    fn text_says_nothing_of_success() {
        assert!(Format::Text.encode(&Ok(0)).is_empty());
        assert!(Format::Text.encode(&Ok(3)).ends_with(b"exit status 3"));
    }
}
