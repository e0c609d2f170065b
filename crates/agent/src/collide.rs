//! What a person should know of a job whose needs changed the same paths.
//!
//! The layers are compared while the job runs: nobody waits for a warning. Jobs on the same layers
//! (a matrix, a rerun) share one comparison.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_api::agent::{Assignment, JobSource};
use kiln_executor::Executor;
use kiln_model::JobName;
use kiln_model::layer::LayerId;
use kiln_workspace::{Collision, Workspaces};
use tokio::task::JoinHandle;

use crate::agent::Shared;

/// Comparisons that are remembered: those of the runs that go on now.
const REMEMBERED_MAX: usize = 64;
/// Warnings of one job. More pairs than that, and the list helps nobody.
const WARNINGS_MAX: usize = 8;
/// Of a path in a warning, from its end, which tells more than its start.
const PATH_CHARS_MAX: usize = 120;

/// Layers and the needs through which they came.
#[derive(PartialEq, Eq)]
struct Stack {
    layers: Vec<LayerId>,
    through: Vec<Vec<u64>>,
}

type Told = Arc<OnceLock<Vec<String>>>;

#[derive(Default)]
pub(crate) struct Warnings(Mutex<VecDeque<(Stack, Told)>>);

impl Warnings {
    /// The warnings of an assignment, one for each pair of jobs. Blocking.
    pub fn of(&self, workspaces: &Workspaces, assignment: &Assignment) -> Vec<String> {
        let told = self.place(assignment);
        let look = || {
            match workspaces.collisions(&assignment.layers, &assignment.layers_through) {
                Ok(all) => sentences(&all.found, all.cut, &assignment.layers_of),
                // A layer that cannot be read is the workspace's to complain of.
                Err(_) => Vec::new(),
            }
        };
        told.get_or_init(look).clone()
    }

    fn place(&self, assignment: &Assignment) -> Told {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |stack: &Stack| {
            stack.layers == assignment.layers && stack.through == assignment.layers_through
        };
        if let Some((_, told)) = all.iter().find(|(stack, _)| same(stack)) {
            return told.clone();
        }
        let (layers, through) = (assignment.layers.clone(), assignment.layers_through.clone());
        all.push_back((Stack { layers, through }, Told::default()));
        if all.len() > REMEMBERED_MAX {
            all.pop_front();
        }
        all.back().map(|(_, told)| told.clone()).unwrap_or_default()
    }
}

/// A comparison that goes on beside its job.
pub(crate) type Comparing = JoinHandle<Vec<String>>;

/// Begins to compare what a job stands on; `None` when nothing can differ.
pub(crate) fn begin<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
) -> Option<Comparing> {
    may_collide(assignment).then(|| {
        let (shared, assignment) = (shared.clone(), assignment.clone());
        tokio::task::spawn_blocking(move || {
            shared.warnings.of(&shared.options.workspaces, &assignment)
        })
    })
}

/// Whether there is anything to compare: most jobs have one need.
fn may_collide(assignment: &Assignment) -> bool {
    let through = &assignment.layers_through;
    through.iter().skip(1).any(|other| *other != through[0])
}

fn sentences(found: &[Collision], cut: bool, jobs: &[JobName]) -> Vec<String> {
    let name = |at: usize| jobs.get(at).map_or("?", JobName::as_str);
    let sentence = |one: &Collision| {
        let (lower, upper) = (name(one.lower), name(one.upper));
        format!(
            "`{lower}` and `{upper}` both changed {}: what `{upper}` left is seen, the later need",
            list(&one.paths.iter().map(|path| shown(path)).collect::<Vec<_>>(), one.n_paths)
        )
    };
    let mut all: Vec<String> = found.iter().take(WARNINGS_MAX).map(sentence).collect();
    if found.len() > WARNINGS_MAX {
        let n = found.len() - WARNINGS_MAX;
        let pairs = if n == 1 { "1 more pair" } else { &format!("{n} more pairs") };
        all.push(format!("{pairs} of needs changed the same paths; the later need's are seen"));
    }
    if cut {
        all.push(
            "the needs have too many files in the same folders to compare all: there may be more \
             paths that two of them changed"
                .to_owned(),
        );
    }
    all
}

/// `a`, `b` and 14 more.
fn list(paths: &[String], n_paths: usize) -> String {
    let more = n_paths - paths.len();
    match paths.split_last() {
        None => format!("{n_paths} paths"),
        Some(_) if more > 0 => format!("{} and {more} more", paths.join(", ")),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// A path as part of a sentence, whatever its bytes.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain: String =
        text.chars().map(|c| if c.is_control() || c == '`' { '\u{fffd}' } else { c }).collect();
    match plain.chars().count().checked_sub(PATH_CHARS_MAX) {
        None | Some(0) => format!("`{plain}`"),
        Some(n) => format!("`…{}`", plain.chars().skip(n).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn collision(lower: usize, upper: usize, paths: &[&str], n_paths: usize) -> Collision {
        Collision { lower, upper, paths: paths.iter().map(PathBuf::from).collect(), n_paths }
    }

    #[test]
    fn a_warning_names_the_path_and_both_jobs() {
        let jobs = ["lint", "test"].map(|name| JobName::new(name).unwrap());
        let told = |paths: &[&str], n| sentences(&[collision(0, 1, paths, n)], false, &jobs);
        assert_eq!(
            told(&["out/report.txt"], 1),
            [
                "`lint` and `test` both changed `out/report.txt`: what `test` left is seen, the later \
              need"
            ]
        );
        let many = told(&["a", "b\n`c", "d"], 17);
        assert!(
            many[0].contains("changed `a`, `b\u{fffd}\u{fffd}c`, `d` and 14 more:"),
            "{many:?}"
        );
        assert!(told(&["a", "b"], 2)[0].contains("changed `a` and `b`:"));
        assert!(told(&[&"x".repeat(500)], 1)[0].contains("`…xxx"));
    }

    #[test]
    fn many_pairs_and_an_unfinished_comparison_are_said() {
        let jobs: Vec<JobName> = (0..11).map(|n| JobName::new(format!("j{n}")).unwrap()).collect();
        let all: Vec<_> = (0..10).map(|n| collision(n, 10, &["x"], 1)).collect();
        let told = sentences(&all, true, &jobs);
        assert_eq!(told.len(), WARNINGS_MAX + 2);
        assert!(told[8].starts_with("2 more pairs of needs"), "{told:?}");
        assert!(told[9].contains("too many files"), "{told:?}");
    }
}
