//! A data folder has one server.
//!
//! `kiln.lock` in the folder is locked with `flock` for as long as the server lives; the kernel
//! lets go of it however the server dies. A server that ends by itself lets go at once and not only
//! by closing the file: a process that was being forked at that moment may have a copy of it for a
//! while. The file holds the pid for people to read, and is never removed: removing it would let two
//! servers lock two files of one name.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::StoreError;

const FILE_NAME: &str = "kiln.lock";

/// The folder is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    pub(crate) fn take(data: &Path) -> Result<Self, StoreError> {
        let path = data.join(FILE_NAME);
        let failed =
            |cause: &dyn std::fmt::Display| format!("cannot lock `{}`: {cause}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| StoreError::other(failed(&e)))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(data, &mut file)),
            Err(e) => return Err(StoreError::other(failed(&e))),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|e| StoreError::other(failed(&e)))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort: closing the file does the same, unless somebody has a copy of it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn in_use(data: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    // Without a readable pid the message still says what matters.
    let _ = file.take(32).read_to_string(&mut text);
    let by = match text.trim().parse::<u32>() {
        Ok(pid) => format!(" (pid {pid})"),
        Err(_) => String::new(),
    };
    StoreError::other(format!(
        "data folder `{}` is in use by another kiln server{by}; stop it, or give this one another \
         folder with --data",
        data.display()
    ))
}
