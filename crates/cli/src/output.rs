//! The only place that prints.
//!
//! Standard output carries what was asked for; standard error carries what a person should know
//! besides. Colours and tables that adapt to a width are for terminals only. A reader that goes away
//! is not an error to shout about: see [`Failure::pipe`].

use std::io::{self, IsTerminal, Read, Write};

use serde::Serialize;

use crate::error::{Failure, Kind, Result};

/// How text may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Blue => "34",
            Self::Cyan => "36",
        }
    }
}

/// What standard output and standard error are in this process.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Standard output is a terminal that can move its cursor.
    pub live: bool,
    colour: bool,
    error_colour: bool,
}

impl Output {
    pub fn of_this_process() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let out = io::stdout().is_terminal();
        let error = io::stderr().is_terminal();
        Self { live: out && !dumb, colour: colour(out, dumb), error_colour: colour(error, dumb) }
    }

    /// The same, for lines that stay where they are printed.
    pub fn without_cursor(self) -> Self {
        Self { live: false, ..self }
    }

    pub fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colour, style, text)
    }

    /// Colours for standard error.
    pub fn error_colour(&self) -> bool {
        self.error_colour
    }

    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Writes bytes to standard output as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        written(out.write_all(bytes).and_then(|()| out.flush()))
    }

    /// Writes lines to standard output.
    pub fn lines(&self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        if text.is_empty() || text.ends_with('\n') { Ok(()) } else { self.bytes(b"\n") }
    }

    /// One JSON document, for people and programs.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value).map_err(Failure::ours)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// One JSON document on one line, for a stream of them.
    pub fn json_line(&self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(value).map_err(Failure::ours)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// A remark to the person, on standard error. Whether it is read does not matter.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Text on standard error as it is.
    pub fn error_text(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    pub fn failure(&self, failure: &Failure) {
        if failure.kind == Kind::Pipe {
            return;
        }
        let paint = |word: &str| match word {
            "error:" => paint(self.error_colour, Style::Red, word),
            _ => paint(self.error_colour, Style::Cyan, word),
        };
        self.error_text(&failure.render(paint));
    }

    /// A value that must not be seen: without echo from a terminal, else all of standard input
    /// without its last newline.
    pub fn ask_hidden(&self, prompt: &str) -> io::Result<String> {
        let stdin = io::stdin();
        let mut text = String::new();
        if stdin.is_terminal() {
            let _ = write!(io::stderr().lock(), "{prompt}");
            let _silent = Silent::begin()?;
            stdin.read_line(&mut text)?;
            let _ = writeln!(io::stderr().lock());
        } else {
            stdin.lock().read_to_string(&mut text)?;
        }
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    /// Columns as wide as their widest cell. The last column is cut where the terminal ends.
    pub fn table(&self, header: &[&str], rows: &[Vec<Cell>]) -> Result<()> {
        let max = if self.live { terminal_size().0 } else { usize::MAX };
        self.lines(&table(header, rows, max, self.colour))
    }
}

/// A terminal that does not show what is typed, until dropped.
struct Silent(rustix::termios::Termios);

impl Silent {
    fn begin() -> io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl Cell {
    /// Control characters are replaced: text of a repository must not drive the terminal.
    pub fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Self { text: visible(text.as_ref()), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(Style::Plain, text)
    }
}

fn table(header: &[&str], rows: &[Vec<Cell>], max: usize, colour: bool) -> String {
    let n_columns = header.len();
    let mut widths: Vec<usize> = header.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            widths[at] = widths[at].max(width(&cell.text));
        }
    }
    let mut text = String::new();
    let mut line = |cells: Vec<(Style, &str)>| {
        let mut used = 0;
        let mut line = String::new();
        for (at, (style, cell)) in cells.into_iter().enumerate() {
            let room = max.saturating_sub(used);
            let shown = cut(cell, room);
            let shown_width = width(&shown);
            line.push_str(&paint(colour && !shown.is_empty(), style, &shown));
            if at + 1 < n_columns {
                line.push_str(&" ".repeat(widths[at] - shown_width.min(widths[at]) + 2));
            }
            used += widths[at] + 2;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(header.iter().map(|cell| (Style::Dim, *cell)).collect());
    for row in rows {
        line(row.iter().map(|cell| (cell.style, cell.text.as_str())).collect());
    }
    text
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    match style {
        Style::Plain => text.to_owned(),
        _ if !colour || text.is_empty() => text.to_owned(),
        style => format!("\x1b[{}m{text}\x1b[0m", style.code()),
    }
}

/// <https://no-color.org> and <https://bixense.com/clicolors>.
fn colour(terminal: bool, dumb: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") {
        return false;
    }
    if set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| v != "0") {
        return true;
    }
    terminal && !dumb
}

fn written(done: io::Result<()>) -> Result<()> {
    match done {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Err(Failure::pipe()),
        Err(cause) => {
            let error = anyhow::Error::new(cause).context("cannot write to standard output");
            Err(Failure { kind: Kind::Elsewhere, error, help: None })
        }
    }
}

/// Columns and rows of the terminal; 80 × 24 when it does not say.
pub fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => (80, 24),
    }
}

/// Shows the cursor again, if this process had hidden it.
pub fn restore_terminal() {
    crate::terminal::restore();
    if io::stdout().is_terminal() {
        let _ = io::stdout().write_all(b"\x1b[?25h");
        let _ = io::stdout().flush();
    }
}

/// Standard input and output of a hook, which has no [`Output`].
pub fn of_a_hook() -> (io::StdinLock<'static>, io::Stdout) {
    (io::stdin().lock(), io::stdout())
}

/// For the panic hook and for hooks of git, which have no [`Output`].
pub fn emergency(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// How many columns a text takes. Good for what terminals agree on; exact for ASCII.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f | 0x20d0..=0x20ff => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The beginning of a text that fits into `max` columns; `…` stands for what was cut.
pub fn cut(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 0;
    for c in text.chars() {
        if used + char_width(c) + 1 > max {
            break;
        }
        used += char_width(c);
        shown.push(c);
    }
    if max > 0 {
        shown.push('…');
    }
    shown
}

/// The text without what would drive a terminal: control and direction-changing characters.
pub fn visible(text: &str) -> String {
    let hidden =
        |c: char| c.is_control() || matches!(u32::from(c), 0x202a..=0x202e | 0x2066..=0x2069);
    text.chars()
        .map(|c| {
            if c == '\t' {
                ' '
            } else if hidden(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_cut_at_the_width() {
        let rows = [
            vec![Cell::from("a"), Cell::from("a long title that goes on")],
            vec![Cell::from("longer"), Cell::from("x\x1b[31m")],
        ];
        assert_eq!(
            table(&["run", "title"], &rows, 20, false),
            "run     title\na       a long titl…\nlonger  x\u{fffd}[31m\n"
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(width("漢字"), 4);
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("abcd", 0), "");
    }
}
