//! Where a registry's content may be fetched: the registry itself, or what the administrator
//! wrote in containerd's `hosts.toml` format, read anew for every pull.
//!
//! `<hosts_dir>/<host[:port]>/hosts.toml`, else `<hosts_dir>/<host>_<port>_/hosts.toml`, else
//! `<hosts_dir>/_default/hosts.toml`. A directory without `hosts.toml` may hold docker's
//! `*.crt` and `*.cert` + `*.key`. Entries are tried in the order of the file, the server last.
//! One key is our own: `auth_realms`, hosts of token services that may see the registry's
//! credentials although they are under another domain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use spec::Kind;

use crate::error::Error;

const DEFAULT_DIAL: Duration = Duration::from_secs(30);

/// One place to fetch from.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) https: bool,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// What comes before `/<repository>/…`; `/v2` as a rule.
    pub(crate) prefix: String,
    pub(crate) can_pull: bool,
    pub(crate) can_resolve: bool,
    pub(crate) tls: TlsProfile,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The registry that the reference names, as opposed to a mirror: only this one may see
    /// the credentials that were given for the reference.
    pub(crate) is_upstream: bool,
    pub(crate) auth_realms: Vec<String>,
}

/// What distinguishes one TLS client from another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TlsProfile {
    pub(crate) ca: Vec<Vec<u8>>,
    /// Certificate chain and key, both PEM (perhaps in one file).
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) skip_verify: bool,
    pub(crate) dial_timeout: Duration,
}

impl Default for TlsProfile {
    fn default() -> Self {
        Self {
            ca: Vec::new(),
            client: None,
            skip_verify: false,
            dial_timeout: DEFAULT_DIAL,
        }
    }
}

#[derive(Deserialize, Default)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    settings: Settings,
    #[serde(default)]
    host: BTreeMap<String, toml::Spanned<Settings>>,
}

#[derive(Deserialize, Default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<ClientFiles>,
    skip_verify: Option<bool>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
    #[serde(default)]
    auth_realms: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    One(String),
    Many(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The host part of `host[:port]`, without the brackets of an IPv6 address.
pub(crate) fn hostname(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// Whether `authority` is this machine: `localhost`, 127.0.0.0/8 or ::1.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = hostname(authority);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The server behind a domain: docker.io is answered by registry-1.docker.io.
pub(crate) fn server_of(domain: &str) -> &str {
    if domain == "docker.io" {
        "registry-1.docker.io"
    } else {
        domain
    }
}

/// All places for `domain`, in the order to try them.
pub(crate) fn hosts_for(domain: &str, hosts_dir: Option<&Path>) -> Result<Vec<Host>, Error> {
    let Some(dir) = hosts_dir.and_then(|dir| find_dir(dir, domain)) else {
        return Ok(vec![plain(domain)]);
    };
    let path = dir.join("hosts.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut host = plain(domain);
            host.tls = docker_certs(&dir)?;
            // Certificates for a registry on this machine say that it speaks TLS.
            host.https |= host.tls != TlsProfile::default();
            return Ok(vec![host]);
        }
        Err(e) => return Err(Error::io("read", path.display(), e)),
    };
    parse(&text, domain, &dir).map_err(|e| e.within(path.display()))
}

fn find_dir(hosts_dir: &Path, domain: &str) -> Option<PathBuf> {
    let mut names = vec![domain.to_owned()];
    if let Some((host, port)) = domain
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push("_default".into());
    names
        .into_iter()
        .map(|name| hosts_dir.join(name))
        .find(|dir| dir.is_dir())
}

/// The registry with nothing configured: https, but http on this machine, as docker does.
fn plain(domain: &str) -> Host {
    let authority = server_of(domain).to_owned();
    Host {
        https: !is_loopback(&authority) || authority.ends_with(":443"),
        authority,
        prefix: "/v2".into(),
        can_pull: true,
        can_resolve: true,
        tls: TlsProfile::default(),
        headers: Vec::new(),
        is_upstream: true,
        auth_realms: Vec::new(),
    }
}

fn parse(text: &str, domain: &str, dir: &Path) -> Result<Vec<Host>, Error> {
    let file: File =
        toml::from_str(text).map_err(|e| Error::caused(Kind::InvalidArgument, "hosts.toml cannot be read", e))?;
    let mut entries: Vec<(&String, &toml::Spanned<Settings>)> = file.host.iter().collect();
    // A TOML table has no order of its own, but mirrors do: the order of the file.
    entries.sort_by_key(|(_, settings)| settings.span().start);
    let mut hosts = Vec::new();
    for (url, settings) in entries {
        hosts.push(from_settings(url, settings.get_ref(), domain, dir).map_err(|e| e.within(format!("host {url:?}")))?);
    }
    let mut upstream = match &file.server {
        Some(server) => from_settings(server, &file.settings, domain, dir).map_err(|e| e.within("server"))?,
        None => {
            let host = plain(domain);
            let url = format!("{}://{}", if host.https { "https" } else { "http" }, host.authority);
            from_settings(&url, &file.settings, domain, dir)?
        }
    };
    // A `server` elsewhere is a mirror in all but name: it gets no credentials either.
    upstream.is_upstream = upstream.authority == server_of(domain) || upstream.authority == domain;
    if !hosts
        .iter()
        .any(|h| h.authority == upstream.authority && h.prefix == upstream.prefix && h.https == upstream.https)
    {
        hosts.push(upstream);
    }
    Ok(hosts)
}

fn bad(what: String) -> Error {
    Error::new(Kind::InvalidArgument, what)
}

fn from_settings(url: &str, settings: &Settings, domain: &str, dir: &Path) -> Result<Host, Error> {
    let (https, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some((other, _)) => return Err(bad(format!("scheme {other:?} is neither http nor https"))),
        None => (!is_loopback(url.split('/').next().unwrap_or(url)), url),
    };
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, ""), |(authority, path)| (authority, path));
    if authority.is_empty() || authority.contains('@') || authority.parse::<http::uri::Authority>().is_err() {
        return Err(bad(format!("{url:?} names no host")));
    }
    let path = path.trim_matches('/');
    let mut prefix = if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    };
    if !settings.override_path && !prefix.ends_with("/v2") {
        prefix.push_str("/v2");
    }
    let can = |what: &str| {
        settings
            .capabilities
            .as_ref()
            .is_none_or(|all| all.iter().any(|c| c == what))
    };
    let mut headers = Vec::new();
    for (name, values) in &settings.header {
        let name: HeaderName = name.parse().map_err(|_| bad(format!("{name:?} is no header name")))?;
        for value in values.all() {
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| bad(format!("the value of header {name} is invalid")))?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
    }
    let mut tls = TlsProfile {
        skip_verify: settings.skip_verify.unwrap_or(false),
        ..TlsProfile::default()
    };
    for ca in settings.ca.iter().flat_map(OneOrMany::all) {
        tls.ca.push(read(&dir.join(ca))?);
    }
    tls.client = match &settings.client {
        None => None,
        Some(files) => Some(client_files(files, dir)?),
    };
    if let Some(text) = &settings.dial_timeout {
        tls.dial_timeout = duration(text).ok_or_else(|| bad(format!("dial_timeout {text:?} is no duration")))?;
    }
    Ok(Host {
        https,
        is_upstream: authority == domain || authority == server_of(domain),
        authority: authority.to_owned(),
        prefix,
        can_pull: can("pull"),
        can_resolve: can("resolve"),
        tls,
        headers,
        auth_realms: settings.auth_realms.clone(),
    })
}

fn client_files(files: &ClientFiles, dir: &Path) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let pair = |cert: &str, key: &str| Ok((read(&dir.join(cert))?, read(&dir.join(key))?));
    match files {
        ClientFiles::One(one) => pair(one, one),
        ClientFiles::Many(many) => match many.as_slice() {
            [one] => pair(one, one),
            [cert, key] => pair(cert, key),
            _ => Err(bad("client wants one file, or a certificate and a key".into())),
        },
        ClientFiles::Pairs(pairs) => match pairs.first().map(Vec::as_slice) {
            Some([one]) => pair(one, one),
            Some([cert, key]) => pair(cert, key),
            _ => Err(bad("client wants pairs of a certificate and a key".into())),
        },
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::io("read", path.display(), e))
}

/// docker's layout: `*.crt` are authorities, `x.cert` and `x.key` a client certificate.
fn docker_certs(dir: &Path) -> Result<TlsProfile, Error> {
    let mut tls = TlsProfile::default();
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(|e| Error::io("list", dir.display(), e))?;
    names.sort();
    for path in names {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(read(&path)?),
            Some("cert") if tls.client.is_none() => {
                tls.client = Some((read(&path)?, read(&path.with_extension("key"))?));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// A Go duration of one unit, as people write it: `10s`, `500ms`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    match &text[split..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(hosts: &[Host]) -> Vec<String> {
        hosts
            .iter()
            .map(|h| {
                format!(
                    "{}://{}{} {}{}{}",
                    if h.https { "https" } else { "http" },
                    h.authority,
                    h.prefix,
                    if h.can_pull { "p" } else { "" },
                    if h.can_resolve { "r" } else { "" },
                    if h.is_upstream { "u" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn without_configuration() {
        for (domain, wanted) in [
            ("docker.io", "https://registry-1.docker.io/v2 pru"),
            ("quay.io", "https://quay.io/v2 pru"),
            ("localhost:5000", "http://localhost:5000/v2 pru"),
            ("127.0.0.9:5000", "http://127.0.0.9:5000/v2 pru"),
            ("[::1]:5000", "http://[::1]:5000/v2 pru"),
            ("localhost:443", "https://localhost:443/v2 pru"),
            ("localhost.example.com", "https://localhost.example.com/v2 pru"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2 pru"),
        ] {
            assert_eq!(shape(&hosts_for(domain, None).unwrap()), [wanted], "{domain}");
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
server = "https://registry-1.docker.io"
[host."https://zz.example"]
  capabilities = ["pull", "resolve"]
[host."http://aa.example:5000/proxy"]
  capabilities = ["pull"]
  skip_verify = true
  dial_timeout = "3s"
  [host."http://aa.example:5000/proxy".header]
    x-custom = ["a", "b"]
[host."https://mm.example/v2/hub"]
  override_path = true
"#;
        let hosts = parse(text, "docker.io", Path::new("/nonexistent")).unwrap();
        assert_eq!(
            shape(&hosts),
            [
                "https://zz.example/v2 pr",
                "http://aa.example:5000/proxy/v2 p",
                "https://mm.example/v2/hub pr",
                "https://registry-1.docker.io/v2 pru"
            ]
        );
        assert_eq!(hosts[1].headers.len(), 2);
        assert_eq!(hosts[1].tls.dial_timeout, Duration::from_secs(3));
        assert!(hosts[1].tls.skip_verify && !hosts[0].tls.skip_verify);
    }

    #[test]
    fn the_servers_own_settings_and_a_server_elsewhere() {
        let hosts = parse(
            "server = \"http://other.example\"\nskip_verify = true\n",
            "quay.io",
            Path::new("/"),
        )
        .unwrap();
        assert_eq!(shape(&hosts), ["http://other.example/v2 pr"]);
        assert!(hosts[0].tls.skip_verify);
        let hosts = parse("[host.\"https://quay.io\"]\n", "quay.io", Path::new("/")).unwrap();
        assert_eq!(shape(&hosts), ["https://quay.io/v2 pru"]);
    }

    #[test]
    fn mistakes_name_the_place() {
        for text in [
            "server = 3",
            "server = \"ftp://x\"",
            "[host.\"https://u:p@x\"]\n",
            "[host.\"https://x\"]\ndial_timeout = \"soon\"",
            "[host.\"https://x\"]\nca = \"/nonexistent/ca.pem\"",
            "[host.\"https://x\".header]\n\"bad name\" = \"x\"",
        ] {
            assert!(parse(text, "quay.io", Path::new("/nonexistent")).is_err(), "{text}");
        }
    }

    #[test]
    fn directories_are_found_by_host_and_port() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["quay.io", "r.example_5000_", "_default"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = |domain: &str| {
            find_dir(dir.path(), domain)
                .unwrap()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(found("quay.io"), "quay.io");
        assert_eq!(found("r.example:5000"), "r.example_5000_");
        assert_eq!(found("other"), "_default");
    }
}
