//! Driving one local run to its end in this process, shown as it goes.

use std::collections::HashMap;
use std::time::Duration;

use kiln_agent::{Agent, Looked};
use kiln_executor::{HostExecutor, Spawner};
use kiln_model::layer::Source;
use kiln_model::{EventKind, JobIndex, Plan, RunId, Trigger};
use kiln_server::ask;
use kiln_server::runs::{ApplyError, Runs, new_run};
use kiln_stdx::{Clock, Secret, SystemClock, Timestamp};
use kiln_store::{ProjectRow, RunRow};

use super::lock::Locked;
use super::machine::{Begins, Folder, Part, host_name, start_agent_on};
use super::owner::{Gate, Owner};
use super::{Local, settle};
use crate::error::{Exit, Failure, Kind, Result};
use crate::interrupt::{Interrupt, Interrupts};
use crate::output::Output;
use crate::watch::{Ended, Picture, Shown, Watched};

/// How long ending at once may take before the process leaves all the same.
const LEAVE_FOR: Duration = Duration::from_secs(2);

/// How a run is driven.
pub struct Drive<'a> {
    pub out: &'a Output,
    pub json: bool,
    pub local: &'a Local,
    pub spawner: Spawner,
    pub n_jobs: Option<usize>,
    pub secrets: HashMap<String, Secret<String>>,
    pub env: Vec<(String, String)>,
}

/// A run that does not exist yet.
pub struct New {
    pub project: ProjectRow,
    pub trigger: Trigger,
    pub plan: Plan,
    pub root: std::path::PathBuf,
    /// Looking at the tree, since the command began.
    pub looking: Looking,
}

/// A working tree that is being looked at.
pub type Looking = tokio::task::JoinHandle<std::result::Result<Looked, String>>;

/// What is to be driven.
struct Claimed {
    /// Of a rerun.
    began_at: Option<Timestamp>,
    runs: Runs,
    row: RunRow,
    owner: Owner,
    labels: Vec<String>,
    /// Of a run that is new.
    begins: Option<Begins>,
}

impl Drive<'_> {
    /// Makes a run and drives it.
    pub async fn start(self, new: New) -> Result<Exit> {
        let interrupts = Interrupts::listen()?;
        let runs = self.local.runs().await?;
        let labels = labels(&new.plan);
        let (row, owner, looking) = self.make(new).await?;
        runs.adopt(vec![row.clone()]).await?;
        let begins = Some(Begins { run: row.id, looked: looked(looking).await? });
        self.go(Claimed { began_at: None, runs, row, owner, labels, begins }, None, interrupts)
            .await
    }

    /// Drives new attempts of these jobs of a run that is over.
    pub async fn rerun(self, row: RunRow, jobs: Vec<JobIndex>, from: Option<&str>) -> Result<Exit> {
        let interrupts = Interrupts::listen()?;
        let owner = Owner::claim(&self.local.data, row.id)?.ok_or_else(|| still_running(&row))?;
        let runs = self.local.runs().await?;
        let (_, before) = runs.view(row.id).await?;
        let from = match from {
            Some(step) => ask::from_step(&before, &jobs, step).map_err(Failure::yours)?,
            None => None,
        };
        let seen = Picture::of_local(&row, &before);
        let labels = before.plan.as_deref().map(labels).unwrap_or_default();
        let by = crate::place::user_name();
        let began_at = Some(SystemClock.now());
        match runs.apply(row.id, EventKind::RerunAsked { jobs, by, from }).await {
            Ok(()) => {}
            Err(ApplyError::Refused(refused)) => return Err(Failure::yours(refused)),
            Err(ApplyError::Store(error)) => return Err(error.into()),
        }
        self.go(
            Claimed { began_at, runs, row, owner, labels, begins: None },
            Some(seen),
            interrupts,
        )
        .await
    }

    async fn make(&self, new: New) -> Result<(RunRow, Owner, Looking)> {
        let source = Source::WorkingTree { path: new.root };
        let run = new_run(new.trigger, source, Ok(new.plan), SystemClock.now());
        let _gate = Gate::shared(&self.local.data)?;
        let store = &self.local.store;
        let made = store.settle_delivery(None, new.project.id, "", vec![run], Vec::new()).await?;
        let row = made.into_iter().next().ok_or_else(|| Failure::ours("no run was made"))?;
        let owner = Owner::claim(&self.local.data, row.id)?;
        let owner = owner.ok_or_else(|| Failure::ours("a new run is driven by another process"))?;
        Ok((row, owner, new.looking))
    }

    async fn go(
        self,
        claimed: Claimed,
        seen: Option<Picture>,
        mut interrupts: Interrupts,
    ) -> Result<Exit> {
        let Claimed { began_at, runs, row, owner, labels, begins } = claimed;
        let mut watched = Watched::here(&runs, row.id, owner, began_at);
        runs.give_secrets(row.id, self.secrets);
        let part = Part {
            name: host_name(),
            labels,
            n_jobs: self.n_jobs,
            orphan_for: Duration::ZERO,
            folder: Folder::Shared,
            config: self.local.data.config(),
            env: self.env,
        };
        let executor = HostExecutor::new(self.spawner);
        let source = Locked::new(runs.clone(), &self.local.data, row.project)?;
        let (store, places) = (&self.local.store, self.local.data.local());
        let (agent, keeping) =
            start_agent_on(executor.clone(), source, store, &places, part, begins).await?;
        let running = Running { agent, executor };
        let shown = Shown { out: self.out, json: self.json };
        let stuck = running.agent.lasting_trouble();
        let ended = tokio::select! {
            ended = shown.watch(&mut watched, &mut interrupts, seen.as_ref()) => ended,
            // The rows cannot be written, so what is shown would never change again.
            trouble = stuck => Err(Failure::elsewhere(trouble)),
        };
        match ended {
            Ok((Ended::Over(picture), viewer)) => {
                running.agent.drain().await;
                let exit = shown.end(&watched, &picture, viewer).await;
                if let Some(why) = keeping.and_then(|keeping| keeping.join().ok().flatten()) {
                    self.out.note(&not_kept(&row, &why));
                }
                super::collect::soon(&self.local.data);
                exit
            }
            Ok((Ended::Left(_), shower)) => {
                running.leave(&runs, &row).await;
                let picture = watched.picture().await?;
                shown.end(&watched, &picture, shower).await?;
                Ok(Exit::Interrupted)
            }
            Err(failure) => {
                running.give_up(&runs, &row, &mut interrupts, &failure).await;
                Err(failure)
            }
        }
    }
}

/// What runs the jobs.
struct Running {
    agent: Agent,
    executor: HostExecutor,
}

impl Running {
    /// A second interrupt: everything is killed, and the run's rows say so.
    async fn leave(self, runs: &Runs, row: &RunRow) {
        self.executor.hurry();
        // Sessions end with this process, however long they take.
        let _ = tokio::time::timeout(LEAVE_FOR, self.agent.drain()).await;
        // Whoever looks next settles the run if this fails.
        let _ = settle::settle(runs, row, &Interrupt::Int.by()).await;
    }

    /// The run can no longer be shown or recorded: it is cancelled and cleaned up in silence.
    async fn give_up(
        self,
        runs: &Runs,
        row: &RunRow,
        interrupts: &mut Interrupts,
        failure: &Failure,
    ) {
        let by = match failure.kind {
            Kind::Pipe => "kiln: nobody reads its output any more".to_owned(),
            _ => format!("kiln: {}", failure.error),
        };
        let cancelled = runs.apply(row.id, EventKind::CancelAsked { by }).await;
        if cancelled.is_err() {
            return self.leave(runs, row).await;
        }
        tokio::select! {
            () = over(runs, row.id) => self.agent.drain().await,
            _ = interrupts.next() => self.leave(runs, row).await,
        }
    }
}

/// Waits for the look at the tree, which has gone on since the command began.
async fn looked(looking: Looking) -> Result<Looked> {
    let looked = looking.await.map_err(Failure::ours)?;
    looked.map_err(Failure::elsewhere)
}

fn not_kept(row: &RunRow, why: &str) -> String {
    format!("a rerun of #{} will see the files as they are then: {why}", row.number)
}

async fn over(runs: &Runs, run: RunId) {
    let mut news = runs.news();
    loop {
        match runs.view(run).await {
            Ok((_, view)) if !view.state.is_over() => {}
            _ => return,
        }
        // Lagging is news too; a closed channel cannot happen while `runs` lives.
        let _ = news.recv().await;
    }
}

fn still_running(row: &RunRow) -> Failure {
    Failure::yours(format!("run #{} is still running", row.number))
        .help(format!("wait for it, or `kiln cancel '#{}'`", row.number))
}

/// Here one machine plays every agent that the pipeline asks for.
fn labels(plan: &Plan) -> Vec<String> {
    let mut labels: Vec<String> = plan.jobs.iter().flat_map(|job| job.labels.clone()).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}
