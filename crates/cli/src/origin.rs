//! Where a run that somebody names is kept: on this machine or at a server. Commands that look at
//! runs ask this and do not care.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::user::{ArtifactRow, JobDetail, RunDetail, Why};
use kiln_model::{AttemptId, JobIndex, Plan};
use kiln_server::view;
use kiln_store::RunRow;
use kiln_store::log::Logs;
use kiln_store::object::Objects;

use crate::client::{Client, ServerArgs};
use crate::error::{Blame, Failure, Help, Result};
use crate::local::Local;
use crate::output::Output;
use crate::pipeline::{repository, unknown_job};
use crate::place::directory;
use crate::reference::Reference;
use crate::watch::Watched;

/// Arguments of every command that looks for a run.
#[derive(Args, Clone, Debug, Default)]
pub struct OriginArgs {
    /// The folder to start from, for a local run
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A run that was found.
pub enum Origin {
    Local { local: Local, row: Box<RunRow> },
    Server { client: Client, project: String, number: i64 },
}

/// How much of a log or an artifact is passed on at once.
const CHUNK_BYTES: usize = 256 << 10;

impl Origin {
    /// Finds a run. Whether it exists at a server is only known when it is asked for.
    pub async fn find(reference: &Reference, at: &OriginArgs) -> Result<Self> {
        let OriginArgs { directory, server } = at;
        let number = reference.number;
        match (&reference.project, &reference.server) {
            (Some(project), Some(url)) => {
                Ok(Self::Server { client: Client::at(url)?, project: project.clone(), number })
            }
            (Some(project), None) => {
                Ok(Self::Server { client: server.client()?, project: project.clone(), number })
            }
            (None, _) if server.server.is_some() || server.data.is_some() => Err(Failure::yours(
                format!("`#{number}` does not say of which project"),
            )
            .help(format!("write `project#{number}`; `kiln project ls` lists the projects"))),
            (None, _) => Self::local(number, directory.as_deref()).await,
        }
    }

    async fn local(number: i64, from: Option<&Path>) -> Result<Self> {
        let tree = repository(&directory(from)?).help(format!(
            "`#{number}` is a local run of the repository around you; a run of a server is written \
             `project#{number}`"
        ))?;
        let local = Local::open_to_look().await?;
        let Some(project) = local.known_project(&tree.root).await? else {
            return Err(Failure::yours(format!(
                "nothing was run in `{}` yet",
                tree.root.display()
            ))
            .help("`kiln run` runs its pipeline"));
        };
        let row = Box::new(local.run(&project, number).await?);
        Ok(Self::Local { local, row })
    }

    /// How the person writes it.
    pub fn reference(&self) -> String {
        match self {
            Self::Local { row, .. } => format!("#{}", row.number),
            Self::Server { project, number, .. } => format!("{project}#{number}"),
        }
    }

    pub async fn detail(&self) -> Result<RunDetail> {
        match self {
            Self::Local { local, row } => {
                Ok(view::run(&local.runs_to_explain().await?, row.id).await?)
            }
            Self::Server { client, project, number } => client.run(project, *number).await,
        }
    }

    pub async fn job(&self, job: &str) -> Result<JobDetail> {
        match self {
            Self::Local { local, row } => {
                let at = self.position(job).await?;
                Ok(view::job(&local.runs_to_explain().await?, row.id, at).await?)
            }
            Self::Server { client, project, number } => client.job(project, *number, job).await,
        }
    }

    pub async fn why(&self, job: Option<&str>) -> Result<Why> {
        match self {
            Self::Local { local, row } => {
                let at = match job {
                    Some(job) => Some(self.position(job).await?),
                    None => None,
                };
                Ok(view::why(&local.runs_to_explain().await?, row.id, at).await?)
            }
            Self::Server { client, project, number } => client.why(project, *number, job).await,
        }
    }

    pub async fn plan(&self) -> Result<Option<Plan>> {
        match self {
            Self::Local { local, row } => Ok(local.store.plan(row.id).await?),
            Self::Server { client, project, number } => client.plan(project, *number).await,
        }
    }

    pub async fn artifacts(&self) -> Result<Vec<ArtifactRow>> {
        match self {
            Self::Local { local, row } => {
                let shown = |row: kiln_store::ArtifactRow| ArtifactRow {
                    job: row.job.to_string(),
                    attempt: row.attempt.attempt,
                    artifact: row.artifact,
                    collected_at: row.collected_at,
                };
                Ok(local.store.artifacts(row.id).await?.into_iter().map(shown).collect())
            }
            Self::Server { client, project, number } => client.artifacts(project, *number).await,
        }
    }

    /// Writes an artifact's bytes somewhere.
    pub async fn artifact(
        &self,
        row: &ArtifactRow,
        mut to: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let path = &row.artifact.path;
        match self {
            Self::Local { local, .. } => {
                let objects = Objects::new(&local.data.local().objects());
                let file = objects.open(&row.artifact.digest);
                if row.collected_at.is_some() {
                    let what = format!("the artifact `{path}` was collected");
                    return Err(Failure::yours(format!("{what}: it is older than what is kept")));
                }
                copy(file.elsewhere(format!("cannot read the artifact `{path}`"))?, path, to)
            }
            Self::Server { client, project, number } => {
                let mut answer = client.artifact(project, *number, &row.job, path).await?;
                while let Some(bytes) = answer
                    .chunk()
                    .await
                    .elsewhere(format!("cannot receive the artifact `{path}`"))?
                {
                    to(&bytes)?;
                }
                Ok(())
            }
        }
    }

    /// The whole log of an attempt, or of a service of it, as it is now, byte for byte.
    pub async fn log(
        &self,
        (job, service): (&str, Option<&str>),
        attempt: u32,
        mut to: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Local { local, row } => {
                let id = AttemptId { run: row.id, job: self.position(job).await?, attempt };
                let logs = Logs::new(&local.data.local().logs());
                let logs = service.map_or(logs.clone(), |service| logs.of_service(service));
                if self.log_is_collected(job, attempt).await? {
                    return Err(Failure::yours(format!(
                        "the log of `{job}` was collected: it is older than what is kept"
                    )));
                }
                match logs.reader(id, 0) {
                    Ok(log) => copy(log, job, to),
                    // It has not printed anything.
                    Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    Err(cause) => Err(cause).elsewhere(format!("cannot read the log of `{job}`")),
                }
            }
            Self::Server { client, project, number } => {
                let mut answer = client.log(project, *number, (job, service), attempt).await?;
                while let Some(bytes) =
                    answer.chunk().await.elsewhere(format!("cannot receive the log of `{job}`"))?
                {
                    to(&bytes)?;
                }
                Ok(())
            }
        }
    }

    async fn log_is_collected(&self, job: &str, attempt: u32) -> Result<bool> {
        let attempts = self.job(job).await?.attempts;
        let gone = |collected: &[String]| collected.iter().any(|what| what == "log");
        Ok(attempts.iter().any(|one| one.attempt == attempt && gone(&one.collected)))
    }

    /// To watch it, without touching it.
    pub fn watched(self) -> Result<Watched> {
        match self {
            Self::Local { local, row } => Watched::elsewhere(local, row.id),
            Self::Server { client, project, number } => {
                Ok(Watched::server(client, project, number, None))
            }
        }
    }

    /// Says where it can be seen in a browser.
    pub fn page(&self, out: &Output) -> Option<String> {
        match self {
            Self::Local { .. } => None,
            Self::Server { client, project, number } => {
                Some(out.paint(crate::output::Style::Blue, &client.page(project, *number)))
            }
        }
    }

    async fn position(&self, job: &str) -> Result<JobIndex> {
        let plan = self.plan().await?;
        let found = plan.as_ref().and_then(|plan| plan.find(job));
        found.ok_or_else(|| {
            let jobs = plan.as_ref().map(|plan| plan.jobs.as_slice()).unwrap_or_default();
            unknown_job(job, jobs.iter().map(|job| job.name.as_str()))
        })
    }
}

fn copy(mut from: impl Read, what: &str, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to(&buffer[..n])?,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause).elsewhere(format!("cannot read `{what}`")),
        }
    }
}
