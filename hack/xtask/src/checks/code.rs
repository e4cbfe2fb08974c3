//! Rust text without its strings and comments, line by line: what is left is code. Enough
//! of Rust's lexical rules for the checks; not a parser.

/// Where the reader stands.
enum Inside {
    Code,
    Line,
    /// Block comments nest.
    Block(usize),
    Text,
    /// A raw string ends with a quote and so many `#`.
    Raw(usize),
}

/// The code of each line; strings and comments are replaced by blanks.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let (step, is_code) = match inside {
            Inside::Code => begin(&chars, at, &mut inside),
            Inside::Line => {
                if c == '\n' {
                    inside = Inside::Code;
                }
                (1, false)
            }
            Inside::Block(depth) => match (c, next) {
                ('*', Some('/')) => {
                    inside = if depth == 1 {
                        Inside::Code
                    } else {
                        Inside::Block(depth - 1)
                    };
                    (2, false)
                }
                ('/', Some('*')) => {
                    inside = Inside::Block(depth + 1);
                    (2, false)
                }
                _ => (1, false),
            },
            Inside::Text => match c {
                '\\' => (2, false),
                '"' => {
                    inside = Inside::Code;
                    (1, false)
                }
                _ => (1, false),
            },
            Inside::Raw(hashes) => {
                let is_end = c == '"' && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#'));
                if is_end {
                    inside = Inside::Code;
                    (1 + hashes, false)
                } else {
                    (1, false)
                }
            }
        };
        for &c in chars.iter().skip(at).take(step) {
            out.push(if is_code || c == '\n' { c } else { ' ' });
        }
        at += step;
    }
    out.lines().map(str::to_owned).collect()
}

/// Reads on in code: how far, and whether that is code.
fn begin(chars: &[char], at: usize, inside: &mut Inside) -> (usize, bool) {
    let look = |n: usize| chars.get(at + n).copied();
    match (chars[at], look(1)) {
        ('/', Some('/')) => {
            *inside = Inside::Line;
            (2, false)
        }
        ('/', Some('*')) => {
            *inside = Inside::Block(1);
            (2, false)
        }
        ('"', _) => {
            *inside = Inside::Text;
            (1, false)
        }
        // A character, not a lifetime: 'x' or '\…'.
        ('\'', Some('\\')) => {
            let end = (2..12).find(|n| look(*n) == Some('\'') && (*n > 2)).unwrap_or(2);
            (end + 1, false)
        }
        ('\'', Some(_)) if look(2) == Some('\'') => (3, false),
        ('r', Some('"' | '#')) if !is_word(at.checked_sub(1).and_then(|before| chars.get(before))) => {
            let hashes = (1..).take_while(|n| look(*n) == Some('#')).count();
            if look(1 + hashes) == Some('"') {
                *inside = Inside::Raw(hashes);
                (2 + hashes, false)
            } else {
                (1, true)
            }
        }
        _ => (1, true),
    }
}

fn is_word(c: Option<&char>) -> bool {
    // `br"…"` is a raw string too, so a lone b before does not count.
    c.is_some_and(|c| c.is_alphanumeric() && *c != 'b' || *c == '_')
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn strings_and_comments_are_blank() {
        let code = |text: &str| lines(text).join("\n").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code("a(\"unsafe { \\\" }\") // unsafe {\nb"), "a( ) b");
        assert_eq!(code("a /* unsafe /* nested */ { */ b"), "a b");
        assert_eq!(code("let x = r#\"unsafe \" {\"#; y"), "let x = ; y");
        assert_eq!(code("f('\"', '\\'', b'{', 'a') unsafe {"), "f( , , b , ) unsafe {");
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(lines("a\n/* x\ny */\nb").len(), 4);
    }
}
