//! Resolver settings out of a resolv.conf.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use cni_types::Dns;

use crate::fault::{Fault, Result};

/// Reads `path`, at most 1 MiB of it.
pub(super) fn parse(path: &Path) -> Result<Dns> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Fault::file("open", path))?;
    file.take(1 << 20)
        .read_to_end(&mut bytes)
        .map_err(Fault::file("read", path))?;
    Ok(read(&String::from_utf8_lossy(&bytes)))
}

fn read(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(key), Some(first)) = (words.next(), words.next()) else {
            continue;
        };
        match key.as_str() {
            "nameserver" => dns.nameservers.push(first),
            "domain" => dns.domain = first,
            "search" => dns.search.extend(std::iter::once(first).chain(words)),
            "options" => dns.options.extend(std::iter::once(first).chain(words)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read() {
        let dns =
            read("# x\nnameserver 1.1.1.1\nnameserver  ::1 \nsearch a b\n;y\noptions ndots:5\ndomain d\nsearch\n");
        assert_eq!(dns.nameservers, ["1.1.1.1", "::1"]);
        assert_eq!(
            (dns.search, dns.options, dns.domain.as_str()),
            (vec!["a".into(), "b".into()], vec!["ndots:5".into()], "d")
        );
    }
}
