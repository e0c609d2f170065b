//! How trees are stacked on this machine, found out once and remembered.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_stdx::fs::{FsError, Named, write_atomic};
use serde::{Deserialize, Serialize};

use crate::tree;

const FILE: &str = "driver.json";

/// How trees are stacked on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// overlayfs, mounted by root
    Overlay,
    /// overlayfs in a user namespace, `userxattr`
    OverlayUser,
    /// copies that share their blocks with what they were made from (xfs, btrfs)
    Reflink,
    /// plain copies
    Copy,
}

impl Driver {
    /// Whether a workspace is a mount over its layers, and not a copy of them.
    pub fn mounts(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayUser)
    }

    /// [`Driver::Reflink`] where files in this folder can share blocks, else [`Driver::Copy`]: for a
    /// machine that mounts no overlays.
    pub fn of_copies(folder: &Path) -> Self {
        if Self::probe_reflink(folder).is_ok() { Self::Reflink } else { Self::Copy }
    }

    /// Finds out, with two files, whether two files in this folder can share blocks.
    pub fn probe_reflink(folder: &Path) -> Result<(), FsError> {
        let names = [tree::temporary_in(folder), tree::temporary_in(folder)];
        let probed = (|| {
            std::fs::write(&names[0], [b'x'; 4096])?;
            let old = File::open(&names[0])?;
            let new = File::create_new(&names[1])?;
            Ok(rustix::fs::ioctl_ficlone(&new, &old)?)
        })();
        // The probe's answer is the one to tell.
        let removed = names.iter().try_for_each(|name| tree::remove(name));
        probed.named("share blocks in", folder).and(removed)
    }

    /// As a person names it; `None` for another word.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Overlay, Self::OverlayUser, Self::Reflink, Self::Copy]
            .into_iter()
            .find(|driver| driver.name() == name)
    }

    /// How a person names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::OverlayUser => "overlay-user",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }
}

/// The answer of a probe and what it depends on.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    kernel: String,
    uid: u32,
    /// The file system that holds the folder: not every one can hold an upper folder.
    device: u64,
    driver: Driver,
}

impl Remembered {
    fn here(root: &Path, driver: Driver) -> Result<Self, FsError> {
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            uid: rustix::process::geteuid().as_raw(),
            device: std::fs::metadata(root).named("read", root)?.dev(),
            driver,
        })
    }
}

/// What was found out under the same kernel, by the same user, on the same file system.
pub(crate) fn remembered(root: &Path) -> Option<Driver> {
    let text = std::fs::read(root.join(FILE)).ok()?;
    let then: Remembered = serde_json::from_slice(&text).ok()?;
    let driver = then.driver;
    (Remembered::here(root, driver).ok()? == then).then_some(driver)
}

pub(crate) fn remember(root: &Path, driver: Driver) -> Result<(), FsError> {
    if remembered(root) == Some(driver) {
        return Ok(());
    }
    let text = serde_json::to_vec(&Remembered::here(root, driver)?).unwrap_or_default();
    write_atomic(&root.join(FILE), &text)
}
