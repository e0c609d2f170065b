//! The files of a job as its steps find them, kept so that it can begin from there again.
//!
//! Between two steps what was written becomes a layer of its own: for who begins there again, and,
//! before a step that runs although another failed, for who looks at the failure.
//! That is never worth a job: when a step has left something running that uses the workspace, or the
//! disk is full, there is no boundary there and the job goes on.

use std::path::PathBuf;
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
    /// The boundary that is there and not noted yet.
    unnoted: Option<Unnoted>,
}

/// Before which step, what the steps before have given, and the kernel's folder of the mount that went.
struct Unnoted {
    step: u32,
    output: String,
    work: Option<PathBuf>,
}

impl Boundaries {
    pub fn over(mount: Option<Mount>) -> Self {
        Self { mount, output: String::new(), unnoted: None }
    }

    /// To be called before the step at this position is started, and after others of the session. What
    /// need not be done before the step is left to [`Boundaries::note`].
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
        let Some(mount) = &self.mount else {
            if self.remount(session, None).await? {
                match copy(workspaces, assignment, step, self.changed(&output)).await {
                    Ok(()) => self.output = output,
                    Err(error) => untaken(assignment, step, &error),
                }
            }
            return Ok(());
        };
        let work = mount.work.clone();
        let (settled, work) = match workspaces.new_top(attempt, step, mount) {
            Ok(None) => (true, None),
            Ok(new) => (self.remount(session, new).await?, Some(work)),
            Err(error) => {
                untaken(assignment, step, &error);
                (false, None)
            }
        };
        self.unnoted = settled.then_some(Unnoted { step, output, work });
        Ok(())
    }

    /// Makes the boundary known that was taken last. To be called when the step after it runs, which does
    /// not wait for this: a boundary that is lost with this process is lost like any other.
    pub fn note<S, E: Executor>(&mut self, shared: &Shared<S, E>, assignment: &Assignment) {
        let Some(Unnoted { step, output, work }) = self.unnoted.take() else { return };
        let (workspaces, attempt) = (&shared.options.workspaces, assignment.lease.attempt);
        match workspaces.keep_step(attempt, step, self.mount.as_ref(), self.changed(&output)) {
            Ok(()) => self.output = output,
            Err(error) => untaken(assignment, step, &error),
        }
        // What cannot be removed now is removed with the attempt's folder.
        let _ = work.map(|work| workspaces.clear(&work));
    }

    /// The outputs, if they are not as they were noted last.
    fn changed(&self, output: &str) -> Option<String> {
        (output != self.output).then(|| output.to_owned())
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

async fn copy(
    workspaces: &Arc<Workspaces>,
    assignment: &Assignment,
    step: u32,
    output: Option<String>,
) -> Result<(), WorkspaceError> {
    let (workspaces, attempt) = (workspaces.clone(), assignment.lease.attempt);
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
