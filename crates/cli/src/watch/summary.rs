//! What is said when a run is over: its jobs, the last lines of those that failed, and where the
//! rest can be read.

use kiln_model::{JobState, RunState};
use kiln_stdx::{Clock, SystemClock, duration};

use super::region::without_escapes;
use super::tree::{head, job_line, name_pad, order};
use super::{Picture, Watched};
use crate::error::{Exit, Result};
use crate::output::{Output, Style, terminal_size, visible};

/// Lines shown of a failed job's log, and jobs for which they are shown.
const LINES: usize = 15;
const JOBS: usize = 10;
/// Warnings shown of a run.
const WARNINGS: usize = 10;
/// Enough for [`LINES`] lines that a terminal can show.
const TAIL_BYTES: usize = 16 << 10;

/// What a run's end means for whoever started it.
pub fn exit_of(state: RunState) -> Exit {
    match state {
        RunState::Success | RunState::Warning => Exit::Success,
        RunState::Cancelled => Exit::Interrupted,
        RunState::Failed => Exit::RunFailed,
        // Left while it went on.
        RunState::Queued | RunState::Running | RunState::Waiting => Exit::Interrupted,
    }
}

/// The whole tree as it ended. On a terminal, where the moving one has been taken away.
pub fn tree(out: &Output, picture: &Picture) -> Result<()> {
    let columns = if out.live { terminal_size().0 } else { usize::MAX };
    let now = SystemClock.now();
    let order = order(picture);
    let pad = name_pad(picture, &order);
    let mut text = format!("{}\n", head(out, picture, columns));
    for (at, depth) in order {
        text.push_str(&job_line(out, picture, at, depth, pad, columns, now));
        text.push('\n');
    }
    out.lines(&text)
}

/// The end of the log of each failed job.
pub async fn failures(out: &Output, watched: &Watched, picture: &Picture) -> Result<()> {
    let failed = |job: &super::picture::Job| matches!(job.state, JobState::Failed | JobState::Lost);
    let failed: Vec<usize> =
        (0..picture.jobs.len()).filter(|at| failed(&picture.jobs[*at])).collect();
    for at in failed.iter().take(JOBS) {
        let job = &picture.jobs[*at];
        let bytes = match job.attempt {
            0 => Vec::new(),
            attempt => watched.tail(picture, *at, attempt, TAIL_BYTES).await?,
        };
        let reason = job.reason.as_deref().unwrap_or_default();
        let title = format!("{} {}", job.name, job.state);
        let mut text = format!("\n{}", out.paint(Style::Red, &title));
        if !reason.is_empty() {
            text.push_str(&format!(": {}", visible(reason)));
        }
        text.push('\n');
        for line in last_lines(&bytes) {
            text.push_str(&format!("  {} {line}\n", out.paint(Style::Dim, "|")));
        }
        let whole = format!("kiln logs '{}/{}'", picture.reference, job.name);
        text.push_str(&format!("  {}\n", out.paint(Style::Dim, &format!("whole log: {whole}"))));
        if job.attempt > 0 {
            let enter = format!("look inside: kiln shell '{}/{}'", picture.reference, job.name);
            text.push_str(&format!("  {}\n", out.paint(Style::Dim, &enter)));
        }
        out.lines(&text)?;
    }
    if failed.len() > JOBS {
        out.lines(&format!("\nand {} more failed jobs\n", failed.len() - JOBS))?;
    }
    Ok(())
}

/// What a person should know of jobs that did not fail of it, each sentence once.
pub fn warnings(out: &Output, picture: &Picture) -> Result<()> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for job in &picture.jobs {
        for warning in &job.warnings {
            match all.iter_mut().find(|(known, _)| known == warning) {
                Some((_, jobs)) => jobs.push(&job.name),
                None => all.push((warning, vec![&job.name])),
            }
        }
    }
    for (warning, jobs) in all.iter().take(WARNINGS) {
        let whose = match jobs.as_slice() {
            [first, _, rest @ ..] => format!("{first} and {} more", rest.len() + 1),
            jobs => jobs.join(""),
        };
        let head = out.paint(Style::Yellow, "warning:");
        out.lines(&format!("{head} {}: {}\n", visible(&whose), visible(warning)))?;
    }
    if all.len() > WARNINGS {
        let whole = format!("kiln show '{}' --json", picture.reference);
        out.lines(&format!("and {} more warnings: {whole}\n", all.len() - WARNINGS))?;
    }
    Ok(())
}

/// `run #12 failed in 4.2s: 5 jobs, 1 failed, 1 skipped`.
pub fn verdict(out: &Output, picture: &Picture) -> Result<()> {
    let span = duration::show(picture.elapsed(SystemClock.now()));
    let count = |state: JobState| picture.jobs.iter().filter(|job| job.state == state).count();
    let mut parts = vec![match picture.jobs.len() {
        1 => "1 job".to_owned(),
        n => format!("{n} jobs"),
    }];
    for state in JobState::ALL.iter().filter(|state| **state != JobState::Success) {
        if count(*state) > 0 {
            parts.push(format!("{} {state}", count(*state)));
        }
    }
    let reused = picture.jobs.iter().filter_map(|job| job.reused_from.as_ref());
    let (n_reused, saved_ms) = reused.fold((0, 0), |(n, ms), from| (n + 1, ms + from.took_ms));
    if n_reused > 0 {
        let saved = duration::show(std::time::Duration::from_millis(saved_ms));
        parts.push(format!("{n_reused} reused, which saved {saved}"));
    }
    let state = out.paint(run_style(picture.state), picture.state.as_str());
    let reason = match (&picture.reason, picture.jobs.is_empty()) {
        (Some(reason), true) => format!(": {}", visible(reason)),
        _ => String::new(),
    };
    let reference = &picture.reference;
    out.lines(&format!("run {reference} {state} in {span}, {}{reason}\n", parts.join(", ")))
}

pub fn style(state: JobState) -> Style {
    match state {
        JobState::Success => Style::Green,
        JobState::Failed | JobState::Lost => Style::Red,
        JobState::Warning | JobState::Cancelled | JobState::Waiting => Style::Yellow,
        JobState::Running => Style::Cyan,
        JobState::Queued | JobState::Skipped => Style::Dim,
    }
}

pub fn run_style(state: RunState) -> Style {
    match state {
        RunState::Success => Style::Green,
        RunState::Failed => Style::Red,
        RunState::Warning | RunState::Cancelled | RunState::Waiting => Style::Yellow,
        RunState::Running => Style::Cyan,
        RunState::Queued => Style::Dim,
    }
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let shown = |line: &str| visible(without_escapes(line).trim_end());
    // A line that a progress bar has overwritten ends with what was last seen of it.
    let seen = |line: &str| shown(line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(""));
    let mut lines: Vec<String> = text.lines().rev().take(LINES).map(seen).collect();
    lines.reverse();
    lines
}
