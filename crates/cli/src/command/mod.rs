//! One file per command: its arguments and what it does.

pub mod artifacts;
pub mod cancel;
pub mod check;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod gc;
pub mod hook;
pub mod image;
pub mod logs;
pub mod pin;
pub mod plan;
pub mod preview;
pub mod project;
pub mod rerun;
pub mod run;
pub mod runs;
pub mod schema;
pub mod secret;
pub mod serve;
pub mod shell;
pub mod show;
pub mod trigger;
pub mod why;
pub mod workspace;

use kiln_executor::Spawner;

use crate::args::Command;
use crate::error::{Exit, Failure, Result};
use crate::output::Output;

/// Does what was typed. `spawner`: for commands that run jobs.
pub async fn dispatch(
    command: Option<Command>,
    spawner: Option<Spawner>,
    out: &Output,
) -> Result<Exit> {
    let spawner = || spawner.ok_or_else(|| Failure::ours("the spawner was not started"));
    match command {
        None => preview::run(out),
        Some(Command::Run(args)) => run::run(args, spawner()?, out).await,
        Some(Command::Check(args)) => check::run(&args, out),
        Some(Command::Plan(args)) => plan::run(args, out),
        Some(Command::Schema(_)) => schema::run(out),
        Some(Command::Demo(args)) => demo::run(args, spawner()?, out).await,
        Some(Command::Serve(args)) => serve::run(args, spawner()?, out).await,
        Some(Command::Project(command)) => project::run(command, out).await,
        Some(Command::Trigger(args)) => trigger::run(args, out).await,
        Some(Command::Runs(args)) => runs::run(args, out).await,
        Some(Command::Show(args)) => show::run(args, out).await,
        Some(Command::Logs(args)) => logs::run(args, out).await,
        Some(Command::Cancel(args)) => cancel::run(args, out).await,
        Some(Command::Rerun(args)) => rerun::run(args, spawner()?, out).await,
        Some(Command::Shell(args)) => shell::run(args, spawner()?, out).await,
        Some(Command::Why(args)) => why::run(args, out).await,
        Some(Command::Artifacts(args)) => artifacts::run(args, out).await,
        Some(Command::Workspace(command)) => workspace::run(command, out).await,
        Some(Command::Image(command)) => image::run(command, spawner()?, out).await,
        Some(Command::Secret(command)) => secret::run(command, out).await,
        Some(Command::Pin(args)) => pin::pin(args, out).await,
        Some(Command::Unpin(args)) => pin::unpin(args, out).await,
        Some(Command::Gc(args)) => gc::run(args, out).await,
        Some(Command::Doctor(args)) => doctor::run(&args, spawner()?, out).await,
        Some(Command::Completions(args)) => completions::run(&args, out),
    }
}
