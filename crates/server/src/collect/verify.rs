//! Reading every layer, and saying of each that is damaged how to have it again.

use kiln_api::layers::Unwanted;
use kiln_api::user::VerifiedLayers;
use kiln_model::AttemptId;
use kiln_model::layer::{Damage, LayerKind, Source};
use kiln_store::StoreError;

use super::Collector;
use super::layers::take;

impl Collector {
    /// Sets aside what is not what it was. Takes as long as reading everything takes.
    pub async fn verify(&self) -> Result<VerifiedLayers, String> {
        let _turn = self.turn.lock().await;
        let layers = self.layers.clone();
        let verified = tokio::task::spawn_blocking(move || layers.verify()).await;
        let verified = verified.unwrap_or_else(|panic| Err(panic.to_string()))?;
        // What is made again when it is wanted need not be compared with anything.
        let derived_before = Some(self.clock.now());
        let derived = Unwanted { derived_before, ..Unwanted::default() };
        if let (_, Some(trouble)) = take(self, derived, false).await {
            return Err(trouble);
        }
        let mut damaged = Vec::new();
        for damage in verified.damaged {
            damaged.push(self.told(damage).await);
        }
        Ok(VerifiedLayers { n_layers: verified.n_layers, n_new: verified.n_new, damaged })
    }

    async fn told(&self, Damage { kind, attempt, name, why, aside }: Damage) -> String {
        let (what, way_out) = match (kind, attempt) {
            (LayerKind::Layers, Some(attempt)) => match self.job_of(attempt).await {
                Ok((run, job)) => (
                    format!("what `{job}` of {run} left"),
                    format!("`kiln rerun '{run}' --job {job}` makes it again"),
                ),
                Err(_) => (
                    format!("what the attempt {attempt} left"),
                    "its run is not here any more".to_owned(),
                ),
            },
            (LayerKind::Sources, _) => {
                (format!("the source {name}"), "the next job on it makes it again".to_owned())
            }
            (LayerKind::Caches, _) => {
                (format!("the files {name} of a cache"), "the next job fills it again".to_owned())
            }
            (LayerKind::Images, _) => (
                format!("the layer {name} of an image"),
                "the next job with that image fetches it again".to_owned(),
            ),
            _ => (format!("`{name}`"), "it is made again when it is wanted".to_owned()),
        };
        format!("{what} is damaged ({why}) and set aside in `{}`; {way_out}", aside.display())
    }

    /// As a person names them: `site#12` (`#12` for a local run), and the job.
    async fn job_of(&self, attempt: AttemptId) -> Result<(String, String), StoreError> {
        let row = self.store.run(attempt.run).await?;
        let plan = self.store.plan(attempt.run).await?;
        let job = plan
            .and_then(|plan| plan.jobs.get(attempt.job.0 as usize).map(|job| job.name.to_string()));
        let job = job.ok_or(StoreError::NotFound("job"))?;
        let run = match row.source {
            Source::WorkingTree { .. } => format!("#{}", row.number),
            Source::Git { .. } => {
                let projects = self.store.projects(0).await?;
                let of = projects.into_iter().find(|(project, _)| project.id == row.project);
                let name = of.map(|(project, _)| project.name.to_string()).unwrap_or_default();
                format!("{name}#{}", row.number)
            }
        };
        Ok((run, job))
    }
}
