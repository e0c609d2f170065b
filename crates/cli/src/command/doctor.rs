//! `kiln doctor`: what kiln needs of this machine.

mod trial;
mod container;
mod docker;
mod bounds;

use std::path::{Path, PathBuf};

use kiln_api::user::{AskGc, Usage};
use kiln_executor::{HostExecutor, Spawner};
use kiln_stdx::{bytes, process};
use kiln_workspace::Driver;
use serde::Serialize;

use crate::command::gc;
use crate::error::{Exit, Kind, Result};
use crate::local::{collect, machine};
use crate::output::{Output, Style, visible};
use crate::place::Data;

/// Check this machine: what kiln needs, what is missing, how to get it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  kiln doctor\n  kiln doctor --json | jq '.[] | select(.state != \"ok\")'\n\nExits with 3 when something that kiln needs is missing."
)]
pub struct Args {
    /// The data folder to check [env: KILN_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The findings as a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Does not work without.
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'static str>,
    /// What takes how much room.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

impl Finding {
    fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self { name, state, detail: detail.into(), help: None, usage: None }
    }

    fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }
}

pub async fn run(args: &Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    let data = Data::find(args.data.as_deref())?;
    let mut findings =
        vec![version(), git(), program("sh", State::Missing), program("bash", State::Warning)];
    findings.push(ssh());
    findings.push(network());
    findings.push(folder(&data));
    if findings.iter().all(|finding| finding.name != "data" || finding.state != State::Missing) {
        let executor = HostExecutor::new(spawner);
        findings.push(workspaces(&data, &executor).await);
        findings.push(containers(&data, &executor).await);
        findings.push(docker::finding(&executor, &data.root).await);
        findings.push(bounds::sandbox(&executor, &data.root).await);
        findings.push(bounds::limits(&data.root));
        findings.push(space(&data.root));
        findings.extend(used("local runs", collect::usage_here(&data).await));
        findings.extend(used("server", usage_of_server(&data).await));
    }
    if args.json {
        out.json(&findings)?;
    } else {
        for finding in &findings {
            show(out, finding)?;
        }
    }
    let missing = findings.iter().any(|finding| finding.state == State::Missing);
    Ok(if missing { Exit::Missing } else { Exit::Success })
}

fn show(out: &Output, finding: &Finding) -> Result<()> {
    let (style, icon) = match finding.state {
        State::Ok => (Style::Green, "✓"),
        State::Warning => (Style::Yellow, "!"),
        State::Missing => (Style::Red, "✗"),
    };
    let detail = visible(&finding.detail);
    out.lines(&format!("{} {:<11} {detail}\n", out.paint(style, icon), finding.name))?;
    if let Some(usage) = &finding.usage {
        let rows: Vec<_> = usage.kept.iter().filter(|row| row.n_bytes > 0).cloned().collect();
        gc::table(out, &rows)?;
    }
    match finding.help {
        Some(help) => out.lines(&format!("  {} {help}\n", out.paint(Style::Cyan, "help:"))),
        None => Ok(()),
    }
}

/// What is kept, and what would go now.
fn used(name: &'static str, measured: Result<Option<(Usage, u64)>>) -> Option<Finding> {
    match measured {
        Ok(None) => None,
        Ok(Some((usage, n_freed))) => {
            let at_least = if usage.is_partial { "at least " } else { "" };
            let mut detail = format!("{at_least}{} kept", bytes::show(usage.n_bytes));
            if n_freed > 0 {
                detail.push_str(&format!("; `kiln gc` would free {} now", bytes::show(n_freed)));
            }
            Some(Finding { usage: Some(usage), ..Finding::new(name, State::Ok, detail) })
        }
        Err(failure) => Some(Finding::new(name, State::Warning, format!("{:#}", failure.error))),
    }
}

/// Of the server of this data folder, be it running or not.
async fn usage_of_server(data: &Data) -> Result<Option<(Usage, u64)>> {
    if let Some(client) = gc::data_client(data)? {
        match client.usage().await {
            Ok(usage) => {
                let asked = AskGc { dry_run: true, ..AskGc::default() };
                return Ok(Some((usage, client.gc(&asked).await?.n_bytes)));
            }
            // The note is of a server that was killed.
            Err(failure) if failure.kind == Kind::Elsewhere => {}
            Err(failure) => return Err(failure),
        }
    }
    collect::usage_of_stopped_server(data).await
}

fn version() -> Finding {
    let system = rustix::system::uname();
    let detail = format!(
        "{} on {} {} ({})",
        env!("CARGO_PKG_VERSION"),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy()
    );
    Finding::new("kiln", State::Ok, detail)
}

fn git() -> Finding {
    const INSTALL: &str = "install git: `apt install git`, `dnf install git` or `apk add git`";
    match process::output(process::command("git").arg("--version")) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            match git_version(&text) {
                // 2.36 gave `cat-file --batch-command`, by which mirrors are read.
                Some(version) if version < (2, 36) => {
                    let detail = format!("{text} is too old; 2.36 is needed");
                    Finding::new("git", State::Missing, detail).help(INSTALL)
                }
                _ => Finding::new("git", State::Ok, text),
            }
        }
        Err(error) => Finding::new("git", State::Missing, error.to_string()).help(INSTALL),
    }
}

/// `git version 2.47.3 (Apple …)` as (2, 47).
fn git_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(' ').nth(2)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The program that jobs on another machine are reached with.
fn ssh() -> Finding {
    const INSTALL: &str = "jobs with `ssh` cannot run: `apt install openssh-client`, \
                           `dnf install openssh-clients` or `apk add openssh-client`";
    // It says its version on standard error.
    match process::any_output(process::command("ssh").arg("-V")) {
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            Finding::new("ssh", State::Ok, text)
        }
        Err(error) => Finding::new("ssh", State::Warning, error.to_string()).help(INSTALL),
    }
}

/// A program that steps are run with.
fn program(name: &'static str, without: State) -> Finding {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|at| at.is_file());
    match found {
        Some(at) => Finding::new(name, State::Ok, at.display().to_string()),
        None => Finding::new(name, without, "not in PATH")
            .help("steps that ask for this shell cannot run; install it, or correct PATH"),
    }
}

/// What gives jobs a network of their own.
fn network() -> Finding {
    const HOW: &str = "install pasta (`apt install passt`, `dnf install passt`, `apk add passt`) or slirp4netns; without, \
                       containers share this machine's network, and jobs with services or `network: internet` fail";
    let path = std::env::var("PATH").unwrap_or_default();
    let tun = Path::new("/dev/net/tun").exists();
    match kiln_agent::stack(&[("PATH".to_owned(), path)]) {
        Some(program) if tun => Finding::new(
            "network",
            State::Ok,
            format!("jobs have their own, through {}", program.display()),
        ),
        Some(program) => {
            let detail = format!("{} needs `/dev/net/tun`, which is not there", program.display());
            Finding::new("network", State::Warning, detail).help("load it: `modprobe tun`")
        }
        None => Finding::new("network", State::Warning, "neither pasta nor slirp4netns is in PATH")
            .help(HOW),
    }
}

/// Made if need be, as the first run would.
fn folder(data: &Data) -> Finding {
    let shown = data.root.display().to_string();
    match data.make_local().map(|()| tempfile::tempfile_in(&data.root)) {
        Ok(Ok(_)) => Finding::new("data", State::Ok, shown),
        Ok(Err(cause)) => Finding::new("data", State::Missing, format!("{shown}: {cause}"))
            .help("choose another folder with KILN_DATA or --data"),
        Err(failure) => Finding::new("data", State::Missing, format!("{:#}", failure.error))
            .help("choose another folder with KILN_DATA or --data"),
    }
}

/// Containers of kiln's own, as jobs with an `image` run in.
async fn containers(data: &Data, executor: &HostExecutor) -> Finding {
    let trouble = |why: String| Finding::new("containers", State::Warning, why);
    let driver = match machine::insisted() {
        Ok(Some(driver)) => Ok(driver),
        Ok(None) => match tempfile::tempdir_in(&data.root) {
            Ok(folder) => machine::probe(executor, folder.path()).await,
            Err(cause) => return trouble(cause.to_string()),
        },
        Err(failure) => Err(failure),
    };
    match driver {
        Ok(driver) => container::finding(executor, &data.root, driver).await,
        Err(failure) => trouble(format!("{:#}", failure.error)),
    }
}

async fn workspaces(data: &Data, executor: &HostExecutor) -> Finding {
    const HOW: &str = "overlayfs needs root, or Linux ≥ 5.11 with unprivileged user namespaces, and a data folder \
                       on a file system such as ext4, xfs or btrfs";
    let finding = |state, detail: String| Finding::new("workspaces", state, detail);
    let folder = match tempfile::tempdir_in(&data.root) {
        Ok(folder) => folder,
        Err(cause) => return finding(State::Missing, cause.to_string()),
    };
    let insisted = match machine::insisted() {
        Ok(insisted) => insisted,
        Err(failure) => return finding(State::Missing, format!("{:#}", failure.error)),
    };
    let probed = match machine::probe(executor, folder.path()).await {
        Ok(probed) => probed,
        Err(failure) => return finding(State::Missing, format!("{:#}", failure.error)),
    };
    let shares = Driver::probe_reflink(folder.path());
    if let Some(driver) = insisted.filter(|driver| *driver != probed) {
        let detail =
            format!("{}, because KILN_DRIVER says so; {} was found", driver.name(), probed.name());
        return finding(State::Warning, detail).help("unset KILN_DRIVER to use what was found");
    }
    // What else there would be, and why not.
    let (shared, why) = match &shares {
        Ok(()) => ("reflink works too", String::new()),
        Err(error) => ("no reflink", format!(" ({})", error.cause)),
    };
    match probed {
        Driver::Overlay => finding(State::Ok, format!("overlay, as root; {shared}{why}")),
        Driver::OverlayUser => {
            finding(State::Ok, format!("overlay, in a user namespace; {shared}{why}"))
        }
        Driver::Reflink => {
            finding(State::Warning, "copies that share their blocks; no overlay".to_owned())
                .help(HOW)
        }
        Driver::Copy => {
            let detail = format!("plain copies, which are slow; no overlay, {shared}{why}");
            finding(State::Warning, detail).help(HOW)
        }
    }
}

/// Less than this and the first large log or layer fills the disk.
const FREE_BYTES_MIN: u64 = 1 << 30;

fn space(folder: &Path) -> Finding {
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{} free", bytes::show(free));
            match free < FREE_BYTES_MIN {
                true => Finding::new("disk", State::Warning, detail)
                    .help("free some space, or move the data folder"),
                false => Finding::new("disk", State::Ok, detail),
            }
        }
        Err(cause) => Finding::new("disk", State::Warning, cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_git_is_read() {
        assert_eq!(git_version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(git_version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(git_version("git"), None);
    }
}
