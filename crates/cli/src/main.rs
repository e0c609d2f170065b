//! The one binary, `kiln`.
//!
//! Modules stand in the order in which what was typed meets them.

mod args;
mod bug;
mod client;
mod command;
mod error;
mod interrupt;
mod local;
mod origin;
mod output;
mod pipeline;
mod place;
mod reference;
mod terminal;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kiln_executor::Spawner;

use crate::args::{Cli, Command};
use crate::error::{Blame, Exit, Failure, Result};
use crate::output::Output;

fn main() -> ExitCode {
    bug::install_hook();
    // git waits for its hooks: no arguments are parsed and no runtime is made for this one.
    if command::hook::is_called(std::env::args_os().skip(1)) {
        return command::hook::main(std::env::args_os().skip(1));
    }
    let out = Output::of_this_process();
    match start(&out) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.code().into()
        }
    }
}

/// How long a thread for blocking work waits for more. What idles should soon be asleep for good.
const THREADS_LINGER_FOR: Duration = Duration::from_secs(1);

fn start(out: &Output) -> Result<Exit> {
    let command = Cli::parse_from(args::spelled_out(std::env::args_os())).command;
    // Forked while this process has one thread.
    let with_spawner = command.as_ref().is_some_and(Command::runs_jobs);
    let spawner = match with_spawner {
        true => Some(Spawner::start().elsewhere("cannot start the process that starts jobs")?),
        false => None,
    };
    let mut runtime = match command {
        Some(Command::Serve(_) | Command::Demo(_)) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime
        .enable_all()
        .thread_keep_alive(THREADS_LINGER_FOR)
        .build()
        .map_err(|cause| Failure::elsewhere(format!("cannot start the runtime: {cause}")))?;
    let done = runtime.block_on(command::dispatch(command, spawner, out));
    // Tasks that still run (an idle connection, a stalled read) must not hold up the end.
    runtime.shutdown_background();
    if with_spawner {
        local::children::reap_children();
    }
    done
}
