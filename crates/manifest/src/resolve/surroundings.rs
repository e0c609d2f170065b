//! What the steps of a job run in: `image`, `executor`, `network`, `limits`, `sandbox`, `privileged`,
//! `volumes`. Wishes that cannot go together are refused here; which of them are granted is a policy's to
//! say, and not known yet.

use std::ops::Range;

use kiln_model::limit::{JOB_VOLUMES_MAX, VOLUME_PATH_BYTES_MAX};
use kiln_model::plan::{ExecutorKind, Limits, Network, Pull, Volume};

use super::job::word;
use super::template::Filler;
use crate::complaint::Complaints;
use crate::node::{Text, first_line};
use crate::written;

/// Longest name of a user, in characters.
const USER_MAX: usize = 100;

/// As [`kiln_model::Job`] has them.
pub struct Surroundings {
    pub executor: ExecutorKind,
    pub image: Option<String>,
    pub pull: Option<Pull>,
    pub user: Option<String>,
    pub network: Option<Network>,
    pub limits: Limits,
    pub sandbox: Option<bool>,
    pub privileged: bool,
    pub volumes: Vec<Volume>,
}

/// Of one job.
pub fn of(job: &written::Job, filler: &Filler, complaints: &mut Complaints) -> Surroundings {
    let written = &job.surroundings;
    together(job, complaints);
    Surroundings {
        executor: written.executor.as_ref().map(|kind| kind.value).unwrap_or_default(),
        image: written.image.as_ref().map(|image| word(image, "an image", filler, complaints)),
        pull: written.pull,
        user: written.user.as_ref().and_then(|text| user(text, filler, complaints)),
        network: written.network.as_ref().map(|network| network.value),
        limits: written.limits.as_ref().map(|limits| limits.value).unwrap_or_default(),
        sandbox: written.sandbox.as_ref().map(|sandbox| sandbox.value),
        privileged: written.privileged.as_ref().is_some_and(|privileged| privileged.value),
        volumes: volumes(&written.volumes, filler, complaints),
    }
}

/// Complains about wishes of which one makes the other senseless.
fn together(job: &written::Job, complaints: &mut Complaints) {
    let written = &job.surroundings;
    let kind = written.executor.as_ref().map(|kind| kind.value).unwrap_or_default();
    let has_image = written.in_image;
    let mut error = |span: &Range<usize>, message: String, help: &str| {
        complaints.error(span.clone(), message, help);
    };
    match (&written.executor, kind) {
        (Some(at), ExecutorKind::Oci | ExecutorKind::Docker) if !has_image => error(
            &at.span,
            format!("a job with `executor: {}` needs an `image`", kind.as_str()),
            "as in `image: debian:13`",
        ),
        (Some(at), ExecutorKind::Host) if has_image => error(
            &at.span,
            "a job with an `image` runs in a container, not on the host".to_owned(),
            "remove `image`, or `executor`",
        ),
        _ => {}
    }
    if let Some(ssh) = &job.ssh {
        for (key, span) in of_this_machine(written) {
            let message = format!("a job with `ssh` runs on another machine: it has no `{key}`");
            error(&span, message, &format!("remove `{key}`, or `ssh: {}`", shown(ssh)));
        }
        return;
    }
    let of_containers = [
        ("volumes", written.volumes.first().map(|volume| &volume.span)),
        ("privileged", written.privileged.as_ref().filter(|p| p.value).map(|p| &p.span)),
    ];
    for (key, span) in of_containers {
        if let (Some(span), false) = (span, has_image) {
            let message = format!("`{key}` is for containers, and the job has no `image`");
            error(span, message, "add an `image`, or remove it");
        }
    }
    // Beside services it is in their network, also without a sandbox.
    let open = written.sandbox.as_ref().filter(|sandbox| !sandbox.value);
    let open = open.filter(|_| job.services.is_empty());
    match (&written.network, open) {
        (Some(network), Some(_)) if !has_image && network.value != Network::Host => {
            let message = format!(
                "`network: {}` needs a job that is apart from the machine, and `sandbox` is off",
                network.value.as_str()
            );
            error(&network.span, message, "remove `sandbox: false`");
        }
        _ => {}
    }
    if let (Some(open), true) = (open, has_image) {
        let message = "a container is always apart from the machine: `sandbox` has no effect";
        complaints.warning(open.span.clone(), message, "");
    }
}

/// What is written that only this machine's executors know, and where.
fn of_this_machine(written: &written::Surroundings) -> Vec<(&'static str, Range<usize>)> {
    let all = [
        ("image", written.image.as_ref().map(|at| at.span.clone())),
        ("executor", written.executor.as_ref().map(|at| at.span.clone())),
        ("network", written.network.as_ref().map(|at| at.span.clone())),
        ("limits", written.limits.as_ref().map(|at| at.span.clone())),
        ("sandbox", written.sandbox.as_ref().filter(|at| at.value).map(|at| at.span.clone())),
        ("privileged", written.privileged.as_ref().filter(|at| at.value).map(|at| at.span.clone())),
        ("volumes", written.volumes.first().map(|at| at.span.clone())),
    ];
    all.into_iter().filter_map(|(key, span)| Some((key, span?))).collect()
}

fn user(text: &Text, filler: &Filler, complaints: &mut Complaints) -> Option<String> {
    let n_before = complaints.len();
    let user = filler.fill(text, complaints);
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if complaints.len() == n_before
        && (user.contains(odd) || user.chars().count() > USER_MAX || user.matches(':').count() > 1)
    {
        let message = format!("`{}` is not a user", first_line(&user, 40));
        complaints.error(text.span.clone(), message, "as in `1000`, `node` or `1000:1000`");
    }
    Some(user).filter(|user| !user.is_empty())
}

fn volumes(texts: &[Text], filler: &Filler, complaints: &mut Complaints) -> Vec<Volume> {
    if let Some(first) = texts.get(JOB_VOLUMES_MAX) {
        let message = format!("a job can have at most {JOB_VOLUMES_MAX} volumes");
        complaints.error(first.span.clone(), message, "mount the folder that they lie in");
        return Vec::new();
    }
    let mut volumes: Vec<Volume> = Vec::new();
    for text in texts {
        let n_before = complaints.len();
        let filled = filler.fill(text, complaints);
        if complaints.len() > n_before || text.value.trim().is_empty() {
            continue;
        }
        match volume(&filled) {
            Err((message, help)) => complaints.error(text.span.clone(), message, help),
            Ok(volume) if volumes.iter().any(|other| other.to == volume.to) => {
                let message =
                    format!("two volumes are mounted on `{}`", first_line(&volume.to, 40));
                complaints.error(text.span.clone(), message, "remove one of them");
            }
            Ok(volume) => volumes.push(volume),
        }
    }
    volumes
}

/// As Docker writes it: `/on/the/machine:/in/the/container[:ro]`.
fn volume(text: &str) -> Result<Volume, (String, &'static str)> {
    const FORM: &str = "as in `/data:/in` or `/data:/in:ro`";
    let shown = first_line(text, 60);
    let parts: Vec<&str> = text.split(':').collect();
    let (from, to, options) = match parts[..] {
        [from, to] => (from, to, ""),
        [from, to, options] => (from, to, options),
        _ => return Err((format!("`{shown}` is not a volume"), FORM)),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|_| parts.len() == 3) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // Labels for SELinux: who has it may give them by hand; without it they mean nothing.
            "z" | "Z" => {}
            _ => {
                let message = format!("`{shown}`: `{}` is not an option", first_line(option, 20));
                return Err((message, "`ro` and `rw` are"));
            }
        }
    }
    Ok(Volume {
        from: machine_path(from, &shown)?,
        to: container_path(to, &shown)?,
        read_only,
        within: None,
    })
}

fn machine_path(from: &str, shown: &str) -> Result<String, (String, &'static str)> {
    let help = match from {
        _ if from.starts_with('/') => return plain(from, shown),
        _ if from.starts_with('.') => {
            "files of the repository are in the workspace already; other paths are absolute"
        }
        _ if from.starts_with('~') || from.starts_with('$') => {
            "write an absolute path: whose home it is depends on the agent"
        }
        _ => "named volumes are not kept; write `cache` for files to find again",
    };
    Err((format!("`{shown}`: `{}` is not an absolute path", first_line(from, 40)), help))
}

fn container_path(to: &str, shown: &str) -> Result<String, (String, &'static str)> {
    if !to.starts_with('/') {
        let message = format!("`{shown}`: `{}` is not an absolute path", first_line(to, 40));
        return Err((message, "as in `/data:/in`"));
    }
    let to = plain(to, shown)?;
    let first = to.split('/').nth(1).unwrap_or_default();
    match first {
        "" => Err((format!("`{shown}`: nothing can be mounted on `/`"), "name a folder in it")),
        "proc" | "sys" | "dev" => {
            Err((format!("`{shown}`: `/{first}` is the kernel's"), "mount it elsewhere"))
        }
        _ => Ok(to),
    }
}

/// An absolute path without its parts that say nothing.
fn plain(path: &str, shown: &str) -> Result<String, (String, &'static str)> {
    if path.contains(char::is_control) {
        return Err(("a volume's path cannot have control characters".to_owned(), ""));
    }
    if path.len() > VOLUME_PATH_BYTES_MAX {
        return Err((format!("a volume's path has at most {VOLUME_PATH_BYTES_MAX} bytes"), ""));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err((format!("`{shown}` has `..`"), "write the path without it"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn shown(text: &Text) -> String {
    first_line(&text.value, 40)
}
