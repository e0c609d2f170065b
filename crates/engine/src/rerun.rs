//! New attempts of jobs that are over, and of everything that needs them, under the same plan.
//!
//! A job whose need is not met can only be rerun together with that need: alone it would be skipped
//! again, so it is refused, and the words name the need to rerun. Asked for together with the need,
//! or for a job that runs regardless of its needs, it is fine.

use kiln_model::{FromStep, JobIndex};
use kiln_stdx::Timestamp;

use crate::action::{Effects, Refused};
use crate::attempt::Cause;
use crate::run::Run;

impl Run {
    pub(crate) fn rerun(
        &mut self,
        jobs: &[JobIndex],
        by: &str,
        from: Option<&FromStep>,
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let again = self.to_rerun(jobs).map_err(Refused::Illegal)?;
        if let Some(from) = from {
            self.may_begin(from, jobs, &again).map_err(Refused::Illegal)?;
        }
        self.cancelled_by = None;
        if self.state.is_over() {
            // How long a run took is how long its latest going took.
            self.started_at = Some(at);
        }
        let cause = Cause::Rerun { by: by.to_owned() };
        for &job in &again {
            let needs = self.n_unmet_after(job, &again);
            let sees_others = self.needs_one_of(job, &again);
            let state = self.job_mut(job);
            if sees_others {
                state.n_outdated = state.attempts.len();
            }
            state.from = from.filter(|from| from.job == job && from.step > 0).cloned();
            state.n_unmet = needs;
            state.n_earlier = state.attempts.len();
            state.cause = cause.clone();
            state.outputs.clear();
        }
        self.queue_jobs(&again, at, effects);
        effects.run = true;
        Ok(())
    }

    /// These jobs and all that need them, in plan order, or in words why they cannot run again.
    fn to_rerun(&self, jobs: &[JobIndex]) -> Result<Vec<JobIndex>, String> {
        if self.jobs.is_empty() {
            return Err("the run has no plan, so that no job of it can run again; start a new run"
                .to_owned());
        }
        if self.cancelled_by.is_some() && !self.state.is_over() {
            return Err("the run is being cancelled; rerun it when it is over".to_owned());
        }
        if jobs.is_empty() {
            return Err("no job was named to run again".to_owned());
        }
        if let Some(unknown) = jobs.iter().find(|job| job.at() >= self.jobs.len()) {
            let n_jobs = self.jobs.len();
            return Err(format!("there is no job {unknown}; the run has {n_jobs} jobs"));
        }
        let mut taken = vec![false; self.jobs.len()];
        let mut again: Vec<JobIndex> = Vec::new();
        for &job in jobs {
            self.take_up(job, &mut taken, &mut again);
        }
        // Grows while it is walked: what needs a job follows it.
        let mut next = 0;
        while let Some(&job) = again.get(next) {
            for &dependent in self.graph.dependents(job) {
                self.take_up(dependent, &mut taken, &mut again);
            }
            next += 1;
        }
        if let Some(live) = again.iter().find(|job| !self.jobs[job.at()].state.is_over()) {
            let (name, state) = (&self.planned_job(*live).name, self.jobs[live.at()].state);
            return Err(format!("job `{name}` is {state}; rerun when it is over, or cancel first"));
        }
        for &job in jobs.iter().filter(|job| !self.runs_regardless(**job)) {
            let unmet = |need: &&JobIndex| !taken[need.at()] && !self.jobs[need.at()].is_met();
            if let Some(need) = self.planned_job(job).needs.iter().find(unmet) {
                let (name, state) = (&self.planned_job(*need).name, self.jobs[need.at()].state);
                let job = &self.planned_job(job).name;
                return Err(format!(
                    "job `{job}` needs `{name}`, which is {state}; rerun `{name}`, and `{job}` follows"
                ));
            }
        }
        again.sort_unstable();
        Ok(again)
    }

    /// In words, why a job cannot begin there.
    fn may_begin(
        &self,
        from: &FromStep,
        jobs: &[JobIndex],
        again: &[JobIndex],
    ) -> Result<(), String> {
        let FromStep { job, step, .. } = *from;
        if !jobs.contains(&job) {
            return Err(format!(
                "job {job} is to begin from a step and was not named to run again"
            ));
        }
        let name = &self.planned_job(job).name;
        let n_steps = self.planned_job(job).steps.len();
        if usize::try_from(step).map_or(true, |step| step >= n_steps) {
            return Err(format!(
                "job `{name}` has {n_steps} steps, so there is no step {}",
                step + 1
            ));
        }
        // Its files are those that any attempt begins with.
        if step == 0 {
            return Ok(());
        }
        let cannot = format!("job `{name}` cannot begin from step {}", step + 1);
        if self.needs_one_of(job, again) {
            return Err(format!("{cannot}: what it needs runs again; leave out one of the two"));
        }
        self.kept_by(from).map_err(|why| format!("{cannot}: {why}"))
    }

    fn needs_one_of(&self, job: JobIndex, jobs: &[JobIndex]) -> bool {
        self.planned_job(job).needs.iter().any(|need| jobs.contains(need))
    }

    fn take_up(&self, job: JobIndex, taken: &mut [bool], again: &mut Vec<JobIndex>) {
        if !std::mem::replace(&mut taken[job.at()], true) {
            again.push(job);
        }
    }

    /// How many needs of a job will be waited for when `again`, in plan order, is queued.
    fn n_unmet_after(&self, job: JobIndex, again: &[JobIndex]) -> u32 {
        let mut needs: Vec<JobIndex> = self.planned_job(job).needs.clone();
        needs.sort_unstable();
        needs.dedup();
        let waits = |need: &&JobIndex| {
            again.binary_search(need).is_ok() || !self.jobs[need.at()].state.is_over()
        };
        u32::try_from(needs.iter().filter(waits).count()).unwrap_or(u32::MAX)
    }
}
