//! This machine as an agent: where its workspaces are, what its jobs inherit, how many fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_agent::{Agent, AgentOptions, ImageLayers, Keeping, Looked};
use kiln_api::agent::{AgentInfo, JobSource};
use kiln_executor::{HostExecutor, OverlayKind};
use kiln_image::{Credentials, Images, Registries};
use kiln_model::RunId;
use kiln_model::limit::KILL_GRACE;
use kiln_server::runs::Places;
use kiln_stdx::SystemClock;
use kiln_stdx::fs::create_private_dir;
use kiln_store::Store;
use kiln_workspace::{Driver, Workspaces};

use super::docker;
use crate::error::{Blame, Failure, Result};

/// Longest log of one attempt.
///
/// A job that prints in a loop must end before the disk does.
const LOG_BYTES_MAX: u64 = 10 << 30;

/// How the machine takes part.
pub struct Part {
    pub name: String,
    pub labels: Vec<String>,
    pub n_jobs: Option<usize>,
    /// How long sessions outlive this process.
    pub orphan_for: Duration,
    /// Whether other processes run jobs in the same data folder.
    pub folder: Folder,
    /// The configuration file, be it there or not.
    pub config: PathBuf,
    /// Further variables for every job.
    pub env: Vec<(String, String)>,
}

/// Who runs jobs in a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// This process alone, as its lock on the folder says.
    Ours,
    Shared,
}

/// A local run that begins, on a working tree that was looked at.
pub struct Begins {
    pub run: RunId,
    pub looked: Looked,
}

/// Starts to take jobs from `source`, whose rows are in `store`.
pub async fn start_agent(
    executor: HostExecutor,
    source: impl JobSource,
    store: &Store,
    places: &Places,
    part: Part,
) -> Result<Agent> {
    Ok(start_agent_on(executor, source, store, places, part, None).await?.0)
}

/// As [`start_agent`], with the run that begins here, whose files are kept while its jobs run.
pub async fn start_agent_on(
    executor: HostExecutor,
    source: impl JobSource,
    store: &Store,
    places: &Places,
    part: Part,
    begins: Option<Begins>,
) -> Result<(Agent, Option<Keeping>)> {
    let id = store.agent(&part.name, &part.labels).await?;
    let workspaces = Arc::new(workspaces(&executor, &places.layers()).await?);
    let begun = begins.map(|begins| begins.looked.begin(workspaces.clone(), begins.run));
    let begun = begun.transpose().map_err(Failure::elsewhere)?;
    let (begins, keeping) = begun.map(|begun| ((begun.run, begun.base), begun.keeping)).unzip();
    let options = AgentOptions {
        images: Arc::new(images(&workspaces, &places.images(), &part.config)?),
        begins,
        info: AgentInfo { id, name: part.name, labels: part.labels },
        n_slots: part.n_jobs.unwrap_or_else(n_cores),
        workspaces,
        workspaces_are_ours: part.folder == Folder::Ours,
        clock: Arc::new(SystemClock),
        log_bytes_max: LOG_BYTES_MAX,
        grace: KILL_GRACE,
        orphan_for: part.orphan_for,
        machine_env: machine_env(part.env),
        digests: places.digests(),
        ssh_config: ssh_config()?,
        on_idle: match part.folder {
            Folder::Ours => give_back,
            // Ends with its run.
            Folder::Shared => || {},
        },
    };
    Ok((Agent::start(options, Arc::new(source), executor), keeping))
}

/// The configuration of `ssh` that `KILN_SSH_CONFIG` names, in place of the user's own.
fn ssh_config() -> Result<Option<PathBuf>> {
    let named = std::env::var_os("KILN_SSH_CONFIG").filter(|name| !name.is_empty());
    let path = named.map(std::path::absolute).transpose();
    path.elsewhere("cannot find what KILN_SSH_CONFIG names")
}

/// The images of this machine, as the configuration file and Docker's logins say.
pub fn images(workspaces: &Arc<Workspaces>, folder: &Path, config: &Path) -> Result<Images> {
    let registries = registries(config)?;
    let store = Arc::new(ImageLayers(workspaces.clone()));
    Images::open(folder, store, registries).elsewhere("cannot keep images")
}

/// How registries are reached: as the configuration file says, with the logins that Docker's own command
/// line has made.
fn registries(config: &Path) -> Result<Registries> {
    let written = kiln_server::registries::read(config).map_err(Failure::yours)?;
    let credentials = match docker::config_folder() {
        Some(folder) => Credentials::read(&folder).map_err(Failure::elsewhere)?,
        None => Credentials::default(),
    };
    Ok(Registries {
        mirrors: written.mirrors.into_iter().collect(),
        plain: written.plain,
        docker: docker::host(),
        image_bytes_max: written.image_max,
        credentials,
    })
}

/// Workspaces in `layers`, stacked in the best way that works there. Which way that is was found out
/// by the first who asked, and is remembered in the folder.
pub async fn workspaces(executor: &HostExecutor, layers: &Path) -> Result<Workspaces> {
    create_private_dir(layers)?;
    if let Some(driver) = insisted()? {
        return Workspaces::open_with(layers, driver).elsewhere("cannot make workspaces");
    }
    let driver = match Workspaces::remembered_driver(layers) {
        Some(_) => None,
        None => Some(probe(executor, layers).await?),
    };
    Workspaces::open(layers, driver).elsewhere("cannot make workspaces")
}

/// The driver that `KILN_DRIVER` names, for those who know better than a probe.
pub fn insisted() -> Result<Option<Driver>> {
    let Some(name) = std::env::var_os("KILN_DRIVER").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match name.to_str().and_then(Driver::named) {
        Some(driver) => Ok(Some(driver)),
        None => Err(Failure::yours(format!("KILN_DRIVER is `{}`", name.to_string_lossy().escape_debug()))
            .help("it may be `overlay`, `overlay-user`, `reflink` or `copy`; without it the best is found")),
    }
}

/// What mounts, found out by mounting.
pub async fn probe(executor: &HostExecutor, layers: &Path) -> Result<Driver> {
    let found = executor.probe_overlay(layers).await;
    Ok(match found.elsewhere("cannot find out how workspaces can be stacked")? {
        Some(OverlayKind::Root) => Driver::Overlay,
        Some(OverlayKind::User) => Driver::OverlayUser,
        None => Driver::of_copies(layers),
    })
}

pub fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// This machine's name, for people.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "here".to_owned() } else { name }
}

/// A server waits for hours; little of what it was is needed for that.
fn give_back() {
    // What cannot be given back just stays.
    let _ = kiln_stdx::memory::give_back();
}

/// What every job of this machine gets, and `more`.
pub fn machine_env(more: Vec<(String, String)>) -> Vec<(String, String)> {
    // A value that is not UTF-8 cannot be a job's variable.
    let inherited = kiln_agent::MACHINE
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    inherited.chain(more).collect()
}
