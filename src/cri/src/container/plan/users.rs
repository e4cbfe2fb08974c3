//! Who the container runs as: CRI's fields, the image's USER, and the image's own
//! `/etc/passwd` and `/etc/group`. Pure: the two files come as text (`rootfs.rs` reads them
//! bounded and inside the root).
//!
//! Rules: a number is a number, never looked up as a name (CVE-2016-3697); a number that
//! does not fit is an error, never a name (CVE-2026-46680); lines that cannot be read are
//! skipped, as the C library does; `run_as_group` alone is an error; the primary group is
//! part of the supplementary ones (CVE-2022-2995).

use proto::cri;

use crate::error::Error;

/// The image's account files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// `/etc/passwd`, or nothing.
    pub(crate) passwd: String,
    /// `/etc/group`, or nothing.
    pub(crate) group: String,
    /// Others than root may write `/etc/passwd`: the image sees to its entries itself.
    pub(crate) open: bool,
}

/// The file of the accounts.
pub(crate) const PASSWD: &str = "/etc/passwd";

/// The image's `/etc/passwd` with an entry for a user that has none: ssh, git, and whatever
/// else asks for its own name, fail without one. Not for an image that has no such file, or
/// lets others write it: that one adds the entry in its entrypoint. CRI-O does the same.
pub(crate) fn with_entry(identity: &Identity, accounts: &Accounts) -> Option<String> {
    let Identity { uid, gid, home, .. } = identity;
    if *uid == 0 || accounts.open || accounts.passwd.is_empty() || accounts.users().any(|u| u.uid == *uid) {
        return None;
    }
    let own = if home.contains([':', '\n']) { "/" } else { home };
    let image = accounts.passwd.trim_end_matches('\n');
    Some(format!("{image}\n{uid}:x:{uid}:{gid}::{own}:/sbin/nologin\n"))
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups, each once, in order.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let home = fields.nth(1).unwrap_or("");
            Some(User { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }
}

/// A user or group as it was written.
enum Named<'a> {
    Id(u32),
    Name(&'a str),
}

fn parse<'a>(text: &'a str, what: &str) -> Result<Named<'a>, Error> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        // 2^32 - 1 means "no change" to setuid(2) and must never become an identity.
        return match text.parse::<u32>() {
            Ok(id) if id != u32::MAX => Ok(Named::Id(id)),
            _ => Err(Error::invalid(format!(
                "{what} {text:?} is out of range: 0 to 4294967294 is possible"
            ))),
        };
    }
    if text.starts_with('-') && text[1..].bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!("{what} {text:?} is negative")));
    }
    Ok(Named::Name(text))
}

/// The id in a CRI wrapper.
fn id(value: i64, what: &str) -> Result<u32, Error> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("{what} {value} is out of range: 0 to 4294967294 is possible")))
}

/// Resolves the identity from the security context and the image's USER.
pub(crate) fn resolve(
    context: &cri::LinuxContainerSecurityContext,
    image_user: &str,
    accounts: &Accounts,
) -> Result<Identity, Error> {
    let from_image = context.run_as_user.is_none() && context.run_as_username.is_empty();
    if from_image && context.run_as_group.is_some() {
        return Err(Error::invalid(
            "run_as_group is set without run_as_user or run_as_username; set one of them too",
        ));
    }
    let (user_text, group_text) = if from_image {
        image_user
            .split_once(':')
            .map_or((image_user, None), |(u, g)| (u, Some(g)))
    } else {
        (context.run_as_username.as_str(), None)
    };
    let user = match &context.run_as_user {
        Some(value) => Named::Id(id(value.value, "run_as_user")?),
        None if user_text.is_empty() => Named::Id(0),
        None => parse(user_text, "user")?,
    };
    let (uid, entry) = match user {
        Named::Id(uid) => (uid, accounts.users().find(|u| u.uid == uid)),
        Named::Name(name) => {
            let entry = accounts.users().find(|u| u.name == name).ok_or_else(|| {
                Error::invalid(format!(
                    "user {name:?} is not in the image's /etc/passwd; use a number or another image"
                ))
            })?;
            (entry.uid, Some(entry))
        }
    };
    let gid = match (&context.run_as_group, group_text.filter(|g| !g.is_empty())) {
        (Some(value), _) => id(value.value, "run_as_group")?,
        (None, Some(text)) => match parse(text, "group")? {
            Named::Id(gid) => gid,
            Named::Name(name) => accounts
                .groups()
                .find(|(n, ..)| *n == name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "group {name:?} is not in the image's /etc/group; use a number or another image"
                    ))
                })?,
        },
        (None, None) => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups = vec![gid];
    let merge = context.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Merge;
    if merge && let Some(entry) = &entry {
        let member = |list: &str| list.split(',').any(|m| m == entry.name);
        groups.extend(
            accounts
                .groups()
                .filter(|(.., list)| member(list))
                .map(|(_, gid, _)| gid),
        );
    }
    for value in &context.supplemental_groups {
        groups.push(id(*value, "supplemental group")?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    let home = entry.map(|e| e.home).filter(|h| h.starts_with('/')).unwrap_or("/");
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::LinuxContainerSecurityContext as Context;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n\
                     broken line\n\
                     1000:x:0:0::/evil:/bin/sh\n\
                     4294967296:x:0:0::/evil:/bin/sh\n\
                     app:x:1000:1001:App:/home/app:/bin/sh\n"
                .into(),
            group: "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app\n".into(),
            open: false,
        }
    }

    fn value(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }

    fn ids(context: &Context, image_user: &str) -> (u32, u32, Vec<u32>) {
        let it = resolve(context, image_user, &accounts()).unwrap();
        (it.uid, it.gid, it.groups)
    }

    #[test]
    fn a_user_without_an_entry_gets_one() {
        let entry =
            |context: &Context, accounts: &Accounts| with_entry(&resolve(context, "", accounts).unwrap(), accounts);
        let context = Context {
            run_as_user: value(4321),
            run_as_group: value(77),
            ..Default::default()
        };
        let text = entry(&context, &accounts()).unwrap();
        assert!(text.ends_with("/bin/sh\n4321:x:4321:77::/:/sbin/nologin\n"), "{text}");
        assert!(text.starts_with(accounts().passwd.trim_end()));
        let open = Accounts {
            open: true,
            ..accounts()
        };
        assert_eq!(entry(&context, &open), None);
        assert_eq!(entry(&context, &Accounts::default()), None);
        for known in [0, 1000] {
            let context = Context {
                run_as_user: value(known),
                ..Default::default()
            };
            assert_eq!(entry(&context, &accounts()), None, "{known}");
        }
    }

    #[test]
    fn the_image_says_who() {
        let none = Context::default();
        assert_eq!(ids(&none, ""), (0, 0, vec![0, 10]));
        assert_eq!(ids(&none, "app"), (1000, 1001, vec![1001, 10, 44]));
        assert_eq!(ids(&none, "app:video"), (1000, 44, vec![44, 10]));
        assert_eq!(ids(&none, "7:8"), (7, 8, vec![8]));
        assert_eq!(resolve(&none, "app", &accounts()).unwrap().home, "/home/app");
        assert_eq!(resolve(&none, "7", &accounts()).unwrap().home, "/");
    }

    #[test]
    fn a_number_is_never_a_name() {
        let none = Context::default();
        assert_eq!(ids(&none, "1000"), (1000, 1001, vec![1001, 10, 44]));
        for bad in [
            "4294967296",
            "4294967295",
            "-1",
            "app:4294967296",
            "nobody-here",
            "app:no-group",
        ] {
            let error = resolve(&none, bad, &accounts()).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn cri_goes_before_the_image() {
        let context = Context {
            run_as_user: value(5),
            ..Context::default()
        };
        assert_eq!(ids(&context, "app:video"), (5, 0, vec![0]));
        let context = Context {
            run_as_user: value(1000),
            run_as_group: value(9),
            ..Context::default()
        };
        assert_eq!(ids(&context, ""), (1000, 9, vec![9, 10, 44]));
        let context = Context {
            run_as_username: "app".into(),
            ..Context::default()
        };
        assert_eq!(ids(&context, "root"), (1000, 1001, vec![1001, 10, 44]));
        let alone = Context {
            run_as_group: value(9),
            ..Context::default()
        };
        assert!(resolve(&alone, "app", &accounts()).is_err());
        let bad = Context {
            run_as_user: value(-1),
            ..Context::default()
        };
        assert!(resolve(&bad, "", &accounts()).is_err());
    }

    #[test]
    fn strict_takes_no_group_from_the_image() {
        let mut context = Context {
            run_as_user: value(1000),
            supplemental_groups: vec![77, 77],
            supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict.into(),
            ..Context::default()
        };
        assert_eq!(ids(&context, "").2, [1001, 77]);
        context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Merge.into();
        assert_eq!(ids(&context, "").2, [1001, 10, 44, 77]);
    }
}
