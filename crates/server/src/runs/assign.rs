//! What an agent is told about its job: environment, secrets, layers, places.

use std::collections::BTreeMap;

use kiln_api::agent::{Assignment, CacheScopes, ReuseTerms, StepKnown};
use kiln_engine::run::{Cause, Run, Step};
use kiln_model::layer::Source;
use kiln_model::plan::Snapshots;
use kiln_model::policy::Denied;
use kiln_model::{Job, LeaseId, Outcome, Plan, Trigger};
use kiln_stdx::Secret;
use kiln_store::StoreError;

use super::live::Live;
use super::{Runs, attempt_of, lock};
use crate::secret::SecretError;

/// Why a job that was leased cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssignError {
    #[error("the secret `{name}` is not set; set it with `kiln secret set {project} {name}`")]
    NoSecret { name: String, project: String },
    #[error(
        "the secret `{name}` is not set; give it with `kiln run --secret {name}`, or keep it with \
         `kiln secret set --local {name}`"
    )]
    NoLocalSecret { name: String },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Runs {
    pub(super) async fn assignment(
        &self,
        live: &Live,
        lease: LeaseId,
    ) -> Result<Assignment, AssignError> {
        let names = secret_names(live, lease);
        let secrets = self.secrets_for(live, &names).await?;
        self.assignment_with(live, lease, secrets).await
    }

    pub(super) async fn assignment_with(
        &self,
        live: &Live,
        lease: LeaseId,
        secrets: BTreeMap<String, Secret<String>>,
    ) -> Result<Assignment, AssignError> {
        let at = lease.attempt.job;
        let (plan, job, env, below, started_at, steps, is_last, from, snapshots) = {
            let run = lock(&live.run);
            let plan = run.plan.clone().expect("a leased job has a plan");
            let attempt = attempt_of(&run, lease.attempt);
            (
                plan.clone(),
                plan.job(at).clone(),
                environment(live, &run, &plan, lease),
                run.below(at),
                attempt.and_then(|attempt| attempt.started_at),
                attempt.map_or_else(Vec::new, |attempt| attempt.steps.iter().map(known).collect()),
                run.n_jobs_over() as usize + 1 >= run.jobs.len(),
                attempt.and_then(|attempt| attempt.from.clone()),
                keeps_steps(&live.row.source, plan.job(at), &run.jobs[at.at()]),
            )
        };
        // What the policy says may have changed since the run was planned.
        let policy = self.governor().of(live.row.project_name.as_str());
        let job = policy.grant(&job)?;
        let reuse = self.reuse_terms(live, lease, &job)?;
        let layers_of = below.iter().map(|below| plan.job(below.of).name.clone()).collect();
        let caches = match job.cache.is_empty() {
            true => CacheScopes::default(),
            false => CacheScopes {
                below: below.iter().flat_map(|below| plan.job(below.of).cache.clone()).collect(),
                ..self.cache_scopes(live).await?
            },
        };
        let (layers, layers_through) =
            below.into_iter().map(|below| (below.layer, below.through)).unzip();
        let mirror = match live.row.source {
            Source::Git { .. } => Some(self.places().mirror(live.row.project)),
            Source::WorkingTree { .. } => None,
        };
        Ok(Assignment {
            lease,
            project: live.row.project_name.clone(),
            number: live.row.number,
            job,
            trigger: live.row.trigger.clone(),
            env,
            secrets,
            source: live.row.source.clone(),
            mirror,
            layers,
            layers_of,
            layers_through,
            own: from.iter().map(|from| from.layer(lease.attempt.run)).collect(),
            first_step: from.map_or(0, |from| from.step),
            snapshots,
            no_cache: live.row.trigger.no_cache,
            reuse,
            caches,
            log: self.logs().path(lease.attempt),
            objects: self.places().objects(),
            started_at,
            steps,
            is_last,
        })
    }

    /// Whether the attempt's result has a key.
    fn reuse_terms(
        &self,
        live: &Live,
        lease: LeaseId,
        job: &Job,
    ) -> Result<Option<ReuseTerms>, SecretError> {
        if job.inputs.is_empty() {
            return Ok(None);
        }
        let here = matches!(live.row.source, Source::WorkingTree { .. });
        let run = lock(&live.run);
        let attempt = attempt_of(&run, lease.attempt);
        // Begun in the middle, or on files as they once were: not what the key would speak of.
        let partly = attempt.is_none_or(|attempt| {
            attempt.first_step() > 0 || (here && matches!(attempt.cause, Cause::Rerun { .. }))
        });
        drop(run);
        if partly {
            return Ok(None);
        }
        let mark_key = self.secrets().mark_key(live.row.project)?;
        Ok(Some(ReuseTerms { mark_key }))
    }

    /// The values of these secrets: given for the run, else the project's, else everyone's.
    pub(super) async fn secrets_for(
        &self,
        live: &Live,
        names: &[String],
    ) -> Result<BTreeMap<String, Secret<String>>, AssignError> {
        let mut secrets = BTreeMap::new();
        for name in names {
            let given =
                lock(&self.inner.given).get(&live.id).and_then(|all| all.get(name).cloned());
            let value = match given {
                Some(value) => value,
                None => self.stored_secret(live, name).await?,
            };
            secrets.insert(name.clone(), value);
        }
        Ok(secrets)
    }

    async fn stored_secret(&self, live: &Live, name: &str) -> Result<Secret<String>, AssignError> {
        if let Some(sealed) = self.store().secret(live.row.project, name).await? {
            // The store gives the project's own, else everyone's; only one of the two opens it.
            let own = self.secrets().open(Some(live.row.project), name, &sealed);
            return Ok(own.or_else(|_| self.secrets().open(None, name, &sealed))?);
        }
        let name = name.to_owned();
        Err(match live.row.source {
            Source::Git { .. } => {
                AssignError::NoSecret { name, project: live.row.project_name.to_string() }
            }
            Source::WorkingTree { .. } => AssignError::NoLocalSecret { name },
        })
    }
}

/// Whether a job's files are kept as its steps find them: always on a laptop, and elsewhere for what
/// failed before, unless the manifest has a word on it.
fn keeps_steps(source: &Source, planned: &Job, job: &kiln_engine::run::Job) -> bool {
    match planned.snapshots {
        Some(Snapshots::Steps) => true,
        Some(Snapshots::Off) => false,
        None => {
            let failed = |outcome: &Outcome| !matches!(outcome, Outcome::Success);
            matches!(source, Source::WorkingTree { .. })
                || job.attempts.iter().filter_map(|earlier| earlier.outcome.as_ref()).any(failed)
        }
    }
}

/// The names of a leased job's secrets.
pub(super) fn secret_names(live: &Live, lease: LeaseId) -> Vec<String> {
    let run = lock(&live.run);
    let job = run.plan.as_ref().and_then(|plan| plan.jobs.get(lease.attempt.job.at()));
    job.map(|job| job.secrets.clone()).unwrap_or_default()
}

fn known(step: &Step) -> StepKnown {
    match step {
        Step { exit: Some(_), .. } => StepKnown::Finished,
        Step { started_at: Some(_), .. } => StepKnown::Started,
        _ => StepKnown::Nothing,
    }
}

/// The variables that kiln gives, under the ones that the manifest gives. A manifest cannot set
/// `KILN_*`, so the two never meet.
fn environment(live: &Live, run: &Run, plan: &Plan, lease: LeaseId) -> BTreeMap<String, String> {
    let at = lease.attempt.job;
    let job = plan.job(at);
    let mut env = job.env.clone();
    let mut set = |key: String, value: String| {
        // The kernel's strings end at NUL; a value with one could not be passed on.
        env.insert(key, value.replace('\0', ""));
    };
    for key in ["CI", "KILN"] {
        set(key.into(), "true".into());
    }
    set("KILN_PROJECT".into(), live.row.project_name.to_string());
    set("KILN_RUN".into(), live.row.number.to_string());
    set("KILN_JOB".into(), job.name.to_string());
    set("KILN_TRY".into(), lease.attempt.attempt.to_string());
    of_trigger(&live.row.trigger, &mut set);
    for (name, value) in &plan.inputs {
        set(format!("KILN_INPUT_{}", variable(name)), value.to_string());
    }
    for (axis, value) in &job.matrix {
        set(format!("KILN_MATRIX_{}", variable(axis)), value.clone());
    }
    for (need, name, value) in run.needs_outputs(at) {
        let key = format!("KILN_NEEDS_{}_{}", variable(need.as_str()), variable(&name));
        set(key, value);
    }
    if let Some(held) = attempt_of(run, lease.attempt).and_then(|attempt| attempt.lock.clone()) {
        set("KILN_LOCK".into(), held);
    }
    env
}

fn of_trigger(trigger: &Trigger, set: &mut impl FnMut(String, String)) {
    set("KILN_EVENT".into(), trigger.kind.to_string());
    // Empty where there is no commit yet, as in a new repository on a laptop.
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let optional = [
        ("KILN_COMMIT", some(&trigger.commit)),
        ("KILN_TITLE", some(&trigger.title)),
        ("KILN_AUTHOR", some(&trigger.author)),
        ("KILN_BRANCH", trigger.branch.clone()),
        ("KILN_TAG", trigger.tag.clone()),
        ("KILN_BEFORE", trigger.before.clone()),
        ("KILN_ACTOR", trigger.actor.clone()),
        ("KILN_PULL_REQUEST", trigger.pull_request.as_ref().map(|pull| pull.number.to_string())),
        ("KILN_BASE", trigger.pull_request.as_ref().map(|pull| pull.base.clone())),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            set(key.into(), value);
        }
    }
}

/// A name as part of a variable's name: upper case, everything but letters and digits as `_`.
fn variable(name: &str) -> String {
    let part = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(part).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_become_lawful_variable_names() {
        assert_eq!(super::variable("db-version.x"), "DB_VERSION_X");
        assert_eq!(super::variable("test:15"), "TEST_15");
    }
}
