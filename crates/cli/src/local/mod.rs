//! Runs of this machine: the server's core over an embedded store, in one process, without HTTP.
//!
//! Several `kiln run` may go on at once over one store. Each run is driven by exactly one process:
//! the one that holds its mark (`owner`). Whoever looks at local runs first settles those whose
//! process died.

pub mod children;
pub mod collect;
pub mod docker;
pub mod drive;
mod lock;
mod keys;
pub mod machine;
mod owner;
mod project;
mod settle;

use std::sync::Arc;

use kiln_model::RunNumber;
use kiln_model::policy::JobPolicy;
use kiln_server::govern::Governor;
use kiln_server::runs::Runs;
use kiln_stdx::SystemClock;
use kiln_store::{ProjectRow, RunRow, Store, StoreError};

use crate::error::{Failure, Kind, Result};
use crate::place::Data;
pub use owner::{Owner, cancel_elsewhere};

/// The local store.
pub struct Local {
    pub data: Data,
    pub store: Store,
    /// What jobs may have, unless the configuration file says otherwise.
    pub policy: Box<JobPolicy>,
}

impl Local {
    pub async fn open(data: Data) -> Result<Self> {
        data.make_local()?;
        let places = data.local();
        let store = Store::open(&places.data, None, false).await?;
        let policy = JobPolicy { daemon_socket: docker::socket(), ..JobPolicy::of_laptop() };
        Ok(Self { data, store, policy: Box::new(policy) })
    }

    /// As [`Local::open`], for commands that look at what is there: runs whose process died are
    /// settled first, if they can be. A disk that is full must not hide what is on it.
    pub async fn open_to_look() -> Result<Self> {
        Self::open_settled(Data::find(None)?).await
    }

    /// As [`Local::open_to_look`], in this folder.
    pub async fn open_settled(data: Data) -> Result<Self> {
        let local = Self::open(data).await?;
        match settle::settle_dead(&local).await {
            Err(failure) if failure.kind != Kind::Elsewhere => Err(failure),
            _ => Ok(local),
        }
    }

    /// Runs as they are now. What another process drives goes on without this value learning of it,
    /// so it is made anew for every look.
    pub async fn runs(&self) -> Result<Runs> {
        let (store, places) = (self.store.clone(), self.data.local());
        let runs = Runs::open(store, places, Arc::new(SystemClock)).await?;
        runs.govern(self.governor()?);
        Ok(runs)
    }

    /// What jobs may have of this machine.
    pub fn governor(&self) -> Result<Governor> {
        Governor::read((*self.policy).clone(), self.data.config()).map_err(Failure::yours)
    }

    /// As [`Local::runs`], with what is queued and held in every run that goes on: only then it can be
    /// told what a job waits for.
    pub async fn runs_to_explain(&self) -> Result<Runs> {
        let runs = self.runs().await?;
        // A folder that cannot be opened has no layers to tell of.
        let _ = collect::know_layers(&runs);
        runs.adopt_active().await?;
        Ok(runs)
    }

    /// The run that is written `#number` in this project's repository.
    pub async fn run(&self, project: &ProjectRow, number: i64) -> Result<RunRow> {
        match self.store.run_by_number(project.id, RunNumber(number)).await {
            Err(StoreError::NotFound(_))
                if self.store.has_had_run(project.id, RunNumber(number)).await? =>
            {
                Err(Failure::yours(format!(
                    "the local run #{number} of `{}` was collected: it is older than what is kept",
                    project.repo
                ))
                .help("`kiln runs` lists those that are there; `kiln pin` keeps one for good"))
            }
            Err(StoreError::NotFound(_)) => Err(Failure::yours(format!(
                "there is no local run #{number} of `{}`",
                project.repo
            ))
            .help("`kiln runs` lists them; a run of a server is written `project#12`")),
            answer => Ok(answer?),
        }
    }
}
