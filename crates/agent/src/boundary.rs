//! The files of a job as its steps find them, kept so that it can begin from there again.
//!
//! Between two steps what was written becomes a layer of its own: for who begins there again, and,
//! before a step that runs although another failed, for who looks at the failure.
//! That is never worth a job: when a step has left something running that uses the workspace, or the
//! disk is full, there is no boundary there and the job goes on.

use std::sync::Arc;

use kiln_api::agent::Assignment;
use kiln_executor::{Executor, Session};
use kiln_model::layer::LayerId;
use kiln_model::plan::Snapshots;
use kiln_stdx::overlay::Mount;
use kiln_workspace::{Prepared, WorkspaceError, Workspaces};

use crate::agent::{Shared, report};
use crate::job::OUTPUT_FILE;
use crate::output;
use crate::past::told;

/// What must be known from one step to the next.
pub(crate) struct Boundaries {
    /// How the workspace is mounted now; `None`: it is a copy.
    mount: Option<Mount>,
    /// The outputs as they were noted last.
    output: String,
}

impl Boundaries {
    pub fn over(mount: Option<Mount>) -> Self {
        Self { mount, output: String::new() }
    }

    /// To be called before the step at this position is started, and after others of the session.
    ///
    /// # Errors
    ///
    /// When the session is good for nothing any more.
    pub async fn take<S, E: Executor>(
        &mut self,
        shared: &Shared<S, E>,
        assignment: &Assignment,
        session: &mut E::Session,
        step: u32,
    ) -> Result<(), String> {
        // A copy is made only for who asks for it.
        let copies = assignment.job.snapshots == Some(Snapshots::Steps);
        if !assignment.snapshots || (self.mount.is_none() && !copies) {
            return Ok(());
        }
        let (workspaces, attempt) = (&shared.options.workspaces, assignment.lease.attempt);
        let Ok(output) = output::text(&workspaces.attempt_dir(attempt).join(OUTPUT_FILE)) else {
            // The job hears of it at its end, and so would one that began here.
            return Ok(());
        };
        let new = self.mount.as_ref().map(|mount| workspaces.new_top(attempt, step, mount));
        let settled = match new.transpose() {
            Ok(Some(None)) => true,
            Ok(new) => self.remount(session, new.flatten()).await?,
            Err(error) => {
                untaken(assignment, step, &error);
                false
            }
        };
        if settled {
            let noted = (output != self.output).then(|| output.clone());
            match keep(workspaces, assignment, step, self.mount.clone(), noted).await {
                Ok(()) => self.output = output,
                Err(error) => untaken(assignment, step, &error),
            }
        }
        Ok(())
    }

    async fn remount(
        &mut self,
        session: &mut impl Session,
        new: Option<Mount>,
    ) -> Result<bool, String> {
        let done = session.remount(new.clone()).await.map_err(|error| error.to_string())?;
        if done && new.is_some() {
            self.mount = new;
        }
        Ok(done)
    }
}

async fn keep(
    workspaces: &Arc<Workspaces>,
    assignment: &Assignment,
    step: u32,
    mount: Option<Mount>,
    output: Option<String>,
) -> Result<(), WorkspaceError> {
    let (workspaces, attempt) = (workspaces.clone(), assignment.lease.attempt);
    if mount.is_some() {
        return workspaces.keep_step(attempt, step, mount.as_ref(), output);
    }
    let copied = move || workspaces.keep_step(attempt, step, None, output);
    let copied = tokio::task::spawn_blocking(copied).await;
    copied.unwrap_or_else(|error| Err(WorkspaceError::Other(error.to_string())))
}

fn untaken(assignment: &Assignment, step: u32, error: &WorkspaceError) {
    let attempt = assignment.lease.attempt;
    report(&format!("cannot keep the files of {attempt} before step {}: {error}", step + 1));
}

/// What a job that begins in the middle must find besides its files: the outputs of the steps before.
/// Blocking.
pub(crate) fn begin(
    workspaces: &Workspaces,
    assignment: &Assignment,
    prepared: &Prepared,
) -> Result<(), String> {
    let boundary = assignment.own.iter().rfind(|own| matches!(own, LayerId::Boundary(_)));
    let Some(boundary) = boundary else { return Ok(()) };
    let attempt = assignment.lease.attempt;
    let output = workspaces.output_before(boundary);
    if let Some(text) = &output {
        let path = workspaces.attempt_dir(attempt).join(OUTPUT_FILE);
        std::fs::write(&path, text)
            .map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
    }
    match &prepared.mount {
        Some(mount) => workspaces
            .keep_step(attempt, assignment.first_step, Some(mount), output)
            .map_err(|error| told(&error)),
        None => Ok(()),
    }
}
