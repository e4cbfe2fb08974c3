//! What a registry says about its refusal.

/// The codes and messages of a registry's JSON error, bounded and on one line.
pub(crate) fn reasons(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(parsed) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    let text: Vec<String> = parsed
        .errors
        .iter()
        .take(3)
        .map(|e| format!("{} {}", e.code, e.message))
        .collect();
    let line: String = text.join("; ").chars().filter(|c| !c.is_control()).take(300).collect();
    if line.trim().is_empty() {
        String::new()
    } else {
        format!(": {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_bounded() {
        let body = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"no\n{}"}}]}}"#,
            "x".repeat(1000)
        );
        let text = reasons(body.as_bytes());
        assert!(text.starts_with(": DENIED nox") && text.len() < 320, "{text}");
        assert_eq!(reasons(b"<html>"), "");
    }
}
