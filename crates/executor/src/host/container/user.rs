//! Who the steps are in a container: the image's user, looked up in the image's own lists.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::Sandbox;
use crate::host::init::Failed;
use crate::host::wire::Refusal;

/// Lists of users are short; one that is not is not read.
const LIST_BYTES_MAX: u64 = 1 << 20;

/// The numbers that a step becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Empty where the namespace has one user, and groups cannot be set.
    pub groups: Option<Vec<u32>>,
    pub home: String,
    /// Where the image wants another user than this machine can give.
    pub instead_of: Option<String>,
}

/// Finds `user`, or `user:group`, in the image.
pub(super) fn find(root: &impl AsFd, user: &str, single_user: bool) -> Result<Identity, Failed> {
    let users = read(root.as_fd(), "etc/passwd");
    let groups = read(root.as_fd(), "etc/group");
    let found = look_up(user, &users, &groups).map_err(|why| {
        let why = format!("the user `{user}` of the container cannot be used: {why}");
        Failed(Refusal::Other(why))
    })?;
    if !single_user {
        return Ok(found);
    }
    // The one user that is known in there is root, who owns what whoever runs kiln owns outside.
    let root = look_up("0:0", &users, &groups).map_err(|why| Failed::words(&why))?;
    let instead_of = (found.uid != 0).then(|| user.to_owned());
    Ok(Identity { groups: None, instead_of, ..root })
}

/// In a sandbox one is who kiln is, without its further groups where they can be given up.
pub(super) fn own(sandbox: &Sandbox) -> Identity {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let groups = (!sandbox.user).then(Vec::new);
    let home = sandbox.home.to_string_lossy().into_owned();
    Identity { uid, gid, groups, home, instead_of: None }
}

fn look_up(user: &str, users: &str, groups: &str) -> Result<Identity, String> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let by_name = lines(users).find(|line| line.first() == Some(&user));
    // Who root is need not be listed anywhere.
    let number = if user == "root" { Some(0) } else { user.parse::<u32>().ok() };
    let listed = by_name.or_else(|| {
        let number = number?;
        lines(users).find(|line| line.get(2).and_then(|uid| uid.parse().ok()) == Some(number))
    });
    let field = |at: usize| listed.as_ref()?.get(at)?.parse::<u32>().ok();
    let uid = field(2).or(number).ok_or("the image has none of that name in its `/etc/passwd`")?;
    let gid = match group {
        Some(group) => group_of(group, groups)?,
        None => field(3).unwrap_or(0),
    };
    let name = listed.as_ref().and_then(|line| line.first().copied());
    let member = |line: &Vec<&str>| {
        let members = line.get(3).copied().unwrap_or_default();
        name.is_some_and(|name| members.split(',').any(|member| member == name))
    };
    let of = |line: Vec<&str>| line.get(2).and_then(|gid| gid.parse().ok());
    let mut all: Vec<u32> = lines(groups).filter(member).filter_map(of).collect();
    all.retain(|other| *other != gid);
    let home =
        listed.as_ref().and_then(|line| line.get(5).copied()).filter(|home| !home.is_empty());
    let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
    Ok(Identity { uid, gid, groups: Some(all), home, instead_of: None })
}

fn group_of(group: &str, groups: &str) -> Result<u32, String> {
    let named = lines(groups).find(|line| line.first() == Some(&group));
    let number = named.and_then(|line| line.get(2)?.parse().ok());
    let number = number.or_else(|| if group == "root" { Some(0) } else { group.parse().ok() });
    number.ok_or_else(|| format!("the image has no group `{group}` in its `/etc/group`"))
}

fn lines(list: &str) -> impl Iterator<Item = Vec<&str>> {
    list.lines().map(|line| line.split(':').collect())
}

/// A list of the image; an image without one has nobody.
pub(super) fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat2(root, path, flags, Mode::empty(), inside) else {
        return String::new();
    };
    let file = File::from(file);
    let mut bytes = Vec::new();
    let regular = file.metadata().is_ok_and(|meta| meta.is_file());
    if !regular || file.take(LIST_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\n";
    const GROUPS: &str = "root:x:0:\nnode:x:1001:\ndocker:x:998:root,node\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let ids = |user: &str| {
            let found = look_up(user, USERS, GROUPS).unwrap();
            (found.uid, found.gid, found.groups.unwrap(), found.home)
        };
        assert_eq!(ids(""), (0, 0, vec![998], "/root".to_owned()));
        assert_eq!(ids("node"), (1000, 1001, vec![998], "/home/node".to_owned()));
        assert_eq!(ids("1000"), (1000, 1001, vec![998], "/home/node".to_owned()));
        assert_eq!(ids("node:docker"), (1000, 998, vec![], "/home/node".to_owned()));
        assert_eq!(ids("4000"), (4000, 0, vec![], "/".to_owned()));
        assert_eq!(ids("4000:4001"), (4000, 4001, vec![], "/".to_owned()));
        for (user, why) in [("nobody", "/etc/passwd"), ("node:none", "/etc/group")] {
            assert!(look_up(user, USERS, GROUPS).unwrap_err().contains(why), "{user}");
        }
        assert_eq!(look_up("0", "", "").unwrap().home, "/root");
        assert_eq!(look_up("root:root", "", "").unwrap().gid, 0);
    }
}
