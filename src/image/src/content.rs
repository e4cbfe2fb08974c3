//! Digests of content, made while it passes.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use spec::{Digest, Kind};

use crate::error::Error;
use crate::registry::blob::BlobReader;

/// The digest of a whole buffer.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// A digest that grows.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// Reads a small blob (a configuration) into memory and verifies it.
pub(crate) async fn read_small(mut blob: BlobReader, digest: Digest, limit: u64) -> Result<Bytes, Error> {
    if blob.size() > limit {
        return Err(Error::new(
            Kind::ResourceExhausted,
            format!(
                "{digest} is said to have {} bytes; at most {limit} are read",
                blob.size()
            ),
        ));
    }
    let mut whole = Vec::new();
    while let Some(chunk) = blob.next().await? {
        whole.extend_from_slice(&chunk);
    }
    let found = sha256(&whole);
    if found != digest {
        return Err(mismatch("the content", digest, found));
    }
    Ok(whole.into())
}

/// The error for content that is not what its digest says.
pub(crate) fn mismatch(what: &str, wanted: Digest, found: Digest) -> Error {
    Error::new(
        Kind::DataLoss,
        format!("{what} has digest {found} where {wanted} was wanted: the registry or the network altered it"),
    )
}
