//! What every executor must do, and what the host executor does besides.
//!
//! Not run by the standard harness: the spawner must be started before any thread exists. The cases
//! of [`suite`] know nothing of the executor; another one joins by another line in `main`.

mod bench;
mod container;
mod dockerd;
mod network;
mod host;
mod limits;
mod sandbox;
mod within;
mod rest;
mod remount;
mod ssh;
mod suite;
mod visit;
mod guest;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, Spawner};

use bench::{Bench, Case, Running};
use dockerd::Dockerd;
use host::is_root;
use ssh::{Far, Tools};
use within::{Kind, Within};

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
    let rows = rows(&executor);
    if args.iter().any(|arg| arg == "--list") {
        rows.iter().for_each(|row| println!("{}: test", row.name));
        return ExitCode::SUCCESS;
    }
    let code = run(&runtime, &rows, &args);
    Dockerd::end_shared();
    code
}

/// A case with the executor that it is for.
struct Row {
    name: String,
    run: Box<dyn Fn() -> Running>,
}

/// What needs to know a step's process by its number: in a container that is another one.
const BY_PID: &[&str] = &[
    "who_ignores_term_is_killed",
    "a_step_whose_caller_left_is_cancelled_by_the_next",
    "daemons_are_killed_at_the_end",
    "a_swarm_that_forks_is_killed",
    "a_visit_whose_caller_left_is_ended_by_the_next",
    "what_a_visit_left_ends_with_the_session",
];

fn rows(host: &HostExecutor) -> Vec<Row> {
    let mut cases = general();
    cases.extend(host::cases());
    cases.extend(limits::cases_of_host());
    cases.extend(rest::cases());
    cases.extend(remount::cases());
    cases.extend(container::cases());
    cases.extend(network::cases());
    cases.extend(sandbox::cases());
    cases.extend(guest::cases());
    let mut rows = of(host, "", cases);
    for user in [false, true] {
        if !user && !is_root() {
            continue;
        }
        let name =
            |what: &str| if user { format!("{what} of one user: ") } else { format!("{what}: ") };
        for (what, kind) in
            [("container", Kind::Container { user }), ("sandbox", Kind::Sandbox { user })]
        {
            let executor = Within { inner: host.clone(), kind };
            let mut cases = general();
            cases.retain(|case| !BY_PID.contains(&case.name));
            rows.extend(of(&executor, &name(what), cases));
        }
    }
    for (prefix, tools) in [
        ("ssh: ", Tools::Machines),
        ("ssh to bash: ", Tools::Bash),
        ("ssh to busybox: ", Tools::Busybox),
    ] {
        let Some(far) = Far::new(host, tools) else {
            println!("no sshd or no such shell here, so nothing is tried over `{prefix}`");
            continue;
        };
        let mut cases = suite::cases();
        cases.retain(|case| !ssh::FROM_OUTSIDE.contains(&case.name));
        cases.extend(ssh::cases());
        rows.extend(of(&far, prefix, cases));
    }
    rows
}

/// What every executor promises.
fn general<E: Executor>() -> Vec<Case<E>> {
    let mut cases = suite::cases();
    cases.extend(visit::cases());
    cases.extend(limits::cases());
    cases
}

fn of<E: Executor + Clone>(executor: &E, prefix: &str, cases: Vec<Case<E>>) -> Vec<Row> {
    let row = |case: Case<E>| {
        let executor = executor.clone();
        Row {
            name: format!("{prefix}{}", case.name),
            run: Box::new(move || (case.run)(Bench::new(executor.clone()))),
        }
    };
    cases.into_iter().map(row).collect()
}

fn run(runtime: &tokio::runtime::Runtime, rows: &[Row], args: &[String]) -> ExitCode {
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |row: &&Row| {
        filters.is_empty() || filters.iter().any(|filter| row.name.contains(filter.as_str()))
    };
    let selected: Vec<_> = rows.iter().filter(wanted).collect();
    println!("\nrunning {} tests", selected.len());
    let mut failed = Vec::new();
    for row in &selected {
        let future = AssertUnwindSafe((row.run)());
        let result = runtime.block_on(async {
            let task = tokio::spawn(async move { tokio::time::timeout(CASE_FOR, future.0).await });
            task.await
        });
        let ok = match result {
            Ok(Ok(())) => true,
            Ok(Err(_)) => {
                println!("`{}` did not end in {CASE_FOR:?}", row.name);
                false
            }
            // The panic has printed itself.
            Err(_) => false,
        };
        println!("test {} ... {}", row.name, if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(&row.name);
        }
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        selected.len() - failed.len(),
        failed.len(),
        rows.len() - selected.len(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
