//! Files: writes that happen wholly or not at all, and errors that name the path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An operation on a path that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} `{}`", .path.display())]
pub struct FsError {
    pub verb: &'static str,
    pub path: PathBuf,
    #[source]
    pub cause: io::Error,
}

/// Adds the verb and the path to an I/O error.
pub trait Named<T> {
    fn named(self, verb: &'static str, path: &Path) -> Result<T, FsError>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, verb: &'static str, path: &Path) -> Result<T, FsError> {
        self.map_err(|cause| FsError { verb, path: path.to_owned(), cause })
    }
}

/// Replaces `path` by `bytes`: after a crash the file is the old one or the new one, never half.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nonce = fastrand::u64(..);
    let temporary = folder.join(format!(".{name}.{nonce:016x}.tmp"));
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the name is unique, so a left-over is harmless.
        let _ = fs::remove_file(&temporary);
    }
    written.named("write", path)
}

/// Makes a folder and its parents, readable by the owner only where it did not exist.
pub fn create_private_dir(path: &Path) -> Result<(), FsError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| match cause.kind() {
        // A recursive builder minds only what is not a folder.
        io::ErrorKind::AlreadyExists => {
            io::Error::new(cause.kind(), "something that is not a folder has that name")
        }
        _ => cause,
    })
    .named("create", path)
}
