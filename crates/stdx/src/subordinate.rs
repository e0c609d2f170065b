//! Users and groups that an ordinary user may give files to: its subordinate numbers, of `/etc/subuid` and
//! `/etc/subgid`.
//!
//! With them a user namespace has many users and not one: 0 in it is our own user, 1 and on are the
//! subordinate ones. Such a namespace cannot be made alone: `newuidmap` and `newgidmap`, which are
//! set-user-id, look into the lists and write its maps from outside.
//!
//! What then belongs to others we can neither change nor always read any more, outside of such a namespace:
//! [`Subordinate::give`] makes it so and [`Subordinate::take_back`] undoes it, each in a child of its own.
//!
//! Elsewhere: what runs in such a namespace (`executor`), and whose files have which owners (`workspace`).

#![allow(unsafe_code, reason = "fork and a namespace of users have no safe interface")]

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::process::{Pid, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::process;

/// Numbers in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub first: u32,
    pub n: u32,
}

/// The subordinate numbers of the user that we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subordinate {
    pub uids: Range,
    pub gids: Range,
}

/// Where our own user is in a namespace; the subordinate ones follow from 1, or keep their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It is 0, and the others are 1 and on: for containers.
    Root,
    /// All have the numbers that they have outside.
    Same,
}

/// Whose a file is to be, in the numbers of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Relative to the folder, without links on its way.
    pub path: CString,
    pub uid: u32,
    pub gid: u32,
    /// To be set again: a change of owner takes the set-user-id bit away.
    pub mode: Option<u32>,
    /// The file's capabilities, as the kernel keeps them.
    pub capabilities: Option<Vec<u8>>,
}

/// The two programs talk to nobody and end at once.
const HELPER_FOR: Duration = Duration::from_secs(10);
const CAPABILITIES: &CStr = c"security.capability";

impl Subordinate {
    /// Those of this process's user, tried out once; else, why there are none, and the way to get them.
    ///
    /// Blocking; milliseconds the first time.
    pub fn of_this_user() -> Result<&'static Self, &'static str> {
        static FOUND: OnceLock<Result<Subordinate, String>> = OnceLock::new();
        FOUND.get_or_init(find).as_ref().map_err(String::as_str)
    }

    /// Whether a user of that number is there, in a namespace with [`Place::Root`].
    fn has(&self, uid: u32, gid: u32) -> bool {
        uid <= self.uids.n && gid <= self.gids.n
    }

    /// Whether all numbers can stay as they are: none of them is our own.
    pub fn can_stay_same(&self) -> bool {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let within =
            |range: Range, id: u32| id.checked_sub(range.first).is_some_and(|n| n < range.n);
        !within(self.uids, own.0) && !within(self.gids, own.1)
    }

    /// Gives a process's new namespace its users, from outside of it.
    pub fn map(&self, pid: u32, place: Place) -> Result<(), String> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        for (program, own, range) in
            [("newuidmap", own.0, self.uids), ("newgidmap", own.1, self.gids)]
        {
            let mut command = process::command(program);
            command.arg(pid.to_string());
            command.args(lines(own, range, place).as_flattened().iter().map(ToString::to_string));
            process::output_within(&mut command, HELPER_FOR).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// As [`Subordinate::map`], by who has the power to do so in the namespace above: no program is needed.
    pub fn map_below(&self, pid: u32, place: Place) -> io::Result<()> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        for (file, own, range) in [("uid_map", own.0, self.uids), ("gid_map", own.1, self.gids)] {
            let text = lines(own, range, place)
                .map(|[inside, outside, n]| format!("{inside} {outside} {n}\n"));
            fs::write(format!("/proc/{pid}/{file}"), text.concat())?;
        }
        Ok(())
    }

    /// Gives files in a folder of ours their owners. Who has no number here stays ours.
    pub fn give(&self, folder: &Path, mut all: Vec<Owned>) -> io::Result<()> {
        all.retain(|owned| self.has(owned.uid, owned.gid));
        if all.is_empty() {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty())?;
        self.in_child(|| all.iter().try_for_each(|owned| give_one(&root, owned)))
    }

    /// Makes everything in a folder ours again, whoever of our users it belongs to.
    pub fn take_back(&self, folder: &Path) -> io::Result<()> {
        // Not our own walk: the child must not take memory, and a tree may be deeper than a name is long.
        let program = [c"/bin/chown", c"/usr/bin/chown"];
        let path = CString::new(folder.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let argv = [c"chown", c"-hR", c"0:0", c"--", &path].map(CStr::as_ptr);
        let argv: Vec<_> = argv.into_iter().chain([std::ptr::null()]).collect();
        let envp = [std::ptr::null()];
        self.in_child(|| {
            for program in program {
                // SAFETY: the vectors end with null pointers and their strings live.
                unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            }
            Err(rustix::io::Errno::NOENT)
        })
    }

    /// Does `work` as root of a new namespace with all our users, in a child.
    ///
    /// The child is a fork of a process that may have threads: `work` makes system calls and nothing else.
    fn in_child(&self, work: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
        let ((mut made, say_made), (mapped, mut say_mapped)) = (io::pipe()?, io::pipe()?);
        // SAFETY: the child makes only system calls until it ends.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // Else it would wait for itself when the parent is gone.
                drop((made, say_mapped));
                let code = be_root_of_many(&say_made.into(), &mapped.into(), work);
                // SAFETY: it has no preconditions; nothing of the parent's is flushed or dropped.
                unsafe { libc::_exit(code) }
            }
            pid => {
                drop((say_made, mapped));
                // Silence is a child that could not make the namespace, which says so by its end.
                let told = made.read(&mut [0]).is_ok_and(|n| n == 1);
                let done = match told {
                    true => self.map(pid.cast_unsigned(), Place::Root).map_err(io::Error::other),
                    false => Ok(()),
                };
                let done = done.and_then(|()| match told {
                    true => say_mapped.write_all(b"m"),
                    false => Ok(()),
                });
                drop(say_mapped);
                let ended = wait_for(pid);
                done.and(ended)
            }
        }
    }
}

fn wait_for(pid: libc::pid_t) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    loop {
        match rustix::process::waitpid(pid, WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
            Ok(ended) => {
                return match ended.and_then(|(_, status)| status.exit_status()) {
                    Some(0) => Ok(()),
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => Err(io::Error::other("the child that changes owners was killed")),
                };
            }
        }
    }
}

/// The child's life; its code is an error's number.
fn be_root_of_many(
    say_made: &OwnedFd,
    mapped: &OwnedFd,
    work: impl FnOnce() -> rustix::io::Result<()>,
) -> i32 {
    // SAFETY: no memory or descriptor is affected.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        // SAFETY: the C library's own place for it.
        return unsafe { *libc::__errno_location() };
    }
    let go = rustix::io::write(say_made, b"n").and_then(|_| {
        let mut word = [0];
        // SAFETY: a number of a descriptor that is ours until the end of this process.
        let n = unsafe { libc::read(mapped.as_raw_fd(), word.as_mut_ptr().cast(), 1) };
        if n == 1 { Ok(()) } else { Err(rustix::io::Errno::PIPE) }
    });
    // SAFETY: plain system calls, not the C library's, which tell threads that are not there.
    let root = || unsafe {
        libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
    };
    match go {
        Ok(()) if !root() => libc::EPERM,
        Ok(()) => work().map_or_else(|errno| errno.raw_os_error(), |()| 0),
        Err(errno) => errno.raw_os_error(),
    }
}

fn give_one(root: &OwnedFd, owned: &Owned) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = match rustix::fs::openat2(root, &*owned.path, flags, Mode::empty(), inside) {
        // A later entry has taken its place, or that of a folder above it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(());
        }
        other => other?,
    };
    let (uid, gid) = (Uid::from_raw(owned.uid), Gid::from_raw(owned.gid));
    rustix::fs::chownat(file.as_fd(), c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    if owned.mode.is_none() && owned.capabilities.is_none() {
        return Ok(());
    }
    // What is only a place cannot be changed but by a name.
    let mut name = [0; 32];
    let n = write!(&mut name[..31], "/proc/self/fd/{}", file.as_raw_fd());
    n.map_err(|_| rustix::io::Errno::NAMETOOLONG)?;
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| rustix::io::Errno::INVAL)?;
    if let Some(mode) = owned.mode {
        rustix::fs::chmod(name, Mode::from_raw_mode(mode))?;
    }
    match &owned.capabilities {
        Some(value) => rustix::fs::setxattr(name, CAPABILITIES, value, XattrFlags::empty()),
        None => Ok(()),
    }
}

/// Inside, outside, how many.
fn lines(own: u32, range: Range, place: Place) -> [[u32; 3]; 2] {
    match place {
        Place::Root => [[0, own, 1], [1, range.first, range.n]],
        Place::Same => [[own, own, 1], [range.first, range.first, range.n]],
    }
}

fn find() -> Result<Subordinate, String> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Err("root needs none".to_owned());
    }
    let name = name_of(uid.as_raw());
    let range = |list: &str| {
        let text = fs::read_to_string(list).unwrap_or_default();
        largest(&text, name.as_deref(), uid.as_raw()).ok_or_else(|| {
            let name = name.clone().unwrap_or_else(|| uid.as_raw().to_string());
            format!(
                "`{list}` has no numbers for `{name}`; root gives them with `usermod --add-subuids \
                 100000-165535 --add-subgids 100000-165535 {name}` (numbers that nobody else has)"
            )
        })
    };
    let found = Subordinate { uids: range("/etc/subuid")?, gids: range("/etc/subgid")? };
    // Tried, not believed: the programs may lack their bit, or the machine may forbid namespaces.
    match found.in_child(|| Ok(())) {
        Ok(()) => Ok(found),
        Err(cause) => Err(format!(
            "its subordinate numbers cannot be used: {cause}; they take `newuidmap` and `newgidmap` (package \
             uidmap or shadow-utils), set-user-id"
        )),
    }
}

/// The user's name, by the machine's own list or whatever it asks.
fn name_of(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    listed.or_else(|| {
        let mut command: Command = process::command("id");
        let said = process::output_within(command.arg("-un"), HELPER_FOR).ok()?;
        Some(String::from_utf8(said).ok()?.trim().to_owned()).filter(|name| !name.is_empty())
    })
}

/// The largest range of `NAME:FIRST:N` or `NUMBER:FIRST:N`.
fn largest(list: &str, name: Option<&str>, uid: u32) -> Option<Range> {
    let ranges = list.lines().filter_map(|line| {
        let (of, range) = line.trim().split_once(':')?;
        let (first, n) = range.split_once(':')?;
        let (first, n) = (first.parse::<u32>().ok()?, n.parse::<u32>().ok()?);
        let is_ours = Some(of) == name || of.parse() == Ok(uid);
        // One more is ours; and the last number of all means nobody.
        let n = n.min((u32::MAX - 1).saturating_sub(first));
        (is_ours && n > 0 && first > 0).then_some(Range { first, n })
    });
    ranges.max_by_key(|range| range.n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_a_user_is_taken_by_name_or_number() {
        let list = "other:1:70000\nme:100000:10\n# me:1:1\nme:200000:65536\nme:4294967295:9\n1000:5:x\n1000:300000:7\nme:0:9\n";
        let found = |name, uid| largest(list, name, uid).map(|range| (range.first, range.n));
        assert_eq!(found(Some("me"), 1), Some((200_000, 65_536)));
        assert_eq!(found(None, 1000), Some((300_000, 7)));
        assert_eq!(found(Some("nobody"), 2), None);
        assert_eq!(largest("me:4294967290:65536", Some("me"), 1).map(|range| range.n), Some(4));
    }

    #[test]
    fn our_own_user_is_root_or_itself() {
        let range = Range { first: 100_000, n: 65_536 };
        assert_eq!(lines(1000, range, Place::Root), [[0, 1000, 1], [1, 100_000, 65_536]]);
        assert_eq!(lines(1000, range, Place::Same), [[1000, 1000, 1], [100_000, 100_000, 65_536]]);
    }
}
