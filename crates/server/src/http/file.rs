//! Bytes from a disk, whole or in part, in constant memory.

use std::io::{self, Read};
use std::ops::Range;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};

/// Read and sent at a time. Large enough that the hand-over between threads is no cost, small
/// enough that a slow reader holds little.
const CHUNK_BYTES: usize = 512 << 10;

/// What a `Range` header asks of `n_bytes` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Some(Range<u64>),
    /// 416.
    Outside,
}

/// Reads `Range: bytes=…`. Several ranges at once are answered with the whole, as is allowed.
pub fn part(headers: &HeaderMap, n_bytes: u64, etag: Option<&str>) -> Part {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let Some(range) = text(header::RANGE).and_then(|range| range.trim().strip_prefix("bytes="))
    else {
        return Part::Whole;
    };
    // The part of something that has changed since would not fit to the rest.
    if text(header::IF_RANGE).is_some_and(|known| Some(known) != etag) {
        return Part::Whole;
    }
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else {
        return Part::Whole;
    };
    let number = |text: &str| match text.trim() {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            // More digits than a number holds is further than any end.
            Some(Some(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(last)) => {
            let end = last.unwrap_or(u64::MAX).saturating_add(1).min(n_bytes);
            match last {
                Some(last) if last < first => Part::Whole,
                _ if first >= n_bytes => Part::Outside,
                _ => Part::Some(first..end),
            }
        }
        (Some(None), Some(Some(0))) => Part::Outside,
        (Some(None), Some(Some(_))) if n_bytes == 0 => Part::Outside,
        (Some(None), Some(Some(n))) => Part::Some(n_bytes.saturating_sub(n)..n_bytes),
        _ => Part::Whole,
    }
}

/// Status and headers for a part of `n_bytes` bytes, and which bytes to send.
pub fn head(part: &Part, n_bytes: u64) -> (StatusCode, HeaderMap, Range<u64>) {
    let mut headers = HeaderMap::new();
    let mut put = |name, text: String| {
        // Digits and ASCII words only.
        headers.insert(name, text.parse().expect("a header of our own making"));
    };
    put(header::ACCEPT_RANGES, "bytes".to_owned());
    let (status, range) = match part {
        Part::Whole => (StatusCode::OK, 0..n_bytes),
        Part::Some(range) => {
            let (first, last) = (range.start, range.end - 1);
            put(header::CONTENT_RANGE, format!("bytes {first}-{last}/{n_bytes}"));
            (StatusCode::PARTIAL_CONTENT, range.clone())
        }
        Part::Outside => {
            put(header::CONTENT_RANGE, format!("bytes */{n_bytes}"));
            (StatusCode::RANGE_NOT_SATISFIABLE, 0..0)
        }
    };
    put(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    (status, headers, range)
}

/// A body of `n_bytes` bytes, read when they are wanted: who receives slowly holds one chunk and no
/// thread. When the file gives less, the connection is broken off rather than the answer cut short.
pub fn body(
    open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static,
    n_bytes: u64,
) -> Body {
    let whole = Length::Known;
    sent(Reading { source: Source::Closed(Box::new(open)), left: n_bytes, length: whole })
}

/// As [`body`], of a length that nobody knows before.
pub fn stream(open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static) -> Body {
    let until = Length::UntilEnd;
    sent(Reading { source: Source::Closed(Box::new(open)), left: u64::MAX, length: until })
}

fn sent(start: Reading) -> Body {
    Body::from_stream(futures_util::stream::unfold(start, |reading| async {
        if reading.left == 0 {
            return None;
        }
        let read = tokio::task::spawn_blocking(move || reading.next()).await;
        match read.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok((chunk, reading)) => Some((Ok(chunk), reading)),
            Err(error) => {
                let (source, length) = (Source::Failed, Length::Known);
                Some((Err(error), Reading { source, left: 0, length }))
            }
        }
    }))
}

type Opener = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

enum Source {
    Closed(Opener),
    Open(Box<dyn Read + Send>),
    Failed,
}

enum Length {
    Known,
    UntilEnd,
}

struct Reading {
    source: Source,
    left: u64,
    length: Length,
}

impl Reading {
    fn next(self) -> io::Result<(Bytes, Self)> {
        let mut file = match self.source {
            Source::Closed(open) => open()?,
            Source::Open(file) => file,
            Source::Failed => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        };
        let size = usize::try_from(self.left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let mut chunk = Vec::with_capacity(size);
        let n = (&mut file).take(size as u64).read_to_end(&mut chunk)?;
        let left = match self.length {
            Length::Known if n == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Length::UntilEnd if n == 0 => 0,
            _ => self.left - n as u64,
        };
        Ok((Bytes::from(chunk), Self { source: Source::Open(file), left, length: self.length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let ask = |text: &str, n_bytes| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            part(&headers, n_bytes, None)
        };
        assert_eq!(part(&HeaderMap::new(), 10, None), Part::Whole);
        assert_eq!(ask("bytes=0-3", 10), Part::Some(0..4));
        assert_eq!(ask("bytes=4-", 10), Part::Some(4..10));
        assert_eq!(ask("bytes=-3", 10), Part::Some(7..10));
        assert_eq!(ask("bytes=-30", 10), Part::Some(0..10));
        assert_eq!(ask("bytes=9-99", 10), Part::Some(9..10));
        assert_eq!(ask("bytes=0-99999999999999999999999", 10), Part::Some(0..10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(ask(outside, 10), Part::Outside, "{outside}");
        }
        assert_eq!(ask("bytes=-1", 0), Part::Outside);
        for whole in
            ["bytes=5-2", "bytes=a-b", "bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=+1-"]
        {
            assert_eq!(ask(whole, 10), Part::Whole, "{whole}");
        }
    }
}
