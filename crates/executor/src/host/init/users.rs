//! The users of an ordinary user's containers, and what they leave.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_stdx::Subordinate;
use kiln_stdx::overlay::Mount;
use kiln_stdx::subordinate::Place;
use rustix::fs::{AtFlags, CWD, Gid, Uid};
use rustix::process::{Pid, WaitOptions};

use crate::host::sys::{self, Forked};

/// A child outside of the namespace that init is about to make.
pub(super) struct Mapper {
    child: Pid,
    go: io::PipeWriter,
    said: io::PipeReader,
}

/// What it says when the namespace has its users. Anything else is what went wrong.
const MAPPED: &str = "mapped";

impl Mapper {
    pub fn start(users: &Subordinate, place: Place, is_below: bool) -> io::Result<Self> {
        let ((mut asked, go), (said, mut tell)) = (io::pipe()?, io::pipe()?);
        let init = std::process::id();
        // SAFETY: an init has one thread.
        match unsafe { sys::fork() }? {
            Forked::Parent(child) => Ok(Self { child, go, said }),
            Forked::Child => sys::run_and_exit(|| {
                drop((go, said));
                sys::heed_children();
                // Silence is an init that is gone.
                if !asked.read(&mut [0]).is_ok_and(|n| n == 1) {
                    return 1;
                }
                let mapped = match is_below {
                    true => users.map_below(init, place).map_err(|cause| cause.to_string()),
                    false => users.map(init, place),
                };
                let said = mapped.map_or_else(|why| why, |()| MAPPED.to_owned());
                i32::from(tell.write_all(said.as_bytes()).is_err())
            }),
        }
    }

    /// Has the namespace mapped that init is in now.
    pub fn map(self) -> Result<(), String> {
        let Self { child, mut go, mut said } = self;
        let mut answer = String::new();
        let heard = go.write_all(b"g").and_then(|()| said.read_to_string(&mut answer));
        let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        match (heard, answer.as_str()) {
            (Ok(_), MAPPED) => Ok(()),
            (_, "") => Err("the process that gives it its users died".to_owned()),
            (_, why) => Err(why.to_owned()),
        }
    }
}

/// Makes everything in a folder root's, which is whoever runs kiln, outside: other users' files could not be
/// kept, read or removed there. When nothing runs any more. What resists stays as it is, and its removal
/// takes it back.
pub(super) fn bring_home(folder: &Path) {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if (meta.uid(), meta.gid()) != (0, 0) {
                let (uid, gid) = (Some(Uid::ROOT), Some(Gid::ROOT));
                let _ = rustix::fs::chownat(CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                if meta.is_file() && meta.mode() & 0o6000 != 0 {
                    // Which the change of owner has taken away.
                    let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777);
                    let _ = std::fs::set_permissions(&path, mode);
                }
            }
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
}

/// The new top of a workspace belongs to whom the one before did: a job may have given it away.
pub(super) fn hand_on(old: &Mount, new: &Mount) {
    if let Ok(looks) = std::fs::metadata(&old.upper) {
        let (uid, gid) = (Uid::from_raw(looks.uid()), Gid::from_raw(looks.gid()));
        let _ = rustix::fs::chownat(CWD, &new.upper, Some(uid), Some(gid), AtFlags::empty());
    }
}
