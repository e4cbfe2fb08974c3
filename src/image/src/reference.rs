//! Image references, by the grammar of github.com/distribution/reference v0.6 with docker's
//! normalisation: `busybox` is `docker.io/library/busybox:latest`.
//!
//! A hand-written parser over bytes: the regular expression of the usual crate costs 13 MB of
//! memory at its first use and accepts names that docker refuses. Only sha256 digests are
//! taken, because nothing else could be verified.
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] path
//! domain     = ( label *( "." label ) | "[" ipv6 "]" ) [ ":" 1*digit ]
//! path       = component *( "/" component )                     at most 255 bytes
//! component  = 1*alnum *( ( "." | "_" | "__" | 1*"-" ) 1*alnum )   lower case
//! tag        = word *127( word | "." | "-" )
//! ```

use std::fmt;

use spec::{Digest, Kind};

use crate::error::Error;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A parsed, normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises what a user or the kubelet wrote.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the reference and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| {
            let shown: String = text.chars().take(300).collect();
            Error::new(Kind::InvalidArgument, format!("image reference {shown:?}: {why}"))
        })
    }

    /// The registry's name as written, e.g. `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository below the domain, e.g. `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `domain/path`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag to ask for where there is no digest: the given one or `latest`.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// `domain/path:tag`; nothing where the reference is by digest.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.digest
            .is_none()
            .then(|| format!("{}/{}:{}", self.domain, self.path, self.tag()))
    }

    /// `domain/path@digest` for a digest found.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.digest {
            Some(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
            None => write!(f, "{}/{}:{}", self.domain, self.path, self.tag()),
        }
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image id, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (domain, remote) = split_domain(rest);
    let (path, tag) = match remote.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remote.as_str(), None),
    };
    check_domain(domain)?;
    check_path(path)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    Ok(Reference {
        domain: domain.to_owned(),
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// What comes before the first slash is a domain when it cannot be a path component of
/// docker.io: it has a dot, a colon or an upper-case letter, or is `localhost`.
fn split_domain(text: &str) -> (&str, String) {
    let (domain, remote) = match text.split_once('/') {
        Some((first, remote)) if first == LEGACY_DOMAIN => (DEFAULT_DOMAIN, remote),
        Some((first, remote))
            if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, remote)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let name = remote.split_once(':').map_or(remote, |(name, _)| name);
    if domain == DEFAULT_DOMAIN && !name.contains('/') {
        return (domain, format!("{OFFICIAL}{remote}"));
    }
    (domain, remote.to_owned())
}

fn check_domain(domain: &str) -> Result<(), String> {
    let bad = || format!("{domain:?} is no registry host");
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or_else(bad)?;
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return Err(bad());
        }
        (
            None,
            after
                .strip_prefix(':')
                .or(if after.is_empty() { None } else { Some("") }),
        )
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(bad());
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match host {
        Some(host) if !host.split('.').all(label_ok) => Err(bad()),
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("the repository name is longer than {MAX_PATH} bytes"));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case".into());
    }
    for component in path.split('/') {
        if !component_ok(component.as_bytes()) {
            return Err(format!("{component:?} is no part of a repository name"));
        }
    }
    Ok(())
}

fn component_ok(component: &[u8]) -> bool {
    let alnum = |b: &u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    if !component.first().is_some_and(alnum) || !component.last().is_some_and(alnum) {
        return false;
    }
    // Every run between two alphanumerics is one separator.
    component
        .split(alnum)
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag
            .bytes()
            .enumerate()
            .all(|(i, b)| word(b) || (i > 0 && (b == b'.' || b == b'-')));
    if ok {
        Ok(())
    } else {
        Err(format!("{:?} is no tag", tag.chars().take(140).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("foo/bar", "docker.io/foo/bar:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/foo/bar:x", "docker.io/foo/bar:x"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/foo", "localhost/foo:latest"),
            ("localhost", "docker.io/library/localhost:latest"),
            ("localhost:5000/foo/bar:v1", "localhost:5000/foo/bar:v1"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("[::1]:5000/foo", "[::1]:5000/foo:latest"),
            ("[2001:db8::1]/foo:t", "[2001:db8::1]/foo:t"),
            ("192.168.1.1/foo", "192.168.1.1/foo:latest"),
            ("EXAMPLE/foo", "EXAMPLE/foo:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a.b.c/d/e/f__g.h-i---j:T_1.-", "a.b.c/d/e/f__g.h-i---j:T_1.-"),
            ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"),
            ("test.com:8080/foo/bar", "test.com:8080/foo/bar:latest"),
            ("0a/b", "docker.io/0a/b:latest"),
        ];
        for (text, wanted) in table {
            assert_eq!(Reference::parse(text).unwrap().to_string(), wanted, "{text}");
        }
    }

    #[test]
    fn digests_win_over_tags() {
        let both = Reference::parse(&format!("busybox:1@{D}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/busybox@{D}"));
        assert_eq!(both.tagged(), None);
        assert_eq!(both.digest().unwrap().to_string(), D);
        assert_eq!(
            Reference::parse("busybox").unwrap().with_digest(D.parse().unwrap()),
            both.to_string()
        );
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long_path = format!("a/{}", "b".repeat(254));
        let long_tag = format!("a:{}", "t".repeat(129));
        let hex = "a".repeat(64);
        let upper = format!("busybox@sha256:{}", "A".repeat(64));
        let short = format!("busybox@sha256:{}", "a".repeat(63));
        let bad = [
            "",
            ":tag",
            "@sha256:aa",
            "/foo",
            "foo/",
            "foo//bar",
            "Foo",
            "Foo:tag",
            "foo/Bar",
            "docker.io/",
            "a:",
            "a:-x",
            "a:.x",
            "-foo/bar",
            "foo-/bar.",
            "foo_",
            "_foo",
            "foo.",
            "foo..bar",
            "foo___bar",
            "foo._bar",
            "a b",
            "föö",
            "localhost:/x",
            "localhost:5a/x",
            "-bad.com/x",
            "bad-.com/x",
            "a..b/x",
            "[::1/x",
            "[]/x",
            "[::g]/x",
            "[::1]x/y",
            "[fe80::1%eth0]/x",
            "[::1]:/x",
            "aa/asdf$$^/aa",
            "a:t@",
            "a@sha512:00",
            "a:b:c",
            "http://a/b",
            "a@b@c",
            "a:t/x",
            &long_path,
            &long_tag,
            &hex,
            &upper,
            &short,
            "a\0b",
            "../../etc",
            "a/../b",
        ];
        for text in bad {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn limits_are_met_exactly() {
        assert!(Reference::parse(&format!("x.io/{}", "b".repeat(255))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&"a".repeat(63)).is_ok());
        assert!(Reference::parse(&"A".repeat(64)).is_err());
    }

    #[test]
    fn a_normalised_name_parses_to_itself() {
        for text in ["busybox", "foo/bar:x", "localhost:5000/a", "[::1]:1/a"] {
            let once = Reference::parse(text).unwrap();
            let again = Reference::parse(&once.to_string()).unwrap();
            assert_eq!(once.to_string(), again.to_string());
        }
    }
}
