//! What a registry asks for (`WWW-Authenticate`), and whom a credential may be told.
//!
//! A realm is chosen by whoever answered, so it is believed only so far: the registry's own
//! host, a token service under the same domain, or one the administrator listed
//! (`auth_realms`). To any other realm we go without credentials (CVE-2020-15157,
//! CVE-2026-33540, CVE-2026-48978). What "the same domain" is would need the public suffix
//! list; we take the parent of at least two labels, unless it is a suffix under which
//! strangers live side by side.

use std::collections::HashMap;

use http::Uri;
use spec::Kind;

use crate::error::Error;
use crate::registry::hosts::{hostname, is_loopback};

/// One challenge of a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case.
    pub(crate) scheme: String,
    pub(crate) params: HashMap<String, String>,
}

/// Splits the values of `WWW-Authenticate` into challenges; what cannot be read is left out.
pub(crate) fn parse_challenges<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for value in values {
        let mut rest = value.trim_start_matches([' ', ',']);
        let mut current: Option<Challenge> = None;
        while !rest.is_empty() {
            let word_end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
            let word = &rest[..word_end];
            rest = &rest[word_end..];
            if let Some(after) = rest.strip_prefix('=') {
                let (text, left) = param_value(after);
                if let Some(challenge) = &mut current {
                    challenge.params.entry(word.to_ascii_lowercase()).or_insert(text);
                }
                rest = left;
            } else if !word.is_empty() {
                challenges.extend(current.take());
                current = Some(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    params: HashMap::new(),
                });
            }
            rest = rest.trim_start_matches([' ', ',']);
        }
        challenges.extend(current);
    }
    challenges
}

fn param_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Where a realm stands to the registry that named it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Trust {
    /// May see the credentials of the registry.
    Full,
    /// May be asked for an anonymous token only.
    Anonymous,
}

/// Judges `realm`, named by the registry at `authority`.
pub(crate) fn judge_realm(realm: &Uri, authority: &str, https: bool, listed: &[String]) -> Result<Trust, Error> {
    let refuse = |why: &str| {
        Err(Error::new(
            Kind::PermissionDenied,
            format!("token realm of {authority}: {why}"),
        ))
    };
    let Some(realm_authority) = realm.authority() else {
        return refuse("it is no absolute URL");
    };
    let realm_authority = realm_authority.as_str();
    if realm_authority.contains('@') {
        return refuse("it carries user information");
    }
    match realm.scheme_str() {
        Some("https") => {}
        Some("http") if !https && (realm_authority == authority || is_loopback(realm_authority)) => {}
        _ => return refuse("it is not https"),
    }
    let realm_host = hostname(realm_authority);
    if listed.iter().any(|host| host == realm_authority || host == realm_host) {
        return Ok(Trust::Full);
    }
    Ok(if related(realm_authority, authority) {
        Trust::Full
    } else {
        Trust::Anonymous
    })
}

fn related(realm: &str, registry: &str) -> bool {
    if realm.eq_ignore_ascii_case(registry) {
        return true;
    }
    let (realm_host, host) = (
        hostname(realm).to_ascii_lowercase(),
        hostname(registry).to_ascii_lowercase(),
    );
    let numeric = |h: &str| h.parse::<std::net::IpAddr>().is_ok();
    // One address or machine name may serve several tenants on several ports.
    if numeric(&host) || numeric(&realm_host) || !host.contains('.') || !realm_host.contains('.') {
        return false;
    }
    if realm_host == host {
        return true;
    }
    let parent = |h: &str| {
        h.split_once('.')
            .map(|(_, parent)| parent.to_owned())
            .unwrap_or_default()
    };
    let shares = |a: &str, b: &str| a == b || a.strip_suffix(b).is_some_and(|head| head.ends_with('.'));
    [host.clone(), parent(&host)]
        .iter()
        .any(|base| !is_shared_suffix(base) && shares(&realm_host, base))
        || (!is_shared_suffix(&realm_host) && shares(&host, &realm_host))
}

/// Domains below which unrelated people have names.
fn is_shared_suffix(domain: &str) -> bool {
    const CLOUDS: [&str; 24] = [
        "amazonaws.com",
        "azurecr.io",
        "azurewebsites.net",
        "cloudapp.azure.com",
        "windows.net",
        "cloudfront.net",
        "appspot.com",
        "run.app",
        "pkg.dev",
        "gcr.io",
        "web.app",
        "firebaseapp.com",
        "github.io",
        "gitlab.io",
        "herokuapp.com",
        "netlify.app",
        "vercel.app",
        "workers.dev",
        "pages.dev",
        "fly.dev",
        "ngrok.io",
        "ngrok-free.app",
        "digitaloceanspaces.com",
        "aliyuncs.com",
    ];
    let labels: Vec<&str> = domain.split('.').collect();
    if labels.len() < 2 || labels.iter().any(|l| l.is_empty()) {
        return true;
    }
    // co.uk, com.au, gov.br, …
    let second_level = [
        "ac", "co", "com", "edu", "gob", "gov", "go", "gv", "mil", "ne", "net", "nom", "or", "org", "sch",
    ];
    if labels.len() == 2 && labels[1].len() == 2 && second_level.contains(&labels[0]) {
        return true;
    }
    CLOUDS
        .iter()
        .any(|cloud| domain == *cloud || domain.strip_suffix(cloud).is_some_and(|head| head.ends_with('.')))
}

/// Whether a credential that was issued for `server_address` belongs to this registry.
pub(crate) fn address_matches(server_address: &str, domain: &str) -> bool {
    if server_address.is_empty() {
        return true;
    }
    let rest = server_address
        .split_once("://")
        .map_or(server_address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    let canonical = |h: &str| match h {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io".to_owned(),
        other => other.strip_suffix(":443").unwrap_or(other).to_ascii_lowercase(),
    };
    canonical(host) == canonical(domain)
}

/// The scope to ask for: ours, unless a mirror serves the repository under another path and
/// says so. Never more than to pull.
pub(crate) fn scope(asked: Option<&String>, repository: &str) -> String {
    let own = format!("repository:{repository}:pull");
    let Some(asked) = asked else { return own };
    let named = asked
        .strip_prefix("repository:")
        .and_then(|rest| rest.strip_suffix(":pull"));
    match named {
        Some(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) => {
            asked.clone()
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_split() {
        let found = parse_challenges(
            [
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
                r#"Basic realm="a \"b\", c", Negotiate"#,
                "",
                r#"Digest realm="unterminated"#,
            ]
            .into_iter(),
        );
        let schemes: Vec<&str> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["bearer", "basic", "negotiate", "digest"]);
        assert_eq!(found[0].params["realm"], "https://auth.docker.io/token");
        assert_eq!(found[0].params["scope"], "repository:a/b:pull");
        assert_eq!(found[1].params["realm"], "a \"b\", c");
    }

    #[test]
    fn odd_headers_end() {
        for text in [
            "=",
            ",,,",
            "a=b",
            "Bearer =",
            "Bearer realm=\"\\",
            "é=\"ü",
            "Bearer realm=x realm=y",
        ] {
            parse_challenges([text].into_iter());
        }
    }

    #[test]
    fn realms_that_may_see_credentials() {
        let full = [
            ("https://auth.docker.io/token", "registry-1.docker.io"),
            ("https://ghcr.io/token", "ghcr.io"),
            ("https://gitlab.com/jwt/auth", "registry.gitlab.com"),
            ("https://docker-auth.elastic.co/auth", "docker.elastic.co"),
            ("https://auth.corp.example.co.uk/t", "registry.corp.example.co.uk"),
            ("https://registry.example.com:5001/auth", "registry.example.com:5000"),
            ("https://10.0.0.1:5000/auth", "10.0.0.1:5000"),
        ];
        for (realm, host) in full {
            assert_eq!(
                judge_realm(&realm.parse().unwrap(), host, true, &[]).unwrap(),
                Trust::Full,
                "{realm} {host}"
            );
        }
        let anonymous = [
            ("https://evil.example/token", "registry-1.docker.io"),
            ("https://docker.io.evil.example/token", "registry-1.docker.io"),
            ("https://evildocker.io/token", "registry-1.docker.io"),
            ("https://evil.azurecr.io/t", "mine.azurecr.io"),
            ("https://azurecr.io/t", "mine.azurecr.io"),
            ("https://evil.co.uk/t", "mine.co.uk"),
            ("https://io/token", "docker.io"),
            ("https://evil.com/", "registry.com"),
            ("https://10.0.0.1:5001/auth", "10.0.0.1:5000"),
            ("https://registry:5001/auth", "registry:5000"),
        ];
        for (realm, host) in anonymous {
            assert_eq!(
                judge_realm(&realm.parse().unwrap(), host, true, &[]).unwrap(),
                Trust::Anonymous,
                "{realm} {host}"
            );
        }
        let listed = ["10.0.0.1:5001".to_owned()];
        let realm = "https://10.0.0.1:5001/auth".parse().unwrap();
        assert_eq!(
            judge_realm(&realm, "10.0.0.1:5000", true, &listed).unwrap(),
            Trust::Full
        );
    }

    #[test]
    fn realms_that_are_not_even_asked() {
        for realm in [
            "http://auth.docker.io/token",
            "https://u:p@auth.docker.io/t",
            "/relative",
            "ftp://auth.docker.io/",
        ] {
            assert!(
                judge_realm(&realm.parse().unwrap(), "registry-1.docker.io", true, &[]).is_err(),
                "{realm}"
            );
        }
        assert!(judge_realm(&"http://far.example/t".parse().unwrap(), "localhost:5000", false, &[]).is_err());
        assert!(
            judge_realm(
                &"http://localhost:5000/t".parse().unwrap(),
                "localhost:5000",
                false,
                &[]
            )
            .is_ok()
        );
    }

    #[test]
    fn a_server_address_limits_where_a_credential_goes() {
        assert!(address_matches("", "quay.io"));
        assert!(address_matches("https://index.docker.io/v1/", "docker.io"));
        assert!(address_matches("quay.io", "quay.io"));
        assert!(address_matches("https://r.example:5000/v2", "r.example:5000"));
        assert!(!address_matches("quay.io", "docker.io"));
        assert!(!address_matches("r.example", "r.example:5000"));
    }

    #[test]
    fn a_registry_cannot_ask_for_more_than_to_pull() {
        let own = "repository:a/b:pull";
        assert_eq!(scope(None, "a/b"), own);
        assert_eq!(
            scope(Some(&"repository:hub/a/b:pull".into()), "a/b"),
            "repository:hub/a/b:pull"
        );
        for greedy in [
            "repository:a/b:pull,push",
            "repository:a/b:*",
            "registry:catalog:*",
            "repository::pull",
            "repository:a b:pull",
        ] {
            assert_eq!(scope(Some(&greedy.into()), "a/b"), own, "{greedy}");
        }
    }
}
