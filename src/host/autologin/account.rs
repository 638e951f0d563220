//! The user to log in: whether the user exists, and whether a worker may request this user.

use nix::unistd::User;

use super::AutologinError;
use super::name::{UserName, matches};
use super::root::Root;

/// The first user id of people and task users.
const FIRST_USER: u32 = 1000;

/// The user id of `nobody`.
const NOBODY: u32 = 65534;

/// Looks up a user's id. On the running system, all its user databases are consulted; in another root, only its passwd
/// file.
pub(super) fn uid_of(root: &Root, user: &UserName) -> Result<u32, AutologinError> {
    let uid = if root.is_live() {
        let found = User::from_name(user.as_str());
        let failed = |error: nix::errno::Errno| AutologinError::Lookup(user.clone(), error.into());
        found.map_err(failed)?.map(|user| user.uid.as_raw())
    } else {
        let users = root.read("/etc/passwd")?.unwrap_or_default();
        uid_in(&String::from_utf8_lossy(&users), user)
    };
    match uid {
        None => Err(AutologinError::NoSuchUser(user.clone())),
        Some(0) => Err(AutologinError::Superuser(user.clone())),
        Some(uid) => Ok(uid),
    }
}

fn uid_in(users: &str, user: &UserName) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user.as_str())).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Checks that a worker may request this user.
pub(super) fn may_be_asked_for(
    user: &UserName,
    uid: u32,
    allowed: Option<&str>,
) -> Result<(), AutologinError> {
    if uid == NOBODY || user.as_str() == "nobody" {
        return Err(AutologinError::System(user.clone(), uid));
    }
    match allowed {
        Some(pattern) if matches(pattern, user.as_str()) => Ok(()),
        Some(pattern) => Err(AutologinError::NotAllowed(user.clone(), pattern.to_owned())),
        None if uid >= FIRST_USER => Ok(()),
        None => Err(AutologinError::System(user.clone(), uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        UserName::parse(text).unwrap()
    }

    #[test]
    fn a_worker_may_ask_for_people_and_for_what_the_pattern_allows() {
        let may = |user, uid, allowed| may_be_asked_for(&name(user), uid, allowed).is_ok();
        assert!(may("ci", 1000, None) && may("task_1", 1001, Some("task_*")) && may("kiosk", 900, Some("*")));
        assert!(!may("daemon", 1, None) && !may("ci", 1000, Some("task_*")));
        assert!(!may("nobody", 65534, None) && !may("nobody", 99, Some("*")) && !may("x", 65534, Some("*")));
    }

    #[test]
    fn another_roots_users_are_in_its_file() {
        let users = "root:x:0:0::/root:/bin/sh\nci:x:1000:1000:,,,:/home/ci:/bin/bash\nbroken\nodd:x:y:\n";
        assert_eq!(uid_in(users, &name("ci")), Some(1000));
        for absent in ["c", "broken", "odd", "x"] {
            assert_eq!(uid_in(users, &name(absent)), None, "{absent}");
        }
    }
}
