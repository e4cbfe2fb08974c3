//! What the links inside pods' network namespaces have carried.
//!
//! One thread enters namespace after namespace, asks the kernel over rtnetlink and goes home; no process is started. A
//! thread that cannot go home again is not used any further: it ends, and with it its view of the network.

use std::path::PathBuf;

use cni_netlink::link::{Counters, list_counters};
use cni_netlink::{NetNs, Socket};

use crate::error::Error;

/// The links of each namespace, `lo` left out; none for one that could not be asked, which is logged.
pub(crate) fn read(namespaces: Vec<PathBuf>) -> Result<Vec<Option<Vec<Counters>>>, Error> {
    if namespaces.is_empty() {
        return Ok(Vec::new());
    }
    let round = std::thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        let home = NetNs::current()?;
        let ask = |path: &PathBuf| match NetNs::open(path).and_then(|ns| ns.within(&home, links)) {
            Ok(links) => Ok(Some(links)),
            // It did not come home: what follows would be read in the wrong place.
            Err(error) if !NetNs::current()?.same(&home)? => Err(error),
            Err(error) => {
                let error = crate::error::chain_of(&error);
                tracing::debug!(namespace = %path.display(), error, "its traffic cannot be read");
                Ok(None)
            }
        };
        namespaces
            .iter()
            .map(ask)
            .collect::<Result<Vec<_>, cni_netlink::Error>>()
    });
    let round = round.map_err(|e| Error::at("start", "a thread", &e))?;
    let read = round.join().map_err(|_| {
        Error::new(
            spec::Kind::Internal,
            "the reading of the pods' traffic ended without a result",
        )
    })?;
    read.map_err(|e| Error::at("read", "the pods' traffic", &e))
}

fn links() -> Result<Vec<Counters>, cni_netlink::Error> {
    let all = Socket::route()?.dump(&list_counters(), "links")?;
    Ok(all
        .iter()
        .filter_map(Counters::parse)
        .filter(|link| link.name != "lo")
        .collect())
}
