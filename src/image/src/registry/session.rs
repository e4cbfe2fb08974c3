//! One pull's conversation with the hosts of one registry: authentication, retries, and the
//! fall-back from mirror to mirror to the registry itself.
//!
//! A host that could not be reached is not asked again in the same pull while another is
//! left. Credentials are given to the registry that the reference names, never to a mirror
//! (write a mirror's own into its `header`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{StatusCode, Uri};
use spec::{Digest, Kind};

use crate::credentials::{Credentials, Secret};
use crate::error::Error;
use crate::manifest;
use crate::reference::Reference;
use crate::registry::auth::{Challenge, Trust, address_matches, judge_realm, parse_challenges, scope};
use crate::registry::blob::BlobReader;
use crate::registry::client::{Answer, Get, Timeouts, get, read_body};
use crate::registry::dial::Clients;
use crate::registry::hosts::Host;
use crate::registry::reasons::reasons;
use crate::registry::token::{self, TokenCache, TokenKey};

/// The distribution specification lets a registry refuse larger ones.
pub(crate) const MAX_MANIFEST: usize = 4 << 20;
const MAX_ERROR_BODY: usize = 16 << 10;
const TRIES: u32 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What all pulls share.
pub(crate) struct Shared {
    pub(crate) clients: Clients,
    pub(crate) tokens: TokenCache,
    pub(crate) timeouts: Timeouts,
}

/// One pull's view of a registry.
pub(crate) struct Session {
    shared: Arc<Shared>,
    domain: String,
    repository: String,
    hosts: Vec<HostState>,
    secret: Option<Secret>,
    fingerprint: [u8; 32],
}

struct HostState {
    host: Host,
    away: AtomicBool,
    auth: Mutex<Option<Authorization>>,
}

/// What the host's last 401 made of us.
#[derive(Clone)]
struct Authorization {
    value: HeaderValue,
    token: Option<TokenKey>,
}

/// A manifest as it came, with what the registry called it.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) digest: Digest,
}

enum Next {
    Again,
    After(Duration, Error),
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        reference: &Reference,
        hosts: Vec<Host>,
        auth: Option<&Credentials>,
    ) -> Self {
        let auth = auth.filter(|auth| address_matches(&auth.server_address, reference.domain()));
        Self {
            shared,
            domain: reference.domain().to_owned(),
            repository: reference.path().to_owned(),
            hosts: hosts
                .into_iter()
                .map(|host| HostState {
                    host,
                    away: AtomicBool::new(false),
                    auth: Mutex::new(None),
                })
                .collect(),
            secret: auth.and_then(Credentials::secret),
            fingerprint: auth.map_or([0; 32], Credentials::fingerprint),
        }
    }

    /// Fetches a manifest or index by tag or digest, and verifies its digest.
    pub(crate) async fn manifest(&self, tag: &str, digest: Option<Digest>) -> Result<Fetched, Error> {
        let name = digest.map_or_else(|| tag.to_owned(), |d| d.to_string());
        let mut public = HeaderMap::new();
        public.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        let wanted = |host: &Host| {
            if digest.is_some() {
                host.can_pull
            } else {
                host.can_resolve
            }
        };
        let mut last = None;
        for at in self.order(wanted) {
            let result = async {
                let answer = self.request(at, &format!("manifests/{name}"), &public).await?;
                self.read_manifest(answer, digest).await
            };
            match result.await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = Some(self.note_failure(at, error, last)),
            }
        }
        let error = last.unwrap_or_else(|| self.no_host());
        Err(error.within(format!("manifest {name}")))
    }

    async fn read_manifest(&self, answer: Answer, digest: Option<Digest>) -> Result<Fetched, Error> {
        let headers = answer.response.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let content_type = text(CONTENT_TYPE.as_str());
        let said = text("docker-content-digest").and_then(|t| t.parse::<Digest>().ok());
        let bytes = read_body(answer.response.into_body(), MAX_MANIFEST, self.shared.timeouts)
            .await
            .map_err(|e| e.within(&answer.host))?;
        let html = content_type.as_deref().is_some_and(|t| t.starts_with("text/html"))
            || bytes.trim_ascii_start().starts_with(b"<");
        if html {
            return Err(Error::registry_unavailable(format!(
                "{} answered with an HTML page: it is no registry, or a proxy or a login page stands before it",
                answer.host
            )));
        }
        let found = crate::content::sha256(&bytes);
        // The header alone is never believed (GHSA-qv35-3gw6-8q4j): a tag has nothing else to
        // be compared with, but a registry that contradicts itself is broken.
        if let Some(wanted) = digest.or(said)
            && wanted != found
        {
            return Err(Error::new(
                Kind::DataLoss,
                format!(
                    "{} answered with a manifest of digest {found} where {wanted} was wanted",
                    answer.host
                ),
            ));
        }
        Ok(Fetched {
            bytes,
            content_type,
            digest: found,
        })
    }

    /// Opens a blob for reading. The reader checks the length, the caller the digest.
    pub(crate) async fn blob(self: &Arc<Self>, digest: Digest, size: u64) -> Result<BlobReader, Error> {
        let mut last = None;
        for at in self.order(|host| host.can_pull) {
            match self.open_blob(at, digest, 0).await {
                Ok(answer) => return BlobReader::new(Arc::clone(self), at, digest, size, answer),
                Err(error) => last = Some(self.note_failure(at, error, last)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_host()))
    }

    /// Asks host `at` for a blob from byte `offset` on.
    pub(crate) async fn open_blob(&self, at: usize, digest: Digest, offset: u64) -> Result<Answer, Error> {
        let mut public = HeaderMap::new();
        public.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // A transport that compresses once more would make the digest wrong.
        public.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            public.insert(
                http::header::RANGE,
                range.map_err(|e| Error::caused(Kind::Internal, "range", e))?,
            );
        }
        self.request(at, &format!("blobs/{digest}"), &public).await
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.shared.timeouts
    }

    /// Hosts that offer what is wanted; those found away come last.
    fn order(&self, wanted: impl Fn(&Host) -> bool) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.hosts.len())
            .filter(|at| wanted(&self.hosts[*at].host))
            .collect();
        order.sort_by_key(|at| self.hosts[*at].away.load(Ordering::Relaxed));
        order
    }

    fn no_host(&self) -> Error {
        Error::new(
            Kind::FailedPrecondition,
            format!(
                "hosts.toml of {} names no host with the capability that is needed",
                self.domain
            ),
        )
    }

    /// Of several failures the registry's own counts; a mirror's is only logged.
    fn note_failure(&self, at: usize, error: Error, before: Option<Error>) -> Error {
        let state = &self.hosts[at];
        if error.kind() == Kind::Unavailable {
            state.away.store(true, Ordering::Relaxed);
        }
        if self.hosts.len() > 1 {
            tracing::debug!(host = %state.host.authority, %error, "a host of the registry failed, trying the next");
        }
        match before {
            Some(before) if !state.host.is_upstream => before,
            _ => error,
        }
    }

    /// One GET below the repository, with authentication and retries.
    async fn request(&self, at: usize, path: &str, public: &HeaderMap) -> Result<Answer, Error> {
        let state = &self.hosts[at];
        let uri = self.uri(&state.host, path)?;
        let (mut tries, mut challenged) = (0, 0);
        loop {
            let used = state.auth.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut private = HeaderMap::new();
            for (name, value) in &state.host.headers {
                private.append(name.clone(), value.clone());
            }
            if let Some(auth) = &used {
                private.insert(AUTHORIZATION, auth.value.clone());
            }
            let ask = Get {
                uri: uri.clone(),
                private,
                public: public.clone(),
                tls: &state.host.tls,
            };
            let next = match get(&self.shared.clients, ask, self.shared.timeouts).await {
                Ok(answer) if answer.response.status().is_success() => return Ok(answer),
                Ok(answer)
                    if answer.response.status() == StatusCode::UNAUTHORIZED && answer.from_origin && challenged < 2 =>
                {
                    challenged += 1;
                    self.authorize(state, &answer, used).await?;
                    Next::Again
                }
                Ok(answer) => self.judge(answer).await?,
                Err(error) if error.kind() == Kind::Unavailable => Next::After(backoff(tries), error),
                Err(error) => return Err(error),
            };
            if let Next::After(wait, error) = next {
                tries += 1;
                // Where other hosts wait to be asked, one more try is enough.
                let limit = if at + 1 < self.hosts.len() { 2 } else { TRIES };
                if tries >= limit || wait > LONGEST_WAIT || error.is_settled() {
                    return Err(error);
                }
                tokio::time::sleep(wait).await;
            }
        }
    }

    fn uri(&self, host: &Host, path: &str) -> Result<Uri, Error> {
        let scheme = if host.https { "https" } else { "http" };
        // containerd's convention, by which one mirror can serve several registries.
        let namespace = if host.is_upstream {
            String::new()
        } else {
            format!("?ns={}", self.domain)
        };
        format!(
            "{scheme}://{}{}/{}/{path}{namespace}",
            host.authority, host.prefix, self.repository
        )
        .parse()
        .map_err(|e| Error::caused(Kind::InvalidArgument, format!("URL at {}", host.authority), e))
    }

    /// An answer that is neither success nor a challenge: an error, or a reason to wait.
    async fn judge(&self, answer: Answer) -> Result<Next, Error> {
        let status = answer.response.status();
        let wait = answer
            .response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|t| t.parse().ok());
        let from = if answer.from_origin {
            answer.host.clone()
        } else {
            format!("{} (by redirect)", answer.host)
        };
        let html = answer
            .response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|t| t.starts_with("text/html"));
        let body = read_body(answer.response.into_body(), MAX_ERROR_BODY, self.shared.timeouts)
            .await
            .unwrap_or_default();
        let why = if html {
            ": an HTML page, not a registry's answer".to_owned()
        } else {
            reasons(&body)
        };
        let text = format!("{from} answered {status}{why}");
        match status {
            StatusCode::UNAUTHORIZED => Err(Error::new(Kind::Unauthenticated, text)),
            StatusCode::FORBIDDEN => Err(Error::new(Kind::PermissionDenied, text)),
            StatusCode::NOT_FOUND => Err(Error::new(Kind::NotFound, text)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Ok(Next::After(
                wait.map_or_else(|| backoff(2), Duration::from_secs),
                Error::registry_unavailable(text),
            )),
            s if s.is_server_error() => Ok(Next::After(
                wait.map_or_else(|| backoff(1), Duration::from_secs),
                Error::registry_unavailable(text),
            )),
            _ => Err(Error::new(Kind::Internal, text)),
        }
    }

    /// Turns a 401 into an Authorization for the next try.
    async fn authorize(&self, state: &HostState, answer: &Answer, used: Option<Authorization>) -> Result<(), Error> {
        let host = &state.host;
        let values = answer.response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = parse_challenges(values.iter().filter_map(|v| v.to_str().ok()));
        let secret = self.secret.as_ref().filter(|_| host.is_upstream);
        let denied = |why: &str| {
            let hint = if secret.is_none() {
                "; no credentials were given for it"
            } else {
                ""
            };
            Err(Error::new(
                Kind::Unauthenticated,
                format!("{} {why}{hint}", host.authority),
            ))
        };
        let auth = if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            if let Some(Secret::RegistryToken(text)) = secret {
                if used.is_some() {
                    return denied("refused the registry token");
                }
                let value = token::bearer(text).ok_or_else(|| {
                    Error::new(Kind::InvalidArgument, "the registry token cannot be sent in a header")
                })?;
                Authorization { value, token: None }
            } else {
                self.bearer(host, bearer, secret, used).await?
            }
        } else if challenges.iter().any(|c| c.scheme == "basic") {
            if used.is_some() {
                return denied("refused the credentials");
            }
            let header = match secret {
                Some(Secret::RegistryToken(text)) => Some(format!("Bearer {text}")),
                Some(secret) => secret.basic_header(),
                None => None,
            };
            let Some(value) = header.and_then(|h| HeaderValue::from_str(&h).ok()) else {
                return denied("asks for a user name and a password");
            };
            let mut value = value;
            value.set_sensitive(true);
            Authorization { value, token: None }
        } else {
            return denied("answered 401 without a challenge that is understood (Basic or Bearer)");
        };
        *state.auth.lock().unwrap_or_else(PoisonError::into_inner) = Some(auth);
        Ok(())
    }

    async fn bearer(
        &self,
        host: &Host,
        challenge: &Challenge,
        secret: Option<&Secret>,
        used: Option<Authorization>,
    ) -> Result<Authorization, Error> {
        let Some(realm_text) = challenge.params.get("realm") else {
            return Err(Error::new(
                Kind::Unauthenticated,
                format!("{} names no token realm", host.authority),
            ));
        };
        let realm: Uri = realm_text.parse().map_err(|_| {
            Error::new(
                Kind::PermissionDenied,
                format!("the token realm of {} is no URL", host.authority),
            )
        })?;
        let trust = judge_realm(&realm, &host.authority, host.https, &host.auth_realms)?;
        let told = secret.filter(|_| trust == Trust::Full);
        if secret.is_some() && told.is_none() {
            tracing::warn!(registry = %host.authority, realm = %realm.authority().map_or("", |a| a.as_str()),
                "the token service is not under the registry's domain: asked without credentials (list it in hosts.toml `auth_realms` to trust it)");
        }
        let key = TokenKey {
            realm: realm_text.clone(),
            service: challenge.params.get("service").cloned().unwrap_or_default(),
            scope: scope(challenge.params.get("scope"), &self.repository),
            credential: if told.is_some() { self.fingerprint } else { [0; 32] },
        };
        // A token that was refused has expired or is not good enough: never twice the same.
        if let Some(old) = used.and_then(|auth| auth.token) {
            self.shared.tokens.forget(&old);
        }
        let same_host = realm.authority().is_some_and(|a| a.as_str() == host.authority);
        let tls = crate::registry::hosts::TlsProfile {
            client: host.tls.client.clone().filter(|_| same_host),
            skip_verify: host.tls.skip_verify && same_host,
            ..host.tls.clone()
        };
        let client = self.shared.clients.get(&tls)?;
        let place = (&self.shared.clients, &client, self.shared.timeouts);
        let value = token::fetch(place, &self.shared.tokens, key.clone(), told).await?;
        Ok(Authorization {
            value,
            token: Some(key),
        })
    }
}

/// 0.2 s, 0.4 s, 0.8 s, … with up to a quarter more, so that a hundred nodes do not come back
/// at once.
fn backoff(tries: u32) -> Duration {
    let base = 200u64 << tries.min(6);
    let jitter = u64::from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.subsec_nanos()),
    );
    Duration::from_millis(base + jitter % (base / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_and_stays_bounded() {
        assert!(backoff(0) < backoff(2));
        assert!(backoff(40) < Duration::from_secs(20));
    }
}
