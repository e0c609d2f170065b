//! The key of a job: everything that its result depends on, as far as kiln can know.
//!
//! In: the job as it is resolved, the contents of its inputs, what its needs left and gave, facts about
//! the machine. Out: what differs in every run (its number, the commit, the title), how long things may
//! take, where the workspace lies. A variable of that kind is in when a text of the job names it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use kiln_api::agent::{Assignment, Keyed, ReuseTerms};
use kiln_model::key::{Fact, InputFile, PARTS_VERSION, Parts};
use kiln_model::layer::Digest;
use kiln_model::plan::{Command, Job, Step, View};
use kiln_workspace::Workspaces;
use serde::Serialize;

use crate::environment;

/// Variables of kiln's own that are always in, by how their names begin.
const ALWAYS: [&str; 4] = ["KILN_JOB", "KILN_INPUT_", "KILN_MATRIX_", "KILN_NEEDS_"];

/// The key of an assignment whose inputs are these. Blocking: a layer that has no digest yet is read.
pub(crate) fn of(
    assignment: &Assignment,
    terms: &ReuseTerms,
    machine_env: &[(String, String)],
    workspaces: &Workspaces,
    files: Vec<InputFile>,
) -> Keyed {
    let mut facts = BTreeMap::new();
    machine(assignment, terms, machine_env, &mut facts);
    settings(&assignment.job, &mut facts);
    variables(assignment, &mut facts);
    for (name, value) in &assignment.secrets {
        facts.insert(Fact::Secret(name.clone()), mark(terms, name, value.expose()));
    }
    for (place, (layer, job)) in assignment.layers.iter().zip(&assignment.layers_of).enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        // A layer that cannot be read is the workspace's to complain of.
        let content = workspaces.digest(layer).map(|digest| digest.to_string());
        let content = content.unwrap_or_else(|_| format!("{layer:?}"));
        facts.insert(Fact::Layer { job: job.to_string(), place }, content);
    }
    let parts = Parts { version: PARTS_VERSION, facts: facts.into_iter().collect(), files };
    Keyed { digest: digest(&parts), parts: parts.into() }
}

fn machine(
    assignment: &Assignment,
    terms: &ReuseTerms,
    machine_env: &[(String, String)],
    facts: &mut BTreeMap<Fact, String>,
) {
    let job = &assignment.job;
    let executor = match (&job.image, &job.ssh) {
        (Some(_), _) => "containers",
        (None, Some(_)) => "ssh",
        (None, None) => "host",
    };
    for (what, value) in
        [("executor", executor), ("architecture", std::env::consts::ARCH), ("system", system())]
    {
        facts.insert(Fact::Machine(what.to_owned()), value.to_owned());
    }
    // As they come to the job: what the manifest sets hides the machine's.
    for (name, value) in environment::of_machine(machine_env) {
        if !assignment.env.contains_key(&name) {
            let mark = mark(terms, &name, &value);
            facts.insert(Fact::MachineVariable(name), mark);
        }
    }
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

/// What the manifest says of the job and what matters for its result. Not: what it is called in lists,
/// how long it may take, when and how often it is tried.
fn settings(job: &Job, facts: &mut BTreeMap<Fact, String>) {
    #[derive(Serialize)]
    struct Runs<'a> {
        run: &'a Command,
        env: &'a BTreeMap<String, String>,
        directory: &'a Option<String>,
        always: bool,
    }
    let mut set = |name: &str, value: String| {
        facts.insert(Fact::Setting(name.to_owned()), value);
    };
    for (name, value) in [("image", &job.image), ("ssh", &job.ssh), ("cache_key", &job.cache_key)] {
        if let Some(value) = value {
            set(name, value.clone());
        }
    }
    let lists = [
        ("artifacts", json(&job.artifacts), job.artifacts.is_empty()),
        ("outputs", json(&job.outputs), job.outputs.is_empty()),
        ("labels", json(&job.labels), job.labels.is_empty()),
        ("cache", json(&job.cache), job.cache.is_empty()),
        ("services", json(&job.services), job.services.is_empty()),
    ];
    for (name, value, is_empty) in lists {
        if !is_empty {
            set(name, value);
        }
    }
    let sees = match job.workspace {
        View::All => None,
        View::From { .. } => Some("from"),
        View::Fresh => Some("fresh"),
        View::Nothing => Some("none"),
    };
    if let Some(sees) = sees {
        set("workspace", sees.to_owned());
    }
    for (position, Step { run, env, directory, always, .. }) in job.steps.iter().enumerate() {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let text = json(&Runs { run, env, directory, always: *always });
        facts.insert(Fact::Step(position), text);
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
        if is_own && (ALWAYS.iter().any(|begin| name.starts_with(begin)) || names(job, &name)) {
            facts.insert(Fact::OwnVariable(name), value);
        }
    }
}

/// Whether a text of the job has this word in it.
fn names(job: &Job, variable: &str) -> bool {
    let in_step = |step: &Step| {
        let in_command = match &step.run {
            Command::Shell { script, .. } => script.contains(variable),
            Command::Argv { argv } => argv.iter().any(|part| part.contains(variable)),
        };
        in_command || step.env.values().any(|value| value.contains(variable))
    };
    job.steps.iter().any(in_step) || job.env.values().any(|value| value.contains(variable))
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
