//! The key of a job: everything that its result depends on, as far as kiln can know.
//!
//! In: the job as it is resolved, the contents of its inputs, what its needs left and gave, its image by
//! content, else facts about the machine. Out: how long things may take, how often it is tried, where the
//! workspace lies. What differs in every run (its number, the commit, `.git`) is in when the job names it,
//! and does not reach the job otherwise ([`named`]). A key of the manifest that nobody has thought of
//! here is in.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use kiln_api::agent::{Assignment, Keyed, ReuseTerms};
use kiln_image::Image;
use kiln_model::key::{Fact, InputFile, PARTS_VERSION, Parts};
use kiln_model::layer::Digest;
use kiln_model::plan::{Job, View};
use kiln_workspace::Workspaces;
use serde::Serialize;

use crate::{environment, named};

/// What the manifest says of a job and what is no part of its result: what it is called in lists, how
/// long it may take, when and how often it is tried. And what has facts of its own.
const APART: [&str; 19] = [
    "name",
    "group",
    "matrix",
    "needs",
    "if",
    "always",
    "allow_failure",
    "env",
    "steps",
    "timeout",
    "retry",
    "secrets",
    "lock",
    "inputs",
    "workspace",
    "snapshots",
    "approve",
    "priority",
    "pull",
];
/// The same of a step.
const APART_IN_STEP: [&str; 2] = ["name", "timeout"];

/// Where the job runs.
pub(crate) struct Ground<'a> {
    pub machine_env: &'a [(String, String)],
    pub workspaces: &'a Workspaces,
    pub image: Option<&'a Image>,
    /// The folder with the `.git` of a commit that it sees.
    pub git: Option<&'a Path>,
}

/// The key of an assignment whose inputs are these. Blocking: a layer that has no digest yet is read.
pub(crate) fn of(
    assignment: &Assignment,
    terms: &ReuseTerms,
    ground: &Ground<'_>,
    files: Vec<InputFile>,
) -> Keyed {
    let mut facts = BTreeMap::new();
    machine(assignment, terms, ground, &mut facts);
    if let Some(git) = ground.git {
        repository(assignment, git, &mut facts);
    }
    settings(&assignment.job, &mut facts);
    variables(assignment, &mut facts);
    for (name, value) in &assignment.secrets {
        facts.insert(Fact::Secret(name.clone()), mark(terms, name, value.expose()));
    }
    for (place, (layer, job)) in assignment.layers.iter().zip(&assignment.layers_of).enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        // A layer that cannot be read is the workspace's to complain of.
        let content = ground.workspaces.digest(layer).map(|digest| digest.to_string());
        let content = content.unwrap_or_else(|_| format!("{layer:?}"));
        facts.insert(Fact::Layer { job: job.to_string(), place }, content);
    }
    let parts = Parts { version: PARTS_VERSION, facts: facts.into_iter().collect(), files };
    Keyed { digest: digest(&parts), parts: parts.into() }
}

fn machine(
    assignment: &Assignment,
    terms: &ReuseTerms,
    ground: &Ground<'_>,
    facts: &mut BTreeMap<Fact, String>,
) {
    let job = &assignment.job;
    let mut set = |what: &str, value: &str| {
        facts.insert(Fact::Machine(what.to_owned()), value.to_owned());
    };
    set("architecture", std::env::consts::ARCH);
    set(
        "executor",
        match (&job.image, &job.ssh) {
            (Some(_), _) => "containers",
            (None, Some(_)) => "ssh",
            (None, None) => "host",
        },
    );
    // In a container its image takes the place of the machine.
    let reaches: BTreeMap<String, String> = match ground.image {
        Some(image) => {
            facts.insert(Fact::Setting("image digest".to_owned()), image.digest.to_string());
            environment::besides(ground.machine_env).collect()
        }
        None => {
            set("system", system());
            environment::of_machine(ground.machine_env)
        }
    };
    // As they come to the job: what the manifest sets hides the machine's.
    for (name, value) in reaches {
        if !assignment.env.contains_key(&name) {
            let mark = mark(terms, &name, &value);
            facts.insert(Fact::MachineVariable(name), mark);
        }
    }
}

/// What git tells of a commit in its workspace, besides the files.
fn repository(assignment: &Assignment, git: &Path, facts: &mut BTreeMap<Fact, String>) {
    let mut hasher = blake3::Hasher::new();
    for name in ["HEAD", "packed-refs", "config", "shallow"] {
        let bytes = std::fs::read(git.join(".git").join(name)).unwrap_or_default();
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    facts.insert(Fact::Git("commit".to_owned()), assignment.trigger.commit.clone());
    facts.insert(Fact::Git("refs".to_owned()), hasher.finalize().to_hex()[..32].to_owned());
}

/// `Debian GNU/Linux 13 (trixie)`.
fn system() -> &'static str {
    static SYSTEM: OnceLock<String> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        name.map_or_else(
            || std::env::consts::OS.to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
    })
}

/// What the manifest says of the job.
fn settings(job: &Job, facts: &mut BTreeMap<Fact, String>) {
    for (key, value) in without(job, &APART) {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        facts.insert(Fact::Setting(key), text);
    }
    let sees = match job.workspace {
        View::All => None,
        View::From { .. } => Some("from"),
        View::Fresh => Some("fresh"),
        View::Nothing => Some("none"),
    };
    if let Some(sees) = sees {
        facts.insert(Fact::Setting("workspace".to_owned()), sees.to_owned());
    }
    for (position, step) in job.steps.iter().enumerate() {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        facts.insert(Fact::Step(position), json(&without(step, &APART_IN_STEP)));
    }
}

/// Its JSON without these keys; sorted by key.
fn without<T: Serialize>(value: &T, apart: &[&str]) -> BTreeMap<String, serde_json::Value> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(all)) => {
            all.into_iter().filter(|(key, _)| !apart.contains(&key.as_str())).collect()
        }
        // Neither is anything but an object.
        _ => BTreeMap::new(),
    }
}

fn variables(assignment: &Assignment, facts: &mut BTreeMap<Fact, String>) {
    let job = &assignment.job;
    for (name, value) in &job.env {
        facts.insert(Fact::Variable(name.clone()), value.clone());
    }
    let attempt = ("KILN_ATTEMPT".to_owned(), assignment.lease.attempt.to_string());
    let own = assignment.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in own.chain([attempt]) {
        let is_own = name.starts_with("KILN_") && !job.env.contains_key(&name);
        if is_own && named::counts(job, &name) {
            facts.insert(Fact::OwnVariable(name), value);
        }
    }
}

/// Says whether two values are the same, and nothing else to who has not the key.
fn mark(terms: &ReuseTerms, name: &str, value: &str) -> String {
    let mut key = [0; 32];
    let given = terms.mark_key.expose();
    let n_bytes = given.len().min(key.len());
    key[..n_bytes].copy_from_slice(&given[..n_bytes]);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(name.as_bytes()).update(&[0]).update(value.as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Over the same bytes for the same parts, whatever the order of JSON's fields.
fn digest(parts: &Parts) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    add(&parts.version.to_le_bytes());
    add(&(parts.facts.len() as u64).to_le_bytes());
    for (fact, value) in &parts.facts {
        add(json(fact).as_bytes());
        add(value.as_bytes());
    }
    for InputFile { path, mode, content } in &parts.files {
        add(path.as_os_str().as_bytes());
        add(mode.as_bytes());
        add(content.as_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

/// Of these types it cannot fail.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
