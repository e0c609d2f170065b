//! overlayfs: several trees seen as one, writes kept apart.
//!
//! Mounted through the new mount API, one `lowerdir+` per layer, so that neither the number of
//! layers nor the length or the characters of their paths meets the one page of options that
//! `mount(2)` takes. Kernels before 6.7 lack `lowerdir+`; there the old call is made with names
//! under `/proc/self/fd`, which are short and free of separators.
//!
//! Always: `redirect_dir=nofollow,metacopy=off,index=off`, whatever the distribution's defaults,
//! because with the others an upper folder is not complete in itself (an empty renamed folder, a
//! file of zeros). `volatile` where the kernel has it: without it every unmount syncs the whole
//! file system that holds the upper folder, 6 to 13 ms on a quiet disk and seconds on a busy one.
//! The price: after a loss of power (not after the death of any process) an upper may be damaged.
//!
//! Elsewhere: which namespace it is mounted in (`executor`), and what a layer means (`workspace`).

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount as sys;
use serde::{Deserialize, Serialize};

/// The kernel's own bound on lower layers (`OVL_MAX_STACK`).
pub const LOWERS_MAX: usize = 500;

const OPTIONS: [(&str, &str); 3] =
    [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// What `fsconfig` takes in one string, with room to spare.
const VALUE_BYTES_MAX: usize = 200;

/// What `mount(2)` takes as options: a page, less its closing zero.
const PAGE: usize = 4095;

/// One overlay mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Highest first, as the kernel wants them.
    #[serde(with = "crate::path::list")]
    pub lowers: Vec<PathBuf>,
    #[serde(with = "crate::path")]
    pub upper: PathBuf,
    /// An empty folder on the file system of `upper`.
    #[serde(with = "crate::path")]
    pub work: PathBuf,
    #[serde(with = "crate::path")]
    pub at: PathBuf,
    /// Mounted without being root: `userxattr`.
    pub user: bool,
}

/// Why an overlay could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{0} layers are too many: the kernel stacks at most {LOWERS_MAX}")]
    TooManyLowers(usize),
    #[error("{0} layers are too many for this kernel, which is older than 6.7")]
    TooManyForOldKernel(usize),
    #[error("cannot open `{}` to mount it", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot mount on `{}`{detail}", .at.display())]
    Refused {
        at: PathBuf,
        /// The kernel's own words, when it has any.
        detail: String,
        #[source]
        cause: io::Error,
    },
}

/// Mounts in the calling thread's mount namespace.
pub fn mount(spec: &Mount) -> Result<(), MountError> {
    if spec.lowers.len() > LOWERS_MAX {
        return Err(MountError::TooManyLowers(spec.lowers.len()));
    }
    match mount_by_context(spec)? {
        Supported::Yes => Ok(()),
        Supported::No => mount_by_page(spec),
    }
}

/// Takes the mount away; when something still uses it, from view at once and for good when it ends.
pub fn unmount(at: &Path) -> io::Result<()> {
    match sys::unmount(at, sys::UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => sys::unmount(at, sys::UnmountFlags::DETACH)?,
        other => other?,
    }
    Ok(())
}

enum Supported {
    Yes,
    No,
}

fn mount_by_context(spec: &Mount) -> Result<Supported, MountError> {
    let context = match sys::fsopen("overlay", sys::FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NOSYS) => return Ok(Supported::No),
        Err(cause) => return Err(refused(spec, None, cause)),
    };
    let refused = |cause| refused(spec, Some(&context), cause);
    // Held until the mount stands: names under /proc/self/fd mean nothing after.
    let mut held = Vec::new();
    for (at, lower) in spec.lowers.iter().enumerate() {
        let name = short_name(lower, &mut held)?;
        match sys::fsconfig_set_string(&context, "lowerdir+", &name) {
            Err(Errno::INVAL) if at == 0 => return Ok(Supported::No),
            other => other.map_err(refused)?,
        }
    }
    for (key, path) in [("upperdir", &spec.upper), ("workdir", &spec.work)] {
        let name = short_name(path, &mut held)?;
        sys::fsconfig_set_string(&context, key, &name).map_err(refused)?;
    }
    for (key, value) in OPTIONS {
        sys::fsconfig_set_string(&context, key, value).map_err(refused)?;
    }
    sys::fsconfig_set_flag(&context, "volatile").map_err(refused)?;
    if spec.user {
        sys::fsconfig_set_flag(&context, "userxattr").map_err(refused)?;
    }
    sys::fsconfig_create(&context).map_err(refused)?;
    let flags = sys::FsMountFlags::FSMOUNT_CLOEXEC;
    let tree = sys::fsmount(&context, flags, sys::MountAttrFlags::empty()).map_err(refused)?;
    let flags = sys::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    sys::move_mount(&tree, "", CWD, &spec.at, flags).map_err(refused)?;
    Ok(Supported::Yes)
}

/// The old call, for kernels without `lowerdir+`.
fn mount_by_page(spec: &Mount) -> Result<(), MountError> {
    let mut held = Vec::new();
    let mut lowers = String::new();
    for lower in &spec.lowers {
        let colon = if lowers.is_empty() { "" } else { ":" };
        let _ = write!(lowers, "{colon}{}", held_name(lower, &mut held)?);
    }
    let upper = held_name(&spec.upper, &mut held)?;
    let work = held_name(&spec.work, &mut held)?;
    let mut options = format!("lowerdir={lowers},upperdir={upper},workdir={work}");
    for (key, value) in OPTIONS {
        let _ = write!(options, ",{key}={value}");
    }
    if spec.user {
        options.push_str(",userxattr");
    }
    if options.len() + ",volatile".len() > PAGE {
        return Err(MountError::TooManyForOldKernel(spec.lowers.len()));
    }
    let try_with = |options: String| {
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        sys::mount("overlay", &spec.at, "overlay", sys::MountFlags::empty(), options.as_c_str())
    };
    match try_with(format!("{options},volatile")) {
        // Before 5.10 there is no `volatile`.
        Err(Errno::INVAL) => try_with(options),
        other => other,
    }
    .map_err(|cause| refused(spec, None, cause))
}

/// The path itself, or a name under `/proc/self/fd` when it is long or has a character that the
/// option's parser takes for its own.
fn short_name(path: &Path, held: &mut Vec<OwnedFd>) -> Result<PathBuf, MountError> {
    let bytes = path.as_os_str().as_bytes();
    let plain = bytes.len() <= VALUE_BYTES_MAX && !bytes.iter().any(|b| b"\\:,".contains(b));
    if plain { Ok(path.to_owned()) } else { held_name(path, held).map(PathBuf::from) }
}

fn held_name(path: &Path, held: &mut Vec<OwnedFd>) -> Result<String, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|cause| MountError::Open { path: path.to_owned(), cause: cause.into() })?;
    let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
    held.push(folder);
    Ok(name)
}

fn refused(spec: &Mount, context: Option<&OwnedFd>, cause: Errno) -> MountError {
    let said = context.map(kernel_message).unwrap_or_default();
    let detail = if said.is_empty() { said } else { format!(": {said}") };
    MountError::Refused { at: spec.at.clone(), detail, cause: cause.into() }
}

/// What the kernel wrote into the context's message queue: `e overlay: …`.
fn kernel_message(context: &OwnedFd) -> String {
    let mut said = Vec::new();
    let mut line = [0; 512];
    while let Ok(n @ 1..) = rustix::io::read(context.as_fd(), &mut line[..]) {
        let text = String::from_utf8_lossy(&line[..n]);
        said.push(text.trim_end().get(2..).unwrap_or_default().to_owned());
    }
    said.join("; ")
}
