//! Files of a repository that make up an image. What a repository holds is not trusted: a link in it must
//! not lead out of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Where images on disk are looked for.
pub trait Files: Send + Sync {
    /// Opens a regular file for reading. `path` is relative, without `..`.
    fn open(&self, path: &Path) -> io::Result<File>;
}

/// A folder. Nothing outside it is ever opened, whatever links there are in it.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.0, flags | OFlags::DIRECTORY, Mode::empty())?;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // A pipe in the file's place must not be waited for.
        let opened =
            rustix::fs::openat2(&root, path, flags | OFlags::NONBLOCK, Mode::empty(), inside)?;
        let file = File::from(opened);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }
}
