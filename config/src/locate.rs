//! Tells the dotted key at a line of a YAML file, from the indentation: the parser's
//! errors carry a line, but not the key. For messages only; never decides anything.

/// The dotted key that `line` (from 1) belongs to; empty where none can be told.
pub(crate) fn key_at(text: &str, line: u64) -> String {
    let last = usize::try_from(line).unwrap_or(usize::MAX);
    // Each key that is still open, with its indentation.
    let mut open: Vec<(usize, &str)> = Vec::new();
    for row in text.lines().take(last) {
        let indent = row.len() - row.trim_start_matches(' ').len();
        let Some(key) = key_of(row.trim()) else { continue };
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, key));
    }
    open.into_iter().map(|(_, key)| key).collect::<Vec<_>>().join(".")
}

/// The key that a row of block style starts with.
fn key_of(row: &str) -> Option<&str> {
    if row.is_empty() || row.starts_with(['#', '-', '[', '{', '}', ']']) {
        return None;
    }
    let (key, rest) = row.split_once(':')?;
    if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    Some(key.trim().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_with_all_around_it() {
        let text = "# x\nroot: /a\ncni:\n  bin_dirs:\n    - /a\n    - 5\n  timeout_seconds: x\nlisten: y\n";
        assert_eq!(key_at(text, 2), "root");
        assert_eq!(key_at(text, 6), "cni.bin_dirs");
        assert_eq!(key_at(text, 7), "cni.timeout_seconds");
        assert_eq!(key_at(text, 8), "listen");
        assert_eq!(key_at(text, 0), "");
    }
}
