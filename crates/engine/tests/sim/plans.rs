//! Random plans, and what their conditions mean, told a second time and naively.

use std::collections::BTreeMap;

use kiln_model::condition::Condition;
use kiln_model::plan::{Lock, PLAN_VERSION, Plan, Retry, RetryOn};
use kiln_model::{Job, JobIndex, JobState};

use crate::rng::Rng;

/// What a condition says, for the oracle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Nothing,
    Holds,
    HoldsNot,
    Always,
    Failure,
    Success,
    FirstNeedSucceeded,
    FirstNeedGave,
}

impl Says {
    const ALL: &[Self] = &[
        Self::Holds,
        Self::HoldsNot,
        Self::Always,
        Self::Failure,
        Self::Success,
        Self::FirstNeedSucceeded,
        Self::FirstNeedGave,
    ];

    fn text(self) -> Option<&'static str> {
        Some(match self {
            Self::Nothing => return None,
            Self::Holds => r#"branch == "main""#,
            Self::HoldsNot => r#"branch == "dev""#,
            Self::Always => "always()",
            Self::Failure => "failure()",
            Self::Success => "success()",
            Self::FirstNeedSucceeded => r#"needs.NEED.state == "success""#,
            Self::FirstNeedGave => r#"needs.NEED.outputs.v == "1""#,
        })
    }

    /// It decides itself what failed needs mean.
    pub fn asks_needs(self) -> bool {
        matches!(self, Self::Always | Self::Failure | Self::Success)
    }

    pub fn holds(self, needs: &[JobState], first_gave: bool) -> bool {
        use JobState::{Failed, Lost, Success, Warning};
        match self {
            Self::Nothing | Self::Holds | Self::Always => true,
            Self::HoldsNot => false,
            Self::Failure => needs.iter().any(|state| matches!(state, Failed | Lost)),
            Self::Success => needs.iter().all(|state| matches!(state, Success | Warning)),
            Self::FirstNeedSucceeded => needs.first() == Some(&Success),
            Self::FirstNeedGave => first_gave,
        }
    }
}

/// A plan of one to nine jobs, and what the condition of each says.
pub fn random(rng: &mut Rng) -> (Plan, Vec<Says>) {
    let n_jobs = rng.between(1, 9);
    let mut says = Vec::new();
    let jobs = (0..n_jobs).map(|at| {
        let (job, said) = job(rng, at);
        says.push(said);
        job
    });
    let jobs = jobs.collect();
    let plan =
        Plan { version: PLAN_VERSION, manifest: ".kiln.yml".into(), inputs: BTreeMap::new(), jobs };
    plan.check().expect("needs point to earlier jobs only");
    (plan, says)
}

fn job(rng: &mut Rng, at: u64) -> (Job, Says) {
    let mut job = Job::sample(&format!("j{at}"), "true");
    for _ in 0..rng.below(4) {
        if at > 0 {
            job.needs.push(JobIndex(u32::try_from(rng.below(at)).expect("small")));
        }
    }
    let step = job.steps[0].clone();
    job.steps.extend((0..rng.below(3)).map(|_| step.clone()));
    job.always = rng.chance(120);
    job.allow_failure = rng.chance(200);
    job.approve = rng.chance(25).then(|| vec!["ops".to_owned()]);
    if rng.chance(300) {
        job.retry.attempts = u32::try_from(rng.between(1, 3)).expect("small");
        let all = [RetryOn::Failed, RetryOn::Timeout, RetryOn::Lost, RetryOn::Error];
        job.retry =
            Retry { on: all.into_iter().filter(|_| rng.chance(600)).collect(), ..job.retry };
    }
    if rng.chance(350) {
        let any = [vec!["a"], vec!["b"], vec!["a", "b"]];
        let any = rng.pick(&any).iter().map(|name| (*name).to_owned()).collect();
        // One limit for all, so that no holder can be over what another was promised.
        job.lock = Some(Lock { any, limit: 1 });
    }
    if rng.chance(250) {
        job.labels = vec![(*rng.pick(&["gpu", "linux"])).to_owned()];
    }
    job.priority = i32::try_from(rng.below(3)).expect("small");
    let mut says = Says::Nothing;
    if rng.chance(300) {
        says = *rng.pick(Says::ALL);
        if job.needs.is_empty() && matches!(says, Says::FirstNeedSucceeded | Says::FirstNeedGave) {
            says = Says::Holds;
        }
    }
    let need = job.needs.first().map(|need| format!("j{need}")).unwrap_or_default();
    job.condition = says.text().map(|text| {
        Condition::parse(&text.replace("NEED", &need)).expect("the conditions above are right")
    });
    (job, says)
}
