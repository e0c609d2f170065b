//! The part of a log that stands in the page itself, for readers without a script.
//!
//! It is the end of the log, without colours. The script replaces it by a window over the whole
//! (`static/log-view.js`).

use std::io;

use kiln_api::user::Step;
use kiln_model::AttemptId;
use kiln_store::log::Logs;

/// Lines in the page.
const TAIL_LINES: u32 = 200;
/// Longest line in the page, in bytes.
const LINE_MAX: usize = 2_000;
/// Steps whose first line is looked up; a longer list goes without links into the log.
const STEPS_MAX: usize = 256;

/// The end of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Number of the first line given, from 0.
    pub first: u64,
    pub n_lines: u64,
    pub n_bytes: u64,
    pub lines: Vec<String>,
    /// For each step, the line with which it begins.
    pub step_lines: Vec<Option<u64>>,
}

/// Reads the end of a log, and where its steps begin. Blocks on the disk.
pub fn tail(logs: &Logs, attempt: AttemptId, steps: &[Step]) -> io::Result<Tail> {
    let whole = logs.lines(attempt, 0, 0, LINE_MAX)?;
    let first = whole.n_lines.saturating_sub(TAIL_LINES.into());
    let window = logs.lines(attempt, first, TAIL_LINES, LINE_MAX)?;
    let mut lines: Vec<String> = window.bytes.split(|byte| *byte == b'\n').map(plain).collect();
    if window.bytes.ends_with(b"\n") || window.bytes.is_empty() {
        lines.pop();
    }
    let (n_lines, n_bytes) = (window.n_lines, window.n_bytes);
    let mut step_lines = vec![None; steps.len()];
    let mut from = 0;
    for (step, line) in steps.iter().zip(&mut step_lines).take(STEPS_MAX) {
        if let Some(offset) = step.log_from {
            from = line_of(logs, attempt, offset, from, n_lines)?;
            *line = Some(from);
        }
    }
    Ok(Tail { first: window.first, n_lines, n_bytes, lines, step_lines })
}

/// The line in which a byte stands, between two lines, by halving.
fn line_of(logs: &Logs, attempt: AttemptId, byte: u64, from: u64, to: u64) -> io::Result<u64> {
    let (mut low, mut high) = (from, to);
    // Always: line `low` begins at or before the byte; line `high` begins after it or is the end.
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match logs.lines(attempt, middle, 1, 1)?.offset <= byte {
            true => low = middle,
            false => high = middle,
        }
    }
    // A step that has begun at the very end has not written yet: its line is the next one.
    let length = logs.lines(attempt, low, 1, 1)?.n_bytes;
    Ok(if byte > 0 && byte >= length { to } else { low })
}

/// A line as text: escape sequences left out, overwritten progress left out, invalid UTF-8 as
/// U+FFFD. The same rules as `static/ansi.js`, without the colours.
pub fn plain(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // A control sequence ends with a letter or one of `@[\]^_`{|}~`.
                Some('[') => {
                    while chars.next_if(|c| !('@'..='~').contains(c)).is_some() || {
                        chars.next();
                        false
                    } {}
                }
                // A command for the terminal (title, link) ends with BEL or ESC \.
                Some(']' | 'P' | '_' | '^' | 'X') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some('(' | ')' | '*' | '+' | '#' | '%') => {
                    chars.next();
                }
                _ => {}
            },
            '\t' => plain.push('\t'),
            '\u{8}' => {
                plain.pop();
            }
            // Direction overrides can make a line read as what it is not.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => plain.push('\u{fffd}'),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_links_and_titles_are_left_out() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain\ttext", "plain\ttext"),
            (b"\x1b[1;31merror\x1b[0m: no", "error: no"),
            (b"\x1b[38;2;1;2;3mx\x1b[m", "x"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b(Bset", "set"),
            (b" 10%\r 50%\r100%", "100%"),
            (b"dos\r", "dos"),
            (b"a\xffb\x00c", "a\u{fffd}bc"),
            (b"cut \x1b[31", "cut "),
            (b"cut \x1b", "cut "),
            (b"ab\x08c", "ac"),
            ("a\u{202e}b".as_bytes(), "a\u{fffd}b"),
        ];
        for (line, text) in cases {
            assert_eq!(plain(line), *text, "{}", line.escape_ascii());
        }
    }
}
