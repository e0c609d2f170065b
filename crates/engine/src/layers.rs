//! What a job sees of the jobs before it: their layers and their outputs.

use kiln_model::layer::LayerId;
use kiln_model::{JobIndex, JobName};

use crate::run::Run;

impl Run {
    /// The layers under a job's own, lowest first, without the source: what its needs saw and left.
    ///
    /// For each need in declared order, what was under it, then its own layer. A layer that is met
    /// again stays where it was first. A need that failed shows what it left, too; one that was
    /// skipped shows what was under it.
    pub fn layers_below(&self, job: JobIndex) -> Vec<LayerId> {
        let Some(plan) = &self.plan else { return Vec::new() };
        if job.at() >= self.jobs.len() {
            return Vec::new();
        }
        let mut layers = Vec::new();
        let mut seen = vec![false; self.jobs.len()];
        // A walk in post-order gives each job after all that it needs. An explicit stack: a chain
        // of 10,000 jobs must not overflow the thread's.
        let mut path = vec![(job, 0)];
        while let Some((at, next)) = path.pop() {
            match plan.job(at).needs.get(next) {
                Some(&need) => {
                    path.push((at, next + 1));
                    if !std::mem::replace(&mut seen[need.at()], true) {
                        path.push((need, 0));
                    }
                }
                None if at != job => layers.extend(self.layer_of(at)),
                None => {}
            }
        }
        layers
    }

    /// Outputs of the needs, as `(job, name, value)` in declared order.
    pub fn needs_outputs(&self, job: JobIndex) -> Vec<(JobName, String, String)> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let Some(planned) = plan.jobs.get(job.at()).filter(|_| !self.jobs.is_empty()) else {
            return Vec::new();
        };
        let mut outputs = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for &need in planned.needs.iter().filter(|need| seen.insert(**need)) {
            for (name, value) in &self.jobs[need.at()].outputs {
                outputs.push((plan.job(need).name.clone(), name.clone(), value.clone()));
            }
        }
        outputs
    }

    fn layer_of(&self, job: JobIndex) -> Option<LayerId> {
        self.jobs[job.at()].attempts.last()?.layer.clone()
    }
}
