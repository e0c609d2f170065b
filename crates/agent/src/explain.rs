//! What to say when a workspace cannot be made or kept: which job it is about, and the way out.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kiln_api::agent::Assignment;
use kiln_executor::OpenError;
use kiln_model::JobName;
use kiln_model::layer::{LayerId, Source};
use kiln_stdx::fs::create_private_dir;
use kiln_workspace::{WorkspaceError, Workspaces};
use rustix::io::Errno;

use crate::past::told;

/// In words, for the job's log and its state.
pub(crate) fn unmade(
    workspaces: &Workspaces,
    assignment: &Assignment,
    error: &WorkspaceError,
) -> String {
    let step = assignment.first_step + 1;
    let job = &assignment.job.name;
    match error {
        WorkspaceError::Missing(missing)
            if missing.iter().any(|layer| matches!(layer, LayerId::Boundary(_))) =>
        {
            format!(
                "the files as step {step} found them are no longer on this machine; \
                 run `{job}` again from its beginning: `{}`",
                again(assignment, job)
            )
        }
        WorkspaceError::Missing(missing) => missing_layers(workspaces, assignment, missing)
            .unwrap_or_else(|| format!("{error}; `{}` tries again", again(assignment, job))),
        error => {
            let way_out = match errno(error) {
                Some(Errno::NOSPC | Errno::DQUOT) => "there is no room left: `kiln gc` makes some",
                Some(Errno::ROFS) => "its file system can only be read: mount it with `rw`",
                Some(Errno::IO | Errno::UCLEAN) => {
                    "the disk may be damaged: `kiln gc --verify` looks at all layers"
                }
                _ => "`kiln doctor` looks at what this machine lacks",
            };
            format!("{}; {way_out}, then `{}`", told(error), again(assignment, job))
        }
    }
}

/// The files that the job should start from cannot be had.
pub(crate) fn no_base(assignment: &Assignment, why: &str) -> String {
    // The words of the system and of git.
    let is_full = why.contains("No space left on device");
    let way_out = match assignment.source {
        _ if is_full => "there is no room left: `kiln gc` makes some, then",
        Source::WorkingTree { .. } => {
            return format!("{why}; `kiln run` begins anew, on the files as they are now");
        }
        Source::Git { .. } => "to try again:",
    };
    format!("{why}; {way_out} `{}`", again(assignment, &assignment.job.name))
}

/// The kernel, or whoever else opens sessions, has refused.
pub(crate) fn no_session(assignment: &Assignment, cause: &OpenError) -> String {
    if let OpenError::Other(why) = cause {
        // Of the job and not of the machine: it says what must be another.
        return format!("cannot open the job's session: {why}");
    }
    format!(
        "cannot open the job's session: {}; `kiln doctor` says what this machine lacks, then `{}`",
        told(cause),
        again(assignment, &assignment.job.name)
    )
}

/// As [`unmade`], of what a job has written.
pub(crate) fn unkept(
    workspaces: &Workspaces,
    assignment: &Assignment,
    error: &WorkspaceError,
) -> String {
    format!("what the job wrote cannot be kept: {}", unmade(workspaces, assignment, error))
}

/// `None`: none of the layers is what a job has left.
fn missing_layers(
    workspaces: &Workspaces,
    assignment: &Assignment,
    missing: &[LayerId],
) -> Option<String> {
    let mut jobs: Vec<&JobName> = Vec::new();
    for (layer, job) in assignment.layers.iter().zip(&assignment.layers_of) {
        if missing.contains(layer) && !jobs.contains(&job) {
            jobs.push(job);
        }
    }
    let first = *jobs.first()?;
    let names: Vec<String> = jobs.iter().map(|job| format!("`{job}`")).collect();
    let aside = missing.iter().find_map(|layer| workspaces.aside(layer));
    let why = match aside {
        Some(at) => format!("was damaged, and is set aside in `{}`", at.display()),
        None => "is no longer on this machine".to_owned(),
    };
    Some(format!(
        "what {} left {why}; `{}` makes it again, and all that needs it",
        names.join(" and "),
        again(assignment, first)
    ))
}

/// How a person runs a job of this run again.
fn again(assignment: &Assignment, job: &JobName) -> String {
    let number = assignment.number;
    let run = match assignment.source {
        Source::WorkingTree { .. } => format!("#{number}"),
        Source::Git { .. } => format!("{}#{number}", assignment.project),
    };
    format!("kiln rerun '{run}' --job {job}")
}

fn errno(error: &WorkspaceError) -> Option<Errno> {
    match error {
        WorkspaceError::Fs(error) => Errno::from_io_error(&error.cause),
        _ => None,
    }
}

/// Appends a line of kiln's own to a log that no session writes to (any more). How long the log is then.
pub(crate) fn say(log: &Path, line: &str) -> u64 {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    // Best effort: the line is in the job's state, too, and on a full disk only there.
    let _ = log.parent().map(create_private_dir);
    let said =
        options.open(log).and_then(|mut file| file.write_all(format!("kiln: {line}\n").as_bytes()));
    drop(said);
    std::fs::metadata(log).map_or(0, |meta| meta.len())
}
