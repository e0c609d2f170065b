//! A person in the place of a past job: its files under a top that is thrown away, its environment,
//! its executor.
//!
//! It is no attempt: no lease, no log, no result, and nobody hears of it.

use std::sync::Arc;

use kiln_api::agent::Assignment;
use kiln_executor::{Executor, OpenError, Session, SessionSpec, StepCommand, StepError, Streams};
use kiln_image::Images;
use kiln_model::Exit;
use kiln_model::limit::KILL_GRACE;
use kiln_workspace::{Prepared, Visit, WorkspaceError, Workspaces};
use tokio::sync::{mpsc, watch};

use crate::job::OUTPUT_FILE;
use crate::{Bases, environment, image, network, sandbox};

/// Why the place of a job cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// What the job asks for, and this kiln has not.
    #[error("{0}")]
    Unsupported(String),
    /// The files that its layers stand on.
    #[error("{0}")]
    Base(String),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("cannot open a session: {0}")]
    Open(#[from] OpenError),
}

/// An open place. Dropping it without [`Visiting::end`] kills what runs in it and leaves its files
/// to be removed by the next who looks.
#[derive(Debug)]
pub struct Visiting<S> {
    session: S,
    visit: Visit,
    /// Some of the files may be there only as long as this is.
    bases: Arc<Bases>,
}

impl<S: Session> Visiting<S> {
    /// Makes the place that an assignment describes; its layers are all that lie over the source.
    pub async fn begin<E: Executor<Session = S>>(
        executor: &E,
        workspaces: Arc<Workspaces>,
        images: &Images,
        assignment: &Assignment,
        machine_env: &[(String, String)],
    ) -> Result<Self, VisitError> {
        let bases = Arc::new(Bases::new(workspaces.clone()));
        let (there, of, asked) = (workspaces.clone(), bases.clone(), assignment.clone());
        let files = move || image::folders(&there, &of, &asked);
        let image = image::get(images, assignment, files, &watch::Sender::default())
            .await
            .map_err(VisitError::Base)?;
        let (there, of, asked) = (workspaces.clone(), bases.clone(), assignment.clone());
        let made = tokio::task::spawn_blocking(move || prepare(&there, &of, &asked)).await;
        let visit = made.map_err(|panic| VisitError::Base(panic.to_string()))??;
        let mut spec = spec(assignment, &visit, machine_env);
        match network::of(&assignment.job, machine_env) {
            Ok((network, _)) => spec.network = network,
            Err(why) => {
                let _ = visit.end();
                return Err(VisitError::Unsupported(why));
            }
        }
        if let Some(image) = image {
            let (folder, job) = (visit.folder(), (assignment, machine_env));
            let moved = image::run_in(&workspaces, folder, job, &image, &visit.prepared, &mut spec);
            if let Err(why) = moved {
                let _ = visit.end();
                return Err(VisitError::Base(why));
            }
        }
        let (folder, job) = (visit.folder().to_owned(), (assignment, machine_env));
        let apart = sandbox::put_in(&workspaces, &folder, job, &visit.prepared, &mut spec);
        if let Err(why) = apart {
            let _ = visit.end();
            return Err(VisitError::Base(why));
        }
        match executor.open(spec).await {
            Ok(session) => Ok(Self { session, visit, bases }),
            Err(error) => {
                let _ = visit.end();
                Err(error.into())
            }
        }
    }

    /// Where what belongs to its session lies.
    pub fn folder(&self) -> &std::path::Path {
        self.visit.folder()
    }

    /// Runs one command to its end, as [`Session::visit`].
    pub async fn run(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Result<Exit, StepError> {
        self.session.visit(command, streams, signals).await
    }

    /// Ends what still runs, and throws away what was written.
    pub async fn end(mut self) -> Result<(), String> {
        let closed = self.session.close().await.map_err(|error| error.to_string());
        let (visit, bases) = (self.visit, self.bases);
        let removed = tokio::task::spawn_blocking(move || {
            drop(bases);
            visit.end()
        })
        .await;
        let removed = removed.map_err(|panic| panic.to_string());
        closed.and(removed.and_then(|removed| removed.map_err(|error| error.to_string())))
    }
}

fn prepare(
    workspaces: &Workspaces,
    bases: &Bases,
    assignment: &Assignment,
) -> Result<Visit, VisitError> {
    let base = bases.of(assignment).map_err(VisitError::Base)?;
    Ok(workspaces.visit(assignment.project.as_str(), &base, &assignment.layers)?)
}

fn spec(assignment: &Assignment, visit: &Visit, machine_env: &[(String, String)]) -> SessionSpec {
    let Prepared { mount, directory, further, lines } = visit.prepared.clone();
    let folder = visit.folder();
    let output = folder.join(OUTPUT_FILE);
    SessionSpec {
        container: None,
        network: kiln_executor::SessionNetwork::default(),
        attempt: assignment.lease.attempt,
        attempt_dir: folder.to_owned(),
        mount,
        further,
        read_only: assignment.mirror.iter().cloned().collect(),
        preface: lines,
        env: environment::of(assignment, machine_env, &directory, &output),
        directory,
        // What a person runs is on their own screen.
        masked: Vec::new(),
        log: folder.join("log"),
        log_bytes_max: 0,
        grace: KILL_GRACE,
        orphan_for: std::time::Duration::ZERO,
        remote: None,
        users: None,
        stop_signal: None,
        limits: assignment.job.limits,
        sandbox: None,
    }
}
