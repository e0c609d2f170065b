//! What a condition sees once the needs of its job are over.
//!
//! Everything that the plan knew, and `needs.JOB.state`, `needs.JOB.outputs.NAME`. JOB is a job, or a
//! matrix as it was written: its state is then the worst of its instances, an output the first that
//! an instance gives.

use kiln_model::condition::{Facts, Scope, Value};
use kiln_model::{JobIndex, JobState, Plan, Reason};

use crate::run::{Job, Run};

/// From what a reader must know first to what needs no telling.
const WORST_FIRST: &[JobState] = &[
    JobState::Failed,
    JobState::Lost,
    JobState::Cancelled,
    JobState::Skipped,
    JobState::Warning,
    JobState::Success,
];

struct Needs<'a> {
    facts: Facts<'a>,
    run: &'a Run,
    plan: &'a Plan,
    at: JobIndex,
}

impl Run {
    /// The reason to skip a job whose condition does not hold.
    pub(crate) fn condition_fails(&self, at: JobIndex) -> Option<Reason> {
        let plan = self.plan.as_deref()?;
        let condition = plan.job(at).condition.as_ref()?;
        let facts = Facts::of(&self.trigger, plan, plan.job(at));
        let verdict = condition.evaluate(&Needs { facts, run: self, plan, at });
        // Everything is known by now, so that what is unknown will never hold.
        (verdict.holds != Some(true)).then(|| Reason::Condition {
            condition: condition.as_str().to_owned(),
            trace: verdict.trace,
        })
    }
}

impl<'a> Needs<'a> {
    /// The needs that a name means: one job, or the instances of a matrix.
    fn called(&self, name: &str) -> Vec<&'a Job> {
        let needs = &self.plan.job(self.at).needs;
        let named = |need: &&JobIndex| self.plan.job(**need).name.as_str() == name;
        let group = |need: &&JobIndex| self.plan.job(**need).group.as_str() == name;
        let job = |need: &JobIndex| &*self.run.jobs[need.at()];
        match needs.iter().find(named) {
            Some(need) => vec![job(need)],
            None => needs.iter().filter(group).map(job).collect(),
        }
    }
}

impl Scope for Needs<'_> {
    fn lookup(&self, path: &[&str]) -> Value {
        match path {
            ["needs", job, "state"] => {
                let jobs = self.called(job);
                let is = |state: &&JobState| jobs.iter().any(|job| job.state == **state);
                Value::text(WORST_FIRST.iter().find(is).map(|state| state.as_str()))
            }
            ["needs", job, "outputs", name] => {
                let jobs = self.called(job);
                Value::text(jobs.iter().find_map(|job| job.outputs.get(*name)).cloned())
            }
            ["needs", ..] => Value::Null,
            _ => self.facts.lookup(path),
        }
    }

    fn changed(&self) -> Option<&[String]> {
        self.facts.changed()
    }

    fn needs(&self) -> Option<Vec<(String, JobState)>> {
        let need = |need: &JobIndex| {
            (self.plan.job(*need).name.to_string(), self.run.jobs[need.at()].state)
        };
        Some(self.plan.job(self.at).needs.iter().map(need).collect())
    }
}
