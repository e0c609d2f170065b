//! What every plan promises.

use std::collections::HashSet;

use super::{Job, PLAN_VERSION, Plan, View};
use crate::id::JobIndex;
use crate::name::JobName;

/// Why a plan cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the plan has version {0}; this kiln reads up to {PLAN_VERSION}")]
    Version(u32),
    #[error("job `{0}` occurs twice")]
    Twice(JobName),
    #[error("job `{0}` has no step")]
    NoStep(JobName),
    #[error("job `{job}` needs job {need}, and the plan has {n_jobs} jobs")]
    UnknownNeed { job: JobName, need: JobIndex, n_jobs: usize },
    #[error("job `{job}` starts from the files of job {from}, which it does not need")]
    NotNeeded { job: JobName, from: JobIndex },
    #[error("the jobs need each other in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
}

impl Plan {
    pub fn job(&self, at: JobIndex) -> &Job {
        &self.jobs[at.at()]
    }

    pub fn indices(&self) -> impl Iterator<Item = JobIndex> + use<> {
        (0..u32::try_from(self.jobs.len()).unwrap_or(u32::MAX)).map(JobIndex)
    }

    /// Finds a job by its name.
    pub fn find(&self, name: &str) -> Option<JobIndex> {
        self.indices().find(|at| self.job(*at).name.as_str() == name)
    }

    /// The promises of the module's header.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.version > PLAN_VERSION {
            return Err(PlanError::Version(self.version));
        }
        let mut names = HashSet::new();
        for job in &self.jobs {
            if !names.insert(&job.name) {
                return Err(PlanError::Twice(job.name.clone()));
            }
            if job.steps.is_empty() {
                return Err(PlanError::NoStep(job.name.clone()));
            }
            if let Some(&need) = job.needs.iter().find(|need| need.at() >= self.jobs.len()) {
                let (job, n_jobs) = (job.name.clone(), self.jobs.len());
                return Err(PlanError::UnknownNeed { job, need, n_jobs });
            }
            let View::From { jobs } = &job.workspace else { continue };
            if let Some(&from) = jobs.iter().find(|from| !job.needs.contains(from)) {
                return Err(PlanError::NotNeeded { job: job.name.clone(), from });
            }
        }
        match self.cycle() {
            Some(cycle) => {
                let name = |at: JobIndex| self.job(at).name.to_string();
                Err(PlanError::Cycle(cycle.into_iter().map(name).collect()))
            }
            None => Ok(()),
        }
    }

    /// A circle of needs, its first job repeated at the end, if there is one.
    pub fn cycle(&self) -> Option<Vec<JobIndex>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            OnPath,
            Done,
        }
        let mut marks = vec![Mark::New; self.jobs.len()];
        // An explicit stack: a chain of 10,000 jobs must not overflow the thread's.
        for start in self.indices() {
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.pop() {
                if next == 0 && marks[at.at()] != Mark::New {
                    continue;
                }
                marks[at.at()] = Mark::OnPath;
                match self.job(at).needs.get(next) {
                    None => marks[at.at()] = Mark::Done,
                    Some(&need) => {
                        path.push((at, next + 1));
                        if marks[need.at()] == Mark::OnPath {
                            let from = path.iter().position(|(job, _)| *job == need)?;
                            let mut circle: Vec<_> = path[from..].iter().map(|p| p.0).collect();
                            circle.push(need);
                            return Some(circle);
                        }
                        path.push((need, 0));
                    }
                }
            }
        }
        None
    }
}
