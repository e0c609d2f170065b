//! From what was written to what is meant: names checked, matrices multiplied out, needs found,
//! values filled in, triggers asked.
//!
//! Everything is looked at, also after faults, so that one pass finds them all. When there were
//! faults, what is returned is not used.

mod cache;
mod condition;
mod input;
mod job;
mod name;
mod need;
mod scope;
mod surroundings;
mod template;
mod trigger;

use std::collections::BTreeMap;

use kiln_model::limit::{PLAN_BYTES_MAX, PLAN_JOBS_MAX};
use kiln_model::plan::{InputValue, PLAN_VERSION};
use kiln_model::{JobName, Plan, Trigger, TriggerKind};

use crate::complaint::Complaints;
use crate::expand::matrix::{self, Instance};
use crate::source::Source;
use crate::written::{Job, Run, Written};

pub use input::declared as declared_input;
use need::Needs;
use scope::Known;

/// What a manifest means for a trigger.
pub enum Resolved {
    Plan(Plan),
    NotWanted(String),
}

/// What the trigger asks for.
pub fn plan(
    written: &Written,
    source: &Source,
    trigger: &Trigger,
    complaints: &mut Complaints,
) -> Resolved {
    let inputs = input::values(written, trigger, complaints);
    let plan = make(written, source, trigger, inputs, complaints);
    match trigger::wanted(written.on.as_ref(), trigger, complaints) {
        Ok(()) => Resolved::Plan(plan),
        Err(why) => Resolved::NotWanted(why),
    }
}

/// Everything that can be said without a trigger.
pub fn check(written: &Written, source: &Source, complaints: &mut Complaints) {
    // Names that are filled in have some value, so that what depends on the trigger is no fault.
    let mut trigger = Trigger::new(TriggerKind::Local, "0".repeat(40));
    trigger.branch = Some("main".to_owned());
    trigger.tag = Some("v1".to_owned());
    trigger.actor = Some("somebody".to_owned());
    let inputs = input::samples(written, complaints);
    make(written, source, &trigger, inputs, complaints);
    // Only its patterns are of interest: this trigger is always wanted.
    let _ = trigger::wanted(written.on.as_ref(), &trigger, complaints);
}

fn make(
    written: &Written,
    source: &Source,
    trigger: &Trigger,
    inputs: BTreeMap<String, InputValue>,
    complaints: &mut Complaints,
) -> Plan {
    name::check(written, complaints);
    let instances = expand(&written.jobs, complaints);
    let needs = Needs::find(&written.jobs, &instances, complaints);
    let known = Known { written, source, trigger, inputs: &inputs };
    let mut jobs = Vec::new();
    for (at, written_job) in written.jobs.iter().enumerate() {
        let names = scope::JobNames { written, job: written_job };
        let condition = condition::condition(written_job, &names, source, complaints);
        for instance in &instances[at] {
            let made = job::job(written_job, instance, &known, &names, complaints);
            let (needs, workspace) = (needs.of(at), needs.view_of(at));
            jobs.push(kiln_model::Job { needs, workspace, condition: condition.clone(), ..made });
        }
    }
    Plan { version: PLAN_VERSION, manifest: source.path().to_owned(), inputs, jobs }
}

/// The instances of each job, within the bounds of a plan.
fn expand(jobs: &[Job], complaints: &mut Complaints) -> Vec<Vec<Instance>> {
    let mut n_jobs = 0;
    let mut n_bytes = 0usize;
    let mut all = Vec::new();
    for (at, job) in jobs.iter().enumerate() {
        // A name that is none was complained about; the others are still looked at.
        let group = JobName::new(job.name.value.as_str());
        let group = group.or_else(|_| JobName::new(format!("job{at}")));
        let left = PLAN_JOBS_MAX - n_jobs;
        let mut instances = match group {
            Ok(group) => matrix::instances(job, &group, left, complaints),
            Err(_) => Vec::new(),
        };
        n_bytes = n_bytes.saturating_add(weight(job).saturating_mul(instances.len()));
        if n_bytes > PLAN_BYTES_MAX {
            let max = kiln_stdx::bytes::show(u64::try_from(PLAN_BYTES_MAX).unwrap_or(u64::MAX));
            let message = format!("the plan would be larger than {max}");
            let help = "a matrix repeats its steps for each combination; put long scripts in files";
            complaints.error(job.name.span.clone(), message, help);
            instances.clear();
        }
        n_jobs += instances.len();
        all.push(instances);
    }
    all
}

/// About how many bytes one instance takes.
fn weight(job: &Job) -> usize {
    /// What a step or a variable takes besides its text.
    const EACH: usize = 200;
    let pairs = |pairs: &[(crate::node::Text, crate::node::Text)]| -> usize {
        pairs.iter().map(|(name, value)| name.value.len() + value.value.len() + EACH).sum()
    };
    let run = |run: &Run| match run {
        Run::Script(script) => script.value.len(),
        Run::Argv(argv) => argv.iter().map(|argument| argument.value.len() + EACH).sum(),
    };
    let steps = job.steps.iter().map(|step| run(&step.run) + pairs(&step.env) + EACH);
    let caches = job.cache.iter().map(|cache| {
        let key = cache.key.as_ref().map_or(0, |key| key.value.len());
        cache.path.value.len() + key + EACH
    });
    let volumes = job.surroundings.volumes.iter().map(|volume| volume.value.len() + EACH);
    EACH + pairs(&job.env)
        + steps.sum::<usize>()
        + caches.sum::<usize>()
        + volumes.sum::<usize>()
        + job.cache_key.as_ref().map_or(0, |key| key.value.len())
        + (job.needs.len() + job.artifacts.len()) * EACH
}
