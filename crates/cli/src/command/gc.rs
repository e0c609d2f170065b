//! `kiln gc`: what is no longer wanted is removed, here and at the server.

use std::collections::BTreeMap;

use kiln_api::user::{AskGc, CollectedRow, GcReport, VerifiedLayers};
use kiln_server::collect::Policy;
use kiln_stdx::bytes;
use serde::Serialize;

use crate::client::ServerArgs;
use crate::error::{Exit, Failure, Kind, Result};
use crate::local::collect::{self, Turn};
use crate::output::{Cell, Output, Style, visible};
use crate::place::Data;

/// Remove what is no longer wanted: old runs, logs, artifacts, layers, caches and images
///
/// Of the local runs of this machine, and of the server whose data folder is the same, whether it
/// runs or not. A run that is not over or is pinned (`kiln pin`) loses nothing. A server does the same
/// by itself, in the background, and so does `kiln run` now and then; what is kept for how long is
/// said in `kiln.toml` in the data folder.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep runs that are younger (`90d`), or the newest of each project (`20`), or both (`90d,20`)
    #[arg(long, value_name = "HOW")]
    keep_runs: Option<String>,
    /// Keep logs, as --keep-runs
    #[arg(long, value_name = "HOW")]
    keep_logs: Option<String>,
    /// Keep artifacts, as --keep-runs, or at most so much of each project (`10GB`)
    #[arg(long, value_name = "HOW")]
    keep_artifacts: Option<String>,
    /// Keep layers, as --keep-runs; 0 keeps none
    #[arg(long, value_name = "HOW")]
    keep_layers: Option<String>,
    /// Keep caches, as --keep-artifacts
    #[arg(long, value_name = "HOW")]
    keep_caches: Option<String>,
    /// Keep layers of container images that a job has used since (`7d`), or at most so much (`10GB`)
    #[arg(long, value_name = "HOW")]
    keep_images: Option<String>,
    /// Read every layer first, and set aside what is not what it was
    #[arg(long, conflicts_with = "dry_run")]
    verify: bool,
    /// Only what local runs have left
    #[arg(long, conflicts_with_all = ["server", "data"])]
    local: bool,
    /// The database of a server that does not run, when it is not in its data folder
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// What was removed, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Of `kiln run`, which does not wait
    #[arg(long, hide = true)]
    background: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln gc --dry-run
  kiln gc
  kiln gc --keep-layers 1d --keep-caches 2GB
  kiln gc --keep-runs 30d,10 --data /var/lib/kiln
  kiln gc --verify               is everything still what it was?";

/// What was collected, and where.
#[derive(Serialize)]
struct Collected {
    /// `local` or `server`.
    of: &'static str,
    #[serde(flatten)]
    report: GcReport,
}

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let keep = args.keep();
    // What was typed wrong is said before anything is done.
    collect::asked(Policy::of_laptop(), &keep)?;
    if args.background {
        return in_background().await;
    }
    let asked = AskGc { dry_run: args.dry_run, keep, verify: args.verify };
    let mut all = Vec::new();
    if args.server.server.is_some() {
        let report = args.server.client()?.gc(&asked).await?;
        all.push(Collected { of: "server", report });
    } else {
        let data = Data::find(args.server.data.as_deref())?;
        if !args.local
            && let Some(report) = of_server(&args, &data, &asked).await?
        {
            all.push(Collected { of: "server", report });
        }
        if let Some(report) = collect::here(&data, &asked, Turn::Waits).await? {
            all.push(Collected { of: "local", report });
        }
    }
    if args.json {
        out.json(&all)?;
    } else if all.is_empty() {
        out.note("there is nothing here yet");
    } else {
        all.iter().try_for_each(|collected| show(out, collected))?;
    }
    let troubled = all.iter().any(|collected| {
        let report = &collected.report;
        let is_damaged = |verified: &VerifiedLayers| !verified.damaged.is_empty();
        !report.trouble.is_empty() || report.verified.as_ref().is_some_and(is_damaged)
    });
    Ok(if troubled { Exit::Missing } else { Exit::Success })
}

impl Args {
    fn keep(&self) -> BTreeMap<String, String> {
        let all = [
            ("runs", &self.keep_runs),
            ("logs", &self.keep_logs),
            ("artifacts", &self.keep_artifacts),
            ("layers", &self.keep_layers),
            ("caches", &self.keep_caches),
            ("images", &self.keep_images),
        ];
        let given = all.into_iter().filter_map(|(kind, how)| Some((kind, how.clone()?)));
        given.map(|(kind, how)| (kind.to_owned(), how)).collect()
    }
}

/// By the server itself when it runs; else in its place.
async fn of_server(args: &Args, data: &Data, asked: &AskGc) -> Result<Option<GcReport>> {
    if let Some(client) = data_client(data)? {
        match client.gc(asked).await {
            // The note is of a server that was killed.
            Err(failure) if failure.kind == Kind::Elsewhere => {}
            report => return report.map(Some),
        }
    }
    if args.database.is_none() && !data.root.join("kiln.db").exists() {
        return Ok(None);
    }
    collect::of_stopped_server(data, args.database.as_deref(), asked).await.map(Some)
}

/// The server that says that it serves this folder. Whether it does is known when it is asked.
pub fn data_client(data: &Data) -> Result<Option<crate::client::Client>> {
    match data.server_note().exists() {
        true => {
            let server = ServerArgs { server: None, data: Some(data.root.clone()) };
            server.client().map(Some)
        }
        false => Ok(None),
    }
}

/// Nobody looks on: what cannot be done now is done another time.
async fn in_background() -> Result<Exit> {
    // After everything that somebody waits for.
    let _ = rustix::process::nice(10);
    let data = Data::find(None)?;
    let report = collect::here(&data, &AskGc::default(), Turn::Passes).await?;
    match report.map(|report| report.trouble) {
        Some(trouble) if !trouble.is_empty() => Err(Failure::elsewhere(trouble.join("; "))),
        _ => Ok(Exit::Success),
    }
}

fn show(out: &Output, Collected { of, report }: &Collected) -> Result<()> {
    let done = if report.dry_run { "would be removed" } else { "removed" };
    let head = out.paint(Style::Bold, of);
    if report.collected.is_empty() {
        out.lines(&format!("{head}: nothing to remove\n"))?;
    } else {
        let size = bytes::show(report.n_bytes);
        out.lines(&format!("{head}: {size} {done}\n"))?;
        table(out, &report.collected)?;
    }
    if let Some(verified) = &report.verified {
        let new = match verified.n_new {
            0 => String::new(),
            n => format!(", {n} of them for the first time: they are compared from now on"),
        };
        let n = verified.n_layers;
        let layers = if n == 1 { "layer" } else { "layers" };
        out.lines(&format!("{head}: {n} {layers} read{new}\n"))?;
        verified.damaged.iter().for_each(|damage| out.note(&visible(damage)));
    }
    for trouble in report.trouble.iter().chain(&report.warnings) {
        out.note(&visible(trouble));
    }
    Ok(())
}

pub fn table(out: &Output, rows: &[CollectedRow]) -> Result<()> {
    let row = |row: &CollectedRow| {
        vec![
            Cell::from(&row.kind),
            Cell::from(row.project.as_deref().unwrap_or("-")),
            Cell::from(row.n.to_string()),
            Cell::from(bytes::show(row.n_bytes)),
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    out.table(&["kind", "project", "n", "size"], &rows)
}
