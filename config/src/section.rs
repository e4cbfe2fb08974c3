//! The macro that declares a section, and the two traits it stands on.
//!
//! `section! { /// doc  Name, GivenName { /// explanation  key: Type = default; … } }` makes
//! `Name` (all values present, `Default`) and `GivenName` (what one file says: each key
//! present or not, with the line it stands on). A file is always read as a whole into the
//! `Given…` twin, so that an unknown key, a wrong type or a key given twice is found with
//! its line in that file, before anything is merged.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::Serialize;
use serde_saphyr::Spanned;

use crate::origin::{Origin, Origins};
use crate::reference::Entry;

/// What a file may say for one key.
pub(crate) trait Given: DeserializeOwned {
    /// Reads a value that is there. `None` means "as if it were not".
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error>;
}

/// The type of a key: a value, a section or a mapping of sections.
pub(crate) trait Field {
    /// What a file may say for it.
    type Given: Given;
    /// Puts what `file` says over what is there.
    fn merge(&mut self, given: Self::Given, at: &Place<'_>, origins: &mut Origins);
    /// Lists this key and all below it.
    fn describe(&self, key: &str, explanation: &'static str, out: &mut Vec<Entry>);
}

/// Where a merge stands: the file, and the dotted key.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// File that is being merged.
    pub(crate) file: &'a std::path::Path,
    /// Dotted key; empty at the top.
    pub(crate) key: String,
}

impl Place<'_> {
    /// The place of `key` below this one.
    pub(crate) fn below(&self, key: &str) -> Self {
        Self {
            file: self.file,
            key: join(&self.key, key),
        }
    }
}

/// `a` and `b` as a dotted key.
pub(crate) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

/// For `#[serde(deserialize_with)]`: leaves it to the type what a null means.
pub(crate) fn given<'de, D: Deserializer<'de>, G: Given>(from: D) -> Result<Option<G>, D::Error> {
    G::read(from)
}

// A null for a single value is a value (it takes an optional one away) or a type error.
impl<T: DeserializeOwned> Given for Spanned<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        Self::deserialize(from).map(Some)
    }
}

// A null for a mapping is a header whose keys are all commented out: it says nothing.
impl<G: Given> Given for BTreeMap<String, Option<G>> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        Option::deserialize(from)
    }
}

impl<T: Field + Default> Field for BTreeMap<String, T> {
    type Given = BTreeMap<String, Option<T::Given>>;

    fn merge(&mut self, given: Self::Given, at: &Place<'_>, origins: &mut Origins) {
        for (name, value) in given {
            let at = at.below(&name);
            let slot = self.entry(name).or_default();
            origins.insert(
                at.key.clone(),
                Origin::File {
                    path: at.file.to_owned(),
                    line: 0,
                },
            );
            if let Some(value) = value {
                slot.merge(value, &at, origins);
            }
        }
    }

    fn describe(&self, key: &str, explanation: &'static str, out: &mut Vec<Entry>) {
        out.push(Entry::section(key, explanation, self.is_empty()));
        for (name, value) in self {
            value.describe(&join(key, name), "", out);
        }
    }
}

/// Makes single values fields.
macro_rules! leaf {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::section::Field for $type {
            type Given = serde_saphyr::Spanned<$type>;
            fn merge(
                &mut self,
                given: Self::Given,
                at: &$crate::section::Place<'_>,
                origins: &mut $crate::origin::Origins,
            ) {
                let line = given.referenced.line();
                origins.insert(at.key.clone(), $crate::origin::Origin::File { path: at.file.to_owned(), line });
                *self = given.value;
            }
            fn describe(&self, key: &str, explanation: &'static str, out: &mut Vec<$crate::reference::Entry>) {
                out.push($crate::reference::Entry::value(key, explanation, self));
            }
        }
    )*};
}
pub(crate) use leaf;

leaf!(bool, u32, u64, usize, String, PathBuf, std::net::SocketAddr);
leaf!(
    Option<PathBuf>,
    Option<String>,
    Option<std::net::SocketAddr>,
    Vec<String>,
    Vec<PathBuf>
);

/// Declares a section; see the header.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident, $given:ident {
            $( #[doc = $explanation:literal] $key:ident : $type:ty = $default:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
        pub struct $name {
            $( #[doc = $explanation] pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        #[doc = concat!("What one file says about [`", stringify!($name), "`].")]
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a mapping")]
        pub(crate) struct $given {
            $(
                #[serde(default, deserialize_with = "crate::section::given")]
                $key: Option<<$type as $crate::section::Field>::Given>,
            )+
        }

        impl $crate::section::Given for $given {
            fn read<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
                <Option<Self> as serde::Deserialize>::deserialize(from)
            }
        }

        impl $crate::section::Field for $name {
            type Given = $given;
            fn merge(
                &mut self,
                given: Self::Given,
                at: &$crate::section::Place<'_>,
                origins: &mut $crate::origin::Origins,
            ) {
                $(
                    if let Some(value) = given.$key {
                        $crate::section::Field::merge(&mut self.$key, value, &at.below(stringify!($key)), origins);
                    }
                )+
            }
            fn describe(&self, key: &str, explanation: &'static str, out: &mut Vec<$crate::reference::Entry>) {
                if !key.is_empty() {
                    out.push($crate::reference::Entry::section(key, explanation, false));
                }
                $(
                    $crate::section::Field::describe(
                        &self.$key,
                        &$crate::section::join(key, stringify!($key)),
                        $explanation.trim_ascii(),
                        out,
                    );
                )+
            }
        }
    };
}
pub(crate) use section;

/// One value in the YAML flow style, which JSON is a part of; simple words without quotes.
pub(crate) fn flow<T: Serialize>(value: &T) -> String {
    let json = match serde_json::to_string(value) {
        Ok(json) => json,
        // Only a path that is not UTF-8 fails, and validation refuses those.
        Err(error) => return format!("null # {error}"),
    };
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(word) if is_plain(word) => word.to_owned(),
        _ => json,
    }
}

/// Whether YAML reads `word` as a string without quotes, whatever its version.
fn is_plain(word: &str) -> bool {
    const WORDS_WITH_A_MEANING: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
        && !WORDS_WITH_A_MEANING.contains(&word.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_a_meaning_keep_their_quotes() {
        assert_eq!(flow(&"/run/x"), "/run/x");
        assert_eq!(flow(&"No"), "\"No\"");
        assert_eq!(flow(&"0755"), "\"0755\"");
        assert_eq!(flow(&"a: b"), "\"a: b\"");
        assert_eq!(flow(&None::<u64>), "null");
    }
}
