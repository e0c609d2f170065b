//! `/dev`.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::mount::MountAttrFlags;

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

/// Every other device of the machine, two folders deep. One that cannot be shown is left out: it may have
/// been unplugged.
pub(super) fn all(root: BorrowedFd<'_>) -> Result<()> {
    const OWN: [&str; 5] = ["pts", "shm", "mqueue", "ptmx", "console"];
    let is_own = |path: &Path| OWN.iter().any(|own| path == Path::new("/dev").join(own));
    let mut folders = vec![Path::new("/dev").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if is_own(&path) || NODES.iter().any(|node| path == Path::new("/dev").join(node)) {
                continue;
            }
            if kind.is_dir() && folder == Path::new("/dev") {
                folders.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                let _ = bind(root, &path, &path, true);
            }
        }
    }
    Ok(())
}
