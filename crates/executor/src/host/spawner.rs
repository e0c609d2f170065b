//! The process that starts sessions.
//!
//! Forking a server of many threads and much memory is slow and, before exec, unlawful. So kiln
//! forks once, at its very start; what it forked stays small and single-threaded and forks an init
//! for every session. A request is one byte with the init's end of a control socket attached to it;
//! everything else, secrets above all, is said over that socket.
//!
//! Always: it holds descriptors 0 to 2 (all `/dev/null`) and its socket; it ends when its owner does.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::sys::{self, Forked};

/// The owner's end of the spawner. When it is dropped (or the owner dies) the spawner ends.
#[derive(Debug)]
pub struct Spawner {
    socket: OwnedFd,
}

impl Spawner {
    /// Forks the spawner. Call it first in `main`, before any thread (so before any runtime) exists.
    ///
    /// # Errors
    ///
    /// When the machine gives no process or descriptor, and when the process has threads already.
    pub fn start() -> io::Result<Self> {
        if n_threads()? > 1 {
            return Err(io::Error::other("the spawner must be started before any thread exists"));
        }
        // Whatever is forked from now on begins where we are.
        super::cgroup::settle();
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // SAFETY: checked above that there is one thread.
        match unsafe { sys::fork() }? {
            Forked::Parent(_) => Ok(Self { socket: ours }),
            Forked::Child => sys::run_and_exit(|| {
                drop(ours);
                settle(theirs).map_or(1, |socket| serve(&socket))
            }),
        }
    }

    /// A new init's control socket.
    pub(super) fn new_init(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        let lent = [theirs.as_fd()];
        if !attached.push(SendAncillaryMessage::ScmRights(&lent)) {
            return Err(io::Error::other("no room for one descriptor"));
        }
        loop {
            let byte = [IoSlice::new(b"s")];
            match rustix::net::sendmsg(&self.socket, &byte, &mut attached, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return other.map(|_| ours).map_err(Into::into),
            }
        }
    }
}

fn n_threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Leaves the owner's terminal, folder and descriptors. Gives the socket at its new place.
fn settle(socket: OwnedFd) -> io::Result<OwnedFd> {
    let _ = rustix::process::setsid();
    sys::set_process_name(c"kiln-spawner", "kiln-spawner");
    // First both out of the way of their own new places.
    let kept = rustix::io::fcntl_dupfd_cloexec(&socket, 10)?;
    let null = {
        let low = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::fcntl_dupfd_cloexec(&low, 10)?
    };
    for fd in 0..3 {
        redirect(null.as_raw_fd(), fd)?;
    }
    redirect(kept.as_raw_fd(), 3)?;
    // Their numbers are closed or reused by the next line.
    [socket, kept, null].into_iter().for_each(std::mem::forget);
    sys::close_from(4);
    // SAFETY: 3 is open since the line above and owned by nobody else.
    let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(3) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    sys::unblock_signals();
    sys::ignore_children();
    Ok(socket)
}

fn redirect(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: the process was just forked for this; nobody else owns `to`.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Forks an init per request until the owner is gone.
fn serve(socket: &OwnedFd) -> i32 {
    loop {
        match next_request(socket) {
            Ok(Some(control)) => {
                // SAFETY: this process never starts a thread.
                match unsafe { sys::fork() } {
                    Ok(Forked::Child) => sys::run_and_exit(|| {
                        close_in_init(socket);
                        super::init::run(UnixStream::from(control))
                    }),
                    // Without a process the control socket closes, and the asker hears that.
                    Ok(Forked::Parent(_)) | Err(_) => {}
                }
            }
            Ok(None) => return 0,
            Err(_) => return 1,
        }
    }
}

/// An init must not keep the spawner's socket: the owner could not tell that the spawner is gone.
fn close_in_init(socket: &OwnedFd) {
    // SAFETY: the init never returns to the code that owns the descriptor.
    unsafe { libc::close(socket.as_raw_fd()) };
}

/// The control socket of the next session; `None` when the owner is gone.
fn next_request(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut byte = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(socket, &mut into, &mut attached, flags) {
            Err(Errno::INTR) => continue,
            Err(cause) => return Err(cause.into()),
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(_) => {}
        }
        for message in attached.drain() {
            if let RecvAncillaryMessage::ScmRights(mut received) = message
                && let Some(control) = received.next()
            {
                return Ok(Some(control));
            }
        }
    }
}
