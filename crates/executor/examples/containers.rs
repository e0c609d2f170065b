//! Figures of containers, one line for each round: ours and the limit, in milliseconds.
//!
//! `containers session FOLDER ROOT N COMMAND…`: a session in a container over the folder `ROOT`, with limits,
//! filter and a network of its own, from open to close around `/bin/true`; the limit is the command.
//!
//! `containers step FOLDER ROOT N COMMAND…`: a further step in an open one; the limit is the same.
//!
//! `cargo xtask bench --only oci` runs it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kiln_executor::{
    Container, Executor, HostExecutor, HostSession, OverlayKind, Reach, Session, SessionNetwork,
    SessionSpec, Spawner, StepCommand,
};
use kiln_model::plan::Limits;
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::overlay::Mount;
use kiln_stdx::process;
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let spawner = Spawner::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, folder, root, n, command @ ..] = words.as_slice() else {
        return Err("WHAT FOLDER ROOT N COMMAND…".into());
    };
    let bench = Bench {
        executor: HostExecutor::new(spawner),
        folder: folder.into(),
        root: root.into(),
        command: command.to_vec(),
    };
    runtime.block_on(async {
        let kind = bench.executor.probe_overlay(&bench.folder).await?;
        let user = kind.ok_or("overlays cannot be mounted here")? == OverlayKind::User;
        match what.as_str() {
            "session" => bench.sessions(user, n.parse()?).await,
            "step" => bench.steps(user, n.parse()?).await,
            other => Err(format!("there is no `{other}`").into()),
        }
    })
}

struct Bench {
    executor: HostExecutor,
    folder: PathBuf,
    root: PathBuf,
    command: Vec<String>,
}

impl Bench {
    async fn sessions(&self, user: bool, n: u32) -> Result<()> {
        for at in 0..n {
            let spec = self.spec(user, at)?;
            let watch = Stopwatch::start();
            let mut session = self.executor.open(spec).await?;
            step(&mut session).await?;
            session.close().await?;
            report(watch.elapsed(), self.limit()?);
        }
        Ok(())
    }

    async fn steps(&self, user: bool, n: u32) -> Result<()> {
        let mut session = self.executor.open(self.spec(user, 0)?).await?;
        for _ in 0..n {
            let watch = Stopwatch::start();
            step(&mut session).await?;
            report(watch.elapsed(), self.limit()?);
        }
        session.close().await?;
        Ok(())
    }

    fn limit(&self) -> Result<Duration> {
        let mut command = process::command(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let watch = Stopwatch::start();
        let status = command.status()?;
        let took = watch.elapsed();
        if !status.success() {
            return Err(format!("{:?}: {status}", self.command).into());
        }
        Ok(took)
    }

    /// As a job has it: the image under an empty top, a workspace, a log.
    fn spec(&self, user: bool, at: u32) -> Result<SessionSpec> {
        let attempt_dir = self.folder.join(format!("attempt-{at}"));
        let source = self.folder.join("source");
        std::fs::create_dir_all(&source)?;
        let root = overlay(&attempt_dir.join("root"), &self.root, user)?;
        let mount = overlay(&attempt_dir.join("workspace"), &source, user)?;
        let attempt = AttemptId { run: RunId(1), job: JobIndex(at), attempt: 1 };
        let container = Container {
            root: root.into(),
            workspace: "/workspace".into(),
            binds: Vec::new(),
            user: String::new(),
            volumes: Vec::new(),
            privileged: false,
            hostname: "kiln".to_owned(),
        };
        let log = attempt_dir.join("log");
        Ok(SessionSpec {
            directory: mount.at.clone(),
            mount: Some(mount),
            container: Some(container),
            network: SessionNetwork { reach: Reach::None, names: Vec::new() },
            env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            limits: Limits { memory: Some(1 << 30), pids: Some(512), ..Limits::default() },
            ..SessionSpec::bare(attempt, attempt_dir, PathBuf::new(), log)
        })
    }
}

fn overlay(folder: &Path, lower: &Path, user: bool) -> Result<Mount> {
    let [upper, work, at] = ["upper", "work", "at"].map(|name| folder.join(name));
    for folder in [&upper, &work, &at] {
        std::fs::create_dir_all(folder)?;
    }
    Ok(Mount { lowers: vec![lower.to_owned()], upper, work, at, user })
}

async fn step(session: &mut HostSession) -> Result<()> {
    let (_keep, never) = watch::channel(false);
    let argv = vec!["/bin/true".to_owned()];
    let command = StepCommand { argv, env: BTreeMap::new(), directory: None, timeout: None };
    match session.step(command, never).await? {
        Exit::SUCCESS => Ok(()),
        other => Err(format!("the step has ended with: {other}").into()),
    }
}

fn report(ours: Duration, limit: Duration) {
    println!("{} {}", ours.as_secs_f64() * 1e3, limit.as_secs_f64() * 1e3);
}
