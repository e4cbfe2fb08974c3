//! Names of systemd's slices and scopes, and where their cgroups lie (systemd.slice(5)): the slice `a-b.slice` lies in
//! `a.slice`, a scope directly in its slice.

use crate::Error;

const SUFFIX: &str = ".slice";

/// The name of the slice that a parent stands for: "kubepods.slice", or the whole path that the kubelet sends,
/// "/kubepods.slice/kubepods-burstable.slice".
///
/// # Errors
/// Where the last component is not the name of a slice.
pub fn slice_name(parent: &str) -> Result<&str, Error> {
    let name = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let stem = name.strip_suffix(SUFFIX).unwrap_or_default();
    let is_clean = stem
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte));
    // unit_name_is_valid(), slice_make_path(): no empty part between dashes.
    if stem.is_empty() || !is_clean || name.len() > 255 || stem.split('-').any(str::is_empty) {
        return Err(Error::invalid(
            "systemd slice",
            parent,
            "a name like kubepods-burstable.slice is wanted",
        ));
    }
    Ok(name)
}

/// The cgroup of a slice, relative to the root of the hierarchy.
///
/// # Errors
/// As [`slice_name`].
pub fn slice_path(name: &str) -> Result<String, Error> {
    let stem = slice_name(name)?.trim_end_matches(SUFFIX);
    let mut path = String::new();
    for (at, _) in stem.match_indices('-') {
        path.push('/');
        path.push_str(&stem[..at]);
        path.push_str(SUFFIX);
    }
    Ok(format!("{path}/{stem}{SUFFIX}"))
}

/// The unit whose cgroup lies at `path`: its last component.
#[must_use]
pub fn unit_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_the_slices_of_its_name() {
        assert_eq!(slice_path("test.slice").unwrap(), "/test.slice");
        assert_eq!(
            slice_path("kubepods-burstable-pod12_3.slice").unwrap(),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_3.slice"
        );
        assert_eq!(
            slice_path("/kubepods.slice/kubepods-pod1.slice/").unwrap(),
            "/kubepods.slice/kubepods-pod1.slice"
        );
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        for bad in [
            "",
            "/",
            "kubepods",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            ".slice",
            "-.slice",
            "a b.slice",
            "/x/y",
        ] {
            assert!(slice_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_unit_is_the_last_component() {
        assert_eq!(unit_of("/a.slice/x.scope"), "x.scope");
    }
}
