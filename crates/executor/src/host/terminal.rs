//! Terminals that a container knows.
//!
//! A container has a `/dev/pts` of its own. A terminal of the machine works in there, but has no name, and
//! `tty` and what asks for that name (`tmux`, `gpg`) take it for none. So a person's terminal in a container
//! is made among the container's own, by who is outside.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, makedev, open, openat2};

use super::attach;

/// What makes a new terminal of `/dev/pts` when it is opened: `/dev/ptmx`.
const MAKER: (u32, u32) = (5, 2);

/// The outer end of a new terminal in the container, or sandbox, of an attempt's session. `None`: it has
/// none, or one that kiln has not made, or one that may not be looked into.
pub fn terminal_in(attempt_dir: &Path) -> Option<OwnedFd> {
    let init = attach::living_pid(attempt_dir)?;
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    let is_stage = |pid: &&str| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == "kiln-stage")
    };
    let stage = children.split_ascii_whitespace().find(is_stage)?;
    let only = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(format!("/proc/{stage}/root"), only, Mode::empty()).ok()?;
    // The job may have put anything there: no link is followed, and nothing else is opened.
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let maker = openat2(&root, "dev/pts/ptmx", only, Mode::empty(), inside).ok()?;
    let stat = fstat(&maker).ok()?;
    let is_maker = FileType::from_raw_mode(stat.st_mode).is_char_device()
        && stat.st_rdev == makedev(MAKER.0, MAKER.1);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&maker));
    is_maker.then(|| open(again, flags, Mode::empty()).ok()).flatten()
}
