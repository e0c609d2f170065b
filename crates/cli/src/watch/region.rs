//! The last lines of the terminal, drawn again and again.
//!
//! The cursor rests on the line below the region. Only lines that changed are written; each fits
//! the width, so that one line is one row. When the terminal has become narrower, the terminal has
//! wrapped what was there, and the rows are counted again before moving up.

use crate::error::Result;
use crate::output::{Output, width};

/// Begin and end of an update that the terminal shows at once, where it knows how.
const SYNC_BEGIN: &str = "\x1b[?2026h";
const SYNC_END: &str = "\x1b[?2026l";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub struct Region {
    out: Output,
    drawn: Vec<String>,
    drawn_columns: usize,
    hidden: bool,
}

impl Region {
    pub fn new(out: Output) -> Self {
        Self { out, drawn: Vec::new(), drawn_columns: 0, hidden: false }
    }

    /// Shows these lines in place of the ones before. Each must fit into `columns`.
    pub fn draw(&mut self, lines: Vec<String>, columns: usize) -> Result<()> {
        if lines == self.drawn && columns == self.drawn_columns {
            return Ok(());
        }
        let text = self.update(&lines, columns);
        (self.drawn, self.drawn_columns, self.hidden) = (lines, columns, true);
        self.out.bytes(text.as_bytes())
    }

    fn update(&self, lines: &[String], columns: usize) -> String {
        let mut text = String::from(SYNC_BEGIN);
        if !self.hidden {
            text.push_str(HIDE_CURSOR);
        }
        // A wrapped line is not where it was: everything is written anew.
        let same_width = columns == self.drawn_columns;
        text.push_str(&up(self.rows(columns)));
        if !same_width {
            text.push_str(CLEAR_BELOW);
        }
        for (at, line) in lines.iter().enumerate() {
            if !(same_width && self.drawn.get(at) == Some(line)) {
                text.push_str(line);
                text.push_str(CLEAR_LINE);
            }
            text.push_str("\r\n");
        }
        if lines.len() < self.drawn.len() {
            text.push_str(CLEAR_BELOW);
        }
        text.push_str(SYNC_END);
        text
    }

    /// Takes the region away and gives the cursor back.
    pub fn clear(&mut self, columns: usize) -> Result<()> {
        if !self.hidden {
            return Ok(());
        }
        let text = format!("{}{CLEAR_BELOW}{SHOW_CURSOR}", up(self.rows(columns)));
        self.drawn.clear();
        self.hidden = false;
        self.out.bytes(text.as_bytes())
    }

    /// Rows that the drawn lines take at this width.
    fn rows(&self, columns: usize) -> usize {
        let columns = columns.max(1);
        self.drawn.iter().map(|line| plain_width(line).div_ceil(columns).max(1)).sum()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.hidden {
            // An error is on its way out already; the terminal must be usable after it.
            let _ = self.out.bytes(SHOW_CURSOR.as_bytes());
        }
    }
}

fn up(n_rows: usize) -> String {
    if n_rows == 0 { "\r".to_owned() } else { format!("\r\x1b[{n_rows}A") }
}

/// Columns of a line that has colours in it.
fn plain_width(line: &str) -> usize {
    width(&without_escapes(line))
}

/// A text without ANSI escape sequences (CSI, OSC and two-character ones).
pub fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => {
                // Parameters and intermediates, up to the final byte.
                let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
            }
            Some(']') => {
                let mut last = ' ';
                for c in chars.by_ref() {
                    if c == '\x07' || (last == '\x1b' && c == '\\') {
                        break;
                    }
                    last = c;
                }
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Region {
        let mut region = Region::new(Output::of_this_process());
        region.drawn = vec!["one".into(), "two".into()];
        region.drawn_columns = 10;
        region.hidden = true;
        region
    }

    #[test]
    fn only_changed_lines_are_written() {
        let mut region = region();
        let text = region.update(&["one".into(), "2".into()], 10);
        region.hidden = false;
        assert_eq!(text, "\x1b[?2026h\r\x1b[2A\r\n2\x1b[K\r\n\x1b[?2026l");
    }

    #[test]
    fn a_narrower_terminal_has_wrapped_what_was_drawn() {
        let mut region = region();
        assert_eq!(region.rows(2), 4);
        let text = region.update(&["1".into()], 2);
        region.hidden = false;
        assert_eq!(text, "\x1b[?2026h\r\x1b[4A\x1b[J1\x1b[K\r\n\x1b[J\x1b[?2026l");
    }

    #[test]
    fn escapes_take_no_room() {
        assert_eq!(
            without_escapes("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;u\x1b\\y\x1b(B"),
            "red xyB"
        );
    }
}
