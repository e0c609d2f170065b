//! Server-sent events, as they come.

use reqwest::Response;

use crate::error::{Blame, Result};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `message` when the server does not say.
    pub name: String,
    pub id: Option<String>,
    /// Lines joined by newlines.
    pub data: String,
}

/// The events of one answer.
pub struct Stream {
    answer: Response,
    parser: Parser,
}

impl Stream {
    pub fn new(answer: Response) -> Self {
        Self { answer, parser: Parser::default() }
    }

    /// `None`: the server ended the stream. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            match self.answer.chunk().await.elsewhere("lost the connection to the server")? {
                Some(bytes) => self.parser.bytes.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Bytes in, events out. Lines end with LF or CR LF.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
    event: Event,
    has_data: bool,
}

impl Parser {
    fn next(&mut self) -> Option<Event> {
        let mut begin = 0;
        let mut found = None;
        while let Some(length) =
            self.bytes[begin.max(self.searched)..].iter().position(|b| *b == b'\n')
        {
            let end = begin.max(self.searched) + length;
            let line = String::from_utf8_lossy(&self.bytes[begin..end]).into_owned();
            begin = end + 1;
            if let Some(event) = self.line(line.trim_end_matches('\r')) {
                found = Some(event);
                break;
            }
        }
        self.bytes.drain(..begin);
        self.searched = if found.is_some() { 0 } else { self.bytes.len() };
        found
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then(|| Event {
                name: if event.name.is_empty() { "message".to_owned() } else { event.name },
                ..event
            });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments keep the connection alive; unknown fields are ignored by the standard.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let text = b": hello\n\nevent: log\r\nid: 5\r\ndata: aGVsbG8=\r\n\r\ndata: a\ndata: b\n\nevent: end\ndata\n\n";
        let log = Event { name: "log".into(), id: Some("5".into()), data: "aGVsbG8=".into() };
        let two = Event { name: "message".into(), id: None, data: "a\nb".into() };
        let end = Event { name: "end".into(), id: None, data: String::new() };
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for part in text.chunks(size) {
                parser.bytes.extend_from_slice(part);
                events.extend(std::iter::from_fn(|| parser.next()));
            }
            assert_eq!(events, [log.clone(), two.clone(), end.clone()], "chunks of {size}");
        }
    }
}
