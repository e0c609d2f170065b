//! Process 1 of a container.
//!
//! It is a fork of init with namespaces of its own. It makes the root, says so, and sleeps until it is
//! killed; processes that have lost their parent become its children and vanish when they end.

#![allow(unsafe_code, reason = "clone has no safe interface")]

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions};

use super::{failed, root, unmade};
use crate::host::init::Failed;
use crate::host::sys;

/// Starts it, and waits until its root stands, which `make` makes.
pub(super) fn start(make: impl Fn() -> root::Result<()>) -> Result<(Pid, OwnedFd), Failed> {
    let (mut told, tell) = io::pipe().map_err(failed("cannot make a pipe"))?;
    let flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PIDFD
        | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: as fork: no stack is given and no memory shared; init has one thread. The kernel writes the
    // descriptor of the child through the third argument.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            std::ptr::null_mut::<u8>(),
            &raw mut pidfd,
            std::ptr::null_mut::<u8>(),
            std::ptr::null_mut::<u8>(),
        )
    };
    match pid {
        -1 => Err(failed("cannot make the container's namespaces")(io::Error::last_os_error())),
        0 => sys::run_and_exit(|| {
            drop(told);
            be(make, tell)
        }),
        pid => {
            drop(tell);
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process's number");
            // SAFETY: the kernel has just made it, and nobody else knows of it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let mut said = String::new();
            // The end without a word is a stage that died.
            let heard = told.read_to_string(&mut said);
            match (heard, said.as_str()) {
                (Ok(_), READY) => Ok((pid, pidfd)),
                (_, why) => {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                    let why = if why.is_empty() { "its first process died" } else { why };
                    Err(unmade(why))
                }
            }
        }
    }
}

/// What the stage says when its root stands. Anything else is what went wrong.
const READY: &str = "ready";

fn be(make: impl Fn() -> root::Result<()>, mut tell: io::PipeWriter) -> i32 {
    sys::set_process_name(c"kiln-stage", "kiln-stage");
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    sys::ignore_children();
    let made = make();
    let said = match &made {
        Ok(()) => tell.write_all(READY.as_bytes()),
        Err(why) => tell.write_all(why.as_bytes()),
    };
    drop(tell);
    if made.is_err() || said.is_err() {
        return 1;
    }
    // Nothing of init's is needed here, and nobody in the container shall find it.
    sys::close_from(0);
    loop {
        // SAFETY: every signal is blocked or ignored; only KILL ends this.
        unsafe { libc::pause() };
    }
}
