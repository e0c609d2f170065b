//! What every executor must do, and what the host executor does besides.
//!
//! Not run by the standard harness: the spawner must be started before any thread exists. The cases
//! of [`suite`] know nothing of the executor; another one joins by another line in `main`.

mod bench;
mod container;
mod host;
mod rest;
mod remount;
mod suite;
mod visit;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use kiln_executor::{HostExecutor, Spawner};

use bench::{Bench, Case};

/// No case waits so long for anything that happens.
const CASE_FOR: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let spawner = Spawner::start().expect("the spawner starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts");
    let executor = HostExecutor::new(spawner);
    if let Some(role) = host::Role::from_args(&args) {
        return runtime.block_on(role.play(executor));
    }
    let mut cases = suite::cases();
    cases.extend(visit::cases());
    cases.extend(host::cases());
    cases.extend(rest::cases());
    cases.extend(remount::cases());
    cases.extend(container::cases());
    if args.iter().any(|arg| arg == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    run(&runtime, &executor, &cases, &args)
}

fn run(
    runtime: &tokio::runtime::Runtime,
    executor: &HostExecutor,
    cases: &[Case<HostExecutor>],
    args: &[String],
) -> ExitCode {
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |case: &&Case<HostExecutor>| {
        filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str()))
    };
    let selected: Vec<_> = cases.iter().filter(wanted).collect();
    println!("\nrunning {} tests", selected.len());
    let mut failed = Vec::new();
    for case in &selected {
        let bench = Bench::new(executor.clone());
        let future = AssertUnwindSafe((case.run)(bench));
        let result = runtime.block_on(async {
            let task = tokio::spawn(async move { tokio::time::timeout(CASE_FOR, future.0).await });
            task.await
        });
        let ok = match result {
            Ok(Ok(())) => true,
            Ok(Err(_)) => {
                println!("`{}` did not end in {CASE_FOR:?}", case.name);
                false
            }
            // The panic has printed itself.
            Err(_) => false,
        };
        println!("test {} ... {}", case.name, if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(case.name);
        }
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        selected.len() - failed.len(),
        failed.len(),
        cases.len() - selected.len(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
