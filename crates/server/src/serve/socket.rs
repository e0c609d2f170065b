//! The socket in the data folder: only who may read the folder may speak to it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

/// A socket's address has room for 108 bytes.
const ADDRESS_BYTES_MAX: usize = 100;

/// Calls `with` with a path that fits a socket's address, whatever the length of `path`.
pub(crate) fn reachable<T>(
    path: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return with(path);
    }
    let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    with(&short.join(path.file_name().unwrap_or_default()))
}

/// Listens at `path`. What is there is a left-over: the data folder's lock is held by now.
pub(super) fn bind(path: &Path) -> Result<tokio::net::UnixListener, FsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Err::<(), _>(error).named("remove", path).unwrap_err());
        }
        _ => {}
    }
    let socket = reachable(path, |path| tokio::net::UnixListener::bind(path));
    let socket = socket.named("listen on", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).named("change", path)?;
    Ok(socket)
}
