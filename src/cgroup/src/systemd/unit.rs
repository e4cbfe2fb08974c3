//! Names of units, and where their cgroups are.

use crate::Error;

/// A unit and the slice that it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) parent: String,
}

impl Unit {
    /// The unit that a cgroup path ends in. Each slice on the way must be where systemd has it.
    pub(super) fn of(path: &str) -> Result<Self, Error> {
        let (name, above) = split(path)?;
        let parent = above
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or("-.slice");
        let place = slice_path(parent)?;
        let place = if parent == "-.slice" { "" } else { place.as_str() };
        if place != above {
            return Err(Error::invalid(
                "path",
                path,
                "the slices on the way are not as their names say",
            ));
        }
        if name.ends_with(".slice") && slice_path(&name)? != path {
            return Err(Error::invalid("path", path, "a slice lies where its name says"));
        }
        Ok(Self {
            name,
            parent: parent.to_owned(),
        })
    }
}

/// The last component of a path, checked to be a unit's name, and what is before it.
pub(super) fn split(path: &str) -> Result<(String, String), Error> {
    let (above, name) = path
        .rsplit_once('/')
        .ok_or_else(|| Error::invalid("path", path, "a path from the root is wanted"))?;
    check(name)?;
    Ok((name.to_owned(), above.to_owned()))
}

/// systemd.unit(5): letters, digits and ":-_.\" and no more than 255 bytes.
fn check(name: &str) -> Result<(), Error> {
    let stem = name.strip_suffix(".slice").or_else(|| name.strip_suffix(".scope"));
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
    match stem {
        Some(stem) if !stem.is_empty() && name.len() <= 255 && stem.bytes().all(letters) => Ok(()),
        _ => Err(Error::invalid("unit", name, "the name of a slice or a scope is wanted")),
    }
}

/// Where the cgroup of a slice is: `a-b.slice` is `/a.slice/a-b.slice`, `-.slice` is the root (systemd.slice(5)).
///
/// # Errors
/// A name that is no slice's.
pub fn slice_path(slice: &str) -> Result<String, Error> {
    if slice == "-.slice" {
        return Ok("/".to_owned());
    }
    check(slice)?;
    let stem = slice
        .strip_suffix(".slice")
        .ok_or_else(|| Error::invalid("slice", slice, "a name that ends in .slice is wanted"))?;
    let mut path = String::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(Error::invalid("slice", slice, "a dash separates two names"));
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push('/');
        path.push_str(&prefix);
        path.push_str(".slice");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        assert_eq!(slice_path("a.slice").unwrap(), "/a.slice");
        assert_eq!(
            slice_path("kubepods-burstable-pod1_2.slice").unwrap(),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"
        );
        assert_eq!(slice_path("-.slice").unwrap(), "/");
        for bad in [
            "a",
            "",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
            "a.scope",
            "ä.slice",
        ] {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_names_a_unit_in_its_slice() {
        let unit = Unit::of("/a.slice/a-b.slice/x-1.scope").unwrap();
        assert_eq!((unit.name.as_str(), unit.parent.as_str()), ("x-1.scope", "a-b.slice"));
        assert_eq!(Unit::of("/a.slice").unwrap().parent, "-.slice");
        assert_eq!(Unit::of("/a.slice/a-b.slice").unwrap().parent, "a.slice");
        for bad in [
            "/b.slice/a-b.slice/x.scope",
            "/a.slice/b.slice",
            "/kubepods/x.scope",
            "x.scope",
            "/x",
            "/a.slice/x y.scope",
        ] {
            assert!(Unit::of(bad).is_err(), "{bad}");
        }
    }
}
