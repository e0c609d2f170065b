//! What each job needs, and that nobody needs itself in the end.

use std::collections::{HashMap, HashSet};

use kiln_model::JobIndex;

use super::name::suggestion;
use crate::complaint::Complaints;
use crate::expand::matrix::Instance;
use crate::node::{Text, first_line};
use crate::written::Job;

/// The needs of the written jobs, as positions in the plan.
pub struct Needs {
    of: Vec<Vec<JobIndex>>,
}

/// One need that was found: which written job, and the place of the word.
struct Edge<'a> {
    to: usize,
    written: &'a Text,
}

impl Needs {
    pub fn find(jobs: &[Job], instances: &[Vec<Instance>], complaints: &mut Complaints) -> Self {
        let mut first_of = Vec::new();
        let mut n_jobs = 0u32;
        let mut groups: HashMap<&str, usize> = HashMap::new();
        let mut single: HashMap<&str, (usize, JobIndex)> = HashMap::new();
        for (at, job) in jobs.iter().enumerate() {
            first_of.push(n_jobs);
            groups.insert(&job.name.value, at);
            for instance in &instances[at] {
                single.insert(instance.name.as_str(), (at, JobIndex(n_jobs)));
                n_jobs += 1;
            }
        }
        let mut of = Vec::new();
        let mut edges = Vec::new();
        for job in jobs {
            let mut found = Vec::new();
            let mut own = Vec::new();
            let mut seen = HashSet::new();
            for need in &job.needs {
                // A matrix named as written means all its instances.
                if let Some(&to) = groups.get(need.value.as_str()) {
                    let n = u32::try_from(instances[to].len()).unwrap_or(u32::MAX);
                    found.extend((first_of[to]..first_of[to] + n).map(JobIndex));
                    own.push(Edge { to, written: need });
                } else if let Some(&(to, index)) = single.get(need.value.as_str()) {
                    found.push(index);
                    own.push(Edge { to, written: need });
                } else {
                    unknown(job, need, jobs, &single, complaints);
                }
            }
            found.retain(|index| seen.insert(*index));
            of.push(found);
            edges.push(own);
        }
        cycles(jobs, &edges, complaints);
        Self { of }
    }

    pub fn of(&self, job: usize) -> Vec<JobIndex> {
        self.of[job].clone()
    }
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
