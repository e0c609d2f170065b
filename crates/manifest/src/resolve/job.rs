//! One job of the plan, from what was written of it and one combination of its matrix.

use kiln_model::JobName;
use kiln_model::limit::{COMMAND_BYTES_MAX, JOB_STEPS_MAX, JOB_TIMEOUT};
use kiln_model::pattern::Glob;
use kiln_model::plan::{ArtifactRule, Command, Job, Lock, Retry, Service, Step, View};

use super::cache;
use super::scope::{JobNames, Known};
use super::surroundings;
use super::template::Filler;
use crate::complaint::Complaints;
use crate::expand::matrix::Instance;
use crate::node::{Text, first_line};
use crate::written;

/// Longest name of a step, in characters.
const STEP_NAME_MAX: usize = 100;

/// Without its needs, its view of them and its condition, which the caller knows.
pub fn job(
    job: &written::Job,
    instance: &Instance,
    known: &Known,
    names: &JobNames,
    complaints: &mut Complaints,
) -> Job {
    let filler = Filler { known, names, matrix: &instance.matrix };
    ineffective(job, complaints);
    let mut env = filler.fill_pairs(&known.written.env, complaints);
    env.extend(filler.fill_pairs(&job.env, complaints));
    let (attempts, on) = job.retry.clone().unwrap_or((1, Vec::new()));
    let values = |texts: &[Text]| texts.iter().map(|text| text.value.clone()).collect();
    let around = surroundings::of(job, &filler, complaints);
    Job {
        name: instance.name.clone(),
        group: JobName::new(job.name.value.as_str()).unwrap_or_else(|_| instance.name.clone()),
        matrix: instance.matrix.clone(),
        needs: Vec::new(),
        condition: None,
        always: job.always,
        allow_failure: job.allow_failure,
        executor: around.executor,
        image: around.image,
        pull: around.pull,
        user: around.user,
        network: around.network,
        limits: around.limits,
        sandbox: around.sandbox,
        privileged: around.privileged,
        volumes: around.volumes,
        ssh: job.ssh.as_ref().map(|text| host(text, &filler, complaints)),
        labels: job.labels.iter().map(|l| word(l, "a label", &filler, complaints)).collect(),
        env,
        steps: steps(job, &filler, complaints),
        timeout: job.timeout.unwrap_or(JOB_TIMEOUT),
        retry: Retry { attempts, on },
        artifacts: artifacts(job, &filler, complaints),
        secrets: unique(values(&job.secrets)),
        lock: job.lock.as_ref().map(|written| lock(written, job, &filler, complaints)),
        outputs: values(&job.outputs),
        inputs: job.inputs.iter().map(|text| input(text, &filler, complaints)).collect(),
        cache: cache::rules(&job.cache, &filler, complaints),
        cache_key: job.cache_key.as_ref().map(|key| filler.fill(key, complaints)),
        workspace: View::All,
        snapshots: job.snapshots,
        services: services(job, &filler, complaints),
        approve: job.approve.as_ref().map(|people| values(people)),
        priority: job.priority,
    }
}

/// Keys that the plan keeps and that have no effect, or not with others.
fn ineffective(job: &written::Job, complaints: &mut Complaints) {
    if let (Some(_), Some(service)) = (&job.ssh, job.services.first()) {
        let message = "a job with `ssh` runs on another machine: it has no `services`";
        complaints.error(service.name.span.clone(), message, "remove `services`, or `ssh`");
    }
    if job.approve.is_some() {
        let message =
            "nobody can approve in this version: the job waits until its run is cancelled";
        complaints.warning(job.name.span.clone(), message, "");
    }
}

fn steps(job: &written::Job, filler: &Filler, complaints: &mut Complaints) -> Vec<Step> {
    if job.steps.len() > JOB_STEPS_MAX {
        let message = format!("job `{}` has more than {JOB_STEPS_MAX} steps", job.name.value);
        let help = "put them into a script, or split the job";
        complaints.error(job.steps[JOB_STEPS_MAX].span.clone(), message, help);
        return Vec::new();
    }
    job.steps.iter().map(|written| step(written, job, filler, complaints)).collect()
}

fn step(
    step: &written::Step,
    job: &written::Job,
    filler: &Filler,
    complaints: &mut Complaints,
) -> Step {
    let shell = step.shell.as_ref().or(job.shell.as_ref());
    let (run, shown) = match &step.run {
        written::Run::Script(script) => {
            filler.refuse(script, "a command", complaints);
            let shell = shell.cloned().unwrap_or_else(|| "sh".to_owned());
            let shown = first_line(&script.value, STEP_NAME_MAX);
            (Command::Shell { script: script.value.clone(), shell }, shown)
        }
        written::Run::Argv(argv) => {
            for argument in argv {
                filler.refuse(argument, "a command", complaints);
            }
            let argv: Vec<String> = argv.iter().map(|argument| argument.value.clone()).collect();
            if argv.first().is_some_and(|program| program.is_empty()) {
                let help = "as in `run: [cargo, build]`";
                complaints.error(step.span.clone(), "the command has no program", help);
            }
            let shown = first_line(&argv.join(" "), STEP_NAME_MAX);
            (Command::Argv { argv }, shown)
        }
    };
    command_size(step, complaints);
    let directory = step.directory.as_ref().or(job.directory.as_ref());
    let name = step.name.as_ref().map(|name| filler.fill(name, complaints));
    Step {
        name: name.map_or(shown, |name| first_line(&name, STEP_NAME_MAX)),
        run,
        env: filler.fill_pairs(&step.env, complaints),
        directory: directory.map(|directory| inside(directory, filler, complaints)),
        timeout: step.timeout,
        always: step.always,
    }
}

fn command_size(step: &written::Step, complaints: &mut Complaints) {
    let (n_bytes, span) = match &step.run {
        written::Run::Script(script) => (script.value.len(), &script.span),
        written::Run::Argv(argv) => (argv.iter().map(|a| a.value.len() + 1).sum(), &step.span),
    };
    if n_bytes > COMMAND_BYTES_MAX {
        let max = kiln_stdx::bytes::show(u64::try_from(COMMAND_BYTES_MAX).unwrap_or(u64::MAX));
        let message = format!("the command is longer than {max}");
        complaints.error(
            span.clone(),
            message,
            "put it into a file of the repository and run that",
        );
    }
}

fn artifacts(
    job: &written::Job,
    filler: &Filler,
    complaints: &mut Complaints,
) -> Vec<ArtifactRule> {
    let mut rules = Vec::new();
    for (path, optional) in &job.artifacts {
        let glob = filler.fill(path, complaints);
        if !path.value.is_empty() {
            check_inside(path, &glob, complaints);
            check_glob(path, &glob, complaints);
        }
        rules.push(ArtifactRule { glob, optional: *optional });
    }
    rules
}

fn lock(
    lock: &written::Lock,
    job: &written::Job,
    filler: &Filler,
    complaints: &mut Complaints,
) -> Lock {
    if lock.any.is_empty() {
        let message = format!("the lock of job `{}` has no name", job.name.value);
        let help = "write `lock: publish` or `lock: { any: [board-1, board-2] }`";
        complaints.error(lock.span.clone(), message, help);
    }
    for name in lock.any.iter().filter(|name| name.value.chars().any(char::is_control)) {
        complaints.error(name.span.clone(), "a lock's name is one line of text", "");
    }
    Lock { any: unique(filler.fill_all(&lock.any, complaints)), limit: lock.limit }
}

fn services(
    job: &written::Job,
    filler: &Filler,
    complaints: &mut Complaints,
) -> std::collections::BTreeMap<String, Service> {
    let mut services = std::collections::BTreeMap::new();
    for service in &job.services {
        let command = service.command.as_ref().map(|argv| filler.fill_all(argv, complaints));
        let made = Service {
            image: word(&service.image, "an image", filler, complaints),
            env: filler.fill_pairs(&service.env, complaints),
            ready: service.ready.as_ref().map(|ready| filler.fill(ready, complaints)),
            ready_timeout: service.ready_timeout,
            command,
            limits: service.limits,
        };
        services.insert(service.name.value.clone(), made);
    }
    services
}

/// A text that becomes one argument of another program: no spaces, and not like an option.
pub fn word(text: &Text, what: &str, filler: &Filler, complaints: &mut Complaints) -> String {
    let n_before = complaints.len();
    let filled = filler.fill(text, complaints);
    // What was said of it before needs no repetition.
    if complaints.len() > n_before || text.value.trim().is_empty() {
        return filled;
    }
    let shown = first_line(&filled, 40);
    let message = match filled.chars().find(|c| c.is_whitespace() || c.is_control()) {
        _ if filled.is_empty() => format!("{what} is empty here"),
        _ if filled.starts_with('-') => format!("{what} cannot begin with `-`: `{shown}`"),
        Some(odd) => format!("{what} cannot have {odd:?}: `{shown}`"),
        None => return filled,
    };
    complaints.error(text.span.clone(), message, "");
    filled
}

/// Where `ssh` goes. Its configuration may put the name into a command line.
fn host(text: &Text, filler: &Filler, complaints: &mut Complaints) -> String {
    let n_before = complaints.len();
    let filled = word(text, "a host", filler, complaints);
    let odd = filled.chars().find(|c| !(c.is_ascii_alphanumeric() || "@.:_%+[]/-".contains(*c)));
    if let (Some(odd), true) = (odd, complaints.len() == n_before) {
        let message = format!("a host cannot have {odd:?}: `{}`", first_line(&filled, 40));
        complaints.error(text.span.clone(), message, "as in `ssh: deploy@example.org`");
    } else if let Some((name, port)) = with_port(&filled) {
        let message = format!("`{filled}` would be a host of that name, not a port");
        complaints.error(text.span.clone(), message, format!("write `ssh://{name}:{port}`"));
    }
    filled
}

/// `host:22`, which `ssh` takes for a name in full. Addresses of version 6 have more colons.
fn with_port(host: &str) -> Option<(&str, &str)> {
    let (name, port) = host.split_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && !name.is_empty()).then_some((name, port))
}

/// A folder of the workspace.
fn inside(text: &Text, filler: &Filler, complaints: &mut Complaints) -> String {
    filler.refuse(text, "a directory", complaints);
    check_inside(text, &text.value, complaints);
    text.value.clone()
}

fn check_inside(text: &Text, path: &str, complaints: &mut Complaints) {
    let shown = first_line(path, 40);
    let message = if path.starts_with('/') {
        format!("`{shown}` is not relative to the repository's root")
    } else if path.split('/').any(|part| part == "..") {
        format!("`{shown}` leaves the repository")
    } else if path.starts_with('~') {
        format!("`{shown}` is in a home folder, not in the repository")
    } else {
        return;
    };
    complaints.error(text.span.clone(), message, "write a path below the repository's root");
}

fn check_glob(text: &Text, pattern: &str, complaints: &mut Complaints) {
    if let Err(error) = Glob::new(pattern) {
        let message = format!("`{}` is not a pattern: {error}", first_line(pattern, 40));
        let help = "`*` matches within a name, `**` across folders, `?` one character, \
                    `{a,b}` either";
        complaints.error(text.span.clone(), message, help);
    }
}

/// A pattern of files that the job reads; a leading `!` excludes.
fn input(text: &Text, filler: &Filler, complaints: &mut Complaints) -> String {
    let filled = filler.fill(text, complaints);
    // An empty pattern has not the shape of one, and that was said.
    if !text.value.is_empty() {
        let pattern = filled.strip_prefix('!').unwrap_or(&filled);
        check_inside(text, pattern, complaints);
        check_glob(text, pattern, complaints);
    }
    filled
}

fn unique(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}
