//! A person at a terminal: sees what a command shows, and types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{self, Receiver};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::wait::{self, PATIENCE};
use crate::world::World;

/// A terminal with a command that controls it. Dropping it kills the command.
pub struct Terminal {
    outer: File,
    /// Kept open, so that what the terminal was left as can be seen.
    inner: OwnedFd,
    child: Child,
    shown: Receiver<Vec<u8>>,
    /// All that was shown so far, and how much of it was looked at.
    screen: String,
    seen: usize,
}

impl World {
    /// Starts `kiln` in `folder`, on a terminal of 80 columns and 24 rows.
    pub fn kiln_at_terminal<S: AsRef<std::ffi::OsStr>>(
        &self,
        folder: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let outer = openpt(flags).expect("a terminal");
        grantpt(&outer).expect("it can be used");
        unlockpt(&outer).expect("it can be opened");
        let inner = ioctl_tiocgptpeer(&outer, flags).expect("its other end");
        let end = || inner.try_clone().expect("another descriptor");
        let mut command = self.command("setsid");
        command.args(["--ctty", "--wait"]).arg(crate::binary::kiln()).args(args);
        command.current_dir(folder).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("kiln starts");
        let outer = File::from(outer);
        let (sender, shown) = mpsc::channel();
        let mut from = outer.try_clone().expect("another descriptor");
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                if sender.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let terminal = Terminal { outer, inner, child, shown, screen: String::new(), seen: 0 };
        terminal.resize(80, 24);
        terminal
    }
}

impl Terminal {
    /// Waits until `text` is shown, after all that was waited for before. Gives what came up to it.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.screen[self.seen..].find(text) {
                let from = self.seen;
                self.seen += at + text.len();
                return self.screen[from..self.seen].to_owned();
            }
            match self.shown.recv_timeout(PATIENCE) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("`{text}` was not shown ({error}):\n{}", self.screen),
            }
        }
    }

    pub fn types(&mut self, keys: &str) {
        self.outer.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.outer, size).expect("the terminal has a size");
    }

    /// Whether the terminal understands keys itself, and shows them: as it does for who types a line.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.inner).expect("the terminal's modes");
        modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it lives");
    }

    /// Waits for the command's end. Gives its exit code.
    pub fn code(&mut self) -> Option<i32> {
        let ended = || self.child.try_wait().expect("it can be waited for");
        wait::until("kiln has ended", ended).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
