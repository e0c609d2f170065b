//! Everything that is wrong with a manifest, as it is found.

use std::ops::Range;

use crate::diagnostic::{Diagnostic, Severity};
use crate::source::Source;

/// After so many, the first ones have been read long ago.
const SHOWN_MAX: usize = 1_000;

/// One fault and its place in the text.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    span: Range<usize>,
    severity: Severity,
    message: String,
    help: Option<String>,
}

/// The faults found so far. An empty help is none.
#[derive(Debug, Default)]
pub struct Complaints {
    list: Vec<Complaint>,
}

impl Complaints {
    pub fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, span, message.into(), help.into());
    }

    pub fn warning(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Warning, span, message.into(), help.into());
    }

    fn push(&mut self, severity: Severity, span: Range<usize>, message: String, help: String) {
        let help = (!help.is_empty()).then_some(help);
        self.list.push(Complaint { span, severity, message, help });
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|complaint| complaint.severity == Severity::Error)
    }

    /// In the order of their places; what was said twice of one place (a matrix, an alias) once.
    pub fn into_diagnostics(mut self, source: &Source) -> Vec<Diagnostic> {
        self.list.sort_by(|a, b| {
            (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message))
        });
        self.list.dedup();
        self.list.truncate(SHOWN_MAX);
        let diagnostic = |complaint: Complaint| {
            let (line, column) = source.place(complaint.span.start);
            let (end_line, end_column) = source.place(complaint.span.end);
            Diagnostic {
                severity: complaint.severity,
                message: complaint.message,
                file: source.path().to_owned(),
                line,
                column,
                end_line,
                end_column,
                start: complaint.span.start,
                end: complaint.span.end,
                help: complaint.help,
            }
        };
        self.list.into_iter().map(diagnostic).collect()
    }
}
