//! The one way in: a file and a trigger, and what came of them.

use kiln_model::{Plan, Trigger};
use serde::Serialize;

use crate::complaint::Complaints;
use crate::diagnostic::Diagnostic;
use crate::format::{self, Format};
use crate::resolve::{self, Resolved};
use crate::source::Source;
use crate::written::Written;

/// File names looked for at the repository's root, in order.
pub const FILE_NAMES: &[&str] = &[".kiln.yml", ".kiln.yaml"];

/// A manifest file: where it is, relative to the repository's root, and its bytes.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// What came of planning.
#[derive(Clone, Debug)]
pub enum Planned {
    Plan(Plan),
    /// The manifest is right and does not ask for a run for this trigger; why, as in
    /// "`on.push.branches` has no `dev`".
    NotWanted(String),
    /// At least one diagnostic is an error.
    Refused,
}

/// One declared input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    pub name: String,
    /// `text`, `choice`, `boolean` or `number`.
    pub kind: String,
    /// What a `choice` can be.
    pub options: Vec<String>,
    pub default: Option<String>,
    pub required: bool,
    pub description: Option<String>,
}

/// Reads a manifest and makes the plan that the trigger asks for. All complaints at once, errors
/// and warnings, in the order of their places.
pub fn plan(file: &File, trigger: &Trigger) -> (Planned, Vec<Diagnostic>) {
    let mut complaints = Complaints::default();
    let source = Source::read(file, &mut complaints);
    let resolved = written(&source, &mut complaints)
        .map(|written| resolve::plan(&written, &source, trigger, &mut complaints));
    let planned = match resolved {
        _ if complaints.has_errors() => Planned::Refused,
        Some(Resolved::Plan(plan)) => Planned::Plan(plan),
        Some(Resolved::NotWanted(why)) => Planned::NotWanted(why),
        // Nothing can be missing without a complaint; if it is, refusing is right.
        None => Planned::Refused,
    };
    (planned, complaints.into_diagnostics(&source))
}

/// All that can be said of a manifest without a trigger.
pub fn check(file: &File) -> Vec<Diagnostic> {
    let mut complaints = Complaints::default();
    let source = Source::read(file, &mut complaints);
    if let Some(written) = written(&source, &mut complaints) {
        resolve::check(&written, &source, &mut complaints);
    }
    complaints.into_diagnostics(&source)
}

/// Manual inputs that the manifest declares, for the page's form and for `kiln trigger`. None when
/// the manifest cannot be read; [`check`] says why.
pub fn inputs(file: &File) -> Vec<Input> {
    let mut complaints = Complaints::default();
    let source = Source::read(file, &mut complaints);
    let declared = written(&source, &mut complaints).map(|written| written.inputs);
    declared.unwrap_or_default().iter().map(resolve::declared_input).collect()
}

fn written(source: &Source, complaints: &mut Complaints) -> Option<Written> {
    let text = source.text()?;
    match Format::detect(source.path()) {
        Format::Native => format::native::read(text, complaints),
    }
}
