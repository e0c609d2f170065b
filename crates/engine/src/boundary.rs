//! Which attempt's files a job can begin from in the middle.
//!
//! Files as a step found them are layers over what the job's needs left. So they are of use only as
//! long as no need has run again since: an older attempt saw other layers below its own.

use kiln_model::plan::Snapshots;
use kiln_model::{FromStep, JobIndex, Outcome};

use crate::attempt::Attempt;
use crate::run::Run;

impl Run {
    /// The latest attempt that keeps the files as a step found them, or in words why none does.
    pub fn begins_from(&self, job: JobIndex, step: u32) -> Result<FromStep, String> {
        let attempts = self.jobs.get(job.at()).map_or(&[][..], |job| &job.attempts);
        let mut why = None;
        for attempt in attempts.iter().rev() {
            match self.keeps(attempt, step) {
                Ok(()) => return Ok(FromStep { job, step, attempt: attempt.id.attempt }),
                // The latest that came that far has the best reason.
                Err(reason) => why = why.or(Some(reason)),
            }
        }
        Err(why.unwrap_or_else(|| "no attempt of it has run yet".to_owned()))
    }

    /// As [`Run::begins_from`], of one attempt.
    pub(crate) fn kept_by(&self, from: &FromStep) -> Result<(), String> {
        let FromStep { job, step, attempt: number } = *from;
        let attempts = &self.jobs[job.at()].attempts;
        let found = attempts.iter().find(|attempt| attempt.id.attempt == number);
        self.keeps(found.ok_or_else(|| format!("it has no attempt {number}"))?, step)
    }

    fn keeps(&self, attempt: &Attempt, step: u32) -> Result<(), String> {
        let (job, number) = (attempt.id.job, attempt.id.attempt);
        if attempt.outcome.is_some() && number as usize <= self.jobs[job.at()].n_outdated {
            return Err(format!("attempt {number} saw what its needs left before they ran again"));
        }
        self.has_files_before(attempt, step)?;
        // Steps that always run find files after a failure, too; a job cannot go on from those.
        failed_before(attempt, step).map_or(Ok(()), Err)
    }

    /// Whether an attempt's files are kept as a step found them, over the layers that it saw itself;
    /// in words why not.
    pub fn has_files_before(&self, attempt: &Attempt, step: u32) -> Result<(), String> {
        let number = attempt.id.attempt;
        let Some(outcome) = &attempt.outcome else {
            return Err(format!("attempt {number} is not over"));
        };
        if step == 0 || attempt.notes.boundaries.contains(&step) {
            return Ok(());
        }
        Err(self.why_not_kept(attempt, outcome, step))
    }

    fn why_not_kept(&self, attempt: &Attempt, outcome: &Outcome, step: u32) -> String {
        let (job, number) = (self.planned_job(attempt.id.job), attempt.id.attempt);
        if attempt.started_at.is_none() {
            return format!("attempt {number} ran no step");
        }
        if matches!(outcome, Outcome::Lost { .. }) {
            return format!("attempt {number} was lost, and its files with it");
        }
        if step < attempt.first_step() {
            let first = attempt.first_step() + 1;
            return format!("attempt {number} began at step {first} itself");
        }
        if let Some(why) = failed_before(attempt, step) {
            return why;
        }
        if let Some(why) = job.no_boundaries() {
            return format!("between its steps no files are kept, since {why}");
        }
        match job.snapshots {
            Some(Snapshots::Off) => "its manifest says `snapshots: off`".to_owned(),
            None if attempt.notes.boundaries.is_empty() => format!(
                "attempt {number} kept no files between its steps, as only local runs, jobs with \
                 `snapshots: steps` and jobs that are tried again after a failure do"
            ),
            _ => format!(
                "attempt {number} kept no files there: an earlier step had left a process running, \
                 or the disk was full"
            ),
        }
    }
}

impl Attempt {
    /// Whether its files are kept as a step found them, and all steps before that were successes.
    pub fn can_begin_at(&self, step: u32) -> bool {
        self.notes.boundaries.contains(&step) && failed_before(self, step).is_none()
    }
}

/// Which of the steps that an attempt ran itself, before one, was not a success. In words.
fn failed_before(attempt: &Attempt, step: u32) -> Option<String> {
    let range = attempt.first_step() as usize..step as usize;
    let number = attempt.id.attempt;
    let mut before = attempt.steps.iter().enumerate().take(range.end).skip(range.start);
    before.find_map(|(at, known)| {
        let said = format!("in attempt {number}, step {}", at + 1);
        match &known.exit {
            None => Some(format!("{said} did not run")),
            Some(exit) if !exit.is_success() => Some(format!("{said} {}", exit.ended())),
            Some(_) => None,
        }
    })
}
