//! A little room set aside while there is enough, for the day when there is none.
//!
//! To say what is gone, the database must write a little first, and on a disk that others have
//! filled to the last byte it cannot. Then this file goes, and comes back when there is room.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::disk::Space;

const NAME: &str = "kiln.reserve";

/// Enough for SQLite's journal while some hundred runs are removed.
const BYTES: u64 = 8 << 20;

/// With less than this, writing may fail at any moment.
const FULL_BYTES: u64 = 1 << 20;

/// Made only where it is not felt.
const ROOM: u64 = 20;

fn path(data: &Path) -> PathBuf {
    data.join(NAME)
}

/// Gives the room away if there is no other: also before a database is opened that could not be
/// opened for want of it. Whether the disk is full.
pub fn spend_if_full(data: &Path) -> bool {
    let is_full = Space::at(data).is_some_and(|space| space.free < FULL_BYTES);
    if is_full {
        // Best effort, as all of this.
        let _ = fs::remove_file(path(data));
    }
    is_full
}

/// Sets room aside if it is not there and there is plenty.
pub fn make(data: &Path) {
    let at = path(data);
    if at.exists() || Space::at(data).is_none_or(|space| space.free < BYTES * ROOM) {
        return;
    }
    let made = File::create(&at).and_then(|file| {
        fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(std::io::Error::from)
    });
    if made.is_err() {
        let _ = fs::remove_file(&at);
    }
}
