//! A reader of server-sent events, as a browser's `EventSource` is one.

use std::io::{self, BufReader, Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};

use crate::http;

/// One open stream.
pub struct Sse {
    from: BufReader<TcpStream>,
    chunked: bool,
    pending: Vec<u8>,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

impl Sse {
    /// Opens a stream, after `last_id` where one is given.
    pub fn open(address: SocketAddr, path: &str, last_id: Option<&str>) -> io::Result<Self> {
        let mut headers = vec![("Accept", "text/event-stream")];
        headers.extend(last_id.map(|id| ("Last-Event-ID", id)));
        let mut from = http::send(address, "GET", path, &headers, b"")?;
        let (status, headers) = http::head(&mut from)?;
        let value = |name| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if status != 200
            || value("content-type").is_none_or(|t| !t.starts_with("text/event-stream"))
        {
            return Err(Error::new(ErrorKind::InvalidData, format!("{path}: answered {status}")));
        }
        let chunked = value("transfer-encoding").is_some();
        Ok(Self { from, chunked, pending: Vec::new() })
    }

    /// Waits for the next event that has data or a name; `None` when the server ended the stream.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                let event = parse(&String::from_utf8_lossy(&block));
                // A comment alone keeps the connection open and is no event.
                if event != Event::default() {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.more()? {
                Some(bytes) => self.pending.extend(bytes),
                None => return Ok(None),
            }
        }
    }

    fn more(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.chunked {
            return match http::next_chunk(&mut self.from) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
                other => other,
            };
        }
        use std::io::BufRead;
        let bytes = self.from.fill_buf()?.to_vec();
        self.from.consume(bytes.len());
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

/// Bytes of a base64 text with padding; panics on any other text.
pub fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other:?} is not base64"),
        };
        bits = (bits << 6) | u32::from(six);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
        }
    }
    bytes
}
