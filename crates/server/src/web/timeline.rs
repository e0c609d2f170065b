//! When each job of a run waited and ran, and which jobs decided how long the run took.
//!
//! A job could have begun when the last of its needs ended (without needs: when the run was made).
//! From there to its start it waited for an agent or a lock. The critical path is found backwards:
//! from the job that ended last, always to the need that ended last.
//!
//! `static/timeline.js` moves the bars of running jobs by the same formula.

use std::collections::HashMap;
use std::rc::Rc;

use kiln_api::user::{JobRow, RunDetail};
use kiln_model::JobState;
use kiln_stdx::Timestamp;

/// Length of the axis. Bars are SVG in these units, stretched to the width of their column.
pub const AXIS: i64 = 1_000;

/// A run's time, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub from_ms: i64,
    pub to_ms: i64,
}

/// The bar of one job, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// When its needs had ended.
    pub ready_ms: Option<i64>,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    /// On the path that decided when the run ended.
    pub critical: bool,
}

impl Axis {
    /// From the run's making to its end, or to `now` while it goes on. When jobs have run again,
    /// from where the first of what is shown began: what was before is no longer to be seen.
    pub fn of(run: &RunDetail, bars: &[Bar], now: Timestamp) -> Self {
        let created_ms = run.run.created_at.as_millis();
        let first_ms = bars.iter().filter_map(|bar| bar.ready_ms.or(bar.started_ms)).min();
        let from_ms = match run.jobs.iter().any(|job| job.attempt > 1) {
            true => first_ms.unwrap_or(created_ms),
            false => created_ms,
        };
        let jobs_end = run.jobs.iter().filter_map(|job| job.finished_at).max();
        let end = run.run.finished_at.max(jobs_end.filter(|_| run.run.state.is_over()));
        let to_ms = end.unwrap_or(now).as_millis();
        Self { from_ms, to_ms: to_ms.max(from_ms + 1) }
    }

    /// Where a moment is on the axis, from 0 to [`AXIS`].
    pub fn at(self, ms: i64) -> i64 {
        let inside = ms.clamp(self.from_ms, self.to_ms) - self.from_ms;
        inside.saturating_mul(AXIS) / (self.to_ms - self.from_ms)
    }
}

impl Bar {
    /// The waiting part as (x, width); nothing when there was none.
    pub fn waited(&self, axis: Axis) -> Option<(i64, i64)> {
        let from = axis.at(self.ready_ms?);
        let to = axis.at(self.started_ms.or(self.finished_ms).unwrap_or(axis.to_ms));
        (to > from).then_some((from, to - from))
    }

    /// The running part as (x, width); never thinner than can be seen.
    pub fn ran(&self, axis: Axis) -> Option<(i64, i64)> {
        const THINNEST: i64 = 4;
        let from = axis.at(self.started_ms?).min(AXIS - THINNEST);
        let to = axis.at(self.finished_ms.unwrap_or(axis.to_ms));
        Some((from, (to - from).max(THINNEST)))
    }
}

/// When a job's present attempt began. A job that waits for its next attempt still has the times of
/// the one before.
pub fn began(job: &JobRow) -> Option<Timestamp> {
    job.started_at.filter(|_| job.state == JobState::Running || job.state.is_over())
}

/// For each job the positions of the jobs that it needs.
///
/// Jobs of a matrix need the same and stand one after the other: their names are looked up once.
/// A thousand jobs that need a hundred each would be the longest part of the page's making.
pub fn needs(jobs: &[JobRow]) -> Vec<Rc<[usize]>> {
    let at: HashMap<&str, usize> =
        jobs.iter().enumerate().map(|(at, job)| (job.job.as_str(), at)).collect();
    let mut needs: Vec<Rc<[usize]>> = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.iter().enumerate() {
        let found = match needs.last() {
            Some(last) if jobs[place - 1].needs == job.needs => Rc::clone(last),
            _ => job.needs.iter().filter_map(|need| at.get(need.as_str()).copied()).collect(),
        };
        needs.push(found);
    }
    needs
}

/// A bar for each job, in the run's order.
pub fn bars(run: &RunDetail, needs: &[Rc<[usize]>]) -> Vec<Bar> {
    let ms = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    let bar = |(job, needs): (&JobRow, &Rc<[usize]>)| {
        let ready = match needs.iter().all(|&need| run.jobs[need].state.is_over()) {
            true => (needs.iter())
                .filter_map(|&need| ms(run.jobs[need].finished_at))
                .max()
                // When a later attempt was asked for is not known here.
                .or_else(|| (job.attempt < 2).then(|| run.run.created_at.as_millis())),
            false => None,
        };
        let (started_ms, finished_ms) = (ms(began(job)), ms(began(job).and(job.finished_at)));
        // A job that never started and is over was skipped: it did not wait for anything.
        let waited = started_ms.is_some() || !job.state.is_over();
        // A rerun of a need ends after this job's own start: then there was no wait to show.
        let ready_ms = ready.filter(|&at| waited && started_ms.is_none_or(|start| at <= start));
        Bar { ready_ms, started_ms, finished_ms, critical: false }
    };
    let mut bars: Vec<Bar> = run.jobs.iter().zip(needs).map(bar).collect();
    if run.run.state.is_over() && run.jobs.len() > 1 {
        critical(needs, &mut bars);
    }
    bars
}

fn critical(needs: &[Rc<[usize]>], bars: &mut [Bar]) {
    let ran = |bar: &Bar| bar.started_ms.is_some() && bar.finished_ms.is_some();
    let mut next =
        (0..bars.len()).filter(|&job| ran(&bars[job])).max_by_key(|&job| bars[job].finished_ms);
    // Each job is marked once, so a circle of needs (which no plan has) would end too.
    while let Some(job) = next.filter(|&job| !bars[job].critical) {
        bars[job].critical = true;
        next = (needs[job].iter().copied())
            .filter(|&need| ran(&bars[need]))
            .max_by_key(|&need| bars[need].finished_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    #[test]
    fn waiting_counts_from_the_last_need_and_the_critical_path_goes_through_it() {
        let run = sample::diamond();
        let bars = bars(&run, &needs(&run.jobs));
        let t0 = run.run.created_at.as_millis();
        let ready = |at: usize| bars[at].ready_ms.map(|ms| ms - t0);
        // build 1–21 s, lint 21.2–30 s, test 22–80 s, publish 81–90 s.
        assert_eq!(
            [ready(0), ready(1), ready(2), ready(3)].map(Option::unwrap),
            [0, 21_000, 21_000, 80_000]
        );
        let critical: Vec<bool> = bars.iter().map(|bar| bar.critical).collect();
        assert_eq!(critical, [true, false, true, true]);
    }

    #[test]
    fn bars_stay_on_the_axis() {
        let axis = Axis { from_ms: 1_000, to_ms: 2_000 };
        assert_eq!([axis.at(0), axis.at(1_500), axis.at(9_999)], [0, 500, AXIS]);
        let late = Bar { started_ms: Some(2_000), finished_ms: Some(2_000), ..Bar::default() };
        assert_eq!(late.ran(axis), Some((996, 4)));
        assert_eq!(late.waited(axis), None);
    }

    #[test]
    fn a_job_that_waits_to_run_again_has_no_old_bar() {
        let mut run = sample::diamond();
        (run.jobs[0].attempt, run.jobs[0].state) = (2, JobState::Queued);
        let old = run.jobs[1].started_at.unwrap().as_millis();
        let bars = bars(&run, &needs(&run.jobs));
        assert_eq!((bars[0].started_ms, bars[0].ready_ms), (None, None));
        // What is left to see begins with the second job, which no longer waits for anything.
        assert_eq!(Axis::of(&run, &bars, sample::NOW).from_ms, old);
    }

    #[test]
    fn a_skipped_job_has_no_bar() {
        let mut run = sample::diamond();
        let job = &mut run.jobs[3];
        (job.state, job.started_at, job.finished_at) = (JobState::Skipped, None, None);
        let bars = bars(&run, &needs(&run.jobs));
        assert_eq!(bars[3], Bar::default());
        assert!(bars[2].critical && bars[0].critical);
    }
}
