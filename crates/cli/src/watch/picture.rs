//! A run at one moment, in the shape in which it is shown: the same from memory and from a server.

use std::collections::HashMap;
use std::time::Duration;

use kiln_api::user;
use kiln_engine::run::Run;
use kiln_model::{Exit, JobState, Plan, RunState};
use kiln_server::view;
use kiln_stdx::Timestamp;
use kiln_store::RunRow;

#[derive(Clone, Debug)]
pub struct Picture {
    /// How the person writes this run: `#12`, `site#12`.
    pub reference: String,
    pub project: String,
    pub number: i64,
    pub state: RunState,
    pub reason: Option<String>,
    pub branch: Option<String>,
    pub commit: String,
    pub title: String,
    pub created_at: Timestamp,
    /// From when on time is counted: its creation, or the rerun that is being watched.
    pub began_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// In plan order.
    pub jobs: Vec<Job>,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub name: String,
    pub state: JobState,
    pub reason: Option<String>,
    /// Positions.
    pub needs: Vec<usize>,
    /// 0: none yet.
    pub attempt: u32,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Of the last attempt. From a server only while the job runs.
    pub steps: Vec<Step>,
    pub warnings: Vec<String>,
    /// Whose result it has, when it did not run.
    pub reused_from: Option<user::Reused>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit: Option<Exit>,
}

impl Picture {
    /// A local run, folded from its events.
    pub fn of_local(row: &RunRow, run: &Run) -> Self {
        let jobs = match &run.plan {
            Some(plan) => (0..run.jobs.len()).map(|at| Job::of_local(plan, run, at)).collect(),
            None => Vec::new(),
        };
        let trigger = &row.trigger;
        Self {
            reference: format!("#{}", row.number),
            project: row.project_name.to_string(),
            number: row.number.0,
            state: run.state,
            reason: run.reason.as_ref().map(ToString::to_string),
            branch: trigger.ref_name().map(str::to_owned),
            commit: trigger.commit.clone(),
            title: trigger.title.clone(),
            created_at: row.created_at,
            began_at: row.created_at,
            finished_at: run.finished_at,
            jobs,
        }
    }

    /// A server's run. `details`: of the jobs that run now, by name.
    pub fn of_server(
        detail: user::RunDetail,
        mut details: HashMap<String, user::JobDetail>,
    ) -> Self {
        let position: HashMap<String, usize> =
            detail.jobs.iter().enumerate().map(|(at, job)| (job.job.clone(), at)).collect();
        let job = |row: user::JobRow| {
            let steps = details.remove(&row.job).and_then(|mut detail| detail.attempts.pop());
            Job::of_server(row, steps.map(|attempt| attempt.steps).unwrap_or_default(), &position)
        };
        let jobs = detail.jobs.into_iter().map(job).collect();
        let run = detail.run;
        Self {
            reference: format!("{}#{}", run.project, run.number),
            project: run.project,
            number: run.number,
            state: run.state,
            reason: run.reason,
            branch: run.branch.or(run.tag),
            commit: run.commit,
            title: run.title,
            created_at: run.created_at,
            began_at: run.created_at,
            finished_at: run.finished_at,
            jobs,
        }
    }

    pub fn n_over(&self) -> usize {
        self.jobs.iter().filter(|job| job.state.is_over()).count()
    }

    /// Looking costs time in proportion to the jobs; it may take a tenth of a core. A few
    /// milliseconds gather what a chatty job says.
    pub fn look_again_after(&self) -> Duration {
        Duration::from_millis((self.jobs.len() as u64 / 20).clamp(2, 100))
    }

    pub fn elapsed(&self, now: Timestamp) -> Duration {
        self.finished_at.unwrap_or(now).since(self.began_at)
    }
}

impl Job {
    fn of_local(plan: &Plan, run: &Run, at: usize) -> Self {
        let (job, status) = (&plan.jobs[at], &run.jobs[at]);
        let last = status.attempts.last();
        let known = last.map(|attempt| attempt.steps.as_slice()).unwrap_or_default();
        let step = |(position, step): (usize, &kiln_model::Step)| {
            let known = known.get(position);
            Step {
                name: step.name.clone(),
                started_at: known.and_then(|known| known.started_at),
                finished_at: known.and_then(|known| known.finished_at),
                exit: known.and_then(|known| known.exit.clone()),
            }
        };
        Self {
            name: job.name.to_string(),
            state: status.state,
            reason: status.reason.as_ref().map(ToString::to_string),
            needs: job.needs.iter().map(|need| need.at()).collect(),
            attempt: last.map_or(0, |attempt| attempt.id.attempt),
            started_at: last.and_then(|attempt| attempt.started_at),
            finished_at: last.and_then(|attempt| attempt.finished_at),
            steps: job.steps.iter().enumerate().map(step).collect(),
            warnings: last.map(|attempt| attempt.notes.warnings.clone()).unwrap_or_default(),
            reused_from: last.and_then(view::reused_from),
        }
    }

    fn of_server(
        row: user::JobRow,
        steps: Vec<user::Step>,
        position: &HashMap<String, usize>,
    ) -> Self {
        let step = |step: user::Step| Step {
            name: step.name,
            started_at: step.started_at,
            finished_at: step.finished_at,
            exit: step.exit,
        };
        Self {
            needs: row.needs.iter().filter_map(|need| position.get(need).copied()).collect(),
            name: row.job,
            state: row.state,
            reason: row.reason,
            attempt: row.attempt,
            started_at: row.started_at,
            finished_at: row.finished_at,
            steps: steps.into_iter().map(step).collect(),
            warnings: row.warnings,
            reused_from: row.reused_from,
        }
    }

    /// Whether attempt `attempt` came to run. Only of the last one it is known that it did not.
    pub fn ran(&self, attempt: u32) -> bool {
        attempt < self.attempt || self.started_at.is_some() || self.state == JobState::Running
    }

    /// How long the attempt has taken or took.
    pub fn elapsed(&self, now: Timestamp) -> Option<Duration> {
        self.started_at.map(|from| self.finished_at.unwrap_or(now).since(from))
    }

    /// The step that runs now: its position and itself.
    pub fn present_step(&self) -> Option<(usize, &Step)> {
        self.steps
            .iter()
            .enumerate()
            .rev()
            .find(|(_, step)| step.started_at.is_some() && step.finished_at.is_none())
    }
}
