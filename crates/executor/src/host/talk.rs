//! The line to an init: what is asked goes out, and one task hears what comes back.
//!
//! Asking never waits: what the socket does not take at once is kept and written by the task.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::wire::{Ask, DESCRIPTORS_MAX, Inbox, Refusal, Tell, encode};
use crate::contract::words;
use crate::{LogPosition, OpenError, StepDone, StepError};

/// The line to an init, and the task that listens on it.
#[derive(Debug)]
pub(super) struct Talk {
    pub link: Arc<Link>,
    answers: mpsc::UnboundedReceiver<Tell>,
    pub position: Arc<watch::Sender<LogPosition>>,
    listener: JoinHandle<()>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Talk {
    pub fn over(stream: StdUnixStream) -> Result<Self, OpenError> {
        let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        let stream = stream.map_err(|cause| OpenError::Other(words(&cause)))?;
        let link = Arc::new(Link { stream, unsent: Mutex::default(), more: Notify::new() });
        let (told, answers) = mpsc::unbounded_channel();
        let position = Arc::new(watch::Sender::default());
        let listener = tokio::spawn(listen(link.clone(), told, position.clone()));
        Ok(Self { link, answers, position, listener })
    }

    pub async fn hear(&mut self) -> Option<Tell> {
        self.answers.recv().await
    }

    pub async fn hear_opened(&mut self) -> Result<(), OpenError> {
        match self.hear().await {
            Some(Tell::Opened) => Ok(()),
            Some(Tell::Refused(Refusal::Isolation(why))) => Err(OpenError::Isolation(why)),
            Some(Tell::Refused(Refusal::Mount(why))) => Err(OpenError::Mount(why)),
            Some(Tell::Refused(Refusal::Other(why))) => Err(OpenError::Other(why)),
            _ => Err(OpenError::Gone),
        }
    }

    pub async fn hear_step(&mut self) -> Option<Result<StepDone, StepError>> {
        loop {
            if let Tell::StepOver(over) = self.hear().await? {
                return Some(over);
            }
        }
    }
}

/// The socket, for several who ask at once.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// What the socket did not take yet.
    unsent: Mutex<Vec<u8>>,
    more: Notify,
}

impl Link {
    /// Init hears the end of our words, and we go on hearing its own.
    pub fn say_no_more(&self) {
        // It may be gone by now.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }

    pub fn ask(&self, ask: &Ask) {
        self.send(&encode(ask));
    }

    /// Sends now what can be sent now; the listening task sends the rest.
    pub fn send(&self, frame: &[u8]) {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let n_sent = match unsent.is_empty() {
            true => self.stream.try_write(frame).unwrap_or(0),
            false => 0,
        };
        if n_sent < frame.len() {
            unsent.extend_from_slice(&frame[n_sent..]);
            self.more.notify_one();
        }
    }

    /// Sends a frame with descriptors attached to its first byte, after all that was asked before.
    pub async fn send_with(&self, frame: &[u8], lent: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            self.stream.writable().await?;
            let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
            if !unsent.is_empty() {
                if let Ok(n) = self.stream.try_write(&unsent) {
                    unsent.drain(..n);
                }
                continue;
            }
            let sent =
                self.stream.try_io(Interest::WRITABLE, || send_attached(&self.stream, frame, lent));
            match sent {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
                Ok(n_sent) if n_sent < frame.len() => {
                    unsent.extend_from_slice(&frame[n_sent..]);
                    self.more.notify_one();
                    return Ok(());
                }
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Sends what was kept, as room comes. Returns when init is gone.
    async fn send_unsent(&self) -> io::Result<()> {
        loop {
            if self.unsent.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                self.more.notified().await;
                continue;
            }
            self.stream.writable().await?;
            let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
            match self.stream.try_write(&unsent) {
                Ok(n) => {
                    unsent[..n].fill(0);
                    unsent.drain(..n);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
            }
        }
    }
}

fn send_attached(to: &UnixStream, frame: &[u8], lent: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if !attached.push(SendAncillaryMessage::ScmRights(lent)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    let sent = rustix::net::sendmsg(to, &[IoSlice::new(frame)], &mut attached, SendFlags::NOSIGNAL);
    Ok(sent?)
}

/// Hears init until it is gone; then the channel of answers ends.
async fn listen(
    link: Arc<Link>,
    told: mpsc::UnboundedSender<Tell>,
    position: Arc<watch::Sender<LogPosition>>,
) {
    let hear = async {
        let mut inbox = Inbox::default();
        let mut bytes = vec![0; 4 << 10];
        loop {
            link.stream.readable().await?;
            match link.stream.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(n) => inbox.bytes.extend_from_slice(&bytes[..n]),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => continue,
                Err(cause) => return Err(cause),
            }
            while let Some(tell) = inbox.next::<Tell>().map_err(|_| io::ErrorKind::InvalidData)? {
                match &tell {
                    Tell::Log { n_bytes } => {
                        advance(&position, *n_bytes);
                        link.ask(&Ask::Seen);
                        continue;
                    }
                    Tell::StepOver(Ok(done)) => advance(&position, done.log_to),
                    _ => {}
                }
                if told.send(tell).is_err() {
                    return io::Result::Ok(());
                }
            }
        }
    };
    // A failing send means that init is gone, and so does the end of its words; what it said last
    // is still to be heard, so only hearing decides.
    tokio::select! {
        _ = hear => {}
        () = async { let _ = link.send_unsent().await; std::future::pending().await } => {}
    }
}

/// Never back.
pub(super) fn advance(position: &watch::Sender<LogPosition>, n_bytes: u64) {
    position.send_if_modified(|position| {
        let further = n_bytes > position.n_bytes;
        position.n_bytes = position.n_bytes.max(n_bytes);
        further
    });
}
