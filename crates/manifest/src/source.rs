//! A manifest's text, and where a byte of it is for a person.

use std::ops::Range;

use kiln_model::limit::MANIFEST_BYTES_MAX;

use crate::complaint::Complaints;
use crate::planning::File;

/// A file that was read: its text when it has one, and the starts of its lines.
#[derive(Debug)]
pub struct Source {
    path: String,
    /// Lossily decoded when it is not UTF-8, so that a complaint can still show the line.
    text: String,
    usable: bool,
    line_starts: Vec<usize>,
}

impl Source {
    /// Checks size and encoding. What is wrong is complained about, and [`Source::text`] is `None`.
    pub fn read(file: &File, complaints: &mut Complaints) -> Self {
        let n_bytes = file.bytes.len();
        if n_bytes > MANIFEST_BYTES_MAX {
            let max = kiln_stdx::bytes::show(u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX));
            complaints.error(
                0..0,
                format!("the manifest is larger than {max}"),
                format!(
                    "a manifest can have at most {max}; keep long scripts in files of their own"
                ),
            );
            return Self::new(&file.path, String::new(), false);
        }
        match String::from_utf8(file.bytes.clone()) {
            Ok(text) => Self::new(&file.path, text, true),
            Err(cause) => {
                let good = cause.utf8_error().valid_up_to();
                let bytes = cause.into_bytes();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                // The lossy text is the same up to the first bad byte, and has a mark there.
                let end = text[good..].chars().next().map_or(good, |c| good + c.len_utf8());
                let message = match bytes.contains(&0) {
                    true => "the manifest is a binary file, not a text".to_owned(),
                    false => format!("the byte 0x{:02x} is not UTF-8", bytes[good]),
                };
                complaints.error(good..end, message, "save the manifest as UTF-8");
                Self::new(&file.path, text, false)
            }
        }
    }

    fn new(path: &str, text: String, usable: bool) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { path: path.to_owned(), text, usable, line_starts }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text, unless it cannot be used.
    pub fn text(&self) -> Option<&str> {
        self.usable.then_some(self.text.as_str())
    }

    /// Line and column of a byte, from 1; the column in characters.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let offset = floor(&self.text, offset);
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }

    /// Where a part of a scalar's value stands in the text. `span` is the scalar's place, quotation
    /// marks included; escapes, folds and indentation make the two differ. The whole scalar, when
    /// the part cannot be found.
    pub fn within(&self, span: &Range<usize>, value: &str, part: &Range<usize>) -> Range<usize> {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let start = align(written, value, part.start);
        let end = match part.is_empty() {
            true => start,
            // The end of the part is where its last character ends.
            false => {
                let last = floor(value, part.end - 1);
                let length = value[last..].chars().next().map_or(0, char::len_utf8);
                align(written, value, last).map(|at| at + length)
            }
        };
        match (start, end) {
            (Some(start), Some(end)) if start <= end => span.start + start..span.start + end,
            _ => span.clone(),
        }
    }
}

/// Where the character at `offset` of `value` stands in `written`: both are walked together, and
/// what is only in `written` (a quotation mark, a backslash, indentation) is stepped over.
fn align(written: &str, value: &str, offset: usize) -> Option<usize> {
    let quoted = written.starts_with('"');
    let mut source = written.char_indices().peekable();
    if written.starts_with(['"', '\'']) {
        source.next();
    }
    for (at, meant) in value.char_indices() {
        let found = loop {
            let (place, c) = source.next()?;
            if quoted && c == '\\' {
                // `\"` and `\\` stand for themselves; for `\n` or `\x41` the walk is lost.
                match source.next()? {
                    (_, escaped) if escaped == meant => break place,
                    (_, '\n') => continue,
                    _ => return None,
                }
            }
            if c == meant || (c == '\n' && meant == ' ') {
                break place;
            }
            if !c.is_whitespace() && c != '\'' {
                return None;
            }
        };
        if at == offset {
            return Some(found);
        }
    }
    // The end of the value: where its closing mark is, or the end.
    (offset == value.len()).then(|| source.peek().map_or(written.len(), |(place, _)| *place))
}

/// The start of the character that has this byte.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(".kiln.yml", text.to_owned(), true)
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = source("a\néb\n");
        assert_eq!(source.place(0), (1, 1));
        assert_eq!(source.place(2), (2, 1));
        assert_eq!(source.place(4), (2, 2));
        assert_eq!(source.place(6), (3, 1));
        assert_eq!(source.place(99), (3, 1));
    }

    #[test]
    fn a_part_of_a_scalar_is_found_in_the_text() {
        for (written, value, part, expected) in [
            ("a == b", "a == b", "b", "b"),
            ("'a == ''x'''", "a == 'x'", "==", "=="),
            (r#""a == \"x\"""#, "a == \"x\"", "a ==", "a =="),
            (r#""a \"x\" b""#, "a \"x\" b", "b", "b"),
            ("one &&\n    two", "one && two", "two", "two"),
            ("one\n    two\n", "one\ntwo\n", "two", "two"),
            // An escape that stands for something else: the whole scalar.
            (r#""\x41b""#, "Ab", "b", r#""\x41b""#),
        ] {
            let source = source(written);
            let at = value.find(part).unwrap();
            let place = source.within(&(0..written.len()), value, &(at..at + part.len()));
            assert_eq!(&written[place], expected, "{written}");
        }
    }
}
