//! The pipeline of the repository here: find it, read its manifest, make its plan.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_git::{CommitInfo, WorkingTree};
use kiln_manifest::diagnostic::Severity;
use kiln_manifest::{Diagnostic, FILE_NAMES, Planned};
use kiln_model::limit::MANIFEST_BYTES_MAX;
use kiln_model::plan::Plan;
use kiln_model::{JobIndex, Trigger, TriggerKind};
use kiln_stdx::fs::Named;
use kiln_stdx::suggest;

use crate::error::{Blame, Failure, Kind, Result};
use crate::output::Output;

/// A first manifest, for those who have none.
pub const STARTER: &str = "\
jobs:
  test:
    steps:
      - make test
";

/// A manifest's text and where it was found.
pub struct Manifest {
    pub file: kiln_manifest::File,
}

/// The repository around a folder.
pub fn repository(from: &Path) -> Result<WorkingTree> {
    // The message names the way out itself.
    WorkingTree::discover(from).map_err(|error| Failure {
        kind: Kind::Yours,
        error: error.into(),
        help: None,
    })
}

/// The manifest of a working tree: `given`, relative to `from`, or the first of the usual names.
pub fn manifest(root: &Path, from: &Path, given: Option<&Path>) -> Result<Manifest> {
    let at = match given {
        Some(given) => from.join(given),
        None => find(root)?,
    };
    let shown = at.strip_prefix(root).unwrap_or(&at).to_string_lossy().into_owned();
    let bytes = read(&at)?;
    Ok(Manifest { file: kiln_manifest::File { path: shown, bytes } })
}

fn find(root: &Path) -> Result<PathBuf> {
    let exists = |path: &PathBuf| path.symlink_metadata().is_ok();
    FILE_NAMES.iter().map(|name| root.join(name)).find(exists).ok_or_else(|| {
        let names: Vec<String> = FILE_NAMES.iter().map(|name| format!("`{name}`")).collect();
        let missing =
            format!("there is no manifest ({}) in `{}`", names.join(" or "), root.display());
        let starter: String = STARTER.lines().map(|line| format!("\n    {line}")).collect();
        Failure::yours(missing).help(format!("write a first `{}`:\n{starter}", FILE_NAMES[0]))
    })
}

/// A second manifest, which is not the one that counts.
pub fn other_manifest(root: &Path) -> Option<&'static str> {
    FILE_NAMES.iter().copied().filter(|name| root.join(name).exists()).nth(1)
}

/// At most one byte more than is allowed: the planner then says that it is too long.
fn read(at: &Path) -> Result<Vec<u8>> {
    let yours = |error: kiln_stdx::fs::FsError| Failure { kind: Kind::Yours, ..error.into() };
    // Looked at before it is opened: a pipe would be waited for without end.
    let known = std::fs::metadata(at).named("read", at).map_err(yours)?;
    if !known.is_file() {
        let what = if known.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(Failure::yours(format!("`{}` is {what}, not a manifest", at.display())));
    }
    let file = File::open(at).named("read", at).map_err(yours)?;
    let mut bytes = Vec::new();
    let max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(max + 1).read_to_end(&mut bytes).named("read", at).map_err(yours)?;
    Ok(bytes)
}

/// `KEY=VALUE`, from an argument.
pub fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("an input is written KEY=VALUE".to_owned()),
    }
}

/// The trigger of a run on the working tree.
pub fn local_trigger(
    head: Option<CommitInfo>,
    branch: Option<String>,
    inputs: BTreeMap<String, String>,
) -> Trigger {
    let commit = head.as_ref().map(|head| head.commit.clone()).unwrap_or_default();
    let mut trigger = Trigger::new(TriggerKind::Local, commit);
    if let Some(head) = head {
        (trigger.title, trigger.author) = (head.title, head.author);
    }
    trigger.branch = branch;
    trigger.actor = Some(crate::place::user_name());
    trigger.inputs = inputs;
    trigger
}

/// The working tree's HEAD and branch.
pub fn head(tree: &WorkingTree) -> Result<(Option<CommitInfo>, Option<String>)> {
    tree.head().elsewhere("cannot read the repository's HEAD")
}

/// What planning gave when nothing was wrong.
pub enum Wanted {
    Plan(Plan),
    /// The manifest asks for no run; why.
    Nothing(String),
}

/// Makes the plan. Complaints go to standard error; errors among them end the command with 2.
pub fn plan(out: &Output, manifest: &Manifest, trigger: &Trigger) -> Result<Option<Wanted>> {
    let (planned, complaints) = kiln_manifest::plan(&manifest.file, trigger);
    if !complaints.is_empty() {
        out.error_text(&render(&complaints, &manifest.file.bytes, out.error_colour()));
    }
    Ok(match planned {
        Planned::Plan(plan) => Some(Wanted::Plan(plan)),
        Planned::NotWanted(why) => Some(Wanted::Nothing(why)),
        Planned::Refused => {
            let errors = complaints.iter().filter(|c| c.severity == Severity::Error).count();
            out.error_text(&format!("{}: {}\n", manifest.file.path, errors_in_words(errors)));
            None
        }
    })
}

/// All complaints as text, an empty line between them.
pub fn render(complaints: &[Diagnostic], source: &[u8], colour: bool) -> String {
    let source = String::from_utf8_lossy(source);
    let shown = complaints.iter().map(|complaint| complaint.render(&source, colour));
    shown.map(|text| format!("{}\n\n", text.trim_end())).collect()
}

pub fn errors_in_words(n: usize) -> String {
    if n == 1 { "1 error".to_owned() } else { format!("{n} errors") }
}

/// The named jobs and all that they need. A matrix is named as written or by its instances.
pub fn subset(plan: Plan, wanted: &[String]) -> Result<Plan> {
    if wanted.is_empty() {
        return Ok(plan);
    }
    let mut kept = vec![false; plan.jobs.len()];
    let mut open: Vec<JobIndex> = Vec::new();
    for name in wanted {
        let named = |at: &JobIndex| {
            let job = plan.job(*at);
            job.name.as_str() == name || job.group.as_str() == name
        };
        let found: Vec<JobIndex> = plan.indices().filter(named).collect();
        if found.is_empty() {
            return Err(unknown_job(name, plan.jobs.iter().map(|job| job.name.as_str())));
        }
        open.extend(found);
    }
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut kept[at.at()], true) {
            open.extend(&plan.job(at).needs);
        }
    }
    Ok(keep(plan, &kept))
}

fn keep(plan: Plan, kept: &[bool]) -> Plan {
    let mut next = 0;
    let moved: Vec<JobIndex> = kept
        .iter()
        .map(|kept| {
            let at = JobIndex(next);
            next += u32::from(*kept);
            at
        })
        .collect();
    let mut jobs = Vec::new();
    for (mut job, kept) in plan.jobs.into_iter().zip(kept) {
        if *kept {
            job.needs.iter_mut().for_each(|need| *need = moved[need.at()]);
            jobs.push(job);
        }
    }
    Plan { jobs, ..plan }
}

/// "there is no job `biuld`", with the nearest name or all of them.
pub fn unknown_job<'a>(name: &str, jobs: impl Iterator<Item = &'a str> + Clone) -> Failure {
    /// More than a screen can be read at once is not shown.
    const SHOWN: usize = 20;
    let failure = Failure::yours(format!("there is no job `{}`", crate::output::visible(name)));
    match suggest::nearest(name, jobs.clone()) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => {
            let names: Vec<&str> = jobs.clone().take(SHOWN).collect();
            let more = jobs.count().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            failure.help(format!("the jobs are {}{more}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_model::plan::{Job, PLAN_VERSION};

    use super::*;

    fn plan_of(jobs: &[(&str, &[u32])]) -> Plan {
        let job = |(name, needs): &(&str, &[u32])| Job {
            needs: needs.iter().copied().map(JobIndex).collect(),
            ..Job::sample(name, "true")
        };
        let jobs = jobs.iter().map(job).collect();
        Plan {
            version: PLAN_VERSION,
            manifest: ".kiln.yml".into(),
            inputs: Default::default(),
            jobs,
        }
    }

    #[test]
    fn a_subset_is_the_named_jobs_and_what_they_need() {
        let plan = plan_of(&[("a", &[]), ("b", &[]), ("c", &[1]), ("d", &[0, 2])]);
        let kept = subset(plan.clone(), &["c".to_owned()]).unwrap();
        assert_eq!(kept, plan_of(&[("b", &[]), ("c", &[0])]));
        assert_eq!(subset(plan.clone(), &["d".to_owned()]).unwrap(), plan);
    }

    #[test]
    fn an_unknown_job_gets_a_suggestion() {
        let failure = subset(plan_of(&[("build", &[])]), &["biuld".to_owned()]).unwrap_err();
        assert_eq!(
            failure.render(str::to_owned),
            "error: there is no job `biuld`\nhelp: did you mean `build`?\n"
        );
    }
}
