//! The person's terminal, lent to a command in a session.
//!
//! ```text
//! person ── terminal, raw ──▶ kiln ── outer end ─▶ pseudo-terminal ── inner end ─▶ command
//! ```
//!
//! Keys go through as bytes: what they mean (Ctrl-C, Ctrl-Z) is decided by the inner terminal, for the
//! command. Always: however this process ends, short of being killed, the terminal is as it was.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::task::JoinHandle;

/// More than a person types or a screen takes at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How the terminal was before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Gives the terminal back, if it was taken.
pub fn restore() {
    // Also called in a panic, perhaps of this very module.
    if let Ok(mut before) = BEFORE.try_lock()
        && let Some(before) = before.take()
    {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// The terminal passes keys on and understands none, until dropped.
pub struct Raw(());

impl Raw {
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        *BEFORE.lock().map_err(|_| io::Error::other("a lock is broken"))? = Some(before);
        let raw = Self(());
        raw.again()?;
        Ok(raw)
    }

    /// After somebody else had the terminal.
    pub fn again(&self) -> io::Result<()> {
        let mut modes = tcgetattr(io::stdin())?;
        modes.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Drain, &modes)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// A pseudo-terminal, and who carries bytes between it and the person's terminal.
pub struct Lent {
    outer: File,
    /// Closed: the keyboard is not listened to any more.
    _listening: OwnedFd,
    screen: JoinHandle<()>,
}

impl Lent {
    /// Gives the inner end too. The person's terminal should be raw by now. `outer`: of a terminal that the
    /// place has made for this; else it is one of the machine's.
    pub fn begin(outer: Option<OwnedFd>) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let of_place = outer.and_then(|outer| unlocked(outer, flags).ok());
        let (outer, inner) = match of_place {
            Some(both) => both,
            None => {
                let outer = openpt(flags)?;
                grantpt(&outer)?;
                unlocked(outer, flags)?
            }
        };
        let outer = File::from(outer);
        let (stop, listening) = pipe_with(PipeFlags::CLOEXEC)?;
        let (keys, shown) = (outer.try_clone()?, outer.try_clone()?);
        // Threads, because a person's terminal must not be made non-blocking: others share it.
        tokio::task::spawn_blocking(move || type_on(keys, &stop));
        let screen = tokio::task::spawn_blocking(move || show(shown));
        let lent = Self { outer, _listening: listening, screen };
        lent.resize();
        Ok((lent, inner))
    }

    /// Gives the inner terminal the size of the person's. The kernel tells the command.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _ = tcsetwinsize(&self.outer, size);
        }
    }

    /// Waits until all that was written is on the screen. Only when nobody is left who could write.
    pub async fn end(self) {
        let Self { outer, _listening, screen } = self;
        drop((outer, _listening));
        let _ = screen.await;
    }
}

/// Both ends.
fn unlocked(outer: OwnedFd, flags: OpenptFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    unlockpt(&outer)?;
    let inner = ioctl_tiocgptpeer(&outer, flags)?;
    Ok((outer, inner))
}

/// Passes on what is typed until there is nobody to listen or nobody to type.
fn type_on(mut to: File, stop: &OwnedFd) {
    let stdin = io::stdin();
    let mut bytes = vec![0; CHUNK_BYTES];
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let (typed, stopped) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if stopped {
            return;
        }
        if typed {
            // Past the library's buffer: what is left in there nobody would be told of.
            match rustix::io::read(stdin.as_fd(), &mut bytes[..]) {
                Ok(0) => return,
                Ok(n) if to.write_all(&bytes[..n]).is_err() => return,
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    }
}

/// Passes on what is written until the last inner end is closed.
fn show(mut from: File) {
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut screen = io::stdout();
    loop {
        match from.read(&mut bytes) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            // A screen that is gone is still read for, or the command would hang before it hears.
            Ok(n) => drop(screen.write_all(&bytes[..n]).and_then(|()| screen.flush())),
        }
    }
}
