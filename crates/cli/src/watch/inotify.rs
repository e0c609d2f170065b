//! Learns that files have grown in another process, from the kernel: nothing is polled.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Files and folders that are watched.
pub struct Growth {
    events: AsyncFd<OwnedFd>,
}

impl Growth {
    /// Paths that are not there are passed over; watch their folder to learn when they come.
    pub fn of(paths: &[&Path]) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        for path in paths.iter().filter(|path| path.exists()) {
            inotify::add_watch(&events, *path, flags)?;
        }
        #[expect(
            deprecated,
            reason = "an `OwnedFd` does give the guarantee that the new name asks for"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Self { events })
    }

    /// Resolves when something has happened since the last time.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            let mut buffer = [0u8; 4096];
            let mut any = false;
            loop {
                match rustix::io::read(self.events.get_ref(), &mut buffer) {
                    Ok(n) if n > 0 => any = true,
                    Ok(_) | Err(rustix::io::Errno::AGAIN) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(cause) => return Err(cause.into()),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}
