//! A job that need not run, because its result is there: how it is found out, and what must be known
//! of a result before it is given away.
//!
//! ```text
//! inputs, layers, machine ─▶ key ─▶ seek ─┬─ found ─▶ layer there? source the same under it? ─▶ reuse
//!                                 ▲       └─ none: run it                 │ no
//!                                 └─────────────── unfit ◀────────────────┘
//! ```
//!
//! Nothing is made for a job before that: no source, no workspace. While it waits for another that does
//! the same it has no slot.
//!
//! Always: trouble here costs a run of the job and never its result; what cannot be told is not reused.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{
    Assignment, Found, JobResult, JobSource, Keyed, LeaseError, ReuseTerms, Taken,
};
use kiln_executor::Executor;
use kiln_git::Mirror;
use kiln_image::Image;
use kiln_model::AttemptId;
use kiln_model::inputs::{Decided, Inputs};
use kiln_model::layer::{LayerId, Source};
use kiln_model::plan::View;
use kiln_workspace::{Base, Workspaces, Written};
use tokio::sync::watch;

use crate::agent::{Phase, Shared};
use crate::attempt::{Halt, halt};
use crate::collide;
use crate::covered::{self, Ground};
use crate::input::{self, InputError, Listing};
use crate::job;
use crate::slot::Busy;
use crate::{key, named};

/// So long a slot is kept while the source answers. Longer, and it waits for another job.
const ANSWERS_WITHIN: Duration = Duration::from_millis(50);

/// What came of looking for an earlier result.
pub(crate) enum Sought {
    /// It must run. With what to look at when it has, if its result has a key.
    Run {
        busy: Busy,
        watched: Option<Box<Watched>>,
    },
    /// It is over already.
    Reused,
    Cancelled,
    Disowned,
    Left,
}

/// A job that runs and whose result has a key.
#[derive(Clone)]
pub(crate) struct Watched {
    warnings: Vec<String>,
    /// How the inputs in a working tree looked before; `None`: not known.
    looks: Option<blake3::Hash>,
    began_ms: i64,
    /// Why there is no key after all.
    trouble: Option<String>,
    /// The image that the key speaks of, since its name may lead elsewhere a moment later; or why there
    /// is none.
    pub image: Option<Result<Image, String>>,
}

/// The source, found but not made.
enum Place {
    Tree { mirror: Arc<Mirror>, tree: String, commit: String, branch: Option<String> },
    WorkingTree { root: PathBuf, hidden: BTreeSet<PathBuf>, commit: String },
    Nothing,
}

/// Everything that is known before the first question.
struct Asked {
    place: Place,
    inputs: Inputs,
    keyed: Keyed,
    watched: Watched,
}

/// Looks for an earlier result, and takes it.
pub(crate) async fn seek<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    busy: Busy,
    stop: watch::Receiver<Phase>,
) -> Sought {
    let Some(terms) = assignment.reuse.clone() else { return Sought::Run { busy, watched: None } };
    let mut sought = std::pin::pin!(sought(shared, assignment, terms));
    let mut halted = std::pin::pin!(halt(shared, assignment.lease, stop.clone()));
    tokio::select! {
        biased;
        halt = &mut halted => return stopped(halt),
        sought = &mut sought => return answer(sought, busy),
        () = tokio::time::sleep(ANSWERS_WITHIN) => {}
    }
    // Somebody else does the same work: it is waited for without the slots of one who works.
    let slots = busy.give_back();
    let sought = tokio::select! {
        biased;
        halt = &mut halted => return stopped(halt),
        sought = &mut sought => sought,
    };
    match sought {
        Ok(None) => Sought::Reused,
        Err(Stale) => Sought::Disowned,
        sought => tokio::select! {
            biased;
            halt = &mut halted => stopped(halt),
            busy = slots.take() => answer(sought, busy),
        },
    }
}

fn answer(sought: Result<Option<Watched>, Stale>, busy: Busy) -> Sought {
    match sought {
        Ok(Some(watched)) => Sought::Run { busy, watched: Some(Box::new(watched)) },
        Ok(None) => Sought::Reused,
        Err(Stale) => Sought::Disowned,
    }
}

/// The lease is gone.
struct Stale;

fn stopped(halt: Halt) -> Sought {
    match halt {
        Halt::Cancelled => Sought::Cancelled,
        Halt::Disowned => Sought::Disowned,
        Halt::Left => Sought::Left,
    }
}

/// `None`: an earlier result was taken.
async fn sought<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    terms: ReuseTerms,
) -> Result<Option<Watched>, Stale> {
    let began_ms = shared.options.clock.now().as_millis();
    let without_key = |trouble, image| {
        let (warnings, looks) = (Vec::new(), None);
        Ok(Some(Watched { warnings, looks, began_ms, trouble, image }))
    };
    let image = match job::image_of(shared, assignment).await {
        Ok(image) => image,
        // The job's end, which says it better.
        Err(why) => return without_key(None, Some(Err(why))),
    };
    let asked = {
        let (shared, assignment, image) = (shared.clone(), assignment.clone(), image.clone());
        let ask = move || ask(&shared, &assignment, &terms, (began_ms, image));
        tokio::task::spawn_blocking(ask).await.unwrap_or_else(|panic| Err(panic.to_string()))
    };
    let asked = match asked {
        Ok(asked) => Arc::new(asked),
        Err(trouble) => return without_key(Some(trouble), image.map(Ok)),
    };
    let mut unfit: Vec<(AttemptId, String)> = Vec::new();
    let trouble = loop {
        match shared.source.seek(assignment.lease, asked.keyed.clone(), unfit.clone()).await {
            Ok(None) => break None,
            Ok(Some(found)) => {
                let attempt = found.earlier.attempt;
                match take(shared, assignment, &asked, found).await {
                    Ok(None) => return Ok(None),
                    Ok(Some(why)) => unfit.push((attempt, why)),
                    Err(LeaseError::Stale(_)) => return Err(Stale),
                    Err(LeaseError::Unavailable(error)) => break Some(error),
                }
            }
            Err(LeaseError::Stale(_)) => return Err(Stale),
            Err(LeaseError::Unavailable(error)) => break Some(error),
        }
    };
    Ok(Some(Watched { trouble, ..asked.watched.clone() }))
}

/// Takes what was found, or says why that cannot be.
async fn take<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    asked: &Arc<Asked>,
    found: Found,
) -> Result<Option<String>, LeaseError> {
    let why = {
        let (shared, asked, found) = (shared.clone(), asked.clone(), found.clone());
        let look = move || unfit(&shared.options.workspaces, &asked, &found);
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|panic| Some(panic.to_string()))
    };
    if why.is_some() {
        return Ok(why);
    }
    let mut warnings = asked.watched.warnings.clone();
    if let Some(comparing) = collide::begin(shared, assignment) {
        warnings.extend(comparing.await.unwrap_or_default());
    }
    match shared.source.reuse(assignment.lease, found, warnings).await? {
        Taken::Done => Ok(None),
        Taken::Unfit(why) => Ok(Some(why)),
    }
}

/// Why an earlier result is not one for this job, although their keys are the same.
fn unfit(workspaces: &Workspaces, asked: &Asked, found: &Found) -> Option<String> {
    let number = found.earlier.number;
    let layer = found.layer.as_ref()?;
    if workspaces.layer_paths(layer).is_none() {
        return Some(format!("the files that it left in run #{number} are gone"));
    }
    let now = match covered::of(workspaces, layer, &asked.place.ground(None), &asked.inputs) {
        Ok(now) => now,
        Err(why) => return Some(why),
    };
    let path = covered::difference(&found.covered, &now)?;
    let path = path.to_string_lossy();
    let path = path.escape_debug();
    Some(format!(
        "in run #{number} it has written over `{path}`, which is another one now and none of its `inputs`"
    ))
}

/// The key of an assignment, or why it has none. Blocking.
fn ask<S: JobSource, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    terms: &ReuseTerms,
    (began_ms, image): (i64, Option<Image>),
) -> Result<Asked, String> {
    let inputs = Inputs::new(&assignment.job.inputs).map_err(|error| error.to_string())?;
    let place = Place::of(shared, assignment)?;
    let listing = place.listing(shared, &inputs, true).map_err(|error| error.to_string())?;
    let (options, looks) = (&shared.options, listing.looks);
    let warnings = warnings(&options.workspaces, assignment, &listing);
    if listing.files.is_empty() && !warnings.is_empty() && warnings.len() == n_including(assignment)
    {
        // Most likely a slip of the pen, and then the result would be taken for ever.
        return Err("no file matches its `inputs`".to_owned());
    }
    let git = git(shared, assignment)?;
    let ground = key::Ground {
        machine_env: &options.machine_env,
        workspaces: &options.workspaces,
        image: image.as_ref(),
        git: git.as_deref(),
    };
    let keyed = key::of(assignment, terms, &ground, listing.files);
    let image = image.map(Ok);
    let watched = Watched { warnings, looks, began_ms, trouble: None, image };
    Ok(Asked { place, inputs, keyed, watched })
}

/// The folder of the `.git` that the job sees of a commit.
fn git<S, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
) -> Result<Option<PathBuf>, String> {
    if !matches!(assignment.source, Source::Git { .. }) || !named::sees_git(&assignment.job) {
        return Ok(None);
    }
    // The one of this run: tags come and branches move between two of them.
    Ok(match shared.bases.of(assignment)? {
        Base::Source { git: Some(git), .. } => Some(shared.options.workspaces.git_path(&git)),
        _ => None,
    })
}

fn n_including(assignment: &Assignment) -> usize {
    assignment.job.inputs.iter().filter(|pattern| !pattern.starts_with('!')).count()
}

/// Patterns that match nothing, neither in the source nor in what the needs left.
fn warnings(workspaces: &Workspaces, assignment: &Assignment, listing: &Listing) -> Vec<String> {
    let without = listing.without_match.iter().filter(|pattern| {
        !named::is_git(pattern)
            && !assignment.layers.iter().any(|layer| matches(workspaces, layer, pattern))
    });
    let job = &assignment.job.name;
    let sentence =
        |pattern: &String| format!("`{job}` has the input `{pattern}`, and no file matches it");
    without.map(sentence).collect()
}

fn matches(workspaces: &Workspaces, layer: &LayerId, pattern: &str) -> bool {
    let Ok(pattern) = Inputs::new(&[pattern.to_owned()]) else { return false };
    let mut found = false;
    let walked = workspaces.written(layer, |path, written| {
        let decided = pattern.decide(Decided::default(), &path.to_string_lossy());
        found |= written != Written::Gone && pattern.includes(decided);
        !found
    });
    walked.is_ok() && found
}

/// What to look at when the job has run, of an attempt that this process did not begin.
pub(crate) fn watched(assignment: &Assignment) -> Option<Watched> {
    let began_ms = assignment.started_at.map_or(0, |at| at.as_millis());
    let (warnings, looks, trouble, image) = (Vec::new(), None, None, None);
    let watched = Watched { warnings, looks, began_ms, trouble, image };
    assignment.reuse.as_ref().map(|_| watched)
}

/// Adds to a result what must be known before others take it.
pub(crate) async fn note<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    watched: Watched,
    result: &mut JobResult,
) {
    let Watched { warnings, looks, began_ms, trouble, .. } = watched;
    result.notes.warnings.extend(warnings);
    if let Some(trouble) = trouble {
        let job = &assignment.job.name;
        let text = format!("the result of `{job}` is not kept for other runs: {trouble}");
        result.notes.warnings.push(text);
        return;
    }
    if !result.outcome.is_success() {
        return;
    }
    let (shared, assignment, layer) = (shared.clone(), assignment.clone(), result.layer.clone());
    let look = move || {
        let inputs = Inputs::new(&assignment.job.inputs).map_err(|error| error.to_string())?;
        let place = Place::of(&*shared, &assignment)?;
        if let Place::WorkingTree { .. } = place {
            if named::sees_git(&assignment.job) {
                let what = "what git tells of a working tree may change at any time";
                return Err(format!("it names `git`, and {what}"));
            }
            let now = place.listing(&*shared, &inputs, false).map_err(|error| error.to_string())?;
            if looks.is_none() || now.looks != looks {
                return Err("files that it names as `inputs` changed while it ran".to_owned());
            }
        }
        match layer {
            Some(layer) => {
                let ground = place.ground(Some(began_ms));
                covered::of(&shared.options.workspaces, &layer, &ground, &inputs)
            }
            None => Ok(Vec::new()),
        }
    };
    let looked = tokio::task::spawn_blocking(look).await;
    match looked.unwrap_or_else(|panic| Err(panic.to_string())) {
        Ok(covered) => result.notes.covered = covered,
        Err(why) => result.notes.not_reusable = Some(why),
    }
}

impl Place {
    /// Where the source of an assignment is.
    fn of<S, E: Executor>(shared: &Shared<S, E>, assignment: &Assignment) -> Result<Self, String> {
        if assignment.job.workspace == View::Nothing {
            return Ok(Self::Nothing);
        }
        match &assignment.source {
            Source::Git { commit, tree } => {
                let path = assignment.mirror.as_deref().ok_or("the job has no mirror")?;
                Ok(Self::Tree {
                    mirror: shared.bases.mirror(path)?,
                    tree: tree.clone(),
                    commit: commit.clone(),
                    branch: assignment.trigger.branch.clone(),
                })
            }
            Source::WorkingTree { .. } => match shared.bases.of(assignment)? {
                Base::WorkingTree { root, hidden, over, .. } if over.is_empty() => {
                    let relative = |path: PathBuf| {
                        path.strip_prefix(&root).map_or_else(|_| path.clone(), PathBuf::from)
                    };
                    let hidden = hidden.into_iter().map(relative).collect();
                    let commit = assignment.trigger.commit.clone();
                    Ok(Self::WorkingTree { root, hidden, commit })
                }
                _ => Err("its files are those of an earlier time".to_owned()),
            },
        }
    }

    fn listing<S, E: Executor>(
        &self,
        shared: &Shared<S, E>,
        inputs: &Inputs,
        with_content: bool,
    ) -> Result<Listing, InputError> {
        match self {
            Self::Tree { mirror, tree, .. } => input::of_tree(mirror, tree, inputs),
            Self::WorkingTree { root, hidden, .. } => {
                let digests = with_content.then_some(&shared.digests);
                input::of_working_tree(root, hidden, inputs, digests)
            }
            Self::Nothing => {
                Ok(Listing { files: Vec::new(), looks: None, without_match: Vec::new() })
            }
        }
    }

    fn ground(&self, still_from_ms: Option<i64>) -> Ground<'_> {
        match self {
            Self::Tree { mirror, tree, commit, branch } => {
                Ground::Tree { mirror, tree, commit, branch: branch.as_deref() }
            }
            Self::WorkingTree { root, hidden, commit } => {
                Ground::WorkingTree { root, hidden, commit, still_from_ms }
            }
            Self::Nothing => Ground::Nothing,
        }
    }
}
