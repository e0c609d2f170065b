//! What each job needs, and that nobody needs itself in the end.

use std::collections::{HashMap, HashSet};

use kiln_model::JobIndex;
use kiln_model::plan::View;

use super::name::suggestion;
use crate::complaint::Complaints;
use crate::expand::matrix::Instance;
use crate::node::{Text, first_line};
use crate::written::{Job, Workspace};

/// The needs of the written jobs, as positions in the plan.
pub struct Needs {
    of: Vec<Vec<JobIndex>>,
    views: Vec<View>,
}

/// What a word at `needs` can mean.
struct Known<'a> {
    /// The instances of each written job, by its name.
    groups: HashMap<&'a str, (usize, Vec<JobIndex>)>,
    single: HashMap<&'a str, (usize, JobIndex)>,
}

impl<'a> Known<'a> {
    fn new(jobs: &'a [Job], instances: &'a [Vec<Instance>]) -> Self {
        let mut known = Self { groups: HashMap::new(), single: HashMap::new() };
        let mut n_jobs = 0u32;
        for (at, job) in jobs.iter().enumerate() {
            let first = n_jobs;
            for instance in &instances[at] {
                known.single.insert(instance.name.as_str(), (at, JobIndex(n_jobs)));
                n_jobs += 1;
            }
            let all = (first..n_jobs).map(JobIndex).collect();
            known.groups.insert(&job.name.value, (at, all));
        }
        known
    }

    /// The written job, and which of its instances. A matrix named as written means all of them.
    fn find(&self, name: &str) -> Option<(usize, Vec<JobIndex>)> {
        match self.groups.get(name) {
            Some(group) => Some(group.clone()),
            None => self.single.get(name).map(|&(at, index)| (at, vec![index])),
        }
    }
}

/// One need that was found: which written job, and the place of the word.
struct Edge<'a> {
    to: usize,
    written: &'a Text,
}

impl Needs {
    pub fn find(jobs: &[Job], instances: &[Vec<Instance>], complaints: &mut Complaints) -> Self {
        let known = Known::new(jobs, instances);
        let mut of = Vec::new();
        let mut views = Vec::new();
        let mut edges = Vec::new();
        for job in jobs {
            let mut found = Vec::new();
            let mut own = Vec::new();
            let mut seen = HashSet::new();
            for need in &job.needs {
                match known.find(&need.value) {
                    Some((to, indices)) => {
                        found.extend(indices);
                        own.push(Edge { to, written: need });
                    }
                    None => unknown(job, need, jobs, &known.single, complaints),
                }
            }
            found.retain(|index| seen.insert(*index));
            views.push(view(job, &known, &seen, complaints));
            of.push(found);
            edges.push(own);
        }
        cycles(jobs, &edges, complaints);
        Self { of, views }
    }

    pub fn of(&self, job: usize) -> Vec<JobIndex> {
        self.of[job].clone()
    }

    pub fn view_of(&self, job: usize) -> View {
        self.views[job].clone()
    }
}

/// What `workspace` asks for; only files of its own needs, which are there when it starts.
fn view(job: &Job, known: &Known, needs: &HashSet<JobIndex>, complaints: &mut Complaints) -> View {
    let from = match &job.workspace {
        None => return View::All,
        Some(Workspace::Nothing) => return View::Nothing,
        Some(Workspace::Fresh) => return View::Fresh,
        Some(Workspace::From(from)) => from,
    };
    let mut jobs = Vec::new();
    let mut seen = HashSet::new();
    for name in from {
        match known.find(&name.value) {
            Some((_, found)) if found.iter().all(|index| needs.contains(index)) => {
                jobs.extend(found.into_iter().filter(|index| seen.insert(*index)));
            }
            found => not_needed(job, name, found.is_some(), complaints),
        }
    }
    View::From { jobs }
}

fn not_needed(job: &Job, name: &Text, is_job: bool, complaints: &mut Complaints) {
    let shown = first_line(&name.value, 40);
    let message = format!(
        "job `{}` wants the files of `{shown}` and does not need it",
        first_line(&job.name.value, 40)
    );
    let needs = job.needs.iter().map(|need| need.value.as_str());
    let help = match is_job && name.value != job.name.value {
        true => format!("add `{shown}` to the `needs` of this job"),
        false => suggestion(&name.value, needs, "its needs are"),
    };
    complaints.error(name.span.clone(), message, help);
}

fn unknown(
    job: &Job,
    need: &Text,
    jobs: &[Job],
    single: &HashMap<&str, (usize, JobIndex)>,
    complaints: &mut Complaints,
) {
    let (name, need_name) = (first_line(&job.name.value, 40), first_line(&need.value, 40));
    let message = format!("job `{name}` needs `{need_name}`, and no job has that name");
    // Only a word with a colon can mean an instance.
    let help = match need.value.contains(':') {
        true => {
            let mut names: Vec<&str> = single.keys().copied().collect();
            names.sort_unstable();
            suggestion(&need.value, names.into_iter(), "the jobs are")
        }
        false => suggestion(
            &need.value,
            jobs.iter().map(|job| job.name.value.as_str()).filter(|name| *name != job.name.value),
            "the jobs are",
        ),
    };
    complaints.error(need.span.clone(), message, help);
}

/// Names each circle once, in full. Written jobs, not instances: those of one matrix are alike.
fn cycles(jobs: &[Job], edges: &[Vec<Edge>], complaints: &mut Complaints) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; jobs.len()];
    for start in 0..jobs.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // An explicit stack: a chain of 10,000 jobs must not overflow the thread's.
        let mut path = vec![(start, 0)];
        marks[start] = Mark::OnPath;
        while let Some((at, next)) = path.last_mut() {
            let (from, edge) = (*at, edges[*at].get(*next));
            *next += 1;
            match edge {
                None => {
                    marks[from] = Mark::Done;
                    path.pop();
                }
                Some(edge) if marks[edge.to] == Mark::OnPath => {
                    let first = path.iter().position(|(job, _)| *job == edge.to).unwrap_or(0);
                    let circle: Vec<usize> = path[first..].iter().map(|part| part.0).collect();
                    circular(jobs, &circle, edge.written, complaints);
                }
                Some(edge) if marks[edge.to] == Mark::New => {
                    marks[edge.to] = Mark::OnPath;
                    path.push((edge.to, 0));
                }
                Some(_) => {}
            }
        }
    }
}

fn circular(jobs: &[Job], circle: &[usize], need: &Text, complaints: &mut Complaints) {
    let names: Vec<&str> =
        circle.iter().chain(circle.first()).map(|at| jobs[*at].name.value.as_str()).collect();
    let message = match circle {
        [_] => format!("job `{}` needs itself", names[0]),
        _ => format!("the jobs need each other in a circle: {}", names.join(" -> ")),
    };
    complaints.error(need.span.clone(), message, "remove one of these needs");
}
