//! From a trigger to the rows of a run: read the commit and its manifest, make the plan.
//!
//! Everything here blocks on git; nothing is written.

use kiln_git::{CommitInfo, GitError, Mirror};
use kiln_manifest::diagnostic::{Diagnostic, Severity};
use kiln_manifest::{FILE_NAMES, File, Planned};
use kiln_model::limit::MANIFEST_BYTES_MAX;
use kiln_model::{Plan, Trigger};

/// What a commit's manifest makes of a trigger.
#[derive(Debug)]
pub enum Outcome {
    Plan(Plan),
    /// The manifest is wrong: the complaints, as they are shown.
    Wrong(String),
    /// There is no run, and why.
    Nothing(String),
}

/// Reads what planning will ask for, at once.
pub fn read_ahead(mirror: &Mirror, trigger: &Trigger) {
    let commits: Vec<&str> =
        [Some(trigger.commit.as_str()), trigger.before.as_deref()].into_iter().flatten().collect();
    mirror.read_ahead(&commits, FILE_NAMES);
}

/// The trigger with what its commit says, and what came of planning.
pub fn plan(
    mirror: &Mirror,
    mut trigger: Trigger,
) -> Result<(Trigger, CommitInfo, Outcome), GitError> {
    read_ahead(mirror, &trigger);
    let commit = mirror.commit(&trigger.commit)?;
    trigger.commit.clone_from(&commit.commit);
    trigger.title.clone_from(&commit.title);
    trigger.author.clone_from(&commit.author);
    if let Some(before) = &trigger.before {
        // Not known when the old commit is gone or too much has changed: then every filter passes.
        trigger.changed = mirror.changed(before, &commit.commit).ok();
    }
    let outcome = match manifest(mirror, &commit.commit) {
        Ok(Some(file)) => by_manifest(&file, &trigger),
        Ok(None) => Outcome::Nothing(format!("there is no `{}` in it", FILE_NAMES[0])),
        Err(error @ (GitError::TooLarge { .. } | GitError::NotAFile { .. })) => {
            Outcome::Wrong(error.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok((trigger, commit, outcome))
}

/// The manifest file of a commit.
pub fn manifest(mirror: &Mirror, commit: &str) -> Result<Option<File>, GitError> {
    for path in FILE_NAMES {
        if let Some(bytes) = mirror.file(commit, path, MANIFEST_BYTES_MAX)? {
            return Ok(Some(File { path: (*path).to_owned(), bytes }));
        }
    }
    Ok(None)
}

fn by_manifest(file: &File, trigger: &Trigger) -> Outcome {
    match kiln_manifest::plan(file, trigger) {
        (Planned::Plan(plan), _) => Outcome::Plan(plan),
        (Planned::NotWanted(why), _) => Outcome::Nothing(why),
        (Planned::Refused, complaints) => Outcome::Wrong(rendered(file, &complaints)),
    }
}

fn rendered(file: &File, complaints: &[Diagnostic]) -> String {
    let source = String::from_utf8_lossy(&file.bytes);
    let errors = complaints.iter().filter(|complaint| complaint.severity == Severity::Error);
    let shown: Vec<String> = errors.map(|error| error.render(&source, false)).collect();
    match shown.is_empty() {
        true => format!("`{}` cannot be planned", file.path),
        // An empty line between them, as `kiln check` prints them.
        false => shown.join("\n\n"),
    }
}
