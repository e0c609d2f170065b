//! Collecting on this machine, without a server: what local runs have left, and the data folder of a
//! server that does not run.
//!
//! Several processes may use the folder of local runs. One of them collects at a time, by a lock that
//! the kernel takes away with it; what the others use is held as everywhere (`kiln_workspace::hold`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use kiln_agent::MachineLayers;
use kiln_api::user::{AskGc, GcReport, Usage};
use kiln_server::collect::{Collector, Depth, Policy, keep_room, make_room};
use kiln_server::runs::{Places, Runs};
use kiln_stdx::fs::{Named, create_private_dir};
use kiln_stdx::{SystemClock, process};
use kiln_store::Store;
use kiln_workspace::Workspaces;
use rustix::fs::{FlockOperation, flock};

use super::Local;
use crate::error::{Blame, Failure, Result};
use crate::place::Data;

/// How often a local run looks whether there is something to collect.
const EVERY: Duration = Duration::from_secs(3600);

/// With less free than one part in so many, it looks after each run.
const FREE_PARTS: u64 = 20;

/// When another process collects at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Waits,
    Passes,
}

/// The usual rules with what the data folder's file says.
fn policy(data: &Data, usual: Policy) -> Result<Policy> {
    usual.read(&data.root.join("kiln.toml")).map_err(wrong)
}

/// Rules with what was typed for this once.
pub fn asked(mut policy: Policy, keep: &BTreeMap<String, String>) -> Result<Policy> {
    for (kind, text) in keep {
        policy.ask(kind, text).map_err(wrong)?;
    }
    Ok(policy)
}

fn wrong(error: kiln_server::collect::PolicyError) -> Failure {
    Failure::yours(kiln_server::report::whole(&error))
}

/// Lets whoever shows runs know whether layers are there.
pub fn know_layers(runs: &Runs) -> Result<Arc<MachineLayers>> {
    let layers = machine_layers(runs.places())?;
    runs.note_layers(layers.clone());
    Ok(layers)
}

fn machine_layers(places: &Places) -> Result<Arc<MachineLayers>> {
    create_private_dir(&places.layers())?;
    let opened = Workspaces::open(&places.layers(), None).elsewhere("cannot look at layers")?;
    Ok(Arc::new(MachineLayers::new(Arc::new(opened))))
}

/// Collects what local runs have left. `None`: there are none, or it is another's turn.
pub async fn here(data: &Data, ask: &AskGc, turn: Turn) -> Result<Option<GcReport>> {
    if !data.local().data.join("kiln.db").exists() {
        return Ok(None);
    }
    let Some(_turn) = take_turn(data, turn)? else { return Ok(None) };
    let policy = asked(policy(data, Policy::of_laptop())?, &ask.keep)?;
    make_room(&data.local().data);
    let local = Local::open_settled(data.clone()).await?;
    let runs = local.runs().await?;
    let collector = Collector::new(&runs, know_layers(&runs)?);
    let report = collector.answer(&policy, ask).await;
    if !ask.dry_run {
        collector.pack_now().await;
    }
    Ok(Some(report))
}

/// Collects in the data folder of a server that does not run.
pub async fn of_stopped_server(
    data: &Data,
    database: Option<&str>,
    ask: &AskGc,
) -> Result<GcReport> {
    let policy = asked(policy(data, Policy::of_server())?, &ask.keep)?;
    let collector = stopped_server(data, database).await?;
    Ok(collector.answer(&policy, ask).await)
}

async fn stopped_server(data: &Data, database: Option<&str>) -> Result<Collector> {
    let places = data.server();
    make_room(&places.data);
    let store = Store::open(&places.data, database, true).await?;
    let runs = Runs::open(store, places, Arc::new(SystemClock)).await?;
    Ok(Collector::new(&runs, know_layers(&runs)?))
}

/// What local runs take, and what a pass would free now. `None`: there are none.
pub async fn usage_here(data: &Data) -> Result<Option<(Usage, u64)>> {
    if !data.local().data.join("kiln.db").exists() {
        return Ok(None);
    }
    let local = Local::open(data.clone()).await?;
    let runs = local.runs().await?;
    let collector = Collector::new(&runs, know_layers(&runs)?);
    measure(&collector, &policy(data, Policy::of_laptop())?).await.map(Some)
}

/// As [`usage_here`], of a server that does not run.
pub async fn usage_of_stopped_server(data: &Data) -> Result<Option<(Usage, u64)>> {
    if !data.root.join("kiln.db").exists() {
        return Ok(None);
    }
    let collector = stopped_server(data, None).await?;
    measure(&collector, &policy(data, Policy::of_server())?).await.map(Some)
}

async fn measure(collector: &Collector, policy: &Policy) -> Result<(Usage, u64)> {
    let usage = collector.usage().await?;
    let report = collector.collect(policy, true, Depth::Usual).await;
    Ok((usage, report.n_bytes))
}

/// After a local run: starts a process that collects, when there may be something to do. Costs a look
/// at a file's time and at the disk otherwise.
pub fn soon(data: &Data) {
    keep_room(&data.local().data);
    let mark = mark(data);
    let Ok(known) = fs::metadata(&mark) else {
        // The first run of this folder: what it made is young.
        let _ = File::create(&mark);
        return;
    };
    let recently = known.modified().ok().and_then(|at| at.elapsed().ok());
    let due = recently.is_none_or(|since| since >= EVERY);
    if !due && !is_nearly_full(&data.root) {
        return;
    }
    // Before it is started: a second run that ends now need not start another.
    if fs::File::create(&mark).is_err() && !due {
        return;
    }
    let Ok(kiln) = std::env::current_exe() else { return };
    let mut child = process::command(kiln);
    child.args(["gc", "--background"]).env("KILN_DATA", &data.root).current_dir("/");
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut child, 0);
    // Not waited for: it outlives this process. Trouble with it is told by the next `kiln gc`.
    let _ = child.spawn();
}

fn is_nearly_full(folder: &Path) -> bool {
    let space = rustix::fs::statvfs(folder);
    space.is_ok_and(|disk| disk.f_bavail.saturating_mul(FREE_PARTS) < disk.f_blocks)
}

fn mark(data: &Data) -> PathBuf {
    data.running().join(".gc")
}

fn take_turn(data: &Data, turn: Turn) -> Result<Option<File>> {
    let path = mark(data);
    let file = File::create(&path).named("open", &path)?;
    let how = match turn {
        Turn::Waits => FlockOperation::LockExclusive,
        Turn::Passes => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(&file, how) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(cause) => Err(std::io::Error::from(cause)).named("lock", &path)?,
    }
}
