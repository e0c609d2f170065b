//! What every executor must do, and what the host executor does besides.
//!
//! Not run by the standard harness: the spawner must be started before any thread exists. The cases
//! of [`suite`] know nothing of the executor; another one joins by another line in `main`.

mod bench;
mod container;
mod docker;
#[allow(dead_code, reason = "the stories use it too")]
mod dockerd;
mod docker_run;
mod network;
mod host;
mod overlay;
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
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kiln_executor::{HostExecutor, Spawner};

use bench::{Bench, Case, Running, Subject, without};
use docker::Docker;
use docker_run::DockerRun;
use dockerd::Dockerd;
use host::is_root;
use ssh::{Far, Tools};
use suite::Owner;
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
    if let Some(code) = second(&runtime, &executor, &args) {
        return code;
    }
    let rows = rows(&executor);
    if args.iter().any(|arg| arg == "--list") {
        rows.iter().for_each(|row| println!("{}: test", row.name));
        return ExitCode::SUCCESS;
    }
    let code = run(&runtime, &rows, &args);
    docker::end_shared();
    code
}

/// A case with the executor that it is for.
struct Row {
    name: String,
    run: Box<dyn Fn() -> Running>,
}

/// What a process does that a case has started, for what cannot be tried in this one.
fn second(
    runtime: &tokio::runtime::Runtime,
    host: &HostExecutor,
    args: &[String],
) -> Option<ExitCode> {
    if let Some((owner, executor)) = Owner::from_args(args) {
        return Some(runtime.block_on(async {
            match executor[..] {
                ["host"] => owner.play(host.clone()).await,
                ["docker", socket, image] => owner.play(Docker::known(host, socket, image)).await,
                ["far", folder] => owner.play(Far::known(host, folder)).await,
                ref words => {
                    let kind = Kind::from_words(words).expect("words of an executor");
                    owner.play(Within { inner: host.clone(), kind }).await
                }
            }
        }));
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--hurried", folder] => {
            Some(runtime.block_on(host::hurry(host.clone(), Path::new(folder))))
        }
        ["--nobody", folder] => {
            Some(runtime.block_on(overlay::try_as_nobody(host.clone(), Path::new(folder))))
        }
        _ => None,
    }
}

fn rows(host: &HostExecutor) -> Vec<Row> {
    let mut cases = general();
    cases.extend(host::cases());
    cases.extend(overlay::cases());
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
            rows.extend(of(&executor, &name(what), general()));
        }
    }
    for (prefix, tools) in [
        ("ssh: ", Tools::Machines),
        ("ssh to bash: ", Tools::Bash),
        ("ssh to busybox: ", Tools::Busybox),
        ("ssh to who greets: ", Tools::Greeting),
    ] {
        let Some(far) = Far::new(host, tools) else {
            println!("no sshd or no such shell here, so nothing is tried over `{prefix}`");
            continue;
        };
        let mut cases = without(suite::cases(), ssh::OTHERWISE);
        cases.extend(ssh::cases());
        rows.extend(of(&far, prefix, cases));
    }
    if Dockerd::is_possible() {
        rows.extend(of(&DockerRun::default(), "docker run: ", docker_run::cases()));
        let docker = Docker::new(host);
        rows.extend(of(&docker, "docker: ", without(general(), docker::OTHERWISE)));
        rows.extend(of(&docker, "docker: ", docker::cases()));
    } else {
        println!("no dockerd here, so the table is not proven by plain `docker run`");
    }
    rows
}

/// What every executor promises.
fn general<E: Subject>() -> Vec<Case<E>> {
    let mut cases = suite::cases();
    cases.extend(visit::cases());
    cases.extend(limits::cases());
    cases
}

fn of<E: Subject>(executor: &E, prefix: &str, cases: Vec<Case<E>>) -> Vec<Row> {
    let row = |case: Case<E>| {
        let executor = executor.clone();
        Row {
            name: format!("{prefix}{}", case.name),
            run: Box::new(move || {
                executor.begin();
                (case.run)(Bench::new(executor.clone()))
            }),
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
