//! The socket in the data folder: only who may read the folder may speak to it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_stdx::fs::{FsError, Named};

/// A socket's address has room for 108 bytes.
const ADDRESS_BYTES_MAX: usize = 100;
/// An environment may have megabytes, not more.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

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

/// Asks the server at the other end: the status of its answer, and the body. An error: there is no
/// server, or it went away meanwhile.
pub fn post(path: &Path, at: &str, body: &[u8], within: Duration) -> io::Result<(u16, Vec<u8>)> {
    let mut socket = reachable(path, |path| UnixStream::connect(path))?;
    socket.set_read_timeout(Some(within))?;
    socket.set_write_timeout(Some(within))?;
    let mut request = format!(
        "POST {at} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    socket.write_all(&request)?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Status and body of an answer with a known length.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = &answer[end + 4..];
    // Short: the server went away while it answered.
    (body.len() == length).then(|| (status, body.to_owned()))
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
