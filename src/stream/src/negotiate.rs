//! Which protocol and version a request asks for. Pure: headers in, a choice or a refusal out.
//!
//! SPDY: `Upgrade: SPDY/3.1` with a list in `X-Stream-Protocol-Version`; the client's first
//! entry that the server knows wins; none is 403 with the server's list in
//! `X-Accepted-Stream-Protocol-Versions`, a missing list is 400 (k8s.io/streaming httpstream
//! v0.36). WebSocket: the same rule for `Sec-WebSocket-Protocol`, but no list at all means the
//! oldest binary protocol, and the name is left out of the answer.

use base64::Engine as _;
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, StatusCode};

use crate::status::Format;

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
const WS_PROTOCOL: &str = "sec-websocket-protocol";
const WS_KEY: &str = "sec-websocket-key";
const WS_VERSION: &str = "sec-websocket-version";
const WS_ACCEPT: &str = "sec-websocket-accept";
const SPDY: &str = "SPDY/3.1";

const SPDY_COMMAND: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
const SPDY_FORWARD: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What kind of session the URL stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Exec or attach.
    Command,
    /// Port-forward.
    Forward,
}

/// How WebSocket messages carry channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WsVersion {
    /// Binary messages with a channel byte, or text messages with a digit and base64.
    pub(crate) base64: bool,
    /// Version 5: the client can half-close a channel with `255, channel`.
    pub(crate) close_signal: bool,
    /// How the status is written.
    pub(crate) status: Format,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// SPDY; `resize` if the version has a channel for terminal sizes.
    Spdy { status: Format, resize: bool },
    /// Channels in WebSocket messages.
    Ws(WsVersion),
    /// SPDY inside binary WebSocket messages (port-forward only).
    Tunnel,
}

/// An upgrade that is to be made: the headers of the 101, and what follows it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
}

/// Why there is no upgrade.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) headers: HeaderMap,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            status,
            message: message.into(),
            headers: HeaderMap::new(),
        })
    }
}

/// Chooses from the request's headers.
pub(crate) fn choose(request: &HeaderMap, purpose: Purpose) -> Result<Accepted, Box<Refused>> {
    let upgrade = text(request, UPGRADE.as_str()).to_ascii_lowercase();
    let connection = listed(request, CONNECTION.as_str())
        .iter()
        .any(|v| v.eq_ignore_ascii_case("upgrade"));
    if connection && upgrade == "websocket" {
        websocket(request, purpose)
    } else {
        spdy(request, purpose, connection && upgrade == SPDY.to_ascii_lowercase())
    }
}

fn spdy(request: &HeaderMap, purpose: Purpose, asked: bool) -> Result<Accepted, Box<Refused>> {
    if !request.contains_key(STREAM_PROTOCOL) {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request",
        ));
    }
    let wanted = listed(request, STREAM_PROTOCOL);
    if wanted.is_empty() {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: header X-Stream-Protocol-Version names no protocol",
        ));
    }
    let known: &[&str] = match purpose {
        Purpose::Command => &SPDY_COMMAND,
        Purpose::Forward => &SPDY_FORWARD,
    };
    let Some(name) = wanted.iter().find_map(|w| known.iter().find(|k| *k == w)) else {
        let mut refused = Refused::new(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {known:?}"
            ),
        );
        for name in known {
            refused.headers.append(
                HeaderName::from_static(ACCEPTED_PROTOCOLS),
                HeaderValue::from_static(name),
            );
        }
        return Err(refused);
    };
    if !asked {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request",
        ));
    }
    let mut headers = switching(SPDY);
    headers.insert(HeaderName::from_static(STREAM_PROTOCOL), HeaderValue::from_static(name));
    let status = if *name == SPDY_COMMAND[0] {
        Format::Json
    } else {
        Format::Text
    };
    let resize = *name == SPDY_COMMAND[0] || *name == SPDY_COMMAND[1];
    Ok(Accepted {
        protocol: Protocol::Spdy { status, resize },
        headers,
    })
}

/// The protocol that a WebSocket subprotocol's name stands for.
fn ws_protocol(name: &str, purpose: Purpose) -> Option<(&'static str, Protocol)> {
    let version = |base64, close_signal, status| {
        Protocol::Ws(WsVersion {
            base64,
            close_signal,
            status,
        })
    };
    Some(match (name, purpose) {
        ("", _) => ("", version(false, false, Format::Text)),
        ("v5.channel.k8s.io", Purpose::Command) => ("v5.channel.k8s.io", version(false, true, Format::Json)),
        ("v4.channel.k8s.io", _) => ("v4.channel.k8s.io", version(false, false, Format::Json)),
        ("v4.base64.channel.k8s.io", _) => ("v4.base64.channel.k8s.io", version(true, false, Format::Json)),
        ("channel.k8s.io", Purpose::Command) => ("channel.k8s.io", version(false, false, Format::Text)),
        ("base64.channel.k8s.io", Purpose::Command) => ("base64.channel.k8s.io", version(true, false, Format::Text)),
        (TUNNEL, Purpose::Forward) => (TUNNEL, Protocol::Tunnel),
        _ => return None,
    })
}

fn websocket(request: &HeaderMap, purpose: Purpose) -> Result<Accepted, Box<Refused>> {
    if text(request, WS_VERSION).trim() != "13" {
        let mut refused = Refused::new(StatusCode::UPGRADE_REQUIRED, "websocket version 13 is needed");
        refused
            .headers
            .insert(HeaderName::from_static(WS_VERSION), HeaderValue::from_static("13"));
        return Err(refused);
    }
    let key = text(request, WS_KEY).trim();
    if base64::engine::general_purpose::STANDARD
        .decode(key)
        .map_or(true, |raw| raw.len() != 16)
    {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing or malformed",
        ));
    }
    let mut wanted = listed(request, WS_PROTOCOL);
    if wanted.is_empty() {
        wanted.push("");
    }
    let Some((name, protocol)) = wanted.iter().find_map(|name| ws_protocol(name, purpose)) else {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            format!("requested protocol(s) are not supported: {wanted:?}"),
        ));
    };
    let mut headers = switching("websocket");
    let accept = HeaderValue::from_str(&crate::ws::accept_key(key))
        .map_err(|_| Refused::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is malformed"))?;
    headers.insert(HeaderName::from_static(WS_ACCEPT), accept);
    if !name.is_empty() {
        headers.insert(HeaderName::from_static(WS_PROTOCOL), HeaderValue::from_static(name));
    }
    Ok(Accepted { protocol, headers })
}

fn switching(to: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    headers
}

/// The first value of a header, empty if it is missing or not text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// All comma-separated items of all values of a header.
fn listed<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn spdy_headers(protocols: &[&str]) -> HeaderMap {
        let mut map = headers(&[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]);
        for protocol in protocols {
            map.append(STREAM_PROTOCOL, HeaderValue::from_str(protocol).unwrap());
        }
        map
    }

    fn ws_headers(protocols: &str) -> HeaderMap {
        let mut map = headers(&[
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "WebSocket"),
            (WS_VERSION, "13"),
            (WS_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        if !protocols.is_empty() {
            map.insert(WS_PROTOCOL, HeaderValue::from_str(protocols).unwrap());
        }
        map
    }

    #[test]
    fn the_clients_first_known_spdy_version_wins() {
        let accepted = choose(
            &spdy_headers(&["v5.channel.k8s.io", "v3.channel.k8s.io, v4.channel.k8s.io"]),
            Purpose::Command,
        )
        .unwrap();
        assert_eq!(
            accepted.protocol,
            Protocol::Spdy {
                status: Format::Text,
                resize: true
            }
        );
        assert_eq!(accepted.headers[STREAM_PROTOCOL], "v3.channel.k8s.io");
        let accepted = choose(&spdy_headers(&["v4.channel.k8s.io"]), Purpose::Command).unwrap();
        assert_eq!(
            accepted.protocol,
            Protocol::Spdy {
                status: Format::Json,
                resize: true
            }
        );
        let accepted = choose(&spdy_headers(&["v2.channel.k8s.io"]), Purpose::Command).unwrap();
        assert_eq!(
            accepted.protocol,
            Protocol::Spdy {
                status: Format::Text,
                resize: false
            }
        );
    }

    #[test]
    fn unknown_spdy_versions_are_forbidden_with_the_list() {
        let refused = choose(&spdy_headers(&["v9.channel.k8s.io"]), Purpose::Command).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert_eq!(refused.headers.get_all(ACCEPTED_PROTOCOLS).iter().count(), 4);
        let refused = choose(&spdy_headers(&["v4.channel.k8s.io"]), Purpose::Forward).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_request_that_asks_for_nothing_is_bad() {
        assert_eq!(
            choose(&spdy_headers(&[]), Purpose::Command).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            choose(&spdy_headers(&[" , "]), Purpose::Command).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            choose(&HeaderMap::new(), Purpose::Command).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
        let plain = headers(&[(STREAM_PROTOCOL, "v4.channel.k8s.io")]);
        assert_eq!(
            choose(&plain, Purpose::Command).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn websocket_answers_the_key_and_the_first_known_name() {
        let accepted = choose(
            &ws_headers("v6.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io"),
            Purpose::Command,
        )
        .unwrap();
        let version = WsVersion {
            base64: false,
            close_signal: true,
            status: Format::Json,
        };
        assert_eq!(accepted.protocol, Protocol::Ws(version));
        assert_eq!(accepted.headers[WS_PROTOCOL], "v5.channel.k8s.io");
        // The example of RFC 6455, section 1.3.
        assert_eq!(accepted.headers[WS_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let accepted = choose(&ws_headers(""), Purpose::Command).unwrap();
        assert!(!accepted.headers.contains_key(WS_PROTOCOL));
        let accepted = choose(&ws_headers("base64.channel.k8s.io"), Purpose::Command).unwrap();
        assert_eq!(
            accepted.protocol,
            Protocol::Ws(WsVersion {
                base64: true,
                close_signal: false,
                status: Format::Text
            })
        );
        assert_eq!(
            choose(&ws_headers(TUNNEL), Purpose::Forward).unwrap().protocol,
            Protocol::Tunnel
        );
    }

    #[test]
    fn websocket_refusals() {
        assert_eq!(
            choose(&ws_headers("chat"), Purpose::Command).unwrap_err().status,
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            choose(&ws_headers(TUNNEL), Purpose::Command).unwrap_err().status,
            StatusCode::FORBIDDEN
        );
        let mut map = ws_headers("");
        map.insert(WS_VERSION, HeaderValue::from_static("8"));
        assert_eq!(
            choose(&map, Purpose::Command).unwrap_err().status,
            StatusCode::UPGRADE_REQUIRED
        );
        let mut map = ws_headers("");
        map.insert(WS_KEY, HeaderValue::from_static("short"));
        assert_eq!(
            choose(&map, Purpose::Command).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
    }
}
