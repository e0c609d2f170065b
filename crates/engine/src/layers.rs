//! What a job sees of the jobs before it: their layers and their outputs.

use kiln_model::layer::LayerId;
use kiln_model::plan::View;
use kiln_model::{JobIndex, JobName};

use crate::run::Run;

/// A layer that a job sees under its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    pub layer: LayerId,
    /// The job that left it.
    pub of: JobIndex,
    /// Through which of the jobs that are looked at directly it is seen: bits, by their position.
    /// Two layers without a common bit meet here for the first time.
    pub through: Vec<u64>,
}

impl Run {
    /// The layers under a job's own, lowest first, without the source: what its needs saw and left.
    ///
    /// For each need in declared order, what was under it, then its own layer. A layer that is met
    /// again stays where it was first. A need that failed shows what it left, too; one that was
    /// skipped shows what was under it. A job that asks for less sees less.
    pub fn layers_below(&self, job: JobIndex) -> Vec<LayerId> {
        self.chain(job).into_iter().filter_map(|at| self.layer_of(at)).collect()
    }

    /// As [`Run::layers_below`], with where each layer is from.
    pub fn below(&self, job: JobIndex) -> Vec<Below> {
        let chain = self.chain(job);
        let through = self.branches(job, &chain);
        let below = |(of, through)| Some(Below { layer: self.layer_of(of)?, of, through });
        chain.into_iter().zip(through).filter_map(below).collect()
    }

    /// The jobs whose files a job sees, each after all those that it saw itself.
    fn chain(&self, job: JobIndex) -> Vec<JobIndex> {
        if job.at() >= self.jobs.len() {
            return Vec::new();
        }
        let mut chain = Vec::new();
        let mut seen = vec![false; self.jobs.len()];
        // A walk in post-order. An explicit stack: a chain of 10,000 jobs must not overflow the
        // thread's.
        let mut path = vec![(job, 0)];
        while let Some((at, next)) = path.pop() {
            match self.seen_by(at).get(next) {
                Some(&need) => {
                    path.push((at, next + 1));
                    if !std::mem::replace(&mut seen[need.at()], true) {
                        path.push((need, 0));
                    }
                }
                None if at != job => chain.push(at),
                None => {}
            }
        }
        chain
    }

    /// For each job of the chain, the bits of [`Below::through`].
    fn branches(&self, job: JobIndex, chain: &[JobIndex]) -> Vec<Vec<u64>> {
        let direct = self.seen_by(job);
        let n_words = direct.len().div_ceil(u64::BITS as usize);
        let mut position = vec![usize::MAX; self.jobs.len()];
        for (at, job) in chain.iter().enumerate() {
            position[job.at()] = at;
        }
        let mut branches = vec![vec![0; n_words]; chain.len()];
        for (bit, need) in direct.iter().enumerate() {
            branches[position[need.at()]][bit / 64] |= 1 << (bit % 64);
        }
        // Backwards, each job comes before those that it saw: what reaches it, reaches them.
        for at in (0..chain.len()).rev() {
            let (below, own) = branches.split_at_mut(at);
            for need in self.seen_by(chain[at]) {
                let words = below[position[need.at()]].iter_mut().zip(&own[0]);
                words.for_each(|(word, more)| *word |= more);
            }
        }
        branches
    }

    /// The jobs whose files a job starts from, in declared order.
    fn seen_by(&self, job: JobIndex) -> &[JobIndex] {
        let Some(plan) = &self.plan else { return &[] };
        let job = plan.job(job);
        match &job.workspace {
            View::All => &job.needs,
            View::From { jobs } => jobs,
            View::Fresh | View::Nothing => &[],
        }
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
