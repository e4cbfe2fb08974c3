//! Bearer tokens: asked for by GET (with basic authentication or anonymously) or, for an
//! identity token, by an OAuth2 POST; kept until shortly before they expire.
//!
//! The cache is keyed by realm, service, scope **and** credential: two pods with different
//! pull secrets never share a token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;
use spec::Kind;

use crate::credentials::Secret;
use crate::error::Error;
use crate::registry::client::{Timeouts, read_body, send};
use crate::registry::dial::{Clients, HttpClient};

const MAX_ANSWER: usize = 256 << 10;
const MAX_TOKEN: usize = 64 << 10;
const MAX_CACHED: usize = 512;
/// The default of the distribution specification.
const DEFAULT_LIFE: u64 = 60;
const CLIENT_ID: &str = "bulkhead";

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) realm: String,
    pub(crate) service: String,
    pub(crate) scope: String,
    /// Fingerprint of the credential; zeros when anonymous.
    pub(crate) credential: [u8; 32],
}

/// Tokens of all pulls.
#[derive(Default)]
pub(crate) struct TokenCache(Mutex<HashMap<TokenKey, (HeaderValue, Instant)>>);

impl TokenCache {
    pub(crate) fn get(&self, key: &TokenKey) -> Option<HeaderValue> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache
            .get(key)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(value, _)| value.clone())
    }

    pub(crate) fn forget(&self, key: &TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn put(&self, key: TokenKey, value: HeaderValue, life: Duration) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        cache.retain(|_, (_, until)| *until > now);
        if cache.len() < MAX_CACHED {
            cache.insert(key, (value, now + life));
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Gets a token and keeps it.
pub(crate) async fn fetch(
    (clients, client, timeouts): (&Clients, &HttpClient, Timeouts),
    cache: &TokenCache,
    key: TokenKey,
    secret: Option<&Secret>,
) -> Result<HeaderValue, Error> {
    if let Some(value) = cache.get(&key) {
        return Ok(value);
    }
    let realm: Uri = key
        .realm
        .parse()
        .map_err(|_| Error::new(Kind::InvalidArgument, "the token realm is no URL"))?;
    let place = format!("token service {}", realm.authority().map_or("?", |a| a.as_str()));
    let request = build(&realm, &key, secret).map_err(|e| e.within(&place))?;
    let response = send(clients, client, request, timeouts)
        .await
        .map_err(|e| e.within(&place))?;
    let status = response.status();
    if !status.is_success() {
        let kind = match status {
            StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
            StatusCode::FORBIDDEN => Kind::PermissionDenied,
            s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => Kind::Unavailable,
            _ => Kind::Unauthenticated,
        };
        let text = format!("{place}: it answered {status}");
        return Err(if kind == Kind::Unavailable {
            Error::registry_unavailable(text)
        } else {
            Error::new(kind, text)
        });
    }
    let body = read_body(response.into_body(), MAX_ANSWER, timeouts)
        .await
        .map_err(|e| e.within(&place))?;
    // The cause is left out: a parser's message could quote the token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Error::new(Kind::Unauthenticated, format!("{place}: its answer holds no token")))?;
    let token = if answer.token.is_empty() {
        answer.access_token
    } else {
        answer.token
    };
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(Error::new(
            Kind::Unauthenticated,
            format!("{place}: its answer holds no usable token"),
        ));
    }
    let value =
        bearer(&token).ok_or_else(|| Error::new(Kind::Unauthenticated, format!("{place}: its token is malformed")))?;
    let life = answer.expires_in.unwrap_or(DEFAULT_LIFE).clamp(1, 24 * 3600);
    cache.put(key, value.clone(), Duration::from_secs(life - life / 5));
    Ok(value)
}

/// The header for a token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn build(realm: &Uri, key: &TokenKey, secret: Option<&Secret>) -> Result<Request<Full<Bytes>>, Error> {
    let bad = |_| Error::new(Kind::InvalidArgument, "the token request cannot be written");
    if let Some(Secret::IdentityToken(refresh)) = secret {
        let form = form(&[
            ("grant_type", "refresh_token"),
            ("service", &key.service),
            ("client_id", CLIENT_ID),
            ("scope", &key.scope),
            ("refresh_token", refresh),
        ]);
        return Request::builder()
            .method(Method::POST)
            .uri(realm.clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))
            .map_err(bad);
    }
    let mut query = vec![("service", key.service.as_str()), ("scope", key.scope.as_str())];
    if key.service.is_empty() {
        query.remove(0);
    }
    if let Some(Secret::Basic { username, .. }) = secret {
        query.push(("account", username));
    }
    let own = form(&query);
    let base = format!(
        "{}://{}{}",
        realm.scheme_str().unwrap_or("https"),
        realm.authority().map_or("", |a| a.as_str()),
        realm.path()
    );
    let url = match realm.query() {
        Some(theirs) if !theirs.is_empty() => format!("{base}?{theirs}&{own}"),
        _ => format!("{base}?{own}"),
    };
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(url)
        .header(ACCEPT, "application/json");
    if let Some(header) = secret.and_then(Secret::basic_header) {
        let mut value = HeaderValue::from_str(&header)
            .map_err(|_| Error::new(Kind::InvalidArgument, "the credentials cannot be sent in a header"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::new(Bytes::new())).map_err(bad)
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
                _ => {
                    text.push('%');
                    text.push_str(&spec::digest::hex(&[byte]).to_ascii_uppercase());
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(service: &str) -> TokenKey {
        TokenKey {
            realm: "https://auth.example/t?x=1".into(),
            service: service.into(),
            scope: "repository:a/b:pull".into(),
            credential: [0; 32],
        }
    }

    #[test]
    fn a_get_carries_scope_account_and_what_the_realm_had() {
        let secret = Secret::Basic {
            username: "m e".into(),
            password: "p".into(),
        };
        let realm = key("").realm.parse().unwrap();
        let request = build(&realm, &key("reg & co"), Some(&secret)).unwrap();
        assert_eq!(
            request.uri().to_string(),
            "https://auth.example/t?x=1&service=reg%20%26%20co&scope=repository%3Aa%2Fb%3Apull&account=m%20e"
        );
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn an_identity_token_is_posted_and_never_in_the_url() {
        let realm = key("").realm.parse().unwrap();
        let request = build(&realm, &key("s"), Some(&Secret::IdentityToken("REFRESH".into()))).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert!(!request.uri().to_string().contains("REFRESH"));
    }

    #[test]
    fn tokens_of_two_credentials_are_apart_and_expire() {
        let cache = TokenCache::default();
        let other = TokenKey {
            credential: [1; 32],
            ..key("s")
        };
        cache.put(key("s"), bearer("one").unwrap(), Duration::from_secs(60));
        assert!(cache.get(&other).is_none());
        assert!(cache.get(&key("s")).is_some());
        cache.put(other.clone(), bearer("two").unwrap(), Duration::ZERO);
        assert!(cache.get(&other).is_none());
        cache.forget(&key("s"));
        assert!(cache.get(&key("s")).is_none());
    }

    #[test]
    fn a_token_with_a_line_break_is_no_header() {
        assert!(bearer("a\r\nX-Evil: 1").is_none());
    }
}
