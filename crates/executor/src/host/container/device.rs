//! `/dev`, and the loopback device of a network of its own.

#![allow(unsafe_code, reason = "the request that brings a network device up has no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::mount::MountAttrFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::root::{Result, bind, folder, new, said};

/// Devices that hold nothing of the machine's. Bound, not made: only the machine's root may make them.
const NODES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(super) fn make(root: BorrowedFd<'_>) -> Result<()> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let plain = quiet | MountAttrFlags::MOUNT_ATTR_NODEV;
    new(root, "tmpfs", &[("mode", "0755"), ("size", "64k")], quiet, Path::new("dev"))?;
    for name in NODES {
        let node = Path::new("/dev").join(name);
        // A machine that is itself a container may lack some.
        if node.exists() {
            bind(root, &node, &node, true)?;
        }
    }
    let dev = folder(root, Path::new("dev"), None)?;
    for (name, target) in LINKS {
        said(&format!("cannot make `/dev/{name}`"), rustix::fs::symlinkat(*target, &dev, *name))?;
    }
    // Each mount of it is an instance of its own (since Linux 4.7).
    let terminals = [("ptmxmode", "0666"), ("mode", "0620")];
    new(root, "devpts", &terminals, quiet, Path::new("dev/pts"))?;
    new(root, "tmpfs", &[("mode", "1777")], plain, Path::new("dev/shm"))?;
    new(root, "mqueue", &[], plain, Path::new("dev/mqueue"))
}

/// Brings `lo` up in a new network namespace.
pub(super) fn loopback_up() -> Result<()> {
    let what = "cannot bring the container's loopback device up";
    let made = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = said(what, made)?;
    // SAFETY: all zeros is a valid request; its name is `lo` with its closing zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let wanted = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = wanted as libc::c_short;
    // SAFETY: the kernel reads a request of this size and keeps nothing of it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(format!("{what}: {}", crate::contract::words(&io::Error::last_os_error()))),
    }
}
