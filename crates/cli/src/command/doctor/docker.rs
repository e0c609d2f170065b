//! Whether a daemon's containers can be had here: by having one made.

use std::path::Path;

use kiln_executor::{Container, Daemon, HostExecutor, Reach, Root, SessionNetwork, SessionSpec};
use kiln_image::DockerHost;
use kiln_model::Exit;
use kiln_stdx::http::{self, Request};
use kiln_stdx::{Clock, SystemClock, duration};
use serde::Deserialize;

use super::trial::{self, PATIENCE};
use super::{Finding, State};
use crate::local::docker;

const HOW: &str = "only jobs with `executor: docker` need it: `apt install docker.io`, `dnf install moby-engine` or \
                   `apk add docker`; or name its socket with DOCKER_HOST=unix://…";
const AS_ROOT: &str = "jobs with `executor: docker` need kiln to be root; `executor: oci` runs the same images for any user";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// One line about the daemon. No daemon is no fault: nothing needs one that does not ask for it.
pub async fn finding(executor: &HostExecutor, data: &Path) -> Finding {
    let found = |state, detail: String| Finding::new("docker", state, detail);
    let socket = match docker::host() {
        DockerHost::Socket(socket) => socket,
        DockerHost::Elsewhere(why) => {
            return found(State::Warning, format!("{why}, which kiln cannot use")).help(HOW);
        }
    };
    if !socket.exists() {
        return found(State::Ok, format!("no daemon at {}; {HOW}", socket.display()));
    }
    let asked = socket.clone();
    let said = tokio::task::spawn_blocking(move || asked_at(&asked)).await;
    let (version, image) = match said.unwrap_or_else(|panic| Err(panic.to_string())) {
        Ok(said) => said,
        Err(why) => return found(State::Warning, format!("{}: {why}", socket.display())).help(HOW),
    };
    let there =
        format!("{} (API {}) at {}", version.version, version.api_version, socket.display());
    if !rustix::process::geteuid().is_root() {
        return found(State::Warning, there).help(AS_ROOT);
    }
    let Some(image) = image else {
        return found(State::Ok, format!("{there}; it has no image yet, so nothing was tried"));
    };
    let began = SystemClock.monotonic();
    let tried = try_one(executor, data, Daemon { socket, image });
    let tried = tokio::time::timeout(PATIENCE, tried).await;
    let took = duration::show(SystemClock.monotonic().saturating_sub(began));
    match tried.unwrap_or_else(|_| Err(format!("a container is not ready after {took}"))) {
        Ok(()) => found(State::Ok, format!("{there}; a container was there in {took}")),
        Err(why) => found(State::Warning, format!("{there}: {why}")).help(HOW),
    }
}

/// Its version, and any of its images.
fn asked_at(socket: &Path) -> Result<(Version, Option<String>), String> {
    let ask = |path: &str| {
        let request = Request { method: "GET", path, ..Request::default() };
        let answer = http::ask(socket, &request, PATIENCE).map_err(|cause| cause.to_string())?;
        match answer.status {
            200 => answer.whole(8 << 20).map_err(|cause| cause.to_string()),
            status => Err(format!("`{path}` is answered with status {status}")),
        }
    };
    let wrong = |cause: serde_json::Error| format!("it does not speak Docker's language: {cause}");
    let version = serde_json::from_slice(&ask("/version")?).map_err(wrong)?;
    let images: Vec<Listed> = serde_json::from_slice(&ask("/images/json")?).map_err(wrong)?;
    let image = images.into_iter().map(|listed| listed.id).find(|id| id.starts_with("sha256:"));
    Ok((version, image))
}

/// Has a container made, and ends it. No program of the image runs: it may have none.
async fn try_one(executor: &HostExecutor, data: &Path, daemon: Daemon) -> Result<(), String> {
    let folder = tempfile::tempdir_in(data).map_err(|cause| cause.to_string())?;
    let bare = trial::spec(folder.path(), folder.path().join("attempt"), folder.path().to_owned());
    let spec = SessionSpec {
        network: SessionNetwork { reach: Reach::None, names: Vec::new() },
        container: Some(Container {
            root: Root::Daemon(daemon),
            workspace: "/workspace".into(),
            binds: Vec::new(),
            user: String::new(),
            hostname: "kiln".to_owned(),
            volumes: Vec::new(),
            privileged: false,
        }),
        ..bare
    };
    match trial::run(executor, spec, &["/.kiln-none"]).await? {
        // The command is not there, as was to be: everything else is.
        Exit::Code { code: 127 } => Ok(()),
        exit => Err(format!("a program in a container ended with {exit}")),
    }
}
