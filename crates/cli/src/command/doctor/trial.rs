//! A session that is only to show what this machine can do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, Session, SessionSpec, StepCommand};
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use tokio::sync::watch;

/// What takes longer than this is as good as not there.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// With the machine's usual programs and nothing else.
pub fn spec(folder: &Path, attempt_dir: PathBuf, directory: PathBuf) -> SessionSpec {
    let attempt = AttemptId { run: RunId(0), job: JobIndex(0), attempt: 0 };
    SessionSpec {
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        log_bytes_max: 1 << 20,
        grace: Duration::from_secs(1),
        ..SessionSpec::bare(attempt, attempt_dir, directory, folder.join("log"))
    }
}

/// Opens it, runs one program in it, closes it. Nothing is left. A success is one only when it also
/// closed well.
pub async fn run(
    executor: &HostExecutor,
    spec: SessionSpec,
    argv: &[&str],
) -> Result<Exit, String> {
    let mut session = executor.open(spec).await.map_err(|error| error.to_string())?;
    let command = StepCommand {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        directory: None,
        timeout: Some(PATIENCE),
    };
    let (_never, cancel) = watch::channel(false);
    let ran = session.step(command, cancel).await;
    let closed = session.close().await;
    match ran.map_err(|error| error.to_string())? {
        Exit::SUCCESS => closed.map(|()| Exit::SUCCESS).map_err(|error| error.to_string()),
        exit => Ok(exit),
    }
}
