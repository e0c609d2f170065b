//! A run on a terminal: its jobs as a tree that moves.
//!
//! A job stands under the deepest of its needs, one level further in. When there are more jobs than
//! rows, what runs and what failed is shown and the rest is counted.

use std::collections::HashMap;

use kiln_model::JobState;
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::{Clock, SystemClock, Timestamp, duration};

use super::region::{Region, without_escapes};
use super::{FRAME, Picture, Viewer, Wants, picture};
use crate::error::Result;
use crate::output::{Output, Style, cut, terminal_size, visible, width};

/// Deeper levels are not shown further in: a chain of 200 jobs must stay on the screen.
const INDENT_MAX: usize = 8;
/// Names longer than this are not padded for; they push their own line only.
const NAME_MAX: usize = 32;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

pub struct Tree {
    out: Output,
    region: Region,
    order: Vec<(usize, usize)>,
    tails: HashMap<usize, String>,
    remark: Option<String>,
    clock: SystemClock,
    drawn: Option<Stopwatch>,
}

impl Tree {
    pub fn new(out: Output) -> Self {
        Self {
            region: Region::new(out),
            out,
            order: Vec::new(),
            tails: HashMap::new(),
            remark: None,
            clock: SystemClock,
            drawn: None,
        }
    }

    /// Takes the moving picture away, so that the summary can take its place.
    pub fn clear(&mut self) -> Result<()> {
        self.region.clear(terminal_size().0)
    }

    fn draw(&mut self, picture: &Picture) -> Result<()> {
        let (columns, rows) = terminal_size();
        let lines = self.lines(picture, columns, rows.saturating_sub(1).max(3));
        // A line as wide as the terminal leaves the cursor in a place that terminals disagree on.
        self.region.draw(lines, columns)
    }

    fn lines(&self, picture: &Picture, columns: usize, rows: usize) -> Vec<String> {
        let now = self.clock.now();
        let room = rows - 2;
        let mut lines = vec![head(&self.out, picture, columns)];
        let shown = self.chosen(picture, room);
        let n_hidden = picture.jobs.len() - shown.len();
        let running = shown.iter().filter(|(at, _)| self.tails.contains_key(at)).count();
        let with_tails = shown.len() + running <= room;
        let pad = name_pad(picture, &shown);
        for (at, depth) in shown {
            lines.push(job_line(&self.out, picture, at, depth, pad, columns, now));
            if let Some(tail) = self.tails.get(&at).filter(|_| with_tails) {
                let text = format!("{}│ {tail}", "  ".repeat(depth + 2));
                lines.push(self.out.paint(Style::Dim, &cut(&text, columns - 1)));
            }
        }
        if n_hidden > 0 {
            lines.push(self.out.paint(Style::Dim, &cut(&hidden(picture, n_hidden), columns - 1)));
        }
        lines.push(self.foot(picture, columns, now));
        lines
    }

    /// Which jobs are shown, in tree order, when not all fit: running ones first, then failed
    /// ones, then those that come next, then those that ended.
    fn chosen(&self, picture: &Picture, room: usize) -> Vec<(usize, usize)> {
        if self.order.len() <= room {
            return self.order.clone();
        }
        let rank = |at: usize| match picture.jobs[at].state {
            JobState::Running | JobState::Waiting => 0,
            JobState::Failed | JobState::Lost => 1,
            JobState::Queued => 2,
            _ => 3,
        };
        let mut by_rank: Vec<usize> = (0..self.order.len()).collect();
        by_rank.sort_by_key(|position| rank(self.order[*position].0));
        by_rank.truncate(room.saturating_sub(1));
        by_rank.sort_unstable();
        by_rank.into_iter().map(|position| self.order[position]).collect()
    }

    fn foot(&self, picture: &Picture, columns: usize, now: Timestamp) -> String {
        let progress = format!(
            "{}/{} jobs · {}",
            picture.n_over(),
            picture.jobs.len(),
            duration::show(whole_tenths(picture.elapsed(now)))
        );
        let text = match &self.remark {
            Some(remark) => format!("{progress} · {remark}"),
            None => progress,
        };
        self.out.paint(Style::Dim, &cut(&text, columns - 1))
    }
}

impl Viewer for Tree {
    fn picture(&mut self, picture: &Picture) -> Result<()> {
        if self.order.len() != picture.jobs.len() {
            self.order = order(picture);
        }
        self.tails.retain(|at, _| picture.jobs[*at].state == JobState::Running);
        Ok(())
    }

    fn job_started(&mut self, _: &Picture, _: usize, _: u32) -> Result<()> {
        Ok(())
    }

    fn log(&mut self, _: &Picture, _: usize, _: u32, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn job_over(&mut self, _: &Picture, _: usize) -> Result<()> {
        Ok(())
    }

    fn tail(&mut self, job: usize, bytes: &[u8]) -> Result<()> {
        if let Some(line) = last_line(bytes) {
            self.tails.insert(job, line);
        }
        Ok(())
    }

    fn is_frame_due(&self) -> bool {
        self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME / 2)
    }

    fn frame(&mut self, picture: &Picture) -> Result<()> {
        self.drawn = Some(Stopwatch::start());
        self.draw(picture)
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.remark = Some(text.to_owned());
        // A key was pressed: that is answered at once.
        self.drawn = None;
        Ok(())
    }

    fn wants(&self) -> Wants {
        Wants::Frames
    }
}

/// `#12  main 3f2a1c9  Fix the parser`.
pub fn head(out: &Output, picture: &Picture, columns: usize) -> String {
    let mut text = String::new();
    if let Some(branch) = &picture.branch {
        text.push_str(&format!("  {}", visible(branch)));
    }
    if let Some(short) = picture.commit.get(..7) {
        text.push_str(&format!(" {short}"));
    }
    if !picture.title.is_empty() {
        text.push_str(&format!("  {}", visible(&picture.title)));
    }
    let reference = &picture.reference;
    let room = columns.saturating_sub(width(reference) + 1);
    format!("{}{}", out.paint(Style::Bold, reference), out.paint(Style::Dim, &cut(&text, room)))
}

/// One job: icon, name, time, and what it does or why it is so.
pub fn job_line(
    out: &Output,
    picture: &Picture,
    at: usize,
    depth: usize,
    pad: usize,
    columns: usize,
    now: Timestamp,
) -> String {
    let job = &picture.jobs[at];
    let indent = "  ".repeat(depth);
    let name = visible(&job.name);
    let time = job.elapsed(now).map(|span| duration::show(whole_tenths(span))).unwrap_or_default();
    let before = width(&indent) + 2 + width(&name);
    let gap = " ".repeat((pad + 2).saturating_sub(before).max(1));
    let (style, icon) = icon(job.state, now);
    let head = format!("{indent}{} {name}{gap}{time:>8}", out.paint(style, icon));
    let used = before + gap.len() + 8;
    let detail = detail(job);
    let detail = if detail.is_empty() { detail } else { format!("  {detail}") };
    let detail = cut(&visible(&detail), columns.saturating_sub(used + 1));
    format!("{head}{}", out.paint(Style::Dim, &detail)).trim_end().to_owned()
}

fn detail(job: &picture::Job) -> String {
    let mut parts = Vec::new();
    if job.attempt > 1 {
        parts.push(format!("attempt {}", job.attempt));
    }
    match job.state {
        JobState::Running => {
            if let Some((at, step)) = job.present_step() {
                let first = step.name.lines().next().unwrap_or("");
                parts.push(match job.steps.len() {
                    1 => first.to_owned(),
                    n => format!("{}/{n} {first}", at + 1),
                });
            }
        }
        JobState::Success => {
            // A success has one when it did not run.
            parts.extend(job.reason.clone());
            match job.warnings.len() {
                0 => {}
                1 => parts.push("1 warning".to_owned()),
                n => parts.push(format!("{n} warnings")),
            }
        }
        _ => parts.extend(job.reason.clone()),
    }
    parts.join(" · ")
}

pub fn icon(state: JobState, now: Timestamp) -> (Style, &'static str) {
    match state {
        JobState::Queued => (Style::Dim, "·"),
        JobState::Running => {
            let frame = (now.as_millis() / 100).rem_euclid(SPINNER.len() as i64);
            (Style::Cyan, SPINNER[usize::try_from(frame).unwrap_or(0)])
        }
        JobState::Waiting => (Style::Yellow, "‖"),
        JobState::Success => (Style::Green, "✓"),
        JobState::Warning => (Style::Yellow, "!"),
        JobState::Failed => (Style::Red, "✗"),
        JobState::Cancelled => (Style::Yellow, "⊘"),
        JobState::Skipped => (Style::Dim, "○"),
        JobState::Lost => (Style::Red, "?"),
    }
}

/// Every job under the deepest of its needs, with its depth in that tree.
pub fn order(picture: &Picture) -> Vec<(usize, usize)> {
    let n = picture.jobs.len();
    let levels = levels(picture);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut roots = Vec::new();
    for (at, job) in picture.jobs.iter().enumerate() {
        let needs = job.needs.iter().copied().filter(|need| *need < n);
        match needs.max_by_key(|need| (levels[*need], *need)) {
            Some(parent) => children[parent].push(at),
            None => roots.push(at),
        }
    }
    let mut order = Vec::with_capacity(n);
    let mut open: Vec<(usize, usize)> = roots.into_iter().rev().map(|at| (at, 0)).collect();
    while let Some((at, depth)) = open.pop() {
        order.push((at, depth.min(INDENT_MAX)));
        open.extend(children[at].iter().rev().map(|child| (*child, depth + 1)));
    }
    order
}

/// The length of the longest chain of needs under each job. Plans have no cycles.
fn levels(picture: &Picture) -> Vec<usize> {
    let n = picture.jobs.len();
    let mut dependants: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut missing = vec![0usize; n];
    for (at, job) in picture.jobs.iter().enumerate() {
        for need in job.needs.iter().filter(|need| **need < n) {
            dependants[*need].push(at);
            missing[at] += 1;
        }
    }
    let mut levels = vec![0; n];
    let mut ready: Vec<usize> = (0..n).filter(|at| missing[*at] == 0).collect();
    while let Some(at) = ready.pop() {
        for next in &dependants[at] {
            levels[*next] = levels[*next].max(levels[at] + 1);
            missing[*next] -= 1;
            if missing[*next] == 0 {
                ready.push(*next);
            }
        }
    }
    levels
}

/// The column at which times begin.
pub fn name_pad(picture: &Picture, shown: &[(usize, usize)]) -> usize {
    let wide =
        |(at, depth): &(usize, usize)| 2 * depth + width(&picture.jobs[*at].name).min(NAME_MAX);
    shown.iter().map(wide).max().unwrap_or(0) + 2
}

fn hidden(picture: &Picture, n_hidden: usize) -> String {
    let count = |state: JobState| picture.jobs.iter().filter(|job| job.state == state).count();
    let counts = JobState::ALL.iter().map(|state| (count(*state), *state)).filter(|(n, _)| *n > 0);
    let counts: Vec<String> = counts.map(|(n, state)| format!("{n} {state}")).collect();
    format!("… {n_hidden} more jobs not shown; in all: {}", counts.join(", "))
}

/// The last line with something in it, without what would move the cursor.
fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.split(['\n', '\r']).rev().find(|line| !line.trim().is_empty())?;
    Some(visible(without_escapes(line).trim_end()))
}

/// A running clock shows tenths, so that it is not redrawn for milliseconds.
fn whole_tenths(span: std::time::Duration) -> std::time::Duration {
    if span.as_millis() < 1_000 {
        span
    } else {
        span - std::time::Duration::from_millis(span.as_millis() as u64 % 100)
    }
}

#[cfg(test)]
mod tests {
    use kiln_model::RunState;

    use super::*;

    fn picture(jobs: &[(&str, &[usize])]) -> Picture {
        let job = |(name, needs): &(&str, &[usize])| picture::Job {
            name: (*name).to_owned(),
            state: JobState::Queued,
            reason: None,
            needs: needs.to_vec(),
            attempt: 0,
            started_at: None,
            finished_at: None,
            steps: Vec::new(),
            reused_from: None,
            warnings: Vec::new(),
        };
        Picture {
            reference: "#1".into(),
            project: "p".into(),
            number: 1,
            state: RunState::Running,
            reason: None,
            branch: None,
            commit: String::new(),
            title: String::new(),
            created_at: Timestamp::EPOCH,
            began_at: Timestamp::EPOCH,
            finished_at: None,
            jobs: jobs.iter().map(job).collect(),
        }
    }

    #[test]
    fn a_job_stands_under_its_deepest_need() {
        let diamond = picture(&[
            ("lint", &[]),
            ("build", &[]),
            ("a", &[1]),
            ("b", &[1]),
            ("end", &[0, 2, 3]),
        ]);
        assert_eq!(order(&diamond), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]);
    }

    #[test]
    fn a_long_chain_stays_on_the_screen() {
        let needs: Vec<[usize; 1]> = (0..299).map(|at| [at]).collect();
        let mut jobs: Vec<(&str, &[usize])> = vec![("j", &[])];
        jobs.extend(needs.iter().map(|need| ("j", need.as_slice())));
        let order = order(&picture(&jobs));
        assert_eq!(order.len(), 300);
        assert_eq!(order.last(), Some(&(299, INDENT_MAX)));
    }

    #[test]
    fn the_tail_is_the_last_line_without_its_colours() {
        assert_eq!(last_line(b"a\n\x1b[32mok\x1b[0m\r\n\n").as_deref(), Some("ok"));
        assert_eq!(last_line(b"10%\r20%\r").as_deref(), Some("20%"));
        assert_eq!(last_line(b"\n \n"), None);
    }
}
