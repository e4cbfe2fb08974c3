//! The user namespace: which ids of the host stand behind those of the container.
//!
//! The first extent that holds id 0 is a must: everything that is made for the container belongs to its root. Ids of
//! the spec are the container's; what is done on the host for it (owners of pipes, of nodes) goes through
//! [`Maps::host_uid`] and [`Maps::host_gid`].

use std::fmt::Write as _;
use std::path::PathBuf;

use spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::Error;

/// Most extents of a map (user_namespaces(7), Linux 4.15).
const MOST: usize = 340;

/// `size` ids from `inside` on are those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id in the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// Both maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) uids: Vec<IdMap>,
    pub(crate) gids: Vec<IdMap>,
}

/// The container's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) maps: Maps,
    /// The file of one that exists; else it is made.
    pub(crate) join: Option<PathBuf>,
}

impl Maps {
    /// Checks both.
    pub(crate) fn new(field: &str, uids: Vec<IdMap>, gids: Vec<IdMap>) -> Result<Self, Error> {
        check(&format!("{field}.uidMappings"), &uids)?;
        check(&format!("{field}.gidMappings"), &gids)?;
        Ok(Self { uids, gids })
    }

    /// The host's id behind a user of the container.
    pub(crate) fn host_uid(&self, id: u32) -> Option<u32> {
        outside(&self.uids, id)
    }

    /// The host's id behind a group of the container.
    pub(crate) fn host_gid(&self, id: u32) -> Option<u32> {
        outside(&self.gids, id)
    }

    /// The owner on the host of what belongs to the container's root.
    pub(crate) fn root(&self) -> Result<(u32, u32), Error> {
        self.host_uid(0)
            .zip(self.host_gid(0))
            .ok_or_else(|| Error::invalid("linux.uidMappings", "id 0 of the container is not mapped"))
    }
}

fn outside(maps: &[IdMap], id: u32) -> Option<u32> {
    let map = maps.iter().find(|map| id >= map.inside && id - map.inside < map.size)?;
    Some(map.outside + (id - map.inside))
}

/// What the kernel would refuse without a word about the reason.
fn check(field: &str, maps: &[IdMap]) -> Result<(), Error> {
    if maps.is_empty() {
        return Err(Error::invalid(field, "a user namespace needs at least one"));
    }
    if maps.len() > MOST {
        return Err(Error::invalid(field, format!("more than {MOST}")));
    }
    for (index, map) in maps.iter().enumerate() {
        let ends = |first: u32| first.checked_add(map.size).is_some();
        if map.size == 0 || !ends(map.inside) || !ends(map.outside) {
            return Err(Error::invalid(
                field,
                format!("{map:?} is empty or ends above 4294967295"),
            ));
        }
        let meets = |a: u32, b: u32, size: u32| a < b + size && b < a + map.size;
        if maps[..index]
            .iter()
            .any(|other| meets(map.inside, other.inside, other.size) || meets(map.outside, other.outside, other.size))
        {
            return Err(Error::invalid(field, format!("{map:?} overlaps another")));
        }
    }
    Ok(())
}

/// The lines for `uid_map` and `gid_map`.
pub(crate) fn text(maps: &[IdMap]) -> String {
    maps.iter().fold(String::new(), |mut text, map| {
        // Writing to a String does not fail.
        writeln!(text, "{} {} {}", map.inside, map.outside, map.size).ok();
        text
    })
}

pub(crate) fn maps(list: &Option<Vec<LinuxIdMapping>>) -> Vec<IdMap> {
    let one = |map: &LinuxIdMapping| IdMap {
        inside: map.container_id(),
        outside: map.host_id(),
        size: map.size(),
    };
    list.iter().flatten().map(one).collect()
}

/// `None` where the caller's own user namespace stays.
pub(crate) fn plan(linux: &Linux) -> Result<Option<User>, Error> {
    let mut named = linux
        .namespaces()
        .iter()
        .flatten()
        .filter(|one| one.typ() == LinuxNamespaceType::User);
    let (uids, gids) = (maps(linux.uid_mappings()), maps(linux.gid_mappings()));
    let Some(namespace) = named.next() else {
        if !uids.is_empty() || !gids.is_empty() {
            return Err(Error::invalid("linux.uidMappings", "needs a user namespace"));
        }
        return Ok(None);
    };
    let join = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
    if join.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(Error::invalid("linux.namespaces[user]", "its path is not absolute"));
    }
    // Also for one that exists: what is made for the container on the host needs its owners' ids.
    let maps = Maps::new("linux", uids, gids)?;
    maps.root()?;
    Ok(Some(User { maps, join }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inside: u32, outside: u32, size: u32) -> IdMap {
        IdMap { inside, outside, size }
    }

    #[test]
    fn ids_go_through_the_extent_that_holds_them() {
        let maps = Maps::new("x", vec![map(0, 1000, 10), map(10, 5000, 1)], vec![map(0, 7, 1)]).unwrap();
        assert_eq!(
            [0, 9, 10, 11].map(|id| maps.host_uid(id)),
            [Some(1000), Some(1009), Some(5000), None]
        );
        assert_eq!(maps.root().unwrap(), (1000, 7));
        assert_eq!(text(&maps.uids), "0 1000 10\n10 5000 1\n");
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        let good = || vec![map(0, 1, 1)];
        for bad in [
            vec![],
            vec![map(0, 1, 0)],
            vec![map(0, u32::MAX, 2)],
            vec![map(u32::MAX, 1, 1)],
            vec![map(0, 1, 10), map(9, 100, 1)],
            vec![map(0, 1, 10), map(20, 5, 1)],
            vec![map(0, 1, 1); MOST + 1],
        ] {
            assert!(Maps::new("x", bad.clone(), good()).is_err(), "{bad:?}");
            assert!(Maps::new("x", good(), bad).is_err());
        }
        assert!(Maps::new("x", vec![map(1, 1, 1)], good()).unwrap().root().is_err());
    }
}
