//! A complaint with its place, as data for editors and as text for people.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    /// The plan is made all the same.
    Warning,
}

/// JSON form of `kiln check --json`. `line` and `column` count from 1 (column in characters);
/// `start` and `end` are byte offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
    pub start: usize,
    pub end: usize,
    pub help: Option<String>,
}

/// How much of a long line is shown on each side of the place.
const SHOWN_BESIDE: usize = 120;

impl Diagnostic {
    /// As rustc shows it: message, place, source line, underline, help. `colour`: with ANSI colours.
    /// Whatever the source holds, nothing in the answer moves a terminal's cursor.
    pub fn render(&self, source: &str, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let (message, file) = (visible(&self.message), visible(&self.file));
        let help = self.help.as_deref().map(visible);
        let line = Line::of(source, self.start, self.end);
        // A line that was cut no longer tells its column, so the place is written out.
        let snippet = Snippet::source(line.text.as_str())
            .line_start(self.line)
            .annotation(AnnotationKind::Primary.span(line.marked.clone()));
        let snippet = match line.cut {
            false => snippet.path(file.as_str()),
            true => {
                snippet.path(format!("{file}:{}:{} (a part of the line)", self.line, self.column))
            }
        };
        let mut report = vec![level.primary_title(message.as_str()).element(snippet)];
        if let Some(help) = &help {
            report.push(Group::with_title(Level::HELP.secondary_title(help.as_str())));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report)
    }
}

/// The first line of a place, safe to show.
struct Line {
    text: String,
    marked: std::ops::Range<usize>,
    cut: bool,
}

impl Line {
    fn of(source: &str, start: usize, end: usize) -> Self {
        let start = floor(source, start);
        let end = floor(source, end).max(start);
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let end = end.min(line_end);
        let from = floor(source, start.saturating_sub(SHOWN_BESIDE)).max(line_start);
        let mark_to = floor(source, start + SHOWN_BESIDE).min(end).max(start);
        let to = floor(source, mark_to + SHOWN_BESIDE).min(line_end).max(mark_to);
        // A short line is shown from its beginning, so that its column is right.
        let from = if start - line_start <= 2 * SHOWN_BESIDE { line_start } else { from };
        let before = visible(&source[from..start]);
        let marked = visible(&source[start..mark_to]);
        let after = visible(source[mark_to..to].trim_end_matches('\r'));
        let at = before.len();
        Self {
            marked: at..at + marked.len(),
            text: format!("{before}{marked}{after}"),
            cut: from != line_start,
        }
    }
}

/// Without characters that act on a terminal instead of being shown.
fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        '\u{0}'..='\u{1f}' => char::from_u32(u32::from(c) + 0x2400).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

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

    fn diagnostic(start: usize, end: usize, line: usize, column: usize) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: "job `test` needs `biuld`, and no job has that name".to_owned(),
            file: ".kiln.yml".to_owned(),
            line,
            column,
            end_line: line,
            end_column: column + end.saturating_sub(start),
            start,
            end,
            help: Some("did you mean `build`?".to_owned()),
        }
    }

    #[test]
    fn a_complaint_looks_as_rustc_shows_it() {
        let source = "jobs:\n  test:\n    needs: [biuld]\n";
        let expected = "\
error: job `test` needs `biuld`, and no job has that name
 --> .kiln.yml:3:13
  |
3 |     needs: [biuld]
  |             ^^^^^
  |
help: did you mean `build`?";
        assert_eq!(diagnostic(26, 31, 3, 13).render(source, false), expected);
        assert!(diagnostic(26, 31, 3, 13).render(source, true).contains("\u{1b}["));
    }

    #[test]
    fn nothing_in_the_source_reaches_the_terminal_raw() {
        let source = "a: \u{1b}[2J\u{9b}x\u{202e}\r\n";
        let shown = diagnostic(3, 4, 1, 4).render(source, false);
        assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']), "{shown:?}");
        assert!(shown.contains("1 | a: ␛[2J"), "{shown}");
    }

    #[test]
    fn a_line_of_a_megabyte_is_shown_in_part() {
        let source = format!("a: {}x{}", "-".repeat(1 << 20), "-".repeat(1 << 20));
        let at = 3 + (1 << 20);
        let shown = diagnostic(at, at + 1, 1, at + 1).render(&source, false);
        assert!(shown.len() < 2_000 && shown.contains(&format!(":1:{}", at + 1)), "{shown}");
    }

    #[test]
    fn a_place_outside_the_source_is_no_panic() {
        for (start, end) in [(0, 0), (5, 2), (99, 120), (1, 2)] {
            diagnostic(start, end, 1, 1).render("é", false);
            diagnostic(start, end, 1, 1).render("", false);
        }
    }
}
