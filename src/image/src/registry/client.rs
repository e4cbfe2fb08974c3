//! One HTTP exchange: send, follow redirects by hand, read a bounded body.
//!
//! A redirect to another origin (scheme, host and port) is followed without any header that
//! was meant for the registry, with verification on and without its client certificate.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use spec::Kind;

use crate::error::Error;
use crate::registry::dial::{Clients, HttpClient};
use crate::registry::hosts::TlsProfile;

const AGENT: &str = concat!("bulkhead/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 10;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the head of an answer, connecting included.
    pub(crate) answer: Duration,
    /// Without (enough) progress in a body; zero means for ever.
    pub(crate) progress: Duration,
}

/// A request to one origin.
pub(crate) struct Get<'a> {
    pub(crate) uri: Uri,
    /// Sent to the first origin only.
    pub(crate) private: HeaderMap,
    /// Sent wherever it leads (Accept, Range).
    pub(crate) public: HeaderMap,
    pub(crate) tls: &'a TlsProfile,
}

/// An answer, and whether it came from the origin that was asked.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) from_origin: bool,
    pub(crate) host: String,
}

fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or("").to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    (scheme, uri.host().unwrap_or("").to_ascii_lowercase(), port)
}

/// GETs `get.uri`, following redirects.
pub(crate) async fn get(clients: &Clients, get: Get<'_>, timeouts: Timeouts) -> Result<Answer, Error> {
    let first = origin(&get.uri);
    let away = TlsProfile {
        client: None,
        skip_verify: false,
        ..get.tls.clone()
    };
    let mut uri = get.uri;
    for _ in 0..MAX_REDIRECTS {
        let at_origin = origin(&uri) == first;
        let client = clients.get(if at_origin { get.tls } else { &away })?;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(uri.clone())
            .body(Full::new(Bytes::new()))
            .map_err(|e| Error::caused(Kind::InvalidArgument, "request", e))?;
        request.headers_mut().extend(get.public.clone());
        if at_origin {
            request.headers_mut().extend(get.private.clone());
        }
        let host = uri.authority().map_or_else(String::new, |a| a.as_str().to_owned());
        let response = send(clients, &client, request, timeouts)
            .await
            .map_err(|e| e.within(&host))?;
        if !is_redirect(response.status()) {
            return Ok(Answer {
                response,
                from_origin: at_origin,
                host,
            });
        }
        uri = target(&uri, response.headers(), &first.0).map_err(|e| e.within(&host))?;
    }
    Err(Error::registry_unavailable(format!(
        "more than {MAX_REDIRECTS} redirects, the last to {}",
        shown(&uri)
    )))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Host and path only: the query of a redirect is often a signature, which is a secret.
fn shown(uri: &Uri) -> String {
    format!("{}{}", uri.authority().map_or("", |a| a.as_str()), uri.path())
}

fn target(base: &Uri, headers: &HeaderMap, first_scheme: &str) -> Result<Uri, Error> {
    let bad = |why: &str| Error::registry_unavailable(format!("a redirect {why}")).settled();
    let location = headers.get(LOCATION).ok_or_else(|| bad("without Location"))?;
    let text = location.to_str().map_err(|_| bad("to something that is no URL"))?;
    let text = text.split('#').next().unwrap_or(text);
    let absolute = if text.contains("://") && !text.starts_with('/') {
        text.to_owned()
    } else {
        let scheme = base.scheme_str().unwrap_or("https");
        let authority = base.authority().map_or("", |a| a.as_str());
        if let Some(rest) = text.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if text.starts_with('/') {
            format!("{scheme}://{authority}{text}")
        } else {
            let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{scheme}://{authority}{dir}/{text}")
        }
    };
    let uri: Uri = absolute.parse().map_err(|_| bad("to something that is no URL"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if first_scheme == "http" => {}
        Some("http") => return Err(bad("from https to http, which is refused")),
        _ => return Err(bad("to something that is neither http nor https")),
    }
    if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
        return Err(bad("with user information, which is refused"));
    }
    Ok(uri)
}

/// One request, one answer's head.
pub(crate) async fn send(
    clients: &Clients,
    client: &HttpClient,
    mut request: Request<Full<Bytes>>,
    timeouts: Timeouts,
) -> Result<Response<Incoming>, Error> {
    request
        .headers_mut()
        .insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(value) = clients.proxy_authorization(request.uri()) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    match tokio::time::timeout(timeouts.answer, client.request(request)).await {
        Err(_) => Err(Error::registry_unavailable(format!(
            "no answer within {:?}",
            timeouts.answer
        ))),
        Ok(Err(e)) => {
            let error = Error::registry_unavailable(chain(&e));
            // Refused, unknown name, bad certificate: the next host or the kubelet's back-off
            // does more than a pause of a second.
            Err(if e.is_connect() { error.settled() } else { error })
        }
        Ok(Ok(response)) => Ok(response),
    }
}

/// An error with all its causes: hyper's own text alone says only "client error (Connect)".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn read_body(mut body: Incoming, limit: usize, timeouts: Timeouts) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::registry_unavailable(chain(&e)))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > limit {
                    return Err(Error::new(
                        Kind::ResourceExhausted,
                        format!("the answer is larger than {limit} bytes"),
                    ));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    };
    // Small bodies must arrive as fast as their head: a trickle is no progress.
    match tokio::time::timeout(timeouts.answer, read).await {
        Ok(result) => result,
        Err(_) => Err(Error::registry_unavailable(format!(
            "the answer was not complete within {:?}",
            timeouts.answer
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(location: &str, base: &str) -> Result<String, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        let base: Uri = base.parse().unwrap();
        target(&base, &headers, base.scheme_str().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn locations_are_resolved() {
        let base = "https://r.example/v2/a/blobs/x";
        assert_eq!(
            to("https://s3.example/k?sig=1", base).unwrap(),
            "https://s3.example/k?sig=1"
        );
        assert_eq!(to("/other", base).unwrap(), "https://r.example/other");
        assert_eq!(to("//cdn.example/o", base).unwrap(), "https://cdn.example/o");
        assert_eq!(to("y#z", base).unwrap(), "https://r.example/v2/a/blobs/y");
        assert_eq!(
            to("/back?u=https://x/", base).unwrap(),
            "https://r.example/back?u=https://x/"
        );
    }

    #[test]
    fn downgrades_and_other_schemes_are_refused() {
        let base = "https://r.example/v2/";
        for location in [
            "http://r.example/x",
            "file:///etc/passwd",
            "unix://x/y",
            "https://u:p@r.example/",
            "ftp://x/",
        ] {
            assert!(to(location, base).is_err(), "{location}");
        }
        assert!(to("http://s3.local/x", "http://localhost:5000/v2/").is_ok());
    }

    #[test]
    fn ports_and_schemes_make_origins() {
        let o = |t: &str| origin(&t.parse().unwrap());
        assert_eq!(o("https://a.example/x"), o("https://A.example:443/y"));
        assert_ne!(o("https://a.example/x"), o("https://a.example:444/x"));
        assert_ne!(o("http://a.example:443/"), o("https://a.example:443/"));
    }
}
