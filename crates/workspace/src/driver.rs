//! How trees are stacked on this machine, found out once and remembered.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_stdx::fs::{FsError, Named, write_atomic};
use serde::{Deserialize, Serialize};

const FILE: &str = "driver.json";

/// How trees are stacked on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// overlayfs, mounted by root
    Overlay,
    /// overlayfs in a user namespace, `userxattr`
    OverlayUser,
    /// plain copies
    Copy,
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
