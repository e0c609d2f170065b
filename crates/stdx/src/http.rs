//! HTTP over a unix socket: how daemons of this machine are asked.
//!
//! One connection for each question. That costs microseconds here, and an answer that is not read to its
//! end spoils no other. Nothing waits for ever: a peer that is silent for too long is an error.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Of the head of an answer.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// What a socket's address holds, less its closing zero and some room.
const ADDRESS_BYTES_MAX: usize = 100;

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    pub method: &'a str,
    /// With its query. What is not plain in it must be [`escaped`] already.
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// JSON, unless the headers say otherwise.
    pub body: &'a [u8],
}

/// A question that was put, and not answered yet.
#[derive(Debug)]
pub struct Pending {
    stream: UnixStream,
    /// What has come already.
    early: Vec<u8>,
}

/// An answer, whose body is read from it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    from: BufReader<io::Chain<io::Cursor<Vec<u8>>, UnixStream>>,
    body: Body,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Bytes(u64),
    /// Of the chunk that is being read; `None` before the first.
    Chunks(Option<u64>),
    ToTheEnd,
    Over,
}

/// Asks, and waits for the head of the answer. `silence_max` holds for each read, of the body too.
///
/// # Errors
///
/// When nobody listens at `socket`, or what answers does not speak HTTP.
pub fn ask(socket: &Path, request: &Request<'_>, silence_max: Duration) -> io::Result<Answer> {
    begin(socket, request, silence_max)?.answer()
}

/// Asks without waiting.
///
/// # Errors
///
/// When nobody listens at `socket`, and when the request would be more than one.
pub fn begin(socket: &Path, request: &Request<'_>, silence_max: Duration) -> io::Result<Pending> {
    let Request { method, path, headers, body } = *request;
    let mut words = [method, path].into_iter().chain(headers.iter().flat_map(|(n, v)| [*n, *v]));
    if words.any(|word| word.bytes().any(|b| b.is_ascii_control())) || path.contains(' ') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a line break in a request"));
    }
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(silence_max))?;
    stream.set_write_timeout(Some(silence_max))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += "Content-Type: application/json\r\n";
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(Pending { stream, early: Vec::new() })
}

/// A text as one word of a path or a query.
pub fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().fold(String::with_capacity(text.len()), |mut done, byte| {
        match plain(byte) {
            true => done.push(char::from(byte)),
            false => done.push_str(&format!("%{byte:02X}")),
        }
        done
    })
}

/// Whatever the length of the path.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return UnixStream::connect(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

impl Pending {
    /// Waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not HTTP.
    pub fn answer(self) -> io::Result<Answer> {
        let mut from = BufReader::new(io::Cursor::new(self.early).chain(self.stream));
        loop {
            let (status, body) = head(&mut from)?;
            // `100 Continue` and its like announce the answer.
            if status >= 200 {
                let body = if matches!(status, 204 | 304) { Body::Over } else { body };
                return Ok(Answer { status, from, body });
            }
        }
    }

    /// Reads once, and asks `enough` of all that has come. True also when nothing more will come.
    pub fn heard(&mut self, enough: impl FnOnce(&[u8]) -> bool) -> bool {
        let mut bytes = [0; 4 << 10];
        match self.stream.read(&mut bytes) {
            Ok(n @ 1..) if self.early.len() as u64 <= HEAD_BYTES_MAX => {
                self.early.extend_from_slice(&bytes[..n]);
                enough(&self.early)
            }
            _ => true,
        }
    }
}

/// Readable when more of an answer is there.
impl AsFd for Pending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Answer {
    /// The whole body.
    ///
    /// # Errors
    ///
    /// When it has more bytes than `n_bytes_max`, or ends too early.
    pub fn whole(self, n_bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(n_bytes_max + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > n_bytes_max {
            true => Err(damaged("an answer that is too long")),
            false => Ok(bytes),
        }
    }

    /// The length of the next chunk.
    fn next_chunk(&mut self, is_first: bool) -> io::Result<u64> {
        let mut line = String::new();
        if !is_first {
            bounded_line(&mut self.from, &mut line)?;
            line.clear();
        }
        bounded_line(&mut self.from, &mut line)?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        u64::from_str_radix(digits, 16).map_err(|_| damaged("a chunk without a length"))
    }
}

impl Read for Answer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Body::Chunks(left @ (None | Some(0))) = self.body {
            let length = self.next_chunk(left.is_none())?;
            self.body = if length == 0 { Body::Over } else { Body::Chunks(Some(length)) };
        }
        let most = match self.body {
            Body::Over | Body::Bytes(0) => return Ok(0),
            Body::ToTheEnd => return self.from.read(into),
            Body::Bytes(left) | Body::Chunks(Some(left)) => left,
            Body::Chunks(None) => unreachable!("begun above"),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(into.len());
        let n = self.from.read(&mut into[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.body {
            Body::Bytes(left) | Body::Chunks(Some(left)) => *left -= n as u64,
            _ => {}
        }
        Ok(n)
    }
}

/// The status of an answer and how long its body is; the head is read away.
fn head(from: &mut impl BufRead) -> io::Result<(u16, Body)> {
    let mut head = from.take(HEAD_BYTES_MAX);
    let mut line = String::new();
    head.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    let status = status.ok_or_else(|| damaged("no HTTP"))?;
    let mut body = Body::ToTheEnd;
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(damaged("a head without an end"));
        }
        let Some((name, value)) = line.split_once(':') else {
            return match line.trim().is_empty() {
                true => Ok((status, body)),
                false => Err(damaged("a head that is none")),
            };
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if body == Body::ToTheEnd => {
                body = Body::Bytes(value.parse().map_err(|_| damaged("no length"))?);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                body = Body::Chunks(None);
            }
            _ => {}
        }
    }
}

fn bounded_line(from: &mut impl BufRead, line: &mut String) -> io::Result<()> {
    const LINE_BYTES_MAX: u64 = 1 << 10;
    match from.take(LINE_BYTES_MAX).read_line(line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of an answer of these bytes.
    fn read(bytes: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let (mut theirs, ours) = UnixStream::pair()?;
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || theirs.write_all(&bytes));
        let answer = Pending { stream: ours, early: Vec::new() }.answer();
        let read = answer.and_then(|answer| Ok((answer.status, answer.whole(100)?)));
        let _ = writer.join();
        read
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        for (answer, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodymore", "body"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbod\r\n1;x=y\r\ny\r\n0\r\n\r\n",
                "body",
            ),
            ("HTTP/1.0 200 OK\r\nA: b\r\n\r\nbody", "body"),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
                "body",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\nbody", ""),
        ] {
            let (status, read) = read(answer.as_bytes()).unwrap();
            assert!(matches!(status, 200 | 204));
            assert_eq!(String::from_utf8(read).unwrap(), body, "{answer}");
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_or_not_http_is_an_error() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101));
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(100_000));
        for wrong in [
            "",
            "\0\0\0",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 \r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod",
            "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbod\r\n",
            &long,
            &endless,
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_request_is_one_request() {
        let nowhere = Path::new("/nowhere.sock");
        let second = Duration::from_secs(1);
        for path in ["/a\r\nX: y", "/a b"] {
            let request = Request { method: "GET", path, ..Request::default() };
            let refused = begin(nowhere, &request, second).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(escaped("a/b c:1é"), "a%2Fb%20c%3A1%C3%A9");
    }
}
